r"""Trilinear field lookup in PyTorch, differentiable in the position.

The gradient by the position is that of the interpolation: constant along an axis inside a cell, with jumps
at cell borders. Lookups go through `embedding`, since `values[index]` with an index of no dimension reads its
value, which `torch.vmap` forbids.

Dimension legend: N points, any shape.
"""

import torch
from torch import Tensor
from torch.nn.functional import embedding

from lhcb_extrap.physics.field_map import NUM_COLUMNS, FieldMap, Grid


def map_values(
    field_map: FieldMap, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Values of a map as a table for `trilinear`.

    Args:
        field_map: The map.
        dtype: Precision of the table.
        device: Where to put it.

    Returns:
        Bx, By, Bz at the nodes, x fastest, (num_z * num_y * num_x, 3), T.
    """
    table = torch.from_numpy(field_map.values.reshape(-1, NUM_COLUMNS)[:, :3].copy())
    return table.to(device=device, dtype=dtype)


def trilinear(values: Tensor, grid: Grid, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Interpolate a field.

    Args:
        values: Table of `map_values`, (num_z * num_y * num_x, 3), T.
        grid: Its grid.
        x: Positions, (N,), mm.
        y: Positions, (N,), mm.
        z: Positions, (N,), mm.

    Returns:
        Bx, By, Bz, each (N,), T; zero outside of the grid.
    """
    strides = (1, grid.shape[0], grid.shape[0] * grid.shape[1])
    base = torch.zeros_like(x, dtype=torch.long)
    inside = torch.ones_like(x, dtype=torch.bool)
    weights: list[Tensor] = []
    for c, origin, spacing, num in zip((x, y, z), grid.origin_mm, grid.spacing_mm, grid.shape, strict=True):
        position = (c - origin) / spacing
        inside = inside & (position >= 0) & (position <= num - 1)
        # Without a gradient: the cell does not move with the point. nan_to_num keeps the index in the table.
        cell = position.detach().nan_to_num().floor().clamp(0, num - 2)
        base = base + cell.long() * strides[len(weights)]
        weights.append((position - cell).unsqueeze(-1))
    wx, wy, wz = weights

    def along_x(offset: int) -> Tensor:
        low, high = embedding(base + offset, values), embedding(base + (offset + 1), values)
        return torch.lerp(low, high, wx.expand(*x.shape, 3))

    def along_y(offset: int) -> Tensor:
        return torch.lerp(along_x(offset), along_x(offset + strides[1]), wy.expand(*x.shape, 3))

    field = torch.lerp(along_y(0), along_y(strides[2]), wz.expand(*x.shape, 3))
    bx, by, bz = torch.where(inside.unsqueeze(-1), field, torch.zeros_like(field)).unbind(-1)
    return bx, by, bz
