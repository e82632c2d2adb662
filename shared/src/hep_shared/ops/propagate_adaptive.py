r"""Tracks through a magnetic field map with steps that follow the estimated error: the pair of Cash and Karp.

Equations of motion and units as in `propagate`. Six look-ups a trial of length h give a result of fifth order
and one of fourth, with the stages k_i = f(s + h sum over j < i of A_ij k_j, z + C_i h),

    s5 = s + h sum of b_i k_i,    e = h sum of (b_i - b*_i) k_i,
    r = max( |ex|, |ey| over tolerance_mm,  |etx|, |ety| over slope_tolerance ).

A trial is accepted when r <= 1, or when it is as short as allowed; the next one is 0.9 h r^(-1/5) long,
between a fifth of h and five times h. Every track has steps of its own. The defaults are the limits of the
LHCb software.

References:
    J. R. Cash, A. H. Karp, A variable order Runge-Kutta method for initial value problems with rapidly
    varying right-hand sides, ACM Trans. Math. Softw. 16 (1990) 201.

Dimension legend: N tracks, X Y Z nodes of the grid.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hep_shared.ops import field
from hep_shared.ops._backend import like_first, must_use_reference, register, require, under_autocast
from hep_shared.ops.propagate import KAPPA_PER_QOP, bend, column

_OP = "propagate_adaptive"
MAX_TRIALS = 1_000_000

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
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 5.0
_LEAST, _WORST = 1.0e-4, 4000.0  # of r; beyond them the limits of the growth decide


def propagate_adaptive(
    state: Tensor,
    z: Tensor | float,
    dz: Tensor | float,
    grid: Tensor,
    origin: Sequence[float],
    spacing: Sequence[float],
    *,
    tolerance_mm: float = 1.0e-3,
    slope_tolerance: float = 5.0e-5,
    min_step_mm: float = 10.0,
    max_step_mm: float = 1000.0,
    max_trials: int = 5000,
) -> Tensor:
    """Propagate tracks; without a derivative, since the number of steps jumps: `propagate` has one.

    Where a track leaves the map it goes on straight.

    Args:
        state: x, y (mm), tx, ty (1), q/p (1/MeV), (N, 5) float32 or float64.
        z: Where the states are, number or (N,), mm.
        dz: How far to go along z, number or (N,), mm; negative goes back.
        grid: Bx, By, Bz at the nodes, (X, Y, Z, 3) with any strides, T.
        origin: x, y, z of node (0, 0, 0), mm.
        spacing: Distance of neighbouring nodes along x, y, z, mm.
        tolerance_mm: Error of x and y allowed in a step.
        slope_tolerance: Error of tx and ty allowed in a step.
        min_step_mm: Shortest step; accepted whatever its error.
        max_step_mm: Longest step, also the first one tried.
        max_trials: Accepted and repeated steps together after which a track is given up.

    Returns:
        States at z + dz, (N, 5), units of `state`; q/p is unchanged, the rest is NaN where a track was
        given up.

    Raises:
        ValueError: An argument does not fit, or a derivative or an export is asked for.
    """
    state, grid = under_autocast(state, grid)
    field.check_rows(_OP, "state", state, 5)
    z, dz = column(_OP, "z", z, state), column(_OP, "dz", dz, state)
    frame = field.check_grid(_OP, grid, origin, spacing, state)
    limits = {
        "tolerance_mm": tolerance_mm, "slope_tolerance": slope_tolerance, "min_step_mm": min_step_mm,
        "max_step_mm": max_step_mm,
    }  # fmt: skip
    for name, value in limits.items():
        require(math.isfinite(value) and value > 0, _OP, f"{name} must be a positive number, not {value}")
    require(
        min_step_mm <= max_step_mm,
        _OP,
        f"min_step_mm is {min_step_mm}, more than max_step_mm = {max_step_mm}",
    )
    require(
        1 <= max_trials <= MAX_TRIALS, _OP, f"max_trials must be from 1 to {MAX_TRIALS}, not {max_trials}"
    )
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in (state, z, dz, grid))
    require(
        not wanted and not must_use_reference(),
        _OP,
        "it has neither a derivative nor an export; detach the tensors or use propagate, with equal steps",
    )
    return operator(state, z, dz, grid, frame, list(limits.values()), max_trials)


def reference(
    state: Tensor,
    z: Tensor,
    dz: Tensor,
    grid: Tensor,
    frame: Sequence[float],
    limits: Sequence[float],
    max_trials: int,
) -> Tensor:
    """Propagate in plain PyTorch; `limits` are both tolerances, the shortest and the longest step."""
    grid = grid.contiguous()
    tolerance, slope_tolerance, shortest, longest = limits
    kappa = KAPPA_PER_QOP * state[:, 4:]
    s, way = state[:, :4], torch.zeros_like(dz)
    length = torch.full_like(dz, longest)
    for _ in range(max_trials):
        left = dz - way
        active = left.abs() > 0
        if not active.any():
            break
        last = length >= left.abs()
        h = torch.where(last, left, torch.where(dz < 0, -length, length))
        stages: list[Tensor] = []
        for node, row in zip(_C, _A, strict=True):
            at = s
            for weight, stage in zip(row, stages, strict=True):
                at = at + (h * weight)[:, None] * stage
            points = torch.cat((at[:, :2], (z + way + h * node)[:, None]), dim=1)
            slopes = bend(field.reference(points, grid, frame), kappa, at[:, 2:])
            stages.append(torch.cat((at[:, 2:], slopes), dim=1))
        moved, error = s, torch.zeros_like(s)
        for b5, b4, stage in zip(_B5, _B4, stages, strict=True):
            moved = moved + (h * b5)[:, None] * stage
            error = error + (h * (b5 - b4))[:, None] * stage
        position, slope = error[:, :2].abs().amax(dim=1), error[:, 2:].abs().amax(dim=1)
        r = torch.maximum(position * (1 / tolerance), slope * (1 / slope_tolerance))
        factor = _SAFETY * torch.where(r <= _WORST, r, _WORST).clamp_min(_LEAST) ** -0.2
        accepted = active & ((r <= 1) | (h.abs() <= shortest))
        s = torch.where(accepted[:, None], moved, s)
        way = torch.where(accepted, torch.where(last, dz, way + h), way)
        length = (h.abs() * factor.clamp(_SHRINK, _GROW)).clamp(shortest, longest)
    s = torch.where((way == dz)[:, None], s, torch.nan)
    return torch.cat((s, state[:, 4:]), dim=1)


def _no_derivative(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(f"{_OP}: it has no derivative; use propagate, with equal steps")


operator = register(
    _OP,
    "(Tensor state, Tensor z, Tensor dz, Tensor grid, float[] frame, float[] limits, int max_trials)"
    " -> Tensor",
    reference,
    fake=like_first,
    num_rows=3,
    backward=_no_derivative,
)
