"""Working on real particles only.

Jets of 40 particles sit in batches padded to the longest one. Layers that treat particles one by one work on
the list of real particles; attention works on the padded rectangle.

Dimensions: B jets, N particles, T real particles of all jets, C channels.
"""

import torch
from torch import Tensor

_DENSE_ABOVE = 0.95  # with so little padding, moving particles costs more than computing the padding


class Packing:
    """Moves between the padded rectangle and the list of chosen particles.

    A compiled or exported network keeps the rectangle, whose shape does not depend on the data.

    Args:
        mask: True where a particle belongs to the list, (B, N).
        dense: Keep the rectangle; None decides by the amount of padding.
    """

    def __init__(self, mask: Tensor, *, dense: bool | None = None) -> None:
        self.shape = mask.shape
        self.index: Tensor | None = None
        if dense is None:
            dense = torch.compiler.is_compiling()
        if not dense:
            index = mask.flatten().nonzero()[:, 0]
            self.index = index if len(index) < _DENSE_ABOVE * mask.numel() else None

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
