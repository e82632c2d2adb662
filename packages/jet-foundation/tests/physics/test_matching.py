import numpy as np
import pytest

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.matching import Record, find_decays, match_jets

# One event: t → b W⁺ (W⁺ copied once) → c s̄, and one of its partner with a leptonic W.
ROWS = [
    # pid, mother, eta, phi
    (90, 0, 0.0, 0.0),
    (6, 0, 0.1, 0.1),
    (6, 1, 0.1, 0.1),  # last copy of the top
    (24, 2, 0.1, 0.1),
    (24, 3, 0.1, 0.1),  # last copy of the W
    (5, 2, 0.3, 0.2),
    (4, 4, -0.2, 0.0),
    (-3, 4, 0.2, -0.3),
    (4, 6, -0.2, 0.0),  # the quark after radiation is no new decay product
    (-6, 0, 0.0, 3.0),
    (-24, 9, 0.0, 3.0),
    (-5, 9, 0.1, 3.1),
    (13, 10, 0.0, -3.1),
    (-14, 10, 0.4, 2.9),
]


@pytest.fixture
def record() -> Record:
    pid, mother, eta, phi = (np.array(column) for column in zip(*ROWS, strict=True))
    num = len(pid)
    return Record(np.zeros(num, int), pid, mother, fv.from_pt_eta_phi_mass(np.full(num, 50.0), eta, phi))


def test_products_are_found_through_the_w(record: Record) -> None:
    decays = find_decays(record, 6)
    assert sorted(zip(decays.root.tolist(), decays.lepton.tolist(), strict=True)) == [
        (2, False), (2, False), (2, False), (9, False), (9, True),
    ]  # fmt: skip


def test_a_w_from_a_top_counts_as_a_w_when_w_is_asked_for(record: Record) -> None:
    assert set(find_decays(record, 24).root.tolist()) == {4, 10}


@pytest.mark.parametrize(
    ("phi", "quarks", "leptons", "root"), [(0.0, 3, 0, 2), (0.0, 2, 0, -1), (0.75, 3, 0, -1), (3.0, 1, 1, 9)]
)
def test_a_jet_must_hold_the_whole_decay(
    record: Record, phi: float, quarks: int, leptons: int, root: int
) -> None:
    jets = (np.array([0]), np.array([0.0]), np.array([phi]))
    assert match_jets(*jets, find_decays(record, 6), quarks, leptons).tolist() == [root]


def test_other_events_do_not_count(record: Record) -> None:
    jets = (np.array([1]), np.array([0.0]), np.array([0.0]))
    assert match_jets(*jets, find_decays(record, 6), 3, 0).tolist() == [-1]
