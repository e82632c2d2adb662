r"""Runge-Kutta propagators with equal steps, for batches of tracks.

`rk4`: the classical fourth-order method for the state s = (x, y, tx, ty), four field lookups a step,

    s1 = s0 + h/6 (k1 + 2 k2 + 2 k3 + k4).

`rkn4`: the fourth-order Nystrom method for r'' = f(z, r, r') with r = (x, y), t = r', which shares the
lookup of its two middle stages and reuses the last one of a step as the first of the next, two lookups a
step plus one:

    k1 = f(z,       r,                        t)
    k2 = f(z + h/2, r + h/2 t + h^2/8 k1,     t + h/2 k1)
    k3 = f(z + h/2, same place as k2,         t + h/2 k2)
    k4 = f(z + h,   r + h t + h^2/2 k3,       t + h k3)
    r1 = r + h t + h^2/6 (k1 + k2 + k3),      t1 = t + h/6 (k1 + 2 k2 + 2 k3 + k4).

A step whose half is a multiple of the spacing of a field map puts all nodes on grid planes and meets the
interpolation error of the map at its worst: see `field_map`.

References:
    E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, section II.14. E. Lund
    et al., Track parameter propagation through the application of a new adaptive Runge-Kutta-Nystrom method
    in the ATLAS experiment, JINST 4 (2009) P04001.
"""

import numpy as np

from lhcb_extrap.physics.arrays import Field, FloatArray
from lhcb_extrap.physics.equations import slope_derivatives
from lhcb_extrap.physics.propagation import (
    DEFAULT_ACCEPTANCE,
    Acceptance,
    Advance,
    Batch,
    Propagation,
    as_batch,
    march,
)

DEFAULT_STEP_MM = 5.0


def rk4(
    field: Field,
    state: FloatArray,
    qop: FloatArray,
    z0: FloatArray | float,
    dz: FloatArray | float,
    *,
    step_mm: float = DEFAULT_STEP_MM,
    num_steps: int | None = None,
    acceptance: Acceptance = DEFAULT_ACCEPTANCE,
) -> Propagation:
    """Propagate with the classical fourth-order method.

    Args:
        field: Magnetic field.
        state: x, y, tx, ty, (N, 4) float32 or float64, mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, scalar or (N,), mm.
        dz: How far to go along z, scalar or (N,), mm; negative goes back.
        step_mm: Longest step.
        num_steps: Number of steps of every track, instead of `step_mm`.
        acceptance: Where a track may go.

    Returns:
        States at z0 + dz, (N, 4) in the dtype of `state`, mm and 1, and how each track ended.

    Raises:
        ValueError: A shape, the dtype or the step does not fit.
    """
    return march(
        _rk4_step(field),
        *as_batch(state, qop, z0, dz),
        acceptance=acceptance,
        step_mm=None if num_steps else step_mm,
        num_steps=num_steps,
    )


def rkn4(
    field: Field,
    state: FloatArray,
    qop: FloatArray,
    z0: FloatArray | float,
    dz: FloatArray | float,
    *,
    num_steps: int = 13,
    acceptance: Acceptance = DEFAULT_ACCEPTANCE,
) -> Propagation:
    """Propagate with the fourth-order Nystrom method.

    Args:
        field: Magnetic field.
        state: x, y, tx, ty, (N, 4) float32 or float64, mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, scalar or (N,), mm.
        dz: How far to go along z, scalar or (N,), mm; negative goes back.
        num_steps: Number of steps; 13 over 4 m give 0.015 mm, 8 give 0.03 mm.
        acceptance: Where a track may go.

    Returns:
        States at z0 + dz, (N, 4) in the dtype of `state`, mm and 1, and how each track ended.

    Raises:
        ValueError: A shape, the dtype or the number of steps does not fit.
    """
    return march(_rkn4_step(field), *as_batch(state, qop, z0, dz), acceptance=acceptance, num_steps=num_steps)


def state_derivative(field: Field, state: FloatArray, kappa: FloatArray, z: FloatArray) -> FloatArray:
    """Derivative of a state by z.

    Args:
        field: Magnetic field.
        state: x, y, tx, ty, (4, N), mm and 1.
        kappa: Curvature per field, (N,), 1/(mm T).
        z: Where, (N,), mm.

    Returns:
        tx, ty, dtx/dz, dty/dz, (4, N), 1 and 1/mm.
    """
    x, y, tx, ty = state
    return np.stack([tx, ty, *slope_derivatives(tx, ty, kappa, *field(x, y, z))])


def _rk4_step(field: Field) -> Advance:
    def advance(tracks: Batch, z: FloatArray) -> int:
        s, kappa, h = tracks.state, tracks.kappa, tracks.h
        half = h / 2
        k1 = state_derivative(field, s, kappa, z)
        k2 = state_derivative(field, s + half * k1, kappa, z + half)
        k3 = state_derivative(field, s + half * k2, kappa, z + half)
        k4 = state_derivative(field, s + h * k3, kappa, z + h)
        tracks.state = s + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        return 4

    return advance


def _rkn4_step(field: Field) -> Advance:
    def lookup(r: FloatArray, z: FloatArray) -> FloatArray:
        return np.stack(field(r[0], r[1], z))

    def force(t: FloatArray, kappa: FloatArray, b: FloatArray) -> FloatArray:
        return np.stack(slope_derivatives(t[0], t[1], kappa, b[0], b[1], b[2]))

    def advance(tracks: Batch, z: FloatArray) -> int:
        r, t = tracks.state[:2], tracks.state[2:]
        kappa, h = tracks.kappa, tracks.h
        half = h / 2
        lookups = 3 if tracks.memory is None else 2
        start = lookup(r, z) if tracks.memory is None else tracks.memory
        k1 = force(t, kappa, start)
        middle = lookup(r + half * (t + half / 2 * k1), z + half)
        k2 = force(t + half * k1, kappa, middle)
        k3 = force(t + half * k2, kappa, middle)
        end = lookup(r + h * (t + half * k3), z + h)
        k4 = force(t + h * k3, kappa, end)
        r = r + h * (t + h / 6 * (k1 + k2 + k3))
        t = t + h / 6 * (k1 + 2 * (k2 + k3) + k4)
        tracks.state = np.concatenate([r, t])
        tracks.memory = end  # looked up a few micrometres beside the new state: an error of order h^5
        return lookups

    return advance
