import numpy as np
import pytest

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.toy_events import EVENT_CLASSES, PROCESSES, Events, generate_events, join


@pytest.fixture(scope="module")
def events() -> dict[str, Events]:
    rng = np.random.default_rng(11)
    return {name: generate_events(name, 40, rng) for name in EVENT_CLASSES}


def transverse(events: Events) -> np.ndarray:
    """Sum of the pT vectors of all that is seen or missing, without counting leptons inside jets twice."""
    sums = np.add.reduceat(events.jets.jet_p4()[:, 1:3], events.jet_offsets[:-1])
    return np.asarray(sums + events.met)


@pytest.mark.parametrize("name", EVENT_CLASSES)
def test_an_event_has_the_objects_of_its_process(events: dict[str, Events], name: str) -> None:
    found = events[name]
    assert len(found) == 40
    assert set(np.diff(found.jet_offsets)) == {len(PROCESSES[name][0])}
    assert set(found.labels) == {EVENT_CLASSES.index(name)}
    share = (np.diff(found.lepton_offsets) > 0).mean()
    assert share > 0.5 if name in ("W+jet", "tt-semileptonic") else share == 0
    first = fv.pt(found.jets.jet_p4())[found.jet_offsets[:-1]]
    assert (first == np.maximum.reduceat(fv.pt(found.jets.jet_p4()), found.jet_offsets[:-1])).all()


@pytest.mark.parametrize("name", ["Z+jet", "ZH", "ZW", "multijet", "tt-hadronic"])
def test_transverse_momentum_balances(events: dict[str, Events], name: str) -> None:
    """Two jets of 600 GeV are back to back within 0.1 rad: 60 GeV, and 30 GeV of resolution."""
    imbalance = np.linalg.norm(transverse(events[name]), axis=1)
    assert np.median(imbalance) < 100


def test_neutrinos_are_missing(events: dict[str, Events]) -> None:
    met = {name: np.median(np.linalg.norm(found.met, axis=1)) for name, found in events.items()}
    assert met["multijet"] < 50 < met["W+jet"] < met["Z+jet"]
    assert met["ZH"] > 450
    assert met["tt-semileptonic"] > 1.5 * met["tt-hadronic"]


def test_two_jets_are_back_to_back(events: dict[str, Events]) -> None:
    phi = fv.phi(events["multijet"].jets.jet_p4()).reshape(-1, 2)
    assert np.abs(fv.wrap_phi(phi[:, 0] - phi[:, 1] + np.pi)).max() < 0.6


def test_leptons_are_real_particles(events: dict[str, Events]) -> None:
    for name in ("W+jet", "tt-semileptonic"):
        leptons = events[name].leptons
        assert (fv.pt(leptons) > 10).all()
        assert (fv.mass(leptons[:, :4].astype(np.float64)) < 1e-3 * leptons[:, 0]).all()
        assert set(np.unique(leptons[:, 4])) == {-1.0, 1.0}
        assert set(np.unique(leptons[:, 5])) == {0.0, 1.0}


def test_same_seed_same_events() -> None:
    first, again, other = (generate_events("ZH", 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.jets.p4, again.jets.p4)
    np.testing.assert_array_equal(first.met, again.met)
    assert not np.array_equal(first.met, other.met)


def test_taken_and_joined_events_stay_whole(events: dict[str, Events]) -> None:
    a, b = events["W+jet"], events["tt-semileptonic"]
    both = join([a, b])
    again = both.take(np.arange(len(a), len(both)))
    np.testing.assert_array_equal(again.jets.p4, b.jets.p4)
    np.testing.assert_array_equal(again.leptons, b.leptons)
    one = both.take(np.array([45]))
    np.testing.assert_array_equal(one.met, b.met[5:6])
    np.testing.assert_array_equal(one.leptons, b.leptons[b.lepton_offsets[5] : b.lepton_offsets[6]])
