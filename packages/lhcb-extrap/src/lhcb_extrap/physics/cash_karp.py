r"""Adaptive Runge-Kutta propagation with the Cash-Karp pair, the method experiments run by default.

Six stages give a fifth-order result and an embedded fourth-order one; their difference estimates the error
of a step. A step is accepted when

    r = max( |ex|, |ey| over tolerance_mm,  |etx|, |ety| over slope_tolerance ) <= 1,

or when it is already the shortest allowed; the next step is 0.9 h r^(-1/5), between a fifth of h and five
times h. The defaults are the limits the LHCb software uses. Every track has its own step and its own place
along z.

References:
    J. R. Cash, A. H. Karp, A variable order Runge-Kutta method for initial value problems with rapidly
    varying right-hand sides, ACM Trans. Math. Softw. 16 (1990) 201.
"""

from dataclasses import dataclass

import numpy as np

from lhcb_extrap.physics.arrays import Field, FloatArray
from lhcb_extrap.physics.propagation import (
    DEFAULT_ACCEPTANCE,
    Acceptance,
    Batch,
    Propagation,
    Status,
    as_batch,
    chunks_in_acceptance,
    settle,
)
from lhcb_extrap.physics.runge_kutta import state_derivative

# Butcher tableau, Cash and Karp (1990): nodes, stages, fifth-order weights, and those minus the fourth-
# order ones.
_C = (0.0, 1 / 5, 3 / 10, 3 / 5, 1.0, 7 / 8)
_A: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (3 / 10, -9 / 10, 6 / 5),
    (-11 / 54, 5 / 2, -70 / 27, 35 / 27),
    (1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096),
)
_B5 = (37 / 378, 0.0, 250 / 621, 125 / 594, 0.0, 512 / 1771)
_B4 = (2825 / 27648, 0.0, 18575 / 48384, 13525 / 55296, 277 / 14336, 1 / 4)
_E = tuple(b5 - b4 for b5, b4 in zip(_B5, _B4, strict=True))

_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0


@dataclass(frozen=True)
class StepControl:
    """Limits of the adaptive step.

    Attributes:
        tolerance_mm: Error of x and y allowed per step.
        slope_tolerance: Error of tx and ty allowed per step.
        min_step_mm: Shortest step; accepted whatever its error.
        max_step_mm: Longest step, also the first one tried.
        max_trials: Accepted and repeated steps together after which a track is given up.
    """

    tolerance_mm: float = 1.0e-3
    slope_tolerance: float = 5.0e-5
    min_step_mm: float = 10.0
    max_step_mm: float = 1000.0
    max_trials: int = 5000


DEFAULT_STEP_CONTROL = StepControl()


def cash_karp(
    field: Field,
    state: FloatArray,
    qop: FloatArray,
    z0: FloatArray | float,
    dz: FloatArray | float,
    *,
    control: StepControl = DEFAULT_STEP_CONTROL,
    acceptance: Acceptance = DEFAULT_ACCEPTANCE,
) -> Propagation:
    """Propagate with steps that follow the estimated error.

    Args:
        field: Magnetic field.
        state: x, y, tx, ty, (N, 4) float32 or float64, mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, scalar or (N,), mm.
        dz: How far to go along z, scalar or (N,), mm; negative goes back.
        control: Tolerances and limits of the step.
        acceptance: Where a track may go; checked after accepted steps.

    Returns:
        States at z0 + dz, (N, 4) in the dtype of `state`, mm and 1, and how each track ended.

    Raises:
        ValueError: A shape or the dtype does not fit.
    """
    tracks, result = as_batch(state, qop, z0, dz)
    for chunk in chunks_in_acceptance(tracks, acceptance, result):
        _propagate_chunk(field, chunk, result, control, acceptance)
    return result


def _propagate_chunk(
    field: Field, tracks: Batch, result: Propagation, control: StepControl, acceptance: Acceptance
) -> None:
    dtype = tracks.state.dtype
    tracks.h = np.copysign(dtype.type(control.max_step_mm), tracks.dz)
    tracks.memory = np.zeros_like(tracks.dz)  # way along z behind each track
    for _ in range(control.max_trials):
        if tracks.dz.size == 0:
            return
        way = tracks.memory
        assert way is not None
        left = tracks.dz - way
        is_last = np.abs(tracks.h) >= np.abs(left)
        h = np.where(is_last, left, tracks.h)
        with np.errstate(over="ignore", invalid="ignore"):  # a lost track may overflow before it is removed
            state, error = _trial(field, tracks, tracks.z0 + way, h, control)
            # A NaN error fails the comparison and shrinks the step down to the shortest, which ends the
            # track.
            accepted = (error <= 1) | (np.abs(h) <= dtype.type(control.min_step_mm))
            factor = _SAFETY * np.fmax(np.nan_to_num(error, nan=np.inf), 1e-10) ** dtype.type(-0.2)
        result.num_lookups[tracks.index] += 6
        tracks.state = np.where(accepted, state, tracks.state)
        tracks.memory = np.where(accepted, way + h, way)
        size = np.abs(h) * np.clip(factor, _SHRINK, _GROW)
        tracks.h = np.copysign(np.clip(size, control.min_step_mm, control.max_step_mm), tracks.dz).astype(
            dtype
        )
        status = acceptance.classify(tracks.state)
        tracks = settle(tracks, status, (status != Status.OK) | (accepted & is_last), result)
    late = np.full(tracks.dz.shape, Status.TOO_MANY_STEPS, dtype=np.int8)
    settle(tracks, late, late != Status.OK, result)


def _trial(
    field: Field, tracks: Batch, z: FloatArray, h: FloatArray, control: StepControl
) -> tuple[FloatArray, FloatArray]:
    """Try one step; returns the new states (4, N) and their errors over the tolerances (N,)."""
    stages: list[FloatArray] = []
    for node, row in zip(_C, _A, strict=True):
        state = tracks.state + h * _weighted(row, stages) if row else tracks.state
        stages.append(state_derivative(field, state, tracks.kappa, z + node * h))
    error = np.abs(h * _weighted(_E, stages))
    position, slope = error[:2].max(axis=0), error[2:].max(axis=0)
    ratio = np.maximum(position / control.tolerance_mm, slope / control.slope_tolerance)
    return tracks.state + h * _weighted(_B5, stages), ratio


def _weighted(weights: tuple[float, ...], stages: list[FloatArray]) -> FloatArray:
    total = np.zeros_like(stages[0])
    for weight, stage in zip(weights, stages, strict=True):
        if weight:
            total += weight * stage
    return total
