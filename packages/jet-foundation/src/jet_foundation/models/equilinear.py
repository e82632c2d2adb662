r"""Lorentz-equivariant linear maps between multivectors.

The map itself, with its formula and its backward, is `hep_shared.ops.equilinear`: of the 16 × 16 blocks of
channels, 32 are not zero, and only these are computed. Weights have the layout of `lgatr.EquiLinear` with
`subgroup=True`, so state dicts are interchangeable.

Dimensions: T tokens, I channels in, O channels out, 16 components.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hep_shared.ops.equilinear import equi_linear

# Signs of x_k² in the invariant product of a multivector with itself, ⟨x̃ x⟩.
METRIC = (1, 1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, -1, -1)


def inner_product(a: Tensor, b: Tensor) -> Tensor:
    """Invariant product ⟨ã b⟩ of multivectors.

    Args:
        a: Multivectors, (..., 16).
        b: Multivectors, broadcastable, (..., 16).

    Returns:
        The product, (...).
    """
    return (a * b * a.new_tensor(METRIC)).sum(dim=-1)


def embed_vector(p4: Tensor) -> Tensor:
    """Place four-vectors in the vector components of multivectors.

    Args:
        p4: Four-vectors (E, px, py, pz), (..., 4).

    Returns:
        Multivectors, (..., 16).
    """
    return F.pad(p4, (1, 11))


class EquiLinear(nn.Module):
    """Most general Lorentz-equivariant linear layer, with a bias on the scalar component.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        bias: Whether to add a bias to the scalar component, the only one where it keeps equivariance.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 10))
        self.bias = nn.Parameter(torch.zeros(out_channels, 1)) if bias else None
        bound = 1 / math.sqrt(in_channels)  # uniform in ±1/√I, as lgatr's default initialisation
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Map multivectors.

        Args:
            x: Multivectors, (..., I, 16).

        Returns:
            Multivectors, (..., O, 16).
        """
        bias = None if self.bias is None else self.bias[:, 0].to(x.dtype)
        return equi_linear(x, self.weight.to(x.dtype), bias)
