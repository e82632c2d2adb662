import numpy as np
import pytest

from fourtop_tokens.data.events import EventSet
from fourtop_tokens.data.tokenizer import Binning, Vocabulary, count_edges
from hep_shared.errors import UserError


def many_objects(n=4000, seed=0):
    """Objects with smooth spectra, every id, some padding."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 8, (n, 18)).astype(np.int8)
    features = np.stack(
        [
            rng.exponential(200, ids.shape),
            rng.exponential(80, ids.shape),
            rng.normal(0, 1.2, ids.shape),
            rng.uniform(-np.pi, np.pi, ids.shape),
        ],
        axis=2,
    ).astype(np.float32)
    features[ids == 0] = 0
    missing = np.stack([rng.exponential(100, n), rng.uniform(-np.pi, np.pi, n)], axis=1).astype(np.float32)
    return EventSet(ids, features, missing, rng.integers(1, 6, n).astype(np.int8))


EVENTS = many_objects()


def shares(binning, field):
    bins = binning.vocabulary.decode(binning.transform(EVENTS))[field]
    return np.bincount(bins.ravel(), minlength=6)[1:] / (bins > 0).sum()


def reference_tokens(binning, events):
    """The formula of the module's head with numpy.digitize."""
    phi_of = np.abs if binning.phi_mode == "folded" else np.asarray

    def bins(values, edges):
        number = np.digitize(values, edges)
        return np.clip(number, 1, 5) if binning.edge_mode == "legacy" else number + 1

    pt, eta = (
        bins(events.features[..., 1], binning.pt_edges),
        bins(events.features[..., 2], binning.eta_edges),
    )
    phi = 1 + np.digitize(phi_of(events.features[..., 3]), binning.phi_edges)
    tokens = np.zeros((len(events), 20), np.int64)
    tokens[:, :18] = np.where(
        events.ids > 0, 125 * (events.ids.astype(int) - 1) + 25 * (pt - 1) + 5 * (eta - 1) + phi, 0
    )
    tokens[:, 18] = 875 + bins(events.missing[:, 0], binning.met_edges)
    tokens[:, 19] = 881 + np.digitize(phi_of(events.missing[:, 1]), binning.phi_edges)
    return tokens


def test_vocabulary_of_the_published_tokens():
    assert Vocabulary().size == 886 == 1 + 7 * 125 + 5 + 5
    assert Vocabulary(with_energy=True).num_object_tokens == 4375


@pytest.mark.parametrize("phi_mode", ["full", "folded", "legacy"])
@pytest.mark.parametrize("edge_mode", ["quantile", "legacy"])
@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_tokens_equal_the_formula_bit_by_bit(phi_mode, edge_mode, backend):
    binning = Binning.fit(EVENTS, phi_mode=phi_mode, edge_mode=edge_mode)
    tokens = binning.transform(EVENTS, backend)
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, reference_tokens(binning, EVENTS))


def test_extreme_tokens():
    binning = Binning.fit(EVENTS)
    ids = np.zeros((2, 18), np.int8)
    ids[:, 0] = 1, 7
    features = np.zeros((2, 18, 4), np.float32)
    features[0, 0], features[1, 0] = (1, 0, -9, -3.1), (9e3, 9e3, 9, 3.1)
    missing = np.array([[0, -3.1], [9e3, 3.1]], np.float32)
    tokens = binning.transform(EventSet(ids, features, missing, np.ones(2, np.int8)))
    assert tokens[:, 0].tolist() == [1, 875]
    assert (tokens[:, 1:18] == 0).all()
    assert tokens[:, 18:].tolist() == [[876, 881], [880, 885]]


@pytest.mark.parametrize("field", ["pt", "eta", "met"])
def test_quantile_edges_fill_the_bins_evenly(field):
    np.testing.assert_allclose(shares(Binning.fit(EVENTS), field), 0.2, atol=0.01)


@pytest.mark.parametrize("field", ["pt", "eta", "met"])
def test_legacy_edges_reproduce_the_off_by_one(field):
    occupancy = shares(Binning.fit(EVENTS, edge_mode="legacy"), field)
    np.testing.assert_allclose(occupancy, [0.4, 0.2, 0.2, 0.2, 0], atol=0.01)
    assert occupancy[4] == 0


@pytest.mark.parametrize(
    ("phi_mode", "expected"),
    [("full", [0.2] * 5), ("folded", [0.2] * 5), ("legacy", [0.1, 0.1, 0.1, 0.1, 0.6])],
)
@pytest.mark.parametrize("field", ["phi", "met_phi"])
def test_azimuth_occupancy(phi_mode, expected, field):
    atol = 0.01 if field == "phi" else 0.03
    np.testing.assert_allclose(shares(Binning.fit(EVENTS, phi_mode=phi_mode), field), expected, atol=atol)


def test_legacy_in_both_reaches_560_of_875_tokens():
    # 7 ids x 4 x 4 x 5 bins
    tokens = Binning.fit(EVENTS, phi_mode="legacy", edge_mode="legacy").transform(EVENTS)[:, :18]
    assert len(np.unique(tokens[tokens > 0])) == 560


def test_folded_does_not_see_the_sign_of_phi():
    binning = Binning.fit(EVENTS, phi_mode="folded")
    mirrored = EventSet(
        EVENTS.ids,
        EVENTS.features * np.float32([1, 1, 1, -1]),
        EVENTS.missing * np.float32([1, -1]),
        EVENTS.labels,
    )
    np.testing.assert_array_equal(binning.transform(mirrored), binning.transform(EVENTS))


@pytest.mark.parametrize(
    ("num_bins", "with_energy"), [(5, False), (5, True), (2, True), (12, False), (9, True)]
)
def test_decode_inverts_the_formula(num_bins, with_energy):
    binning = Binning.fit(EVENTS, num_bins=num_bins, with_energy=with_energy)
    tokens = binning.transform(EVENTS)
    fields = binning.vocabulary.decode(tokens)
    assert tokens.max() < binning.vocabulary.size
    assert tokens.min() == 0
    np.testing.assert_array_equal(fields["id"], EVENTS.ids)
    edges = {"pt": binning.pt_edges, "eta": binning.eta_edges, "energy": binning.energy_edges}
    for name, feature in (("pt", 1), ("eta", 2), *((("energy", 0),) if with_energy else ())):
        expected = (1 + np.digitize(EVENTS.features[..., feature], edges[name])) * (EVENTS.ids > 0)
        np.testing.assert_array_equal(fields[name], expected)
    np.testing.assert_array_equal(fields["met"], 1 + np.digitize(EVENTS.missing[:, 0], binning.met_edges))


def test_background_edges_come_from_background_alone():
    background = EVENTS[EVENTS.labels != 1]
    assert Binning.fit(EVENTS, fit_on="background").pt_edges == Binning.fit(background).pt_edges
    assert Binning.fit(EVENTS, fit_on="background").pt_edges != Binning.fit(EVENTS).pt_edges


def test_padding_does_not_move_the_edges():
    padded = EventSet(
        np.pad(EVENTS.ids[:, :9], ((0, 0), (0, 9))),
        np.pad(EVENTS.features[:, :9], ((0, 0), (0, 9), (0, 0))),
        EVENTS.missing,
        EVENTS.labels,
    )
    valid = EVENTS.features[:, :9][EVENTS.ids[:, :9] > 0]
    expected = np.quantile(valid[:, 1], [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(Binning.fit(padded).pt_edges, expected, rtol=1e-6)


def test_nothing_to_fit_on():
    with pytest.raises(UserError, match="no object in the background events to fit bins on"):
        Binning.fit(EVENTS[EVENTS.labels == 1], fit_on="background")


def test_too_few_values_for_the_bins():
    few = EVENTS[:1]
    constant = EventSet(few.ids, np.ones_like(few.features), few.missing, few.labels)
    with pytest.raises(UserError, match="5 bins do not fit the 1 different values of pT"):
        Binning.fit(constant)


def test_json_round_trip_keeps_tokens():
    binning = Binning.fit(EVENTS, phi_mode="legacy", fit_on="background", with_energy=True)
    assert Binning.from_json(binning.to_json()) == binning


def test_values_on_an_edge_count_as_digitize_counts_them():
    edges = tuple(float(np.float32(e)) for e in (0.1, 0.2, 0.7))
    values = np.float32([0.1, 0.2, 0.7, np.nextafter(np.float32(0.2), np.float32(0)), -1, 9])
    np.testing.assert_array_equal(count_edges(values, edges), np.digitize(values, edges))


def test_no_events():
    assert Binning.fit(EVENTS).transform(EVENTS[:0]).shape == (0, 20)
