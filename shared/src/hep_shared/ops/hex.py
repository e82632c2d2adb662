r"""Depthwise convolution on a hexagonal lattice and the layer norm behind it, in one pass over each event.

    y_n = b + Σ_t w_t x_{table(n, t)},     z_n = γ y'_n + β,     y'_n = (y_n − ⟨y_n⟩) r_n,
    r_n = (⟨(y_n − ⟨y_n⟩)²⟩ + ε)^{-1/2},   ⟨·⟩ over the channels,

for every channel but in ⟨·⟩; t = 0 is the node itself, 1 to 6 are the directions, and a neighbour that is
absent counts as zero. Backwards, with g = ∂L/∂z and h = γ g,

    ∂L/∂y_n = r_n (h_n − ⟨h_n⟩ − y'_n ⟨h_n y'_n⟩),     ∂L/∂x_m = Σ_{table(n, t) = m} w_t ∂L/∂y_n,
    ∂L/∂w_t = Σ_n x_{table(n, t)} ∂L/∂y_n,   ∂L/∂b = Σ_n ∂L/∂y_n,   ∂L/∂γ = Σ_n g_n y'_n,   ∂L/∂β = Σ_n g_n.

The backward computes y again from x, which is all that is kept.

References:
    J. L. Ba, J. R. Kiros, G. E. Hinton, arXiv:1607.06450 (layer norm).

Dimension legend: B events, N nodes, C channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops._backend import (
    like_first,
    must_use_reference,
    recomputing,
    register,
    require,
    under_autocast,
    without_autocast,
)

NUM_DIRECTIONS = 7
MAX_CHANNELS = 1024
_OP = "hex_conv_norm"


def hex_conv_norm(
    x: Tensor, table: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """Convolve and normalise; differentiable in every tensor but the table.

    Args:
        x: Features of the nodes, (B, N, C) float32 or float64.
        table: Node and its neighbours, (N, 7) int64; a number that is no node, such as -1, where there is
            none.
        weight: Weight of each direction, (7, C).
        bias: b, (C,).
        gamma: Scale of the layer norm, (C,).
        beta: Offset of the layer norm, (C,).
        eps: ε of the layer norm, in units of y².

    Returns:
        Normalised features, (B, N, C).

    Raises:
        ValueError: A shape, a dtype, a device or ε does not fit.
    """
    x, weight, bias, gamma, beta = under_autocast(x, weight, bias, gamma, beta)
    require(
        x.dim() == 3 and 1 <= x.shape[2] <= MAX_CHANNELS,
        _OP,
        f"x must have the shape (B, N, C) with 1 to {MAX_CHANNELS} channels, not {tuple(x.shape)}",
    )
    require(x.dtype in (torch.float32, torch.float64), _OP, f"x must be float32 or float64, not {x.dtype}")
    num_nodes, num_channels = x.shape[1:]
    require(
        table.shape == (num_nodes, NUM_DIRECTIONS),
        _OP,
        f"table must have the shape ({num_nodes}, {NUM_DIRECTIONS}), not {tuple(table.shape)}",
    )
    require(
        table.dtype == torch.int64 and table.device == x.device,
        _OP,
        f"table must be torch.int64 on {x.device}, not {table.dtype} on {table.device}",
    )
    shapes = {"weight": (NUM_DIRECTIONS, num_channels), "bias": (num_channels,)}
    shapes |= {"gamma": (num_channels,), "beta": (num_channels,)}
    for (name, shape), tensor in zip(shapes.items(), (weight, bias, gamma, beta), strict=True):
        require(tensor.shape == shape, _OP, f"{name} must have the shape {shape}, not {tuple(tensor.shape)}")
        require(
            tensor.dtype == x.dtype and tensor.device == x.device,
            _OP,
            f"{name} is {tensor.dtype} on {tensor.device}, but x is {x.dtype} on {x.device}",
        )
    require(eps >= 0, _OP, f"eps must not be negative, but is {eps}")
    run = reference if must_use_reference() else operator
    return run(x, table, weight, bias, gamma, beta, eps)


def _convolve(
    x: Tensor, table: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The sums y (B, N, C), and for each direction the features that enter (B, N, C) and their nodes (N,)."""
    num_nodes = x.shape[1]
    padded = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    is_node = (table >= 0) & (table < num_nodes)
    nodes = list(torch.where(is_node, table, num_nodes).unbind(1))
    features = [padded.index_select(1, node) for node in nodes]
    y = bias.expand_as(x)
    for feature, w in zip(features, weight.unbind(0), strict=True):
        y = torch.addcmul(y, feature, w)
    return y, features, nodes


@without_autocast
def reference(
    x: Tensor, table: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, eps: float
) -> Tensor:
    """Convolve and normalise in plain PyTorch."""
    y, _, _ = _convolve(x, table, weight, bias)
    return functional.layer_norm(y, gamma.shape, gamma, beta, eps).contiguous()


@without_autocast
def pullback_reference(
    x: Tensor, grad: Tensor, table: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, eps: float
) -> Tensor:
    """Differentiate in plain PyTorch.

    Returns:
        The gradient of x, (B N, C), and below it those of weight, bias, γ and β, (10, C).
    """
    y, features, nodes = _convolve(x, table, weight, bias)
    centred = y - y.mean(dim=2, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(dim=2, keepdim=True) + eps)
    normal, h = centred * rstd, grad * gamma
    of_y = rstd * (h - h.mean(dim=2, keepdim=True) - normal * (h * normal).mean(dim=2, keepdim=True))
    of_x = torch.zeros_like(torch.cat([x, x[:, :1]], dim=1))
    for node, w in zip(nodes, weight.unbind(0), strict=True):
        of_x = of_x.index_add(1, node, of_y * w)
    of_weights = [(of_y * feature).sum((0, 1)) for feature in features]
    rest = [of_y.sum((0, 1)), (grad * normal).sum((0, 1)), grad.sum((0, 1))]
    return torch.cat([of_x[:, : x.shape[1]].flatten(0, 1), torch.stack([*of_weights, *rest])])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, table, weight, bias, gamma, _ = ctx.saved_tensors
    (eps,) = ctx.numbers
    found = pullback(x, grad, table, weight, bias, gamma, eps)
    rows = x.shape[0] * x.shape[1]
    of_x, of_weight = found[:rows].view(x.shape), found[rows : rows + NUM_DIRECTIONS]
    of_bias, of_gamma, of_beta = found[rows + NUM_DIRECTIONS :].unbind(0)
    return of_x, None, of_weight, of_bias, of_gamma, of_beta, None


def _below(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0] * x.shape[1] + NUM_DIRECTIONS + 3, x.shape[2])


operator = register(
    _OP,
    "(Tensor x, Tensor table, Tensor weight, Tensor bias, Tensor gamma, Tensor beta, float eps) -> Tensor",
    reference,
    fake=like_first,
    num_rows=1,
    backward=_backward,
)
pullback = register(
    "hex_conv_norm_pullback",
    "(Tensor x, Tensor grad, Tensor table, Tensor weight, Tensor bias, Tensor gamma, float eps) -> Tensor",
    pullback_reference,
    fake=_below,
    num_rows=0,  # sums over the events: a batch of calls is that many calls
    backward=recomputing(pullback_reference),
)
