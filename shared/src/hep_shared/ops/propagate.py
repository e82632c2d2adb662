r"""Tracks through a magnetic field map with equal steps along z.

With slopes tx = dx/dz, ty = dy/dz, N = sqrt(1 + tx^2 + ty^2) and kappa = 0.299792458 (q/p)[1/MeV] in
1/(mm T),

    dtx/dz = kappa N ( tx ty Bx - (1 + tx^2) By + ty Bz),
    dty/dz = kappa N ((1 + ty^2) Bx - tx ty By - tx Bz).

For r = (x, y), t = (tx, ty) and the right-hand side f(t, B), a step of length h is, with `rk4`,

    a = f(t, B(r, z)),                      b = f(t2 = t + h/2 a, B(r + h/2 t, z + h/2)),
    c = f(t3 = t + h/2 b, B(r + h/2 t2, z + h/2)),    d = f(t4 = t + h c, B(r + h t3, z + h)),
    r += h/6 (t + 2 t2 + 2 t3 + t4),        t += h/6 (a + 2 b + 2 c + d),

and with `rkn4`, Nystrom's method, whose middle stages share a look-up and whose last look-up serves the
next step,

    a = f(t, B(r, z)),                      M = B(r + h/2 t + h^2/8 a, z + h/2),
    b = f(t + h/2 a, M),  c = f(t + h/2 b, M),        d = f(t + h c, B(r + h t + h^2/2 c, z + h)),
    r += h t + h^2/6 (a + b + c),           t += h/6 (a + 2 b + 2 c + d).

Both are of fourth order; `rkn4` needs half the look-ups, 2 num_steps + 1.

References:
    E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, section II.14.

Dimension legend: N tracks, X Y Z nodes of the grid.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from hep_shared.ops import field
from hep_shared.ops._backend import (
    like_first,
    must_use_reference,
    recomputing,
    register,
    require,
    under_autocast,
)

KAPPA_PER_QOP = 0.299792458  # kappa [1/(mm T)] per q/p [1/MeV]; speed of light in these units, exact (SI)
MAX_STEPS = 1_000_000

Method = Literal["rk4", "rkn4"]
_OP = "propagate"


def propagate(
    state: Tensor,
    z: Tensor | float,
    dz: Tensor | float,
    grid: Tensor,
    origin: Sequence[float],
    spacing: Sequence[float],
    *,
    num_steps: int,
    method: Method = "rk4",
) -> Tensor:
    """Propagate tracks; differentiable in every tensor, by recomputing the steps.

    Where a track leaves the map it goes on straight. While exporting, each step becomes part of the graph.

    Args:
        state: x, y (mm), tx, ty (1), q/p (1/MeV), (N, 5) float32 or float64.
        z: Where the states are, number or (N,), mm.
        dz: How far to go along z, number or (N,), mm; negative goes back.
        grid: Bx, By, Bz at the nodes, (X, Y, Z, 3) with any strides, T.
        origin: x, y, z of node (0, 0, 0), mm.
        spacing: Distance of neighbouring nodes along x, y, z, mm.
        num_steps: Number of equal steps.
        method: `rk4` or `rkn4`.

    Returns:
        States at z + dz, (N, 5), units of `state`; q/p is unchanged.

    Raises:
        ValueError: A shape, a dtype, a device, the number of steps or the method does not fit.
    """
    state, grid = under_autocast(state, grid)
    field.check_rows(_OP, "state", state, 5)
    z, dz = column(_OP, "z", z, state), column(_OP, "dz", dz, state)
    frame = field.check_grid(_OP, grid, origin, spacing, state)
    require(1 <= num_steps <= MAX_STEPS, _OP, f"num_steps must be from 1 to {MAX_STEPS}, not {num_steps}")
    require(
        method in get_args(Method),
        _OP,
        f"method must be one of {', '.join(get_args(Method))}, not {method!r}",
    )
    run = reference if must_use_reference() else operator
    return run(state, z, dz, grid, frame, num_steps, method == "rkn4")


def reference(
    state: Tensor, z: Tensor, dz: Tensor, grid: Tensor, frame: Sequence[float], num_steps: int, nystroem: bool
) -> Tensor:
    """Propagate in plain PyTorch; `frame` is the origin and the inverse spacing."""
    lookup = partial(field.reference, grid=grid.contiguous(), frame=frame)
    return integrate(lookup, state, z, dz, num_steps, nystroem)


def bend(b: Tensor, kappa: Tensor, t: Tensor) -> Tensor:
    """Right-hand side of the equations of motion.

    Args:
        b: Field, (N, 3), T.
        kappa: Curvature per field, (N, 1), 1/(mm T).
        t: Slopes tx, ty, (N, 2).

    Returns:
        dtx/dz, dty/dz, (N, 2), 1/mm.
    """
    (bx, by, bz), (tx, ty) = b.unbind(1), t.unbind(1)
    dtx = tx * ty * bx - (1 + tx * tx) * by + ty * bz
    dty = (1 + ty * ty) * bx - tx * ty * by - tx * bz
    return kappa * torch.sqrt(1 + tx * tx + ty * ty)[:, None] * torch.stack((dtx, dty), dim=1)


def integrate(
    lookup: Callable[[Tensor], Tensor], state: Tensor, z: Tensor, dz: Tensor, num_steps: int, nystroem: bool
) -> Tensor:
    """Propagate through any field.

    Args:
        lookup: Field at points, (N, 3) mm to (N, 3) T.
        state: x, y, tx, ty, q/p, (N, 5), mm, 1 and 1/MeV.
        z: Where the states are, (N,), mm.
        dz: How far to go, (N,), mm.
        num_steps: Number of equal steps.
        nystroem: `rkn4` instead of `rk4`.

    Returns:
        States at z + dz, (N, 5), units of `state`.
    """
    r, t, qop = state[:, :2], state[:, 2:4], state[:, 4:]
    kappa = KAPPA_PER_QOP * qop
    h = (dz / num_steps)[:, None]
    start = z[:, None]

    def b_at(r: Tensor, z: Tensor) -> Tensor:
        return lookup(torch.cat((r, z), dim=1))

    if nystroem:
        end = b_at(r, start)
    for step in range(num_steps):
        z0 = start + h * step
        if nystroem:
            a = bend(end, kappa, t)
            middle = b_at(r + h / 2 * t + h * h / 8 * a, z0 + h / 2)
            b = bend(middle, kappa, t + h / 2 * a)
            c = bend(middle, kappa, t + h / 2 * b)
            end = b_at(r + h * t + h * h / 2 * c, z0 + h)
            d = bend(end, kappa, t + h * c)
            r = r + h * t + h * h / 6 * (a + b + c)
        else:
            a = bend(b_at(r, z0), kappa, t)
            t2 = t + h / 2 * a
            b = bend(b_at(r + h / 2 * t, z0 + h / 2), kappa, t2)
            t3 = t + h / 2 * b
            c = bend(b_at(r + h / 2 * t2, z0 + h / 2), kappa, t3)
            t4 = t + h * c
            d = bend(b_at(r + h * t3, z0 + h), kappa, t4)
            r = r + h / 6 * (t + 2 * (t2 + t3) + t4)
        t = t + h / 6 * (a + 2 * (b + c) + d)
    return torch.cat((r, t, qop), dim=1)


def column(op: str, name: str, value: Tensor | float, state: Tensor) -> Tensor:
    """Turn a number into one per track, (N,), or require a tensor of that shape."""
    if not isinstance(value, Tensor):
        return state.new_full((state.shape[0],), value)
    (value,) = under_autocast(value)
    require(
        value.shape == state.shape[:1],
        op,
        f"{name} must be a number or have the shape ({state.shape[0]},), not {tuple(value.shape)}",
    )
    field.check_like(op, name, value, state)
    return value


def _with_operator(
    state: Tensor, z: Tensor, dz: Tensor, grid: Tensor, frame: Sequence[float], num_steps: int, nystroem: bool
) -> Tensor:
    """The reference with compiled look-ups, which keep points for the backward, not every product."""
    return integrate(partial(field.operator, grid=grid, frame=frame), state, z, dz, num_steps, nystroem)


operator = register(
    _OP,
    "(Tensor state, Tensor z, Tensor dz, Tensor grid, float[] frame, int num_steps, bool nystroem) -> Tensor",
    reference,
    fake=like_first,
    num_rows=3,
    backward=recomputing(_with_operator),
)
