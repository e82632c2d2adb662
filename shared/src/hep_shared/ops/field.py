r"""Trilinear look-up of a vector field on a regular grid, differentiable in the points and in the grid.

Along each axis, u = (r - origin) / spacing, the lower node is n = floor(u), at most the last but one, and
w = u - n. With the weights W(0) = 1 - w and W(1) = w of each axis a,

    B(r) = sum over corners c in {0, 1}^3 of  prod_a W_a(c_a)  grid[n + c],

and zero where u lies off the grid or is not a number. The derivatives are those of the interpolation,
constant along an axis inside a cell:

    dB/dr_a = 1/spacing_a  sum over c of  (2 c_a - 1)  prod_{b != a} W_b(c_b)  grid[n + c],
    dB/dgrid[n + c] = prod_a W_a(c_a).

Dimension legend: N points, X Y Z nodes of the grid.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hep_shared.ops._backend import (
    like_first,
    must_use_reference,
    recomputing,
    register,
    require,
    under_autocast,
)

_OP = "field_lookup"


def field_lookup(points: Tensor, grid: Tensor, origin: Sequence[float], spacing: Sequence[float]) -> Tensor:
    """Interpolate a field.

    Args:
        points: Positions x, y, z, (N, 3) float32 or float64, mm.
        grid: Bx, By, Bz at the nodes, (X, Y, Z, 3) with any strides, same dtype and device, T.
        origin: x, y, z of node (0, 0, 0), mm.
        spacing: Distance of neighbouring nodes along x, y, z, mm.

    Returns:
        Bx, By, Bz, (N, 3), T; zero off the grid.

    Raises:
        ValueError: A shape, a dtype, a device, the origin or the spacing does not fit.
    """
    points, grid = under_autocast(points, grid)
    check_rows(_OP, "points", points, 3)
    frame = check_grid(_OP, grid, origin, spacing, points)
    lookup = reference if must_use_reference() else operator
    return lookup(points, grid, frame)


def reference(points: Tensor, grid: Tensor, frame: Sequence[float]) -> Tensor:
    """Interpolate in plain PyTorch; `frame` is the origin and the inverse spacing."""
    index, fractions, inside = _cells(points, grid.shape, frame)
    field = grid.reshape(-1, 3)[index].movedim(-1, 1)
    for fraction in reversed(fractions):
        field = _blend(field, fraction)
    return torch.where(inside[:, None], field, 0.0).contiguous()


def check_rows(op: str, name: str, rows: Tensor, columns: int) -> None:
    """Require (N, columns) of float32 or float64."""
    require(
        rows.dim() == 2 and rows.shape[1] == columns,
        op,
        f"{name} must have the shape (N, {columns}), not {tuple(rows.shape)}",
    )
    require(
        rows.dtype in (torch.float32, torch.float64),
        op,
        f"{name} must be float32 or float64, not {rows.dtype}",
    )


def check_like(op: str, name: str, tensor: Tensor, leading: Tensor) -> None:
    """Require the dtype and the device of the first argument."""
    require(
        tensor.dtype == leading.dtype and tensor.device == leading.device,
        op,
        f"{name} is {tensor.dtype} on {tensor.device}, but the first argument is {leading.dtype} on "
        f"{leading.device}",
    )


def check_grid(
    op: str, grid: Tensor, origin: Sequence[float], spacing: Sequence[float], leading: Tensor
) -> list[float]:
    """Require a grid that can be interpolated.

    Args:
        op: Name of the operator, for the message.
        grid: Values at the nodes, (X, Y, Z, 3).
        origin: x, y, z of node (0, 0, 0), mm.
        spacing: Distance of neighbouring nodes, mm.
        leading: First argument of the operator, which decides dtype and device.

    Returns:
        The frame of the operators: origin (3, mm) and inverse spacing (3, 1/mm).

    Raises:
        ValueError: The grid, the origin or the spacing does not fit.
    """
    require(
        grid.dim() == 4 and grid.shape[3] == 3 and min(grid.shape[:3]) > 1,
        op,
        f"grid must have the shape (X, Y, Z, 3) with two nodes or more on each axis, not {tuple(grid.shape)}",
    )
    check_like(op, "grid", grid, leading)
    require(
        len(origin) == 3 and all(math.isfinite(o) for o in origin),
        op,
        f"origin must be three finite numbers, not {origin}",
    )
    require(
        len(spacing) == 3 and all(0 < s < math.inf for s in spacing),
        op,
        f"spacing must be three positive numbers, not {spacing}",
    )
    return [float(o) for o in origin] + [1.0 / s for s in spacing]


def _cells(
    points: Tensor, shape: Sequence[int], frame: Sequence[float]
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Find the cells of the points.

    Returns:
        Flat node numbers of the corners (N, 2, 2, 2), the place in the cell along each axis, three times
        (N,), and which points are on the grid (N,).
    """
    fractions: list[Tensor] = []
    inside = torch.ones_like(points[:, 0], dtype=torch.bool)
    index = torch.zeros_like(points[:, 0], dtype=torch.long).view(-1, 1, 1, 1)
    corner = torch.arange(2, device=points.device)
    for axis, size in enumerate(shape[:3]):
        u = (points[:, axis] - frame[axis]) * frame[axis + 3]
        on_axis = (u >= 0) & (u <= size - 1)
        u = torch.where(on_axis, u, 0.0)  # NaN and far points must not become an index
        node = u.detach().floor().clamp(max=size - 2)
        fractions.append(u - node)
        inside = inside & on_axis
        nodes = node.long().view(-1, 1, 1, 1) + corner.view([2 if other == axis else 1 for other in range(3)])
        index = index * size + nodes
    return index, fractions, inside


def _blend(values: Tensor, fraction: Tensor) -> Tensor:
    """Interpolate along the last axis, (N, ..., 2) to (N, ...)."""
    low, high = values.unbind(-1)
    return low + fraction.view(-1, *(1,) * (low.dim() - 1)) * (high - low)


def _rise(values: Tensor) -> Tensor:
    """Difference along the last axis, (N, ..., 2) to (N, ...)."""
    low, high = values.unbind(-1)
    return high - low


def pullback_reference(points: Tensor, grid: Tensor, grad: Tensor, frame: Sequence[float]) -> Tensor:
    """Sum over the components of `grad` (N, 3) times the gradient of that component, (N, 3)."""
    index, (wx, wy, wz), inside = _cells(points, grid.shape, frame)
    values = (grid.reshape(-1, 3)[index] * grad[:, None, None, None]).sum(-1)
    slope_z = _blend(_blend(_rise(values), wy), wx)
    values = _blend(values, wz)
    slope_y = _blend(_rise(values), wx)
    slope_x = _rise(_blend(values, wy))
    scaled = [slope * inverse for slope, inverse in zip((slope_x, slope_y, slope_z), frame[3:], strict=True)]
    return torch.where(inside[:, None], torch.stack(scaled, dim=1), 0.0)


def _spread(points: Tensor, grid: Tensor, grad: Tensor, frame: Sequence[float]) -> Tensor:
    """Share `grad` (N, 3) out among the corners of the cells, (X, Y, Z, 3)."""
    index, fractions, inside = _cells(points, grid.shape, frame)
    shares = torch.where(inside[:, None], grad, 0.0)
    for fraction in reversed(fractions):
        w = fraction.view(-1, *(1,) * (shares.dim() - 1))
        shares = torch.stack(((1 - w) * shares, w * shares), dim=1)
    nothing = torch.zeros_like(grid, memory_format=torch.contiguous_format).view(-1, 3)
    return nothing.index_add(0, index.flatten(), shares.view(-1, 3)).view(grid.shape)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    points, grid = ctx.saved_tensors
    (frame,) = ctx.numbers
    to_points = pullback(points, grid, grad, frame) if ctx.needs_input_grad[0] else None
    to_grid = _spread(points, grid, grad, frame) if ctx.needs_input_grad[1] else None
    return to_points, to_grid, None


operator = register(
    _OP,
    "(Tensor points, Tensor grid, float[] frame) -> Tensor",
    reference,
    fake=like_first,
    num_rows=1,
    backward=_backward,
)
pullback = register(
    "field_pullback",
    "(Tensor points, Tensor grid, Tensor grad, float[] frame) -> Tensor",
    pullback_reference,
    fake=like_first,
    num_rows=1,
    backward=recomputing(pullback_reference),
)
