r"""Decays of H⁺, t, W, Z and τ in the frame where they are needed.

The down-type fermion of a W makes the angle θ* in the W rest frame with the W direction in its parent's
frame:

    t → bW        1/Γ dΓ/dcosθ* = 3/4 F_0 (1 − c²) + 3/8 F_L (1 − c)² + 3/8 F_R (1 + c)²
    H⁺ → W* A     1/Γ dΓ/dcosθ* = 3/4 (1 − c²)

the same for both charges by CP. Every other two-body decay is isotropic. Fermions of the W and Z are massless
in the kinematics. A τ keeps its direction; its charged lepton takes the fraction x of its energy with the
unpolarised spectrum (5 − 9x² + 4x³)/3 of the collinear limit, hadrons a uniform fraction.

N events; momenta are (4, N) in GeV.
"""

from enum import IntEnum
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.kinematics import (
    Array,
    azimuths,
    boost,
    breakup_momentum,
    direction,
    isotropic_directions,
    transverse_axes,
)
from chhiggs_pnet.physics.particles import Kind, Mask
from chhiggs_pnet.physics.sampling import InverseCdf

Helicity = Literal["top", "longitudinal", "isotropic"]
_GRID = 4097
_TAU_HADRON_MIN_FRACTION = 0.2  # below, the visible jet would not be seen anyway


class WMode(IntEnum):
    """Final states of a W, taus resolved."""

    ELECTRON = 0
    MUON = 1
    TAU_ELECTRON = 2
    TAU_MUON = 3
    TAU_HADRONS = 4
    UP_DOWN = 5
    CHARM_STRANGE = 6


_tau_hadrons = 1 - c.TAU_TO_ELECTRON - c.TAU_TO_MUON
W_BRANCHING = np.array(
    [
        c.W_TO_ELECTRON,
        c.W_TO_MUON,
        c.W_TO_TAU * c.TAU_TO_ELECTRON,
        c.W_TO_TAU * c.TAU_TO_MUON,
        c.W_TO_TAU * _tau_hadrons,
        c.W_TO_HADRONS / 2,
        c.W_TO_HADRONS / 2,
    ]
)
# Kinds of the two slots: down-type fermion or charged lepton first.
W_KINDS = np.array(
    [
        [Kind.ELECTRON, Kind.MUON, Kind.ELECTRON, Kind.MUON, Kind.TAU_JET, Kind.LIGHT, Kind.LIGHT],
        [Kind.NEUTRINO] * 5 + [Kind.LIGHT, Kind.CHARM],
    ],
    np.int8,
)
HEAVY_FERMION_MASS = np.array([0, 0, c.TAU_MASS, c.TAU_MASS, c.TAU_MASS, 0, c.CHARM_MASS])


def helicity_density(cosine: Array, helicity: Helicity) -> Array:
    """Density of cosθ* of the down-type fermion of a W.

    Args:
        cosine: cosθ* in [−1, 1].
        helicity: `top` for t → bW, `longitudinal` for H⁺ → W* A, `isotropic`.

    Returns:
        dN/dcosθ*, normalised to 1, shape of `cosine`.
    """
    shares = {"top": c.W_HELICITY, "longitudinal": (1.0, 0.0, 0.0), "isotropic": (1 / 3, 1 / 3, 1 / 3)}
    longitudinal, left, right = (share / sum(shares[helicity]) for share in shares[helicity])
    return np.asarray(
        0.75 * longitudinal * (1 - cosine**2)
        + 0.375 * left * (1 - cosine) ** 2
        + 0.375 * right * (1 + cosine) ** 2
    )


def tau_lepton_density(x: Array) -> Array:
    """Density of the energy fraction of the charged lepton of an unpolarised τ, collinear limit.

    Args:
        x: Energy fraction in [0, 1].

    Returns:
        dN/dx, normalised to 1, shape of `x`.
    """
    return np.asarray((5 - 9 * x**2 + 4 * x**3) / 3)


_cosines = np.linspace(-1.0, 1.0, _GRID)
_HELICITY: dict[Helicity, InverseCdf] = {
    name: InverseCdf(_cosines, helicity_density(_cosines, name))
    for name in ("top", "longitudinal", "isotropic")
}
_fractions = np.linspace(0.0, 1.0, _GRID)
_TAU_LEPTON = InverseCdf(_fractions, tau_lepton_density(_fractions))


def two_body(
    parent: Array, parent_mass: Array | float, mass_1: Array | float, mass_2: Array | float,
    rng: np.random.Generator,
) -> tuple[Array, Array]:  # fmt: skip
    """Decay isotropically into two daughters.

    Args:
        parent: Momenta, (4, N) in GeV.
        parent_mass: Their mass in GeV, a number or (N,).
        mass_1: Mass of the first daughter in GeV, a number or (N,).
        mass_2: Mass of the second daughter in GeV, a number or (N,).
        rng: Generator.

    Returns:
        Momenta of the daughters, each (4, N) in GeV; they add up to the parent.
    """
    first = two_body_rest(parent_mass, mass_1, mass_2, isotropic_directions(rng, parent.shape[1]))
    first = boost(first, parent, parent_mass)
    return first, parent - first


def two_body_rest(
    parent_mass: Array | float, mass_1: Array | float, mass_2: Array | float, directions: Array
) -> Array:
    """Momentum of the first daughter in the parent's rest frame.

    Args:
        parent_mass: In GeV, a number or (N,).
        mass_1: In GeV, a number or (N,).
        mass_2: In GeV, a number or (N,).
        directions: Unit vectors, (3, N).

    Returns:
        (4, N) in GeV.
    """
    momentum = breakup_momentum(parent_mass, mass_1, mass_2)
    out = np.empty((4, directions.shape[1]))
    out[0] = np.sqrt(momentum**2 + np.square(mass_1))
    out[1:] = momentum * directions
    return out


def boson_chain(
    parent: Array, parent_mass: Array | float, boson_mass: Array | float, other_mass: Array | float,
    helicity: Helicity, rng: np.random.Generator,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Decay parent → other + boson, boson → f f' with the helicity angle of the chain.

    Args:
        parent: Momenta, (4, N) in GeV.
        parent_mass: Their mass in GeV, a number or (N,).
        boson_mass: Mass of the W or W* in GeV, a number or (N,).
        other_mass: Mass of the other daughter in GeV.
        helicity: Law of cosθ*.
        rng: Generator.

    Returns:
        Momenta of the other daughter, f and f', each (4, N) in GeV.
    """
    num = parent.shape[1]
    axis = isotropic_directions(rng, num)
    boson = two_body_rest(parent_mass, boson_mass, other_mass, axis)
    cosine = _HELICITY[helicity].draw(rng, num)
    first, second = transverse_axes(axis)
    across_1, across_2, _ = direction(cosine, azimuths(rng, num))
    # Energy and momentum along the axis of a massless fermion of energy m/2 in the boson's rest frame.
    momentum = breakup_momentum(parent_mass, boson_mass, other_mass)
    fermion = np.empty((4, num))
    fermion[0] = (boson[0] + momentum * cosine) / 2
    along, half_mass = (boson[0] * cosine + momentum) / 2, np.asarray(boson_mass) / 2
    fermion[1:] = along * axis + half_mass * (across_1 * first + across_2 * second)
    boson_lab = boost(boson, parent, parent_mass)
    fermion_lab = boost(fermion, parent, parent_mass)
    return parent - boson_lab, fermion_lab, boson_lab - fermion_lab


def resolve_taus(
    fermion: Array, partner: Array, is_leptonic: Mask, is_hadronic: Mask, rng: np.random.Generator
) -> None:
    """Replace τ momenta by what is visible and give the rest to the neutrino slot, in place.

    Args:
        fermion: Momenta of the τ or anything else, (4, N) in GeV.
        partner: Momenta of the neutrino slot, (4, N) in GeV.
        is_leptonic: τ → ℓ, (N,) bool.
        is_hadronic: τ → hadrons, (N,) bool.
        rng: Generator.
    """
    for chosen, leptonic in ((is_leptonic, True), (is_hadronic, False)):
        index = np.flatnonzero(chosen)
        num = len(index)
        fraction = _TAU_LEPTON.draw(rng, num) if leptonic else rng.uniform(_TAU_HADRON_MIN_FRACTION, 1.0, num)
        tau = fermion[:, index]
        fermion[:, index] = fraction * tau
        partner[:, index] += (1 - fraction) * tau


def w_daughters(
    fermion: Array, partner: Array, modes: NDArray[np.int64], sign: NDArray[np.int8], rng: np.random.Generator
) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Name the two fermions of a W and resolve taus in place.

    Args:
        fermion: Momenta of the charged lepton or down-type quark, (4, N) in GeV.
        partner: Momenta of the neutrino or up-type quark, (4, N) in GeV.
        modes: `WMode`, (N,).
        sign: Charge of the W, (N,).
        rng: Generator.

    Returns:
        Kinds (2, N) and charges (2, N); quarks have charge 0 here.
    """
    leptonic = (modes == WMode.TAU_ELECTRON) | (modes == WMode.TAU_MUON)
    resolve_taus(fermion, partner, leptonic, modes == WMode.TAU_HADRONS, rng)
    kinds = W_KINDS[:, modes]
    charges = np.zeros((2, len(modes)), np.int8)
    charges[0] = np.where(kinds[0] <= Kind.ELECTRON, sign, 0)
    return kinds, charges


class Channels:
    """Joint decay modes of one or two Ws, and the flavour of a nonprompt lepton, that can reach a channel.

    Args:
        num_w: Number of Ws.
        num_electrons: Electrons that the Ws, and the nonprompt lepton, must give at least.
        num_muons: Muons that they must give at least.
        nonprompt: Probability of an electron and of a muon from a jet; None if there is no such lepton.
    """

    def __init__(
        self, num_w: int, *, num_electrons: int, num_muons: int, nonprompt: tuple[float, float] | None = None
    ) -> None:
        flavours = (
            [(Kind.ELECTRON, nonprompt[0]), (Kind.MUON, nonprompt[1])] if nonprompt else [(Kind.NONE, 1.0)]
        )
        rows, shares = [], []
        for modes in product(WMode, repeat=num_w):
            for flavour, rate in flavours:
                found = [Kind(W_KINDS[0, mode]) for mode in modes] + [flavour]
                if found.count(Kind.ELECTRON) >= num_electrons and found.count(Kind.MUON) >= num_muons:
                    rows.append([*modes, flavour])
                    shares.append(rate * float(np.prod(W_BRANCHING[list(modes)])))
        self._rows = np.array(rows, np.int64)
        self._cumulative = np.cumsum(shares)
        self.fraction = float(self._cumulative[-1])

    def draw(self, rng: np.random.Generator, num: int) -> NDArray[np.int64]:
        """Draw modes.

        Args:
            rng: Generator.
            num: Number of events.

        Returns:
            `WMode` of every W and the nonprompt `Kind`, (num_w + 1, num).
        """
        row = np.searchsorted(self._cumulative, rng.random(num) * self.fraction, side="right")
        return self._rows[np.minimum(row, len(self._rows) - 1)].T
