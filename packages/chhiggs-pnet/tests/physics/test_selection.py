"""The selection on events made by hand."""

from dataclasses import replace

import numpy as np
import pytest

from chhiggs_pnet.physics.events import MAX_OBJECTS, Events, Object, pack
from chhiggs_pnet.physics.selection import Selection, pair_masses, select

MU, E, J = Object.MUON, Object.ELECTRON, Object.JET
# kind, pt, eta, phi, charge, tagged
GOOD = [
    (MU, 50, 0.0, 0.0, 1, 0), (MU, 40, 0.0, 3.0, -1, 0), (E, 30, 1.0, 1.5, 1, 0),
    (J, 60, -1.0, 1.0, 0, 1), (J, 40, -1.0, -1.0, 0, 0),
]  # fmt: skip


def event(objects: list[tuple[float, ...]]) -> Events:
    kind, pt, eta, phi, charge, tagged = (np.array(column, float) for column in zip(*objects, strict=True))
    zero = np.zeros(len(objects))
    columns = {
        "kind": kind, "pt": pt, "eta": eta, "phi": phi, "mass": zero, "charge": charge,
        "btag": tagged, "tagged": tagged, "tight": kind <= E,
    }  # fmt: skip
    scalars = {name: np.zeros(1) for name in ("met_pt", "met_phi", "weight", "run", "lumi", "event")}
    return pack(np.zeros(len(objects), int), columns, scalars)


def passes(objects: list[tuple[float, ...]], channel: str = "Run1E2Mu", **cuts: object) -> bool:
    return len(select(event(objects), channel, Selection(**cuts))) == 1  # type: ignore[arg-type]


def changed(index: int, **values: float) -> list[tuple[float, ...]]:
    names = ("kind", "pt", "eta", "phi", "charge", "tagged")
    out = [dict(zip(names, row, strict=True)) for row in GOOD]
    out[index].update(values)
    return [tuple(row.values()) for row in out]


def test_the_good_event_passes_its_channel_only() -> None:
    assert passes(GOOD)
    assert not passes(GOOD, "Run3Mu")
    three = changed(2, kind=MU)
    assert passes(three, "Run3Mu")
    assert not passes(three)


@pytest.mark.parametrize(
    "objects",
    [
        changed(0, pt=9.9), changed(0, eta=2.45), changed(2, pt=14.0), changed(2, eta=2.6), changed(1,
        charge=1), changed(3, pt=19.0), changed(4, eta=2.6), changed(3, tagged=0), changed(4, eta=1.0,
        phi=1.6), changed(0, pt=130.0), changed(1, phi=0.2), [*GOOD, (E, 11, -1.0, 0.0, 1, 0)], [*GOOD, (MU,
        11, -1.0, 2.0, 1, 0)],
    ],
    ids=[
        "muon pt", "muon eta", "electron pt", "electron eta", "same sign", "jet pt", "jet eta", "no tag",
        "jet overlaps", "above window", "light pair", "veto electron", "fourth muon",
    ],
)  # fmt: skip
def test_each_cut_refuses(objects: list[tuple[float, ...]]) -> None:
    assert not passes(objects)


def test_three_muons_of_one_charge_fail() -> None:
    same_sign = [(k, p, e, f, 1 if k == MU else c, t) for k, p, e, f, c, t in changed(2, kind=MU)]
    assert not passes(same_sign, "Run3Mu")
    assert passes(changed(2, kind=MU, charge=-1), "Run3Mu")  # net charge -1 as well as +1


def test_a_light_pair_fails_although_another_is_in_the_window() -> None:
    close = changed(2, kind=MU, charge=-1, eta=0.1, phi=0.1, pt=20)
    assert not passes(close, "Run3Mu")
    assert passes(close, "Run3Mu", pair_mass_min_gev=1.0)


def test_loose_leptons_pass_on_request() -> None:
    loose = replace(event(GOOD), tight=np.zeros((1, MAX_OBJECTS), bool))
    assert len(select(loose, "Run1E2Mu", Selection())) == 0
    assert len(select(loose, "Run1E2Mu", Selection(require_tight=False))) == 1


def test_objects_that_do_not_count_are_removed() -> None:
    extra = [*GOOD, (J, 30, 3.0, 0.5, 0, 1), (J, 45, 1.0, 1.4, 0, 1)]  # outside, and on the electron
    selected = select(event(extra), "Run1E2Mu", Selection())
    assert (selected.kind[0] != Object.NONE).sum() == len(GOOD)
    assert selected.pt[0, : len(GOOD)].tolist() == [50, 40, 30, 60, 40]
    assert selected.pt[0, len(GOOD) :].sum() == 0


def test_pair_masses_by_hand() -> None:
    three = event(changed(2, kind=MU))
    m1, m2 = pair_masses(three.kind == MU, three.pt, three.eta, three.phi, three.charge)
    # mu- (40 GeV, phi 3) with mu+ (50 GeV, phi 0) and with mu+ (30 GeV, eta 1, phi 1.5)
    first = np.sqrt(2 * 50 * 40 * (1 - np.cos(3.0)))
    second = np.sqrt(2 * 40 * 30 * (np.cosh(1.0) - np.cos(1.5)))
    assert m1[0] == pytest.approx(first, rel=1e-6)
    assert m2[0] == pytest.approx(second, rel=1e-6)


def test_packing_keeps_the_hardest_jets() -> None:
    many = GOOD[:3] + [(J, 20 + i, 0.0, 0.0, 0, 0) for i in range(20)]
    packed = event(many)
    assert packed.kind[0].tolist() == [MU, MU, E] + [J] * (MAX_OBJECTS - 3)
    assert packed.pt[0, 3:].tolist() == [39 - i for i in range(MAX_OBJECTS - 3)]
