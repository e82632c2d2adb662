r"""Kinematics of the decays: t → bW, W → ff', Z → ff̄, H → two bodies or VV*, τ → visible + neutrinos.

In t → bW → b f f' the down-type fermion or charged lepton makes the angle θ* with the W direction,

    1/Γ dΓ/dcosθ* = 3/4 F_0 (1 - cos²θ*) + 3/8 F_L (1 - cosθ*)² + 3/8 F_R (1 + cosθ*)² ,

seen in the W rest frame (the same for both charges by CP). Every other two-body decay is isotropic. In H → VV
one boson is on its mass shell and the other has (A. Djouadi, Phys. Rept. 457, 1 (2008), section 2.2)

    dΓ/dq² ∝ sqrt(λ) (λ + 12 m_V² q² / m_H⁴) / ((q² - m_V²)² + m_V² Γ_V²) ,   λ = λ(m_V², q², m_H²) / m_H⁴ .

The electron or muon of a tau follows the unpolarised Michel spectrum x² (3 - 2x); taus carry no spin here.

P slots, L legs, N events; momenta are (4, ..., N) in GeV.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics import constants as c
from fourtop_tokens.physics.decay_modes import LEPTONS, MODES, Kind, charge_sign
from fourtop_tokens.physics.kinematics import (
    Array,
    boost,
    breakup_momentum,
    isotropic_directions,
    two_body_decay,
)

_GRID = 2049


@dataclass(frozen=True)
class Particles:
    """Final state of N events in fixed slots.

    Attributes:
        momenta: (4, P, N) in GeV; 0 in empty slots.
        kinds: `Kind`, (P, N) int8.
        charges: Charges of electrons and muons, (P, N) int8.
    """

    momenta: Array
    kinds: NDArray[np.int8]
    charges: NDArray[np.int8]


@dataclass(frozen=True)
class _InverseCdf:
    """Inverse transform of a tabulated density."""

    values: Array
    cumulative: Array

    @classmethod
    def of(cls, values: Array, density: Array) -> "_InverseCdf":
        area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(values))])
        return cls(values, area / area[-1])

    def draw(self, rng: np.random.Generator, n: int) -> Array:
        return np.interp(rng.random(n), self.cumulative, self.values)


def helicity_density(cosine: Array) -> Array:
    """Density of cosθ* in the decay of a W from a top quark.

    Args:
        cosine: cosθ*, in [-1, 1].

    Returns:
        dN/dcosθ*, normalised to 1.
    """
    longitudinal, left, right = (fraction / sum(c.W_HELICITY) for fraction in c.W_HELICITY)
    return (
        0.75 * longitudinal * (1 - cosine**2)
        + 0.375 * left * (1 - cosine) ** 2
        + 0.375 * right * (1 + cosine) ** 2
    )


def _virtual_mass(boson_mass: float, width: float) -> _InverseCdf:
    q = np.linspace(0.0, c.HIGGS_MASS - boson_mass, _GRID)
    kallen = (c.HIGGS_MASS**2 - (boson_mass + q) ** 2) * (c.HIGGS_MASS**2 - (boson_mass - q) ** 2)
    kallen = np.maximum(kallen, 0.0) / c.HIGGS_MASS**4
    matrix = np.sqrt(kallen) * (kallen + 12 * (boson_mass * q) ** 2 / c.HIGGS_MASS**4)
    propagator = (q**2 - boson_mass**2) ** 2 + (boson_mass * width) ** 2
    return _InverseCdf.of(q, 2 * q * matrix / propagator)  # dq² = 2 q dq


_cosines = np.linspace(-1.0, 1.0, _GRID)
_HELICITY = _InverseCdf.of(_cosines, helicity_density(_cosines))
_energy_fractions = np.linspace(0.0, 1.0, _GRID)
_MICHEL = _InverseCdf.of(_energy_fractions, _energy_fractions**2 * (3 - 2 * _energy_fractions))
_VIRTUAL = {
    "WW": (c.W_MASS, _virtual_mass(c.W_MASS, c.W_WIDTH)),
    "ZZ": (c.Z_MASS, _virtual_mass(c.Z_MASS, c.Z_WIDTH)),
}
_NUM_SLOTS = {"t": 3, "tbar": 3, "W+": 2, "W-": 2, "Z": 4, "H": 4}


def top_decay(top: Array, lepton_mass: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Decay t → b W → b f f' with the helicities of the W.

    Args:
        top: Momenta of on-shell top quarks, (4, N) in GeV.
        lepton_mass: Mass of f, the charged lepton or down-type quark, (N,) in GeV.
        rng: Generator.

    Returns:
        Momenta of b, f and f', each (4, N) in GeV.
    """
    n = top.shape[1]
    axis = isotropic_directions(rng, n)
    momentum = float(breakup_momentum(c.TOP_MASS, c.W_MASS, c.BOTTOM_MASS))
    w_energy = np.sqrt(momentum**2 + c.W_MASS**2)
    w = np.concatenate([np.full((1, n), w_energy), momentum * axis])

    cosine, azimuth = _HELICITY.draw(rng, n), rng.uniform(-np.pi, np.pi, n)
    decay_momentum = breakup_momentum(c.W_MASS, lepton_mass, 0.0)
    decay_energy = np.sqrt(decay_momentum**2 + lepton_mass**2)
    along = (w_energy * decay_momentum * cosine + momentum * decay_energy) / c.W_MASS
    energy = (w_energy * decay_energy + momentum * decay_momentum * cosine) / c.W_MASS
    across = decay_momentum * np.sqrt(1 - cosine**2)
    first, second = _transverse_axes(axis)
    space = along * axis + across * (np.cos(azimuth) * first + np.sin(azimuth) * second)

    w_lab, fermion = boost(w, top), boost(np.concatenate([energy[None], space]), top)
    return top - w_lab, fermion, w_lab - fermion


def _transverse_axes(axis: Array) -> tuple[Array, Array]:
    """Two unit vectors orthogonal to `axis` and to each other, (3, N) each."""
    x, y, z = axis
    # T. Duff et al., "Building an orthonormal basis, revisited", JCGT 6 (2017): no branch, no small divisor.
    sign = np.copysign(1.0, z)
    a = -1.0 / (sign + z)
    b = x * y * a
    return np.stack([1 + sign * x * x * a, sign * b, -sign * x]), np.stack([b, sign + y * y * a, -y])


def tau_decay(tau: Array, leptonic: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Array, Array]:
    """Decay a tau into what is seen and its neutrinos.

    Args:
        tau: Momenta, (4, N) in GeV.
        leptonic: Whether it decays to an electron or muon, (N,).
        rng: Generator.

    Returns:
        Momenta of the visible part and of the neutrinos together, each (4, N) in GeV.
    """
    n = tau.shape[1]
    # A massless lepton of energy x m/2 leaves its two neutrinos with m² (1 - x).
    neutrinos = c.TAU_MASS * np.sqrt(1 - _MICHEL.draw(rng, n))
    hadrons = rng.choice(c.TAU_HADRON_MASSES, n, p=c.TAU_HADRON_SHARES)
    visible_mass, invisible_mass = np.where(leptonic, 0.0, hadrons), np.where(leptonic, neutrinos, 0.0)
    return two_body_decay(tau, c.TAU_MASS, visible_mass, invisible_mass, rng)


def _higgs_to_bosons(higgs: Array, layout: str, lepton_mass: Array, rng: np.random.Generator) -> list[Array]:
    """H → VV* → four fermions, the first of each pair with a mass, (2, N); the four slots."""
    n = higgs.shape[1]
    on_shell_mass, spectrum = _VIRTUAL[layout]
    virtual_mass = np.maximum(spectrum.draw(rng, n), c.TAU_MASS + 0.1)  # the phase space of a tau stays open
    swap = rng.random(n) < 0.5
    mass_1, mass_2 = np.where(swap, virtual_mass, on_shell_mass), np.where(swap, on_shell_mass, virtual_mass)
    bosons = two_body_decay(higgs, c.HIGGS_MASS, mass_1, mass_2, rng)
    return [
        daughter
        for boson, boson_mass, first_mass in zip(bosons, (mass_1, mass_2), lepton_mass, strict=True)
        for daughter in two_body_decay(boson, boson_mass, first_mass, 0.0, rng)
    ]


def decay_all(
    legs: tuple[str, ...], momenta: Array, modes: NDArray[np.int16], rng: np.random.Generator
) -> Particles:
    """Let every heavy particle of a batch decay.

    Args:
        legs: Names of the heavy particles.
        momenta: Their momenta, (4, L, N) in GeV.
        modes: The mode of each boson, an index into `MODES`, (N, L).
        rng: Generator.

    Returns:
        The final state; the slots of a leg add up to its momentum.
    """
    num_slots, n = sum(_NUM_SLOTS[leg] for leg in legs), momenta.shape[2]
    out = np.zeros((4, num_slots, n))
    kinds, charges = np.zeros((num_slots, n), np.int8), np.zeros((num_slots, n), np.int8)
    start = 0
    for index, leg in enumerate(legs):
        stop = start + _NUM_SLOTS[leg]
        slots = slice(start, stop)
        if leg in ("t", "tbar"):
            kinds[start] = Kind.BOTTOM
            slots = slice(start + 1, stop)
        table, chosen = MODES[leg], modes[:, index]
        kinds[slots] = np.array([mode.kinds for mode in table], np.int8).T[:, chosen]
        charges[slots] = charge_sign(leg) * np.array([mode.charges for mode in table], np.int8).T[:, chosen]
        _fill(leg, momenta[:, index], chosen, out[:, start:stop], rng)
        _decay_taus(leg, chosen, out[:, slots], kinds[slots], rng)
        start = stop
    return Particles(out, kinds, charges)


def _fill(leg: str, parent: Array, chosen: NDArray[np.int16], out: Array, rng: np.random.Generator) -> None:
    """Write the daughters of one leg, taus not yet decayed, into its slots (4, slots, N)."""
    daughter_mass = np.array([mode.daughter_mass for mode in MODES[leg]])[chosen]
    if leg in ("t", "tbar"):
        for slot, p in enumerate(top_decay(parent, daughter_mass, rng)):
            out[:, slot] = p
        return
    if leg in ("W+", "W-"):
        out[:, 0], out[:, 1] = two_body_decay(parent, c.W_MASS, daughter_mass, 0.0, rng)
        return
    parent_mass = c.Z_MASS if leg == "Z" else c.HIGGS_MASS
    layouts = np.array([mode.layout for mode in MODES[leg]])[chosen]
    pair = np.flatnonzero(layouts == "pair")
    bodies = two_body_decay(parent[:, pair], parent_mass, daughter_mass[pair], daughter_mass[pair], rng)
    out[:, 0, pair], out[:, 1, pair] = bodies
    for layout in _VIRTUAL:
        virtual = np.flatnonzero(layouts == layout)
        is_tau = np.stack([_has_tau(leg, pair, chosen[virtual]) for pair in ((0, 1), (2, 3))])
        daughters = _higgs_to_bosons(parent[:, virtual], layout, np.where(is_tau, c.TAU_MASS, 0.0), rng)
        for slot, p in enumerate(daughters):
            out[:, slot, virtual] = p


def _has_tau(leg: str, slots: tuple[int, int], chosen: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Whether the chosen modes have a tau whose visible part and neutrinos go to these slots, (N,)."""
    return np.array([slots in mode.taus for mode in MODES[leg]])[chosen]


def _decay_taus(
    leg: str, chosen: NDArray[np.int16], out: Array, kinds: NDArray[np.int8], rng: np.random.Generator
) -> None:
    """Replace taus in the slots (4, slots, N) by what is seen of them; the neutrinos join their own slot."""
    for visible, invisible in sorted({pair for mode in MODES[leg] for pair in mode.taus}):
        events = np.flatnonzero(_has_tau(leg, (visible, invisible), chosen))
        seen, unseen = tau_decay(out[:, visible, events], np.isin(kinds[visible, events], LEPTONS), rng)
        out[:, visible, events] = seen
        out[:, invisible, events] += unseen
