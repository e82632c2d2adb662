"""Working on real particles only.

Jets of 40 particles sit in batches padded to the longest one. Layers that treat particles one by one work on
the list of real particles. Attention works on the padded rectangle, or, on a CPU where most pairs would be
padding, on the jets of one length after those of another, which are rectangles without padding. The lists are
ordered for that:

    particles   jets by length, in each the particles in their order                     (T, C)
    pairs       jets by length, in each head, first particle, second particle            (H Σ n²)

Dimensions: B jets, N slots, T real particles of all jets, G jets of one length n, P pairs, H heads, C
channels.
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

# With so little padding among the particles, moving them costs more than computing the padding; with so
# little among the pairs, going through the lengths one by one does.
_DENSE_ABOVE, _GROUPS_BELOW = 0.95, 0.6


class Group(NamedTuple):
    """Jets of one length, which are neighbours in the lists.

    Attributes:
        num_jets: How many, G.
        length: Particles of each, n.
        particles: Where they are in the list of particles.
        pairs: Where their G n² pairs are in the list of pairs of a single head.
    """

    num_jets: int
    length: int
    particles: slice
    pairs: slice


class Packing:
    """Moves between the padded rectangle and the list of chosen particles.

    A compiled or exported network keeps the rectangle, whose shape does not depend on the data.

    Args:
        mask: True where a particle belongs to the list, (B, N).
        dense: Keep the rectangle; None decides by the amount of padding.
        by_length: Order the list by the length of the jets; None decides by device and padding.

    Attributes:
        index: Slots of the listed particles, counted through the rectangle, (T,); None keeps the rectangle.
        groups: Jets of each length; None lets attention work on the rectangle.
        num_pairs: Pairs of a single head in the list of pairs, Σ n².
    """

    def __init__(self, mask: Tensor, *, dense: bool | None = None, by_length: bool | None = None) -> None:
        self.shape = mask.shape
        self.index: Tensor | None = None
        self.groups: tuple[Group, ...] | None = None
        if dense is None:
            dense = torch.compiler.is_compiling()
        if dense:
            return
        lengths = mask.sum(dim=1)
        if by_length is None:
            # Asking a GPU for the lengths would stop the program until it answers.
            by_length = mask.device.type == "cpu" and _share_of_pairs(lengths, mask) < _GROUPS_BELOW
        if by_length:
            self._order_by_length(mask, lengths)
        else:
            index = mask.flatten().nonzero()[:, 0]
            self.index = index if len(index) < _DENSE_ABOVE * mask.numel() else None

    def _order_by_length(self, mask: Tensor, lengths: Tensor) -> None:
        num_jets, num_slots = mask.shape
        ordered, order = lengths.sort(stable=True)
        moved = (order - torch.arange(num_jets, device=order.device)) * num_slots
        self.index = mask[order].flatten().nonzero()[:, 0] + moved.repeat_interleave(ordered)
        squares = ordered**2
        first_pair = torch.empty_like(squares).index_copy_(0, order, squares.cumsum(0) - squares)
        self._lengths, self._first_pair, self._rank = lengths, first_pair, mask.cumsum(dim=1) - 1
        groups, particle, pair = [], 0, 0
        for length, count in sorted(Counter(ordered.tolist()).items()):
            particles = slice(particle, particle + count * length)
            pairs = slice(pair, pair + count * length**2)
            if length:
                groups.append(Group(count, length, particles, pairs))
            particle, pair = particles.stop, pairs.stop
        self.groups, self.num_pairs = tuple(groups), pair

    def pair_positions(self, jet: Tensor, first: Tensor, second: Tensor, num_heads: int) -> Tensor:
        """Places of pairs in the list of pairs; there must be groups.

        Args:
            jet: Numbers of the jets, (P,).
            first: Slots of the first particles, (P,).
            second: Slots of the second particles, (P,).
            num_heads: Heads H.

        Returns:
            Places, (P, H).
        """
        length = self._lengths[jet]
        in_head = self._rank[jet, first] * length + self._rank[jet, second]
        start = num_heads * self._first_pair[jet] + in_head
        return start[:, None] + (length * length)[:, None] * torch.arange(num_heads, device=jet.device)

    def pack(self, x: Tensor) -> Tensor:
        """List the chosen particles.

        Args:
            x: Values in the rectangle, (B, N, C).

        Returns:
            Values of the chosen particles, (T, C); all of them, (B N, C), when the rectangle is kept.
        """
        flat = x.flatten(0, 1)
        return flat if self.index is None else flat.index_select(0, self.index)

    def unpack(self, x: Tensor) -> Tensor:
        """Put listed particles back.

        Args:
            x: Values as `pack` gives them, (T, C).

        Returns:
            Values in the rectangle, (B, N, C), zero elsewhere when a list was made.
        """
        if self.index is not None:
            x = x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.index, x)
        return torch.unflatten(x, 0, (self.shape[0], self.shape[1]))


def _share_of_pairs(lengths: Tensor, mask: Tensor) -> float:
    """Pairs of real particles over pairs of slots."""
    return float((lengths**2).sum()) / max(mask.numel() * mask.shape[1], 1)
