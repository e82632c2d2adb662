"""The engine with a parton shower; most of it only where the extra is installed."""

import sys

import numpy as np
import pytest

from fourtop_tokens.physics import les_houches, pythia
from fourtop_tokens.physics.decay_modes import HADRONIC, LEPTONS, Kind
from fourtop_tokens.physics.kinematics import delta_r2, eta, phi, pt
from hep_shared.errors import UserError


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(1)


@pytest.fixture(scope="module")
def showered(rng):
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    return pythia.shower(les_houches.sample("tttt", 24, rng), rng)


@pytest.fixture(scope="module")
def final(showered):
    return pythia.final_states(showered)


def test_every_hard_event_comes_back(showered):
    assert len(showered) == 24


def test_decays_can_pass_the_selection(showered):
    for event in showered.prt:
        mothers = np.abs(event.id[event.mother1])
        prompt = np.isin(np.abs(event.id), (11, 13, 15)) & np.isin(mothers, (23, 24, 25))
        ids = np.asarray(event.id[prompt])
        assert max((ids > 0).sum(), (ids < 0).sum()) >= 2


def test_jets_are_apart_and_carry_four_bottoms(final):
    is_jet = np.isin(final.kinds, HADRONIC)
    assert 8 < is_jet.sum(axis=0).mean() < 14
    assert 3 < (final.kinds == Kind.BOTTOM).sum(axis=0).mean() < 5
    assert (pt(final.momenta)[is_jet] > pythia.JET_PT_MIN).all()
    for n in range(24):
        jets = final.momenta[:, is_jet[:, n], n]
        distance = delta_r2(eta(jets)[:, None], phi(jets)[:, None], eta(jets), phi(jets))
        assert distance[np.triu_indices(jets.shape[1], 1)].min() > 0.2**2


def test_leptons_are_charged_and_not_in_jets(final):
    is_lepton = np.isin(final.kinds, LEPTONS)
    assert 1 < is_lepton.sum(axis=0).mean() < 4
    assert (np.abs(final.charges[is_lepton]) == 1).all()
    assert (final.charges[~is_lepton] == 0).all()


def test_momentum_balances_but_for_what_is_forward_or_soft(final):
    """Neutrinos are among the slots, so what is left over is what no jet holds."""
    left = np.hypot(*final.momenta[1:3].sum(axis=1))
    assert np.median(left) < 60


def test_events_are_selected_and_reproducible():
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    one, two = (pythia.generate("tttt", 12, np.random.default_rng(5)) for _ in range(2))
    assert len(one) == 12
    assert (np.isin(one.objects, (Kind.LIGHT, Kind.BOTTOM)).sum(axis=1) >= 6).all()
    np.testing.assert_array_equal(one.momenta, two.momenta)


def test_without_the_extra_there_is_a_way_out(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(UserError, match=r"--engine pythia needs pythia8mc.*fourtop-tokens\[pythia\]"):
        pythia.generate("ttH", 1, rng)


def test_provenance_names_the_engine():
    from fourtop_tokens.simulate import provenance

    about = provenance("pythia", 100, 1, "plus_5")
    assert about["generator"].endswith("engine pythia")
    assert "a parton shower" not in " ".join(about["is_not"])
    assert "underlying event" in " ".join(about["is_not"])
