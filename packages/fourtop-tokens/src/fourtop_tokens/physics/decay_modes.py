"""Decay modes of W, Z and Higgs bosons with the tau decays folded in, and which of them can pass a selection.

A mode lists what it leaves in its slots. Leptonic and hadronic tau decays are separate modes, so the number
and the signs of the leptons are known before any kinematics: `ChannelTable` enumerates the modes of all
bosons of an event together with the number of radiated partons, drops the combinations that cannot pass, and
draws from the rest with their true probabilities. Nothing is reweighted; detector losses come later.
"""

import itertools
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics import constants as c
from fourtop_tokens.physics.hard_process import HardProcess


class Kind(IntEnum):
    """What a slot of a generated event holds."""

    NONE = 0
    LIGHT = 1  # u, d, s quark or gluon
    CHARM = 2
    BOTTOM = 3
    TAU_JET = 4  # visible part of a hadronic tau decay
    ELECTRON = 5
    MUON = 6
    PHOTON = 7
    NEUTRINO = 8  # one neutrino, or all those of one tau and its partner


HADRONIC = (Kind.LIGHT, Kind.CHARM, Kind.BOTTOM, Kind.TAU_JET)
LEPTONS = (Kind.ELECTRON, Kind.MUON)
Layout = Literal["pair", "WW", "ZZ"]  # two bodies, or a Higgs boson through one virtual boson


@dataclass(frozen=True)
class Mode:
    """One way a boson decays.

    Attributes:
        fraction: Branching fraction.
        kinds: What the slots hold.
        charges: Electric charges of the leptons in the slots, 0 elsewhere.
        daughter_mass: In GeV, of both bodies of a pair or of the charged lepton of a W; not used otherwise.
        taus: (visible slot, slot of its neutrinos) of each tau decay.
        layout: `pair`, `WW` or `ZZ`.
    """

    fraction: float
    kinds: tuple[Kind, ...]
    charges: tuple[int, ...]
    daughter_mass: float = 0.0
    taus: tuple[tuple[int, int], ...] = ()
    layout: Layout = "pair"


_TAU = (
    (c.TAU_TO_ELECTRON, Kind.ELECTRON),
    (c.TAU_TO_MUON, Kind.MUON),
    (1 - c.TAU_TO_ELECTRON - c.TAU_TO_MUON, Kind.TAU_JET),
)


def _lepton_charge(kind: Kind, charge: int) -> int:
    return charge if kind in LEPTONS else 0


def _pair(fraction: float, kind: Kind, mass: float = 0.0) -> Mode:
    charges = (-1, 1) if kind in LEPTONS else (0, 0)
    return Mode(fraction, (kind, kind, Kind.NONE, Kind.NONE), (*charges, 0, 0), mass)


def _tau_pairs(fraction: float) -> list[Mode]:
    return [
        Mode(
            fraction * share_1 * share_2,
            (kind_1, kind_2, Kind.NEUTRINO, Kind.NEUTRINO),
            (_lepton_charge(kind_1, -1), _lepton_charge(kind_2, 1), 0, 0),
            c.TAU_MASS,
            ((0, 2), (1, 3)),
        )
        for (share_1, kind_1), (share_2, kind_2) in itertools.product(_TAU, _TAU)
    ]


def _w_modes() -> list[Mode]:
    """Slots of a W+: charged lepton or down-type antiquark, neutrino or up-type quark."""
    modes = [
        Mode(fraction, (kind, Kind.NEUTRINO), (1, 0))
        for fraction, kind in ((c.W_TO_ELECTRON, Kind.ELECTRON), (c.W_TO_MUON, Kind.MUON))
    ]
    modes += [
        Mode(c.W_TO_TAU * share, (kind, Kind.NEUTRINO), (_lepton_charge(kind, 1), 0), c.TAU_MASS, ((0, 1),))
        for share, kind in _TAU
    ]
    modes += [Mode(c.W_TO_HADRONS / 2, (Kind.LIGHT, up), (0, 0)) for up in (Kind.LIGHT, Kind.CHARM)]
    return modes


def _z_modes() -> list[Mode]:
    light = c.Z_TO_HADRONS - c.Z_TO_CHARM - c.Z_TO_BOTTOM
    return [
        _pair(c.Z_TO_ELECTRONS, Kind.ELECTRON),
        _pair(c.Z_TO_MUONS, Kind.MUON),
        _pair(c.Z_INVISIBLE, Kind.NEUTRINO),
        _pair(light, Kind.LIGHT),
        _pair(c.Z_TO_CHARM, Kind.CHARM),
        _pair(c.Z_TO_BOTTOM, Kind.BOTTOM, c.BOTTOM_MASS),
        *_tau_pairs(c.Z_TO_TAUS),
    ]


def _higgs_modes() -> list[Mode]:
    """H → Zγ, H → μμ and taus from H → ZZ*, together 0.5 % of the width, are left out."""
    modes = [
        _pair(c.H_TO_BOTTOM, Kind.BOTTOM, c.BOTTOM_MASS),
        _pair(c.H_TO_GLUONS, Kind.LIGHT),
        _pair(c.H_TO_CHARM, Kind.CHARM),
        _pair(c.H_TO_PHOTONS, Kind.PHOTON),
        *_tau_pairs(c.H_TO_TAUS),
    ]
    for plus, minus in itertools.product(_w_modes(), _w_modes()):
        charges = (plus.charges[0], 0, -minus.charges[0], 0)
        taus = (*plus.taus, *((2, 3) for _ in minus.taus))
        fraction = c.H_TO_WW * plus.fraction * minus.fraction
        modes.append(Mode(fraction, plus.kinds + minus.kinds, charges, 0.0, taus, "WW"))
    z_modes = [mode for mode in _z_modes() if not mode.taus]
    for first, second in itertools.product(z_modes, z_modes):
        fraction = c.H_TO_ZZ * first.fraction * second.fraction
        kinds, signs = first.kinds[:2] + second.kinds[:2], first.charges[:2] + second.charges[:2]
        modes.append(Mode(fraction, kinds, signs, layout="ZZ"))
    return modes


def _normalised(modes: list[Mode]) -> tuple[Mode, ...]:
    total = sum(mode.fraction for mode in modes)
    return tuple(replace(mode, fraction=mode.fraction / total) for mode in modes)


W_MODES, Z_MODES, HIGGS_MODES = _normalised(_w_modes()), _normalised(_z_modes()), _normalised(_higgs_modes())
MODES = {"t": W_MODES, "tbar": W_MODES, "W+": W_MODES, "W-": W_MODES, "Z": Z_MODES, "H": HIGGS_MODES}


def charge_sign(leg: str) -> int:
    """Sign that turns the charges of `W_MODES` into those of a leg's decay.

    Args:
        leg: Name of the heavy particle.

    Returns:
        -1 for an antitop quark and a W-, otherwise 1.
    """
    return -1 if leg in ("tbar", "W-") else 1


@dataclass(frozen=True)
class ChannelTable:
    """Combinations of initial state, boson decays and number of radiated partons that can pass a selection.

    Attributes:
        process: Index of the hard process of each row, (R,).
        modes: Mode of each leg, (R, L).
        num_radiated: Number of radiated partons, (R,).
        cumulative: Cumulative probability given that a row can pass, (R,).
        possible_fraction: Probability of all rows together before the condition.
    """

    process: NDArray[np.int8]
    modes: NDArray[np.int16]
    num_radiated: NDArray[np.int8]
    cumulative: NDArray[np.float64]
    possible_fraction: float

    @classmethod
    def build(
        cls,
        processes: tuple[HardProcess, ...],
        mean_radiated: dict[str, float],
        max_radiated: int,
        min_jets: int,
    ) -> "ChannelTable":
        """Enumerate what can give two leptons of one sign, or more leptons, and enough jets.

        Args:
            processes: Hard processes with the same number of legs.
            mean_radiated: Mean of the Poisson number of radiated partons for each initial state.
            max_radiated: Numbers above this are dropped and their probability shared out.
            min_jets: Partons and hadronic taus that an event needs; no other object can become a jet.

        Returns:
            The table.
        """
        rows: list[tuple[NDArray[np.generic], ...]] = []
        for index, process in enumerate(processes):
            grids = np.meshgrid(*(np.arange(len(MODES[leg])) for leg in process.legs), indexing="ij")
            modes = np.stack([grid.ravel() for grid in grids], axis=1)
            probability = np.full(len(modes), process.share)
            leptons = {1: np.zeros(len(modes), int), -1: np.zeros(len(modes), int)}
            num_jets = np.full(len(modes), sum(leg in ("t", "tbar") for leg in process.legs))
            for column, leg in enumerate(process.legs):
                table, chosen = MODES[leg], modes[:, column]
                probability *= np.array([mode.fraction for mode in table])[chosen]
                num_jets += np.array([sum(kind in HADRONIC for kind in mode.kinds) for mode in table])[chosen]
                for sign in leptons:
                    wanted = sign * charge_sign(leg)
                    leptons[sign] += np.array([mode.charges.count(wanted) for mode in table])[chosen]
            # Three leptons always hold two of one sign.
            possible = np.maximum(leptons[1], leptons[-1]) >= 2
            number = np.arange(max_radiated + 1)
            poisson = np.cumprod([1.0, *(mean_radiated[process.initial_state] / number[1:])])
            row, radiated = np.nonzero(possible[:, None] & (num_jets[:, None] + number >= min_jets))
            probability = probability[row] * (poisson / poisson.sum())[radiated]
            rows.append((np.full(len(row), index), modes[row], radiated, probability))
        columns = (np.concatenate(column) for column in zip(*rows, strict=True))
        process_index, modes, radiated, probability = columns
        total = float(probability.sum())
        return cls(
            process_index.astype(np.int8),
            modes.astype(np.int16),
            radiated.astype(np.int8),
            np.cumsum(probability) / total,
            total,
        )

    def sample(self, rng: np.random.Generator, n: int) -> NDArray[np.intp]:
        """Draw rows.

        Args:
            rng: Generator.
            n: How many.

        Returns:
            Row numbers in ascending order, hence grouped by hard process, (n,).
        """
        rows = np.searchsorted(self.cumulative, rng.random(n), side="right")
        return np.sort(np.minimum(rows, len(self.cumulative) - 1))
