import numpy as np
import pytest

from fourtop_tokens.physics import selection as cuts
from fourtop_tokens.physics.selection import Selection

SELECTION = Selection()


@pytest.mark.parametrize(
    ("charges", "pt", "passes"),
    [
        ([1, 1], [40, 20], True),
        ([-1, -1], [40, 20], True),
        ([1, -1], [40, 20], False),
        ([1, 1], [27, 20], False),  # no lepton above 28 GeV
        ([1, -1, 1], [40, 20, 18], True),
        ([1, -1, 1, -1], [40, 20, 18, 16], True),
        ([1], [40], False),
    ],
)
def test_lepton_requirement(charges, pt, passes):
    column = np.array(charges, np.int8)[:, None]
    result = cuts.passes_leptons(SELECTION, np.ones(column.shape, bool), column, np.array(pt, float)[:, None])
    assert result.item() is passes


def test_leptons_that_were_not_selected_do_not_count():
    is_lepton = np.array([[True], [True], [False]])
    charges, pt = np.array([[1], [1], [-1]], np.int8), np.full((3, 1), 50.0)
    assert cuts.passes_leptons(SELECTION, is_lepton, charges, pt).item()


@pytest.mark.parametrize(("num_jets", "num_tagged", "passes"), [(6, 2, True), (5, 2, False), (8, 1, False)])
def test_jet_requirement(num_jets, num_tagged, passes):
    slots = np.arange(10)[:, None]
    assert cuts.passes_jets(SELECTION, slots < num_jets, slots < num_tagged).item() is passes


def test_a_tag_without_a_jet_does_not_count():
    slots = np.arange(10)[:, None]
    assert not cuts.passes_jets(SELECTION, slots < 6, slots > 4).item()


@pytest.mark.parametrize(
    ("pt", "distance", "stays"), [(20, 0.39, False), (20, 0.41, True), (100, 0.2, True), (100, 0.1, False)]
)
def test_isolation_cone_shrinks_with_pt(pt, distance, stays):
    is_lepton, is_jet = np.array([[True], [False]]), np.array([[False], [True]])
    eta, phi = np.array([[0.0], [distance]]), np.zeros((2, 1))
    kept = cuts.isolated(is_lepton, is_jet, np.array([[float(pt)], [50.0]]), eta, phi)
    assert kept[0, 0].item() is stays
    assert not kept[1, 0]


def test_scalar_sum_counts_jets_and_leptons_once():
    pt = np.array([[100.0], [50.0], [30.0]])
    jet, lepton = np.array([[True], [False], [False]]), np.array([[False], [True], [False]])
    assert cuts.scalar_sum(pt, jet, lepton).item() == 150
