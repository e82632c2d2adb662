r"""Find the nearest neighbours of each point of a padded set, among the other points of the set.

    d²(i, j) = Σ_d (x_id − x_jd)²,       j ≠ i and real;      ties to the lowest slot.

The last coordinate may be an angle, whose difference is taken to the nearest turn: with x = (η, φ) and the
period 2π, d is ΔR. A distance that is not a finite number makes no neighbour. The order carries no gradient.

Kernels take differences; the reference does for up to `MAX_COORDINATES` coordinates, and for more of them
|x_i|² + |x_j|² − 2 x_i·x_j, which is a matrix product. Distances that differ by rounding alone may be told
apart in another way by each implementation.

Dimension legend: B sets, P slots, D coordinates, K neighbours.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops._backend import must_use_reference, register, require, under_autocast, without_autocast

MAX_NEIGHBORS = 32
MAX_COORDINATES = 4
BLOCK_BYTES = 1 << 21
_OP = "knn"


def knn(points: Tensor, valid_mask: Tensor, k: int, *, period: float | None = None) -> Tensor:
    """Find the nearest neighbours.

    Args:
        points: Coordinates, (B, P, D) float32 or float64; any numbers in empty slots.
        valid_mask: True where there is a point, (B, P) bool.
        k: Neighbours K of a point, from 1 to 32.
        period: Period of the last coordinate, in its unit; None if it has none.

    Returns:
        Slots of the neighbours, the nearest first, (B, P, K) int64; -1 where there is none: after the others
        of a small set, and for an empty slot.

    Raises:
        ValueError: A shape, a dtype, a device, k or the period does not fit.
    """
    (points,) = under_autocast(points)
    require(points.dim() == 3, _OP, f"points must have the shape (B, P, D), not {tuple(points.shape)}")
    require(
        points.dtype in (torch.float32, torch.float64),
        _OP,
        f"points must be float32 or float64, not {points.dtype}",
    )
    require(
        valid_mask.shape == points.shape[:2],
        _OP,
        f"valid_mask must have the shape {tuple(points.shape[:2])}, not {tuple(valid_mask.shape)}",
    )
    require(
        valid_mask.dtype == torch.bool and valid_mask.device == points.device,
        _OP,
        f"valid_mask must be torch.bool on {points.device}, not {valid_mask.dtype} on {valid_mask.device}",
    )
    require(1 <= k <= MAX_NEIGHBORS, _OP, f"k must be from 1 to {MAX_NEIGHBORS}, not {k}")
    require(
        period is None or (0 < period < math.inf and points.shape[2] > 0),
        _OP,
        f"period must be a positive number that belongs to a coordinate, not {period}",
    )
    points = points.detach()
    if torch.compiler.is_exporting():  # a loop over blocks has no fixed length in a graph
        return _nearest(points, valid_mask, k, period or 0.0)
    run = reference if must_use_reference() else operator
    return run(points, valid_mask, k, period or 0.0)


@without_autocast
def reference(points: Tensor, valid_mask: Tensor, k: int, period: float) -> Tensor:
    """Find them in plain PyTorch, block by block; a `period` of 0 is none."""
    # On a GPU fewer and larger blocks keep the device busy.
    factor = 1 if points.device.type == "cpu" else 64
    sets = max(1, factor * BLOCK_BYTES // max(1, points.shape[1] ** 2 * points.element_size()))
    # No sets at all are one empty block.
    starts = range(0, max(len(points), 1), sets)
    return torch.cat(
        [
            _nearest(points[start : start + sets], valid_mask[start : start + sets], k, period)
            for start in starts
        ]
    )


def _nearest(points: Tensor, valid_mask: Tensor, k: int, period: float) -> Tensor:
    num_slots = points.shape[1]
    distances = _squared_distances(points, period)
    itself = torch.eye(num_slots, dtype=torch.bool, device=points.device)
    is_other = valid_mask.unsqueeze(1) & ~itself & (distances < torch.inf)
    distances = torch.where(is_other, distances, torch.inf)
    found = min(k, num_slots)
    if torch.compiler.is_exporting():  # of ONNX, which puts the lower index first
        nearest, slots = distances.topk(found, dim=-1, largest=False)
    else:
        nearest, slots = (part[..., :found] for part in distances.sort(dim=-1, stable=True))
    exists = (nearest < torch.inf) & valid_mask.unsqueeze(2)
    slots = torch.where(exists, slots, -1)
    return functional.pad(slots, (0, k - found), value=-1).contiguous()


def _squared_distances(points: Tensor, period: float) -> Tensor:
    """Of all pairs, (B, P, P)."""
    num_coordinates = points.shape[2]
    if period:
        angle = points[..., -1]
        difference = angle.unsqueeze(2) - angle.unsqueeze(1)
        difference = difference - period * torch.round(difference / period)
        num_coordinates -= 1
        of_angle = difference * difference
    else:
        of_angle = points.new_zeros(())
    if num_coordinates > MAX_COORDINATES:
        plain = points[..., :num_coordinates]
        square = (plain * plain).sum(dim=-1)
        products = torch.bmm(plain, plain.transpose(1, 2))
        return square.unsqueeze(2) + square.unsqueeze(1) - 2.0 * products + of_angle
    total = points.new_zeros(points.shape[0], points.shape[1], points.shape[1])
    for coordinate in points[..., :num_coordinates].unbind(-1):
        difference = coordinate.unsqueeze(2) - coordinate.unsqueeze(1)
        total = total + difference * difference
    return total + of_angle


def _fake(points: Tensor, valid_mask: Tensor, k: int, period: float) -> Tensor:
    return points.new_empty((*points.shape[:2], k), dtype=torch.long)


operator = register(
    _OP,
    "(Tensor points, Tensor valid_mask, int k, float period) -> Tensor",
    reference,
    fake=_fake,
    num_rows=2,
    backward=None,
)
