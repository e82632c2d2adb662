r"""Four-momenta: boosts, two-body decays and collider coordinates.

A boost from the rest frame of a system (E, **P**) of mass m takes (e, **p**) to

    e' = (E e + P·p) / m,      p' = p + P (e + e') / (E + m),

and a system of mass M decays into m1 and m2 with p* = sqrt(λ(M², m1², m2²)) / 2M (Källén function λ); see
PDG, Review of particle physics (2024), section "Kinematics".
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def wrap_phi(phi: ArrayLike) -> Array:
    """Bring angles into [-π, π).

    Args:
        phi: Angles in rad.

    Returns:
        The same directions, in rad.
    """
    return np.asarray((np.asarray(phi) + np.pi) % (2 * np.pi) - np.pi)


def four_momentum(pt: ArrayLike, eta: ArrayLike, phi: ArrayLike, mass: ArrayLike = 0.0) -> Array:
    """Build four-momenta from collider coordinates.

    Args:
        pt: Transverse momenta in GeV.
        eta: Pseudorapidities.
        phi: Azimuths in rad.
        mass: Masses in GeV.

    Returns:
        E, px, py, pz, (4, ...) in GeV.
    """
    pt = np.asarray(pt, np.float64)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return np.stack([np.sqrt(px**2 + py**2 + pz**2 + np.square(mass)), px, py, pz])


def pt(p: Array) -> Array:
    """Transverse momentum.

    Args:
        p: Four-momenta, (4, ...) in GeV.

    Returns:
        (...) in GeV.
    """
    return np.asarray(np.hypot(p[1], p[2]))


def eta(p: Array) -> Array:
    """Pseudorapidity; ±20 along the beam, where it would be infinite.

    Args:
        p: Four-momenta, (4, ...) in GeV.

    Returns:
        (...).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.arcsinh(p[3] / pt(p))
    return np.asarray(np.clip(np.nan_to_num(value, nan=0.0), -20.0, 20.0))


def phi(p: Array) -> Array:
    """Azimuth.

    Args:
        p: Four-momenta, (4, ...) in GeV.

    Returns:
        (...) in rad, in [-π, π].
    """
    return np.asarray(np.arctan2(p[2], p[1]))


def mass(p: Array) -> Array:
    """Invariant mass, 0 where rounding makes its square negative.

    Args:
        p: Four-momenta, (4, ...) in GeV.

    Returns:
        (...) in GeV.
    """
    return np.asarray(np.sqrt(np.maximum(p[0] ** 2 - p[1] ** 2 - p[2] ** 2 - p[3] ** 2, 0.0)))


def delta_r2(eta_1: Array, phi_1: Array, eta_2: Array, phi_2: Array) -> Array:
    """Squared distance Δη² + Δφ².

    Args:
        eta_1: Pseudorapidities of the first objects.
        phi_1: Azimuths of the first objects in rad, in [-π, π].
        eta_2: Pseudorapidities of the second objects.
        phi_2: Azimuths of the second objects in rad, in [-π, π].

    Returns:
        ΔR² with the inputs' broadcast shape.
    """
    dphi = np.abs(phi_1 - phi_2)
    return np.asarray((eta_1 - eta_2) ** 2 + np.minimum(dphi, 2 * np.pi - dphi) ** 2)


def boost(p: Array, frame: Array) -> Array:
    """Take momenta from the rest frame of a system to the frame in which the system is given.

    Args:
        p: Momenta in the rest frame, (4, ...) in GeV.
        frame: Momentum of the system, broadcastable to `p`, with positive mass, in GeV.

    Returns:
        Boosted momenta, (4, ...) in GeV.
    """
    system_mass = mass(frame)
    energy = (frame[0] * p[0] + frame[1] * p[1] + frame[2] * p[2] + frame[3] * p[3]) / system_mass
    factor = (p[0] + energy) / (frame[0] + system_mass)
    return np.stack([energy, *(p[i] + frame[i] * factor for i in (1, 2, 3))])


def breakup_momentum(parent_mass: ArrayLike, mass_1: ArrayLike, mass_2: ArrayLike) -> Array:
    """Momentum of the daughters in the parent's rest frame.

    Args:
        parent_mass: Mass of the parent in GeV.
        mass_1: Mass of the first daughter in GeV.
        mass_2: Mass of the second daughter in GeV.

    Returns:
        p* in GeV; 0 below threshold.
    """
    parent_mass, mass_1, mass_2 = np.asarray(parent_mass), np.asarray(mass_1), np.asarray(mass_2)
    kallen = (parent_mass**2 - (mass_1 + mass_2) ** 2) * (parent_mass**2 - (mass_1 - mass_2) ** 2)
    return np.asarray(np.sqrt(np.maximum(kallen, 0.0)) / (2 * parent_mass))


def isotropic_directions(rng: np.random.Generator, n: int) -> Array:
    """Unit vectors, uniform on the sphere.

    Args:
        rng: Generator.
        n: How many.

    Returns:
        x, y, z, (3, n).
    """
    cosine, azimuth = rng.uniform(-1, 1, n), rng.uniform(-np.pi, np.pi, n)
    sine = np.sqrt(1 - cosine**2)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine])


def two_body_decay(
    parent: Array,
    parent_mass: ArrayLike,
    mass_1: ArrayLike,
    mass_2: ArrayLike,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Let systems decay isotropically into two daughters.

    Args:
        parent: Momenta of the parents, (4, N) in GeV.
        parent_mass: Their mass in GeV, a number or (N,).
        mass_1: Mass of the first daughter in GeV, a number or (N,).
        mass_2: Mass of the second daughter in GeV, a number or (N,).
        rng: Generator.

    Returns:
        Momenta of the daughters, each (4, N) in GeV; they add up to the parent.
    """
    momentum = breakup_momentum(parent_mass, mass_1, mass_2)
    directions = isotropic_directions(rng, parent.shape[1])
    energy = np.broadcast_to(np.sqrt(momentum**2 + np.square(mass_1)), directions[0].shape)
    first = boost(np.concatenate([energy[None], momentum * directions]), parent)
    return first, parent - first
