import numpy as np

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets, concatenate, from_padded


def test_take_and_concatenate_undo_each_other(toy_jets: Jets) -> None:
    order = np.random.default_rng(0).permutation(len(toy_jets))
    mixed = concatenate([toy_jets.take(order[:50]), toy_jets.take(order[50:])])
    again = mixed.take(np.argsort(order))
    for name in ("offsets", "p4", "labels", "pid", "displacement"):
        np.testing.assert_array_equal(getattr(again, name), getattr(toy_jets, name))
    np.testing.assert_array_equal(again.scalars["pt"], toy_jets.scalars["pt"])


def test_concatenate_drops_what_one_part_lacks(toy_jets: Jets) -> None:
    bare = Jets(toy_jets.offsets, toy_jets.p4, toy_jets.labels)
    joined = concatenate([toy_jets, bare])
    assert joined.pid is None
    assert not joined.scalars
    assert len(joined) == 2 * len(toy_jets)


def test_jet_p4_sums_each_jet(toy_jets: Jets) -> None:
    third = toy_jets.p4[toy_jets.offsets[3] : toy_jets.offsets[4]].astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(toy_jets.jet_p4()[3], third, rtol=1e-9)


def test_truncation_keeps_the_leading_particles(toy_jets: Jets) -> None:
    short = toy_jets.truncated(5)
    assert short.num_particles.max() == 5
    np.testing.assert_array_equal(short.take(np.array([3])).p4, toy_jets.take(np.array([3])).p4[:5])


def test_from_padded_sorts_by_pt_and_drops_padding() -> None:
    pt = np.array([[1.0, 9.0, 5.0, 7.0]])
    p4 = fv.from_pt_eta_phi_mass(pt, np.zeros((1, 4)), np.zeros((1, 4)))
    jets = from_padded(p4, np.array([[True, True, False, True]]), np.array([2]))
    np.testing.assert_allclose(fv.pt(jets.p4), [9, 7, 1], rtol=1e-6)
    assert jets.offsets.tolist() == [0, 3]
