"""Response of a general-purpose detector: resolutions, efficiencies, b-tagging.

    electrons  σ(E)/E   = 10 % / sqrt(E) ⊕ 1 %
    muons      σ(pT)/pT = 1.5 % ⊕ 1e-4 pT
    photons    as electrons
    jets       σ(pT)/pT = 80 % / sqrt(pT) ⊕ 5 %, directions to 0.02

with E and pT in GeV: figures of the size that ATLAS and CMS publish, not a fit to either. Jets are tagged as
b with 70 % for b, 15 % for c and 1 % for anything else. There is no pile-up, no misidentified lepton and no
charge flip. What is not measured well ends up in the missing transverse momentum.

P slots, N events; momenta are (4, P, N) in GeV.
"""

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics.decay_modes import HADRONIC, Kind
from fourtop_tokens.physics.kinematics import Array, eta, four_momentum, mass, phi, pt

ELECTRON_EFFICIENCY, MUON_EFFICIENCY, PHOTON_EFFICIENCY = 0.80, 0.93, 0.85
TAG_EFFICIENCY = {Kind.BOTTOM: 0.70, Kind.CHARM: 0.15, Kind.LIGHT: 0.01, Kind.TAU_JET: 0.01}
JET_ANGLE = 0.02
# A jet has mass even when its parton has none: median m/pT and width of its logarithm.
JET_MASS_MEDIAN, JET_MASS_WIDTH = 0.12, 0.35
SOFT_TERM = 8.0  # GeV, noise of each missing-momentum component from what is in no object

_EFFICIENCY = {
    Kind.ELECTRON: ELECTRON_EFFICIENCY,
    Kind.MUON: MUON_EFFICIENCY,
    Kind.PHOTON: PHOTON_EFFICIENCY,
}


def table(values: dict[Kind, float], default: float = 0.0) -> Array:
    """Spread a mapping over all kinds, to be indexed with an array of kinds.

    Args:
        values: Value of some kinds.
        default: Value of the others.

    Returns:
        Value of each kind, (number of kinds,).
    """
    return np.array([values.get(kind, default) for kind in Kind])


def measure_leptons_and_photons(momenta: Array, kinds: NDArray[np.int8], rng: np.random.Generator) -> Array:
    """Smear the energies of electrons, muons and photons.

    Args:
        momenta: True momenta, (4, P, N) in GeV.
        kinds: Kinds, (P, N); other kinds come back as they are.
        rng: Generator.

    Returns:
        Measured momenta, (4, P, N) in GeV.
    """
    energy, true_pt = np.maximum(momenta[0], 1e-3), pt(momenta)
    calorimeter = np.hypot(0.10 / np.sqrt(energy), 0.01)
    spectrometer = np.hypot(0.015, 1e-4 * true_pt)
    width = np.where((kinds == Kind.ELECTRON) | (kinds == Kind.PHOTON), calorimeter, 0.0)
    width = np.where(kinds == Kind.MUON, spectrometer, width)
    return momenta * _positive(1 + width * rng.standard_normal(kinds.shape))


def measure_jets(
    momenta: Array, kinds: NDArray[np.int8], rng: np.random.Generator, gains_mass: bool = True
) -> Array:
    """Smear energies and directions of jets, and give those that are partons a mass.

    Args:
        momenta: True momenta, (4, P, N) in GeV.
        kinds: Kinds, (P, N); what is not hadronic comes back as it is.
        rng: Generator.
        gains_mass: Whether jets are partons; else their mass scales with their momentum.

    Returns:
        Measured momenta, (4, P, N) in GeV.
    """
    true_pt = np.maximum(pt(momenta), 1e-3)
    width = np.hypot(0.80 / np.sqrt(true_pt), 0.05)
    noise = rng.standard_normal((4, *kinds.shape))
    measured_pt = true_pt * _positive(1 + width * noise[0])
    if gains_mass:
        grown = measured_pt * JET_MASS_MEDIAN * np.exp(JET_MASS_WIDTH * noise[3])
        measured_mass = np.hypot(mass(momenta), grown)
    else:
        measured_mass = mass(momenta) * measured_pt / true_pt
    measured = four_momentum(
        measured_pt,
        eta(momenta) + JET_ANGLE * noise[1],
        phi(momenta) + JET_ANGLE * noise[2],
        measured_mass,
    )
    return np.where(np.isin(kinds, HADRONIC), measured, momenta)


def _positive(factor: Array) -> Array:
    return np.maximum(factor, 0.05)


def is_identified(kinds: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which electrons, muons and photons are identified; everything else never is.

    Args:
        kinds: Kinds, (P, N).
        rng: Generator.

    Returns:
        (P, N).
    """
    return np.asarray(rng.random(kinds.shape) < table(_EFFICIENCY)[kinds])


def is_tagged(kinds: NDArray[np.int8], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw which jets are tagged as b; everything else never is.

    Args:
        kinds: Kinds, (P, N).
        rng: Generator.

    Returns:
        (P, N).
    """
    return np.asarray(rng.random(kinds.shape) < table(TAG_EFFICIENCY)[kinds])


def missing_momentum(
    kinds: NDArray[np.int8], true: Array, measured: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Missing transverse momentum: the neutrinos, what the resolution adds, and soft noise.

    Args:
        kinds: Kinds, (P, N).
        true: True momenta of everything, neutrinos included, (4, P, N) in GeV.
        measured: Measured momenta in the same slots, (4, P, N) in GeV.
        rng: Generator.

    Returns:
        Magnitude in GeV and azimuth in rad, (N,) each.
    """
    unseen = np.where(kinds == Kind.NEUTRINO, true[1:3], true[1:3] - measured[1:3]).sum(axis=1)
    unseen += SOFT_TERM * rng.standard_normal(unseen.shape)
    return np.hypot(unseen[0], unseen[1]), np.arctan2(unseen[1], unseen[0])
