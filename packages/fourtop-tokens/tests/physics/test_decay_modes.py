import numpy as np
import pytest

from fourtop_tokens.physics import constants as c
from fourtop_tokens.physics.decay_modes import (
    HADRONIC,
    HIGGS_MODES,
    LEPTONS,
    W_MODES,
    Z_MODES,
    ChannelTable,
    Kind,
)
from fourtop_tokens.physics.hard_process import PROCESSES, HardProcess

TTW = (HardProcess("u dbar", ("t", "tbar", "W+"), 1.0),)


@pytest.mark.parametrize("modes", [W_MODES, Z_MODES, HIGGS_MODES])
def test_branching_fractions_add_up(modes):
    assert sum(mode.fraction for mode in modes) == pytest.approx(1)


@pytest.mark.parametrize("modes", [Z_MODES, HIGGS_MODES])
def test_neutral_bosons_decay_neutrally_when_all_leptons_are_seen(modes):
    for mode in modes:
        if not mode.taus and mode.layout != "WW":
            assert sum(mode.charges) == 0
    fully_leptonic = [
        m for m in modes if m.layout == "WW" and m.kinds[0] in LEPTONS and m.kinds[2] in LEPTONS
    ]
    assert all(m.charges == (1, 0, -1, 0) for m in fully_leptonic)


def test_leptonic_fraction_of_w():
    leptons = sum(mode.fraction for mode in W_MODES if mode.kinds[0] in LEPTONS)
    total = c.W_TO_ELECTRON + c.W_TO_MUON + c.W_TO_TAU + c.W_TO_HADRONS
    via_tau = c.W_TO_TAU * (c.TAU_TO_ELECTRON + c.TAU_TO_MUON)
    assert leptons == pytest.approx((c.W_TO_ELECTRON + c.W_TO_MUON + via_tau) / total)


def test_higgs_to_bottom_dominates():
    assert max(HIGGS_MODES, key=lambda mode: mode.fraction).kinds[0] == Kind.BOTTOM


def test_same_sign_fraction_of_three_w():
    """P(≥ 2 of one sign) from p = B(W → e, mu): the W+ pair alone, or with the W-; two W- do not occur."""
    p = sum(mode.fraction for mode in W_MODES if mode.kinds[0] in LEPTONS)
    table = ChannelTable.build(TTW, {"u dbar": 1.0}, 8, min_jets=0)
    assert table.possible_fraction == pytest.approx(p * p)
    assert table.cumulative[-1] == pytest.approx(1)


@pytest.mark.parametrize("process", PROCESSES)
def test_every_row_can_pass(process):
    table = ChannelTable.build(
        PROCESSES[process], dict.fromkeys(("gg", "qqbar", "u dbar", "d ubar"), 1.5), 8, 6
    )
    rng = np.random.default_rng(0)
    rows = table.sample(rng, 300)
    assert (np.diff(rows) >= 0).all()
    from fourtop_tokens.physics.decay_modes import MODES, charge_sign

    for row in rows[::10]:
        legs = PROCESSES[process][table.process[row]].legs
        modes = [MODES[leg][mode] for leg, mode in zip(legs, table.modes[row], strict=True)]
        charges = [
            charge_sign(leg) * charge
            for leg, mode in zip(legs, modes, strict=True)
            for charge in mode.charges
        ]
        assert max(charges.count(1), charges.count(-1)) >= 2
        jets = sum(kind in HADRONIC for mode in modes for kind in mode.kinds)
        jets += sum(leg in ("t", "tbar") for leg in legs)
        assert jets + table.num_radiated[row] >= 6


def test_rows_come_with_their_probability():
    table = ChannelTable.build(TTW, {"u dbar": 1.0}, 8, min_jets=0)
    radiated = table.num_radiated[table.sample(np.random.default_rng(0), 40_000)]
    assert radiated.mean() == pytest.approx(1.0, abs=0.03)
    assert (radiated == 0).mean() == pytest.approx(np.exp(-1), abs=0.015)
