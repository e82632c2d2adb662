r"""Four-vectors (E, px, py, pz) and the quantities made of them.

    pT = √(px² + py²)     η = asinh(pz / pT)     y = asinh(pz / mT)     mT² = (E − pz)(E + pz)
    m² = E² − |p|²        Δφ wrapped into [−π, π)

The functions take NumPy arrays and torch tensors alike; the last axis holds (E, px, py, pz) in GeV. The
rapidity is written with mT because ½ ln((E + pz)/(E − pz)) loses all digits for forward particles.

Dimensions: ... any leading axes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TINY_GEV = 1e-20  # keeps a padded (all zero) particle finite; far below any momentum


def _xp(x: Any) -> Any:
    """Return the library that owns `x`; torch is imported only by those who hold a tensor."""
    if isinstance(x, np.ndarray | np.generic | float | int):
        return np
    import torch

    return torch


def wrap_phi(phi: Any) -> Any:
    """Wrap an angle.

    Args:
        phi: Angle in rad, any shape.

    Returns:
        The same angle in [−π, π), same shape, rad.
    """
    return _xp(phi).remainder(phi + np.pi, 2 * np.pi) - np.pi


def pt(p4: Any) -> Any:
    """Transverse momentum.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        pT, (...) GeV.
    """
    return _xp(p4).sqrt(p4[..., 1] ** 2 + p4[..., 2] ** 2)


def phi(p4: Any) -> Any:
    """Azimuth; 0 for a padded particle.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        φ in [−π, π], (...) rad.
    """
    return _xp(p4).arctan2(p4[..., 2], p4[..., 1])


def eta(p4: Any) -> Any:
    """Pseudorapidity.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        η, (...); 0 for a padded particle.
    """
    xp = _xp(p4)
    return xp.arcsinh(p4[..., 3] / xp.clip(pt(p4), TINY_GEV, None))


def transverse_mass(p4: Any) -> Any:
    """Transverse mass, never below pT.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        mT, (...) GeV.
    """
    xp = _xp(p4)
    mt2 = (p4[..., 0] - p4[..., 3]) * (p4[..., 0] + p4[..., 3])
    return xp.maximum(xp.sqrt(xp.clip(mt2, 0.0, None)), pt(p4))


def rapidity(p4: Any) -> Any:
    """Rapidity.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        y, (...); 0 for a padded particle.
    """
    xp = _xp(p4)
    return xp.arcsinh(p4[..., 3] / xp.clip(transverse_mass(p4), TINY_GEV, None))


def mass_squared(p4: Any) -> Any:
    """Invariant mass squared; rounding can make it slightly negative.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        m², (...) GeV².
    """
    return p4[..., 0] ** 2 - p4[..., 1] ** 2 - p4[..., 2] ** 2 - p4[..., 3] ** 2


def mass(p4: Any) -> Any:
    """Invariant mass; 0 where rounding makes m² negative.

    Args:
        p4: Four-vectors, (..., 4) GeV.

    Returns:
        m, (...) GeV.
    """
    xp = _xp(p4)
    return xp.sqrt(xp.clip(mass_squared(p4), 0.0, None))


def delta_r(eta_a: Any, phi_a: Any, eta_b: Any, phi_b: Any) -> Any:
    """Distance ΔR = √(Δη² + Δφ²) with Δφ wrapped.

    Args:
        eta_a: η or y of the first, broadcastable.
        phi_a: φ of the first, rad.
        eta_b: η or y of the second.
        phi_b: φ of the second, rad.

    Returns:
        ΔR, broadcast shape.
    """
    dphi = wrap_phi(phi_a - phi_b)
    return _xp(dphi).sqrt((eta_a - eta_b) ** 2 + dphi**2)


def from_pt_eta_phi_mass(pt: Array, eta: Array, phi: Array, mass: Array | float = 0.0) -> Array:
    """Build four-vectors from collider coordinates.

    Args:
        pt: Transverse momentum, (...) GeV.
        eta: Pseudorapidity, (...).
        phi: Azimuth, (...) rad.
        mass: Mass, (...) GeV.

    Returns:
        Four-vectors, (..., 4) GeV.
    """
    momentum = pt * np.cosh(eta)
    energy = np.hypot(momentum, mass)
    return np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)


def boost_matrix(beta: Array) -> Array:
    """Matrix of an active boost.

    Args:
        beta: Velocities, (..., 3) in units of c, |β| < 1.

    Returns:
        Λ with Λ (m, 0, 0, 0) moving with +β, (..., 4, 4).

    Raises:
        ValueError: A velocity is not below the speed of light.
    """
    beta = np.asarray(beta, np.float64)
    beta2 = (beta**2).sum(axis=-1)
    if (beta2 >= 1).any():
        raise ValueError(f"|beta| is {np.sqrt(beta2.max()):.6g} but must be below 1")
    gamma = 1 / np.sqrt(1 - beta2)
    matrix = np.empty((*beta.shape[:-1], 4, 4))
    matrix[..., 0, 0] = gamma
    matrix[..., 0, 1:] = matrix[..., 1:, 0] = gamma[..., None] * beta
    # (γ − 1)/β² = γ²/(γ + 1) has no 0/0 at rest.
    spatial = (gamma**2 / (gamma + 1))[..., None, None] * beta[..., :, None] * beta[..., None, :]
    matrix[..., 1:, 1:] = np.eye(3) + spatial
    return matrix


def rotation_matrix(axis: Array, angle: float) -> Array:
    """Matrix of a rotation (Rodrigues' formula).

    Args:
        axis: Direction, (3,), any length but 0.
        angle: Angle, rad.

    Returns:
        Λ acting on (E, px, py, pz), (4, 4).
    """
    x, y, z = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(4)
    matrix[1:, 1:] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return matrix
