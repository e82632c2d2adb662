r"""Graphs of padded events: real nodes packed into rows, nearest neighbours as row numbers.

Dense layers run on the V real nodes of a batch, not on the B P padded slots, so padding costs nothing and
batch statistics see real nodes only. Neighbours minimise

    (Δη)² + (Δφ)²      between directions,           or
    |x_i − x_j|²       between feature vectors,

among the other real nodes of the event. Equal distances are ordered by slot number (`hep_shared.ops.knn`).
The choice of neighbours carries no gradient.

Dimensions: B events, P slots of a padded event, V rows (real nodes of a batch), K neighbours, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hep_shared.ops.knn import knn


class Packing(NamedTuple):
    """Which slot of which event each row holds."""

    valid_mask: Tensor
    """Real slots, (B, P) bool."""
    rows: Tensor | None
    """Slot b P + p of each row, (V,) int64; None when every slot is a row, as in an exported graph."""
    row_of_slot: Tensor
    """Row of each slot, (B, P) int64; 0 for empty slots."""
    event: Tensor
    """Event of each row, (V,) int64."""

    def dense(self, x: Tensor) -> Tensor:
        """Put rows into their slots.

        Args:
            x: Rows, (V, C).

        Returns:
            (B, P, C), zero in empty slots unless every slot is a row.
        """
        num_events, num_slots = self.valid_mask.shape
        if self.rows is not None:
            x = x.new_zeros(num_events * num_slots, x.shape[-1]).index_copy(0, self.rows, x)
        return x.reshape(num_events, num_slots, x.shape[-1])

    def pack(self, x: Tensor) -> Tensor:
        """Take the rows out of their slots.

        Args:
            x: (B, P, C).

        Returns:
            (V, C).
        """
        flat = x.reshape(-1, x.shape[-1])
        return flat if self.rows is None else flat.index_select(0, self.rows)

    def mean(self, x: Tensor) -> Tensor:
        """Average the real nodes of each event.

        Args:
            x: Rows, (V, C).

        Returns:
            (B, C); zero for an event without nodes.
        """
        weight = self.valid_mask.to(x.dtype)
        if self.rows is not None:
            total = x.new_zeros(len(weight), x.shape[-1]).index_add(0, self.event, x)
            return total / weight.sum(dim=1, keepdim=True).clamp(min=1.0)
        total = (self.dense(x) * weight.unsqueeze(-1)).sum(dim=1)
        return total / weight.sum(dim=1, keepdim=True).clamp(min=1.0)


class Neighbors(NamedTuple):
    """Nearest neighbours of each row."""

    rows: Tensor
    """Rows, (V, K) int64; any row where there is no neighbour, which is after the real ones."""
    mask: Tensor | None
    """True for a neighbour, (V, K); None when all are there."""


def packing(valid_mask: Tensor) -> Packing:
    """Number the real nodes of a batch.

    Args:
        valid_mask: Real slots, (B, P) bool.

    Returns:
        The packing; while exporting every slot becomes a row, which keeps shapes fixed.
    """
    num_events, num_slots = valid_mask.shape
    if torch.compiler.is_exporting():
        row_of_slot = torch.arange(num_events * num_slots, device=valid_mask.device).view(
            num_events, num_slots
        )
        return Packing(valid_mask, None, row_of_slot, row_of_slot.reshape(-1) // num_slots)
    flat = valid_mask.reshape(-1)
    rows = flat.nonzero().squeeze(1)
    row_of_slot = (flat.cumsum(0) - 1).clamp(min=0).view(num_events, num_slots)
    return Packing(valid_mask, rows, row_of_slot, rows // num_slots)


def directions(px: Tensor, py: Tensor, pz: Tensor) -> Tensor:
    """Pseudorapidity and azimuth; the missing momentum, which has no η, counts as η = 0.

    Args:
        px: Momenta, GeV, (B, P).
        py: As px.
        pz: As px.

    Returns:
        η and φ in rad, (B, P, 2).
    """
    eta = torch.asinh(pz / torch.sqrt(px * px + py * py).clamp(min=1e-6))
    return torch.stack([eta, torch.atan2(py, px)], dim=-1)


def nearest_neighbors(points: Tensor, graph: Packing, k: int, *, period: float | None = None) -> Neighbors:
    """Choose the k nearest other real nodes, the lower slot first where distances are equal.

    Args:
        points: Coordinates of the slots, (B, P, D).
        graph: The packing.
        k: Neighbours K wanted; an event of n nodes has n − 1.
        period: Period of the last coordinate; None if it has none.

    Returns:
        The neighbours, the nearest first.
    """
    num_slots = graph.valid_mask.shape[1]
    slots = graph.pack(knn(points, graph.valid_mask, min(k, num_slots), period=period))
    exists = slots >= 0
    first_slot = (graph.event * num_slots).unsqueeze(1)
    rows = graph.row_of_slot.reshape(-1)[first_slot + slots.clamp(min=0)]
    if not torch.compiler.is_exporting() and bool(exists.all()):
        return Neighbors(rows, None)
    return Neighbors(rows, exists)
