r"""Lorentz-equivariant linear maps between multivectors, with the block structure used for speed.

A multivector of the spacetime algebra has 16 components in grades of 1, 4, 6, 4 and 1. The linear maps that
commute with proper orthochronous Lorentz transformations keep a grade or turn it into its Hodge dual
(J. Spinner et al., "Lorentz-equivariant geometric algebra transformer", arXiv:2405.14806, Eq. 5):

    y_k = D[grade(k)] x_k + s_k U[grade(k)] x_{15−k}

so component k talks to itself and to component 15 − k only: of the 16 × 16 blocks of channels, 32 are not
zero. On a CPU the eight pairs (k, 15 − k) are eight matrix products of 2C × 2C, in pieces of tokens that stay
in the cache; a GPU, a few channels and an export take the dense 16C × 16C matrix.

Weights have the layout of `lgatr.EquiLinear` with `subgroup=True`, so state dicts are interchangeable.

Dimensions: T tokens, I channels in, O channels out, 16 components.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_COMPONENTS = 16
GRADES = (0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4)
# Sign s_k of x_{15−k} in y_k: product with the pseudoscalar in the basis 1, e0…e3, e01, e02, e03, e12, e13,
# e23, e012, e013, e023, e123, e0123 with the metric (+, −, −, −).
DUAL_SIGNS = (-1, -1, -1, 1, -1, -1, 1, -1, 1, -1, 1, 1, -1, 1, 1, 1)
# Row of the weights that feeds y_k from x_{15−k}: rows 5 to 9 are ordered by the grade they read.
_DUAL_ROWS = tuple(9 - grade for grade in GRADES)
# Signs of x_k² in the invariant product of a multivector with itself, ⟨x̃ x⟩.
METRIC = (1, 1, -1, -1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 1, -1, -1)
_BLOCK_NUMBERS = 2**17  # 0.5 MB of float32: input, pairs and output of a piece stay in the cache of a core
_MIN_CHANNELS = 8  # below, the dense matrix is so small that rearranging costs more than it saves


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


def dense_matrix(weight: Tensor) -> Tensor:
    """Write the map as one matrix over channels and components.

    Args:
        weight: Coefficients, (O, I, 10).

    Returns:
        Matrix M with y = M x for x flattened as (channel, component), (16 O, 16 I).
    """
    direct = weight[..., list(GRADES)].movedim(-1, 1)  # (O, 16, I)
    dual = (weight[..., list(_DUAL_ROWS)] * weight.new_tensor(DUAL_SIGNS)).movedim(-1, 1)
    identity = torch.eye(NUM_COMPONENTS, dtype=weight.dtype, device=weight.device)
    matrix = direct[..., None] * identity[:, None, :] + dual[..., None] * identity.flip(1)[:, None, :]
    return matrix.flatten(0, 1).flatten(1)


def _pair_order(channels: int) -> Tensor:
    """Positions of (channel, component) in the order of the pairs k = 0 … 7: first k, then 15 − k."""
    component = torch.arange(8)
    pairs = torch.stack([component, 15 - component], dim=1)[:, :, None]
    return (torch.arange(channels) * NUM_COMPONENTS + pairs).flatten()


def _pair_weights(weight: Tensor) -> Tensor:
    """Matrices of the eight pairs, (8, 2 I, 2 O)."""
    grades, duals = list(GRADES), list(_DUAL_ROWS)
    by_row = weight.permute(2, 1, 0)  # (10, I, O)
    direct = by_row[grades]
    dual = by_row[duals] * weight.new_tensor(DUAL_SIGNS)[:, None, None]
    high = list(range(15, 7, -1))
    to_low = torch.cat([direct[:8], dual[:8]], dim=1)
    to_high = torch.cat([dual[high], direct[high]], dim=1)
    return torch.cat([to_low, to_high], dim=2)


class _PairProduct(torch.autograd.Function):
    """The eight pairs, piece by piece; the order of components is undone on the way out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply (T, 16 I) by (8, 2 I, 2 O) and add the bias, (O, 1)."""
        ctx.save_for_backward(x, weights)
        return _multiply(x, weights, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the input, the weights and the bias."""
        x, weights = ctx.saved_tensors
        grad = gradients[0].contiguous()
        grad_x = grad_weights = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _multiply(grad, weights.transpose(1, 2), None)
        if ctx.needs_input_grad[1]:
            order_in, order_out = (_pair_order(size // 2) for size in weights.shape[1:])
            grad_weights = torch.zeros_like(weights)
            for block in _pieces(x, weights):
                pairs = torch.unflatten(x[block].index_select(1, order_in), 1, (8, -1)).permute(1, 2, 0)
                grads = torch.unflatten(grad[block].index_select(1, order_out), 1, (8, -1)).transpose(0, 1)
                grad_weights.baddbmm_(pairs, grads)
        if ctx.needs_input_grad[2]:
            grad_bias = grad[:, ::NUM_COMPONENTS].sum(dim=0)[:, None]
        return grad_x, grad_weights, grad_bias


def _pieces(x: Tensor, weights: Tensor) -> Iterator[slice]:
    tokens = max(_BLOCK_NUMBERS // (8 * max(weights.shape[1:])), 1)
    return (slice(start, start + tokens) for start in range(0, len(x), tokens))


def _multiply(x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    order_in = _pair_order(weights.shape[1] // 2)
    order_out = torch.argsort(_pair_order(weights.shape[2] // 2))
    out = x.new_empty(len(x), 8 * weights.shape[2])
    for block in _pieces(x, weights):
        pairs = torch.unflatten(x[block].index_select(1, order_in), 1, (8, -1)).transpose(0, 1)
        result = torch.bmm(pairs, weights).transpose(0, 1).flatten(1)
        torch.index_select(result, 1, order_out, out=out[block])
        if bias is not None:
            out[block, ::NUM_COMPONENTS] += bias[:, 0]
    return out


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
        weight = self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        out_channels, in_channels, _ = weight.shape
        flat = x.flatten(-2)
        pairwise = (
            x.device.type == "cpu"
            and min(in_channels, out_channels) >= _MIN_CHANNELS
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
        )
        if pairwise:
            tokens = flat.reshape(-1, flat.shape[-1])
            product: Tensor = _PairProduct.apply(tokens, _pair_weights(weight), bias)
            return product.view(*x.shape[:-2], out_channels, NUM_COMPONENTS)
        shift = None if bias is None else F.pad(bias, (0, NUM_COMPONENTS - 1)).flatten()
        y = F.linear(flat, dense_matrix(weight), shift)
        return torch.unflatten(y, -1, (out_channels, NUM_COMPONENTS))
