r"""Four-momenta: boosts, two-body decays, collider coordinates.

A boost from the rest frame of a system (E, **P**) of mass M takes (e, **p**) to

    e' = (E e + **P**·**p**) / M,      **p**' = **p** + **P** (e + e') / (E + M),

and a system of mass M decays into m1 and m2 with p* = sqrt(λ(M², m1², m2²)) / 2M, where
λ(a, b, c) = a² + b² + c² − 2(ab + bc + ca) (Källén). See PDG, "Kinematics".

Momenta are arrays (4, ..., N): energy, px, py, pz in GeV, events last, so that every component is contiguous.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def wrap_phi(phi: ArrayLike) -> Array:
    """Bring angles into [−π, π).

    Args:
        phi: Angles in rad.

    Returns:
        The same directions, shape of `phi`, in rad.
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
        (4, ...) in GeV.
    """
    pt = np.asarray(pt, dtype=np.float64)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return np.stack([np.sqrt(pt * pt + pz * pz + np.square(mass)), px, py, pz])


def pt(p: Array) -> Array:
    """Transverse momentum, (4, ...) to (...), in GeV."""
    return np.asarray(np.sqrt(p[1] * p[1] + p[2] * p[2]))


def eta(p: Array) -> Array:
    """Pseudorapidity, (4, ...) to (...); 0 for a vanishing momentum, large along the beam."""
    return np.asarray(np.arcsinh(p[3] / np.maximum(pt(p), 1e-12)))


def phi(p: Array) -> Array:
    """Azimuth, (4, ...) to (...), in rad, in [−π, π]."""
    return np.asarray(np.arctan2(p[2], p[1]))


def mass2(p: Array) -> Array:
    """Squared invariant mass, (4, ...) to (...), in GeV²; rounding can make it slightly negative."""
    return np.asarray(p[0] * p[0] - p[1] * p[1] - p[2] * p[2] - p[3] * p[3])


def mass(p: Array) -> Array:
    """Invariant mass, (4, ...) to (...), in GeV; 0 where rounding makes its square negative."""
    return np.asarray(np.sqrt(np.maximum(mass2(p), 0.0)))


def delta_r2(eta_1: Array, phi_1: Array, eta_2: Array, phi_2: Array) -> Array:
    """Squared distance Δη² + Δφ².

    Args:
        eta_1: Pseudorapidities of the first objects.
        phi_1: Azimuths of the first objects in rad, in [−π, π].
        eta_2: Pseudorapidities of the second objects.
        phi_2: Azimuths of the second objects in rad, in [−π, π].

    Returns:
        ΔR², broadcast shape of the inputs.
    """
    dphi = np.abs(phi_1 - phi_2)
    return np.asarray((eta_1 - eta_2) ** 2 + np.minimum(dphi, 2 * np.pi - dphi) ** 2)


def boost(p: Array, frame: Array, frame_mass: ArrayLike) -> Array:
    """Take momenta from the rest frame of a system to the frame in which the system is given.

    Args:
        p: Momenta in the rest frame, (4, ...) in GeV.
        frame: Momentum of the system, broadcastable to `p`, in GeV.
        frame_mass: Its invariant mass in GeV, positive.

    Returns:
        Boosted momenta, (4, ...) in GeV.
    """
    energy = (frame[0] * p[0] + frame[1] * p[1] + frame[2] * p[2] + frame[3] * p[3]) / frame_mass
    factor = (p[0] + energy) / (frame[0] + frame_mass)
    out = np.empty(np.broadcast_shapes(p.shape, frame.shape))
    out[0] = energy
    for i in (1, 2, 3):
        out[i] = p[i] + frame[i] * factor
    return out


def kallen(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Array:
    """Källén function λ(a, b, c) of three squared masses.

    Args:
        a: First squared mass in GeV².
        b: Second squared mass in GeV².
        c: Third squared mass in GeV².

    Returns:
        λ in GeV⁴, broadcast shape; negative below threshold.
    """
    a, b, c = np.asarray(a), np.asarray(b), np.asarray(c)
    return np.asarray((a - b - c) ** 2 - 4 * b * c)


def breakup_momentum(parent_mass: ArrayLike, mass_1: ArrayLike, mass_2: ArrayLike) -> Array:
    """Momentum of the daughters in the parent's rest frame.

    Args:
        parent_mass: Mass of the parent in GeV.
        mass_1: Mass of the first daughter in GeV.
        mass_2: Mass of the second daughter in GeV.

    Returns:
        p* in GeV; 0 below threshold.
    """
    squared = kallen(np.square(parent_mass), np.square(mass_1), np.square(mass_2))
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)) / (2 * np.asarray(parent_mass)))


def isotropic_directions(rng: np.random.Generator, num: int) -> Array:
    """Unit vectors, uniform on the sphere.

    Args:
        rng: Generator.
        num: How many.

    Returns:
        x, y, z, (3, num).
    """
    return direction(rng.uniform(-1.0, 1.0, num), azimuths(rng, num))


def azimuths(rng: np.random.Generator, num: int) -> Array:
    """Return uniform azimuths in rad in [−π, π), (num,)."""
    return np.asarray(rng.uniform(-np.pi, np.pi, num))


def direction(cosine: Array, azimuth: Array) -> Array:
    """Unit vectors at a polar angle to the z axis.

    Args:
        cosine: Cosines of the polar angles, (N,).
        azimuth: Azimuths in rad, (N,).

    Returns:
        x, y, z, (3, N).
    """
    sine = np.sqrt(1.0 - cosine * cosine)
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine])


def transverse_axes(axis: Array) -> tuple[Array, Array]:
    """Two unit vectors orthogonal to an axis and to each other.

    Args:
        axis: Unit vectors, (3, N).

    Returns:
        Two arrays (3, N).
    """
    x, y, z = axis
    # T. Duff et al., "Building an orthonormal basis, revisited", JCGT 6 (2017): no branch, no small divisor.
    sign = np.copysign(1.0, z)
    a = -1.0 / (sign + z)
    b = x * y * a
    return np.stack([1 + sign * x * x * a, sign * b, -sign * x]), np.stack([b, sign + y * y * a, -y])


def system_momentum(mass: Array, rapidity: Array, px: Array, py: Array) -> Array:
    """Momentum of a system of given mass, rapidity and transverse momentum.

    Args:
        mass: Masses in GeV, (N,).
        rapidity: Rapidities along the beam, (N,).
        px: In GeV, (N,).
        py: In GeV, (N,).

    Returns:
        (4, N) in GeV.
    """
    transverse = np.sqrt(mass * mass + px * px + py * py)
    return np.stack([transverse * np.cosh(rapidity), px, py, transverse * np.sinh(rapidity)])
