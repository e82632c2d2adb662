r"""The off-shell W of H⁺ → W* A → f f' A.

With massless fermions their current is conserved, and the vertex (p_H + p_A)^μ leaves

    dΓ/dq² ∝ λ^{3/2}(m_H², m_A², q²) / [(q² − m_W²)² + m_W² Γ_W²],      0 < q < m_H − m_A,

and 1/Γ dΓ/dcosθ* = 3/4 (1 − cos²θ*): the W* is longitudinal. θ* is the angle of the fermion in the W* rest
frame to the flight direction of the W* in the H⁺ rest frame. A heavy fermion of mass m is open with

    (1 − m²/q²)² (1 + m²/2q²)

relative to a massless one, which matters where m_H − m_A is a few GeV.

References:
    A. Djouadi, J. Kalinowski, P. Zerwas, Z. Phys. C 70, 435 (1996), three-body decays of Higgs bosons.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.kinematics import Array, kallen
from chhiggs_pnet.physics.sampling import InverseCdf

_GRID = 8193


def mass_density(q: ArrayLike, mHc: float, mA: float) -> Array:
    """Density of the W* mass.

    Args:
        q: Mass of the W* in GeV.
        mHc: Mass of the H⁺ in GeV.
        mA: Mass of the A in GeV.

    Returns:
        dΓ/dq up to a constant, shape of `q`; 0 outside (0, mHc − mA).
    """
    q = np.asarray(q, dtype=np.float64)
    q2 = q * q
    phase_space = np.maximum(kallen(mHc**2, mA**2, q2), 0.0) ** 1.5
    propagator = (q2 - c.W_MASS**2) ** 2 + (c.W_MASS * c.W_WIDTH) ** 2
    return np.asarray(np.where((q > 0) & (q < mHc - mA), 2 * q * phase_space / propagator, 0.0))


def open_fraction(fermion_mass: ArrayLike, q: ArrayLike) -> Array:
    """Rate into a heavy fermion and a light one relative to two light ones.

    Args:
        fermion_mass: Mass of the heavy fermion in GeV.
        q: Mass of the W* in GeV.

    Returns:
        Number in [0, 1], broadcast shape; 0 below threshold.
    """
    ratio = np.minimum(np.square(fermion_mass) / np.maximum(np.square(q), 1e-12), 1.0)
    return np.asarray((1 - ratio) ** 2 * (1 + ratio / 2))


@functools.lru_cache(maxsize=64)
def mass_spectrum(mHc: float, mA: float) -> InverseCdf:
    """Sampler of the W* mass.

    Args:
        mHc: Mass of the H⁺ in GeV.
        mA: Mass of the A in GeV, below mHc.

    Returns:
        Table of q in GeV.
    """
    q = np.linspace(0.0, mHc - mA, _GRID)
    return InverseCdf(q, mass_density(q, mHc, mA))
