r"""Transport matrix of a track, as a Kalman filter needs it.

With the state s = (x, y, tx, ty), f its derivative by z and a = (x, y, tx, ty, q/p) at the start, J = ds/da
obeys

    dJ/dz = (df/ds) J + (df/dqop) e,    J(z0) = (1 | 0),    e the row (0, 0, 0, 0, 1).

State and matrix march together through the classical Runge-Kutta method. Since differentiating a
Runge-Kutta step gives the same step applied to the differentiated equation, J is the exact derivative of
what `rk4` computes with the same steps, up to rounding, where the field is differentiable. In a map of
linear cells dB/dx jumps at the cell borders; the derivative is then the one-sided one.

References:
    E. Lund et al., Transport of covariance matrices in the inhomogeneous magnetic field of the ATLAS
    experiment, JINST 4 (2009) P04016.
"""

import numpy as np

from lhcb_extrap.physics.arrays import DifferentiableField, FloatArray
from lhcb_extrap.physics.constants import KAPPA_PER_QOP
from lhcb_extrap.physics.equations import slope_derivatives, slope_partials
from lhcb_extrap.physics.propagation import (
    DEFAULT_ACCEPTANCE,
    Acceptance,
    Advance,
    Batch,
    Propagation,
    as_batch,
    march,
)
from lhcb_extrap.physics.runge_kutta import DEFAULT_STEP_MM


def rk4_with_jacobian(
    field: DifferentiableField,
    state: FloatArray,
    qop: FloatArray,
    z0: FloatArray | float,
    dz: FloatArray | float,
    *,
    step_mm: float = DEFAULT_STEP_MM,
    acceptance: Acceptance = DEFAULT_ACCEPTANCE,
) -> tuple[Propagation, FloatArray]:
    """Propagate states together with their derivatives by the initial state.

    Args:
        field: Magnetic field with its gradient.
        state: x, y, tx, ty, (N, 4) float32 or float64, mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, scalar or (N,), mm.
        dz: How far to go along z, scalar or (N,), mm; negative goes back.
        step_mm: Longest step.
        acceptance: Where a track may go.

    Returns:
        The propagation, and J of x, y, tx, ty by x, y, tx, ty, q/p, (N, 4, 5), mm, 1 and MeV; NaN for lost
        tracks.

    Raises:
        ValueError: A shape, the dtype or the step does not fit.
    """
    tracks, result = as_batch(state, qop, z0, dz)
    num, dtype = tracks.dz.size, tracks.state.dtype
    tracks.memory = np.zeros((4, 5, num), dtype)
    tracks.memory[range(4), range(4)] = 1.0
    jacobian = np.full((num, 4, 5), np.nan, dtype)
    march(_step(field, jacobian), tracks, result, acceptance=acceptance, step_mm=step_mm)
    jacobian[~result.ok] = np.nan
    return result, jacobian


def _step(field: DifferentiableField, jacobian: FloatArray) -> Advance:
    def derivative(
        state: FloatArray, matrix: FloatArray, kappa: FloatArray, z: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        x, y, tx, ty = state
        value, by_x, by_y = field.gradient(x, y, z)
        slopes = slope_derivatives(tx, ty, kappa, *value)
        (ax, ay), (cx, cy) = slope_partials(tx, ty, kappa, *value)
        px, qx = slope_derivatives(tx, ty, kappa, *by_x)  # the force is linear in the field
        py, qy = slope_derivatives(tx, ty, kappa, *by_y)
        rates = np.stack(
            [
                matrix[2],
                matrix[3],
                px * matrix[0] + py * matrix[1] + ax * matrix[2] + ay * matrix[3],
                qx * matrix[0] + qy * matrix[1] + cx * matrix[2] + cy * matrix[3],
            ]
        )
        unit = slope_derivatives(tx, ty, np.full_like(kappa, KAPPA_PER_QOP), *value)
        rates[2, 4] += unit[0]
        rates[3, 4] += unit[1]
        return np.stack([tx, ty, *slopes]), rates

    def advance(tracks: Batch, z: FloatArray) -> int:
        s, kappa, h = tracks.state, tracks.kappa, tracks.h
        m = tracks.memory
        assert m is not None
        half = h / 2
        k1, j1 = derivative(s, m, kappa, z)
        k2, j2 = derivative(s + half * k1, m + half * j1, kappa, z + half)
        k3, j3 = derivative(s + half * k2, m + half * j2, kappa, z + half)
        k4, j4 = derivative(s + h * k3, m + h * j3, kappa, z + h)
        tracks.state = s + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        tracks.memory = m + h / 6 * (j1 + 2 * (j2 + j3) + j4)
        # The loop drops a track after its last step, so the latest matrix is kept outside.
        jacobian[tracks.index] = np.moveaxis(tracks.memory, -1, 0)
        return 4

    return advance


def transport_covariance(jacobian: FloatArray, covariance: FloatArray) -> FloatArray:
    """Covariance of the state and q/p after the transport.

    Args:
        jacobian: J, (N, 4, 5).
        covariance: Of x, y, tx, ty, q/p at the start, (N, 5, 5).

    Returns:
        (N, 5, 5); q/p itself does not change.
    """
    full = np.zeros_like(covariance)
    full[..., :4, :] = jacobian
    full[..., 4, 4] = 1.0
    return full @ covariance @ np.swapaxes(full, -1, -2)
