r"""Messages along the edges of a graph: what both of its nodes say, added, through LeakyReLU λ.

    h_e = λ(a_i + b_j)    for the edge e from row j to row i

It is the first layer of an edge convolution once its product has moved from the edges to the nodes,
W [x_i, x_j − x_i] = (W₁ − W₂) x_i + W₂ x_j, written in one pass instead of a gather, a sum and λ. Backwards,
with ∂L/∂z_e = λ'(h_e) ∂L/∂h_e (the slope of λ follows from the sign of its result),

    ∂L/∂a_i = Σ_{e at i} ∂L/∂z_e,    ∂L/∂b_j = Σ_{e from j} ∂L/∂z_e,

in the order of the edges, on a GPU in any order (`index_add`).

Dimension legend: R rows that edges lead to, V rows that they come from, E edges, C channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops._backend import must_use_reference, recomputing, register, require, under_autocast

SLOPE = 0.01  # of λ below zero, as in torch.nn.LeakyReLU
MAX_CHANNELS = 1 << 20
_OP = "edge_message"


def edge_message(
    own: Tensor,
    other: Tensor,
    source: Tensor,
    first: Tensor,
    *,
    slope: float = SLOPE,
) -> Tensor:
    """Write the messages of all edges; differentiable in `own` and `other`.

    Args:
        own: a, (R, C) float32 or float64.
        other: b, (V, C).
        source: Row j of each edge, (E,) int64; the edges of row 0 first, then those of row 1, and so on.
        first: Edges first[i] to first[i + 1] lead to row i, (R + 1,) int64 from 0 to E.
        slope: Slope of λ below zero.

    Returns:
        h, (E, C); not a number where a source is no row of `other`.

    Raises:
        ValueError: A shape, a dtype, a device or a number does not fit.
    """
    own, other = under_autocast(own, other)
    require(
        own.dim() == 2 and 0 < own.shape[1] <= MAX_CHANNELS,
        _OP,
        f"own must have the shape (R, C) with 1 to {MAX_CHANNELS} channels, not {tuple(own.shape)}",
    )
    require(
        own.dtype in (torch.float32, torch.float64), _OP, f"own must be float32 or float64, not {own.dtype}"
    )
    require(
        other.dim() == 2 and other.shape[1] == own.shape[1],
        _OP,
        f"other must have the shape (V, {own.shape[1]}), not {tuple(other.shape)}",
    )
    require(
        other.dtype == own.dtype and other.device == own.device,
        _OP,
        f"other is {other.dtype} on {other.device}, but own is {own.dtype} on {own.device}",
    )
    for name, index in (("source", source), ("first", first)):
        require(
            index.dim() == 1 and index.dtype == torch.int64 and index.device == own.device,
            _OP,
            f"{name} must be a list of int64 on {own.device}, "
            f"not {tuple(index.shape)} {index.dtype} on {index.device}",
        )
    require(
        first.shape[0] == own.shape[0] + 1,
        _OP,
        f"first must have the shape ({own.shape[0] + 1},), not {tuple(first.shape)}",
    )
    require(slope >= 0, _OP, f"slope must not be negative, but is {slope}")
    run = reference if must_use_reference() else operator
    return run(own, other, source, first, slope)


def _targets(source: Tensor, first: Tensor) -> Tensor:
    """Row that each edge leads to, (E,): how many rows have ended before it."""
    ends = first[1:-1]
    ended = source.new_zeros(source.shape[0] + 1).scatter_add(0, ends, torch.ones_like(ends))
    return ended.cumsum(0)[:-1]


def reference(own: Tensor, other: Tensor, source: Tensor, first: Tensor, slope: float) -> Tensor:
    """Write the messages in plain PyTorch."""
    return functional.leaky_relu(own[_targets(source, first)] + other[source], slope)


def pullback_reference(
    grad: Tensor, message: Tensor, source: Tensor, first: Tensor, num_sources: int, slope: float
) -> Tensor:
    """Differentiate in plain PyTorch.

    Returns:
        The gradient of `own`, (R, C), and below it that of `other`, (V, C).
    """
    of_sums = torch.where(message > 0, grad, slope * grad)
    of_own = grad.new_zeros(first.shape[0] - 1, grad.shape[1]).index_add(0, _targets(source, first), of_sums)
    return torch.cat([of_own, grad.new_zeros(num_sources, grad.shape[1]).index_add(0, source, of_sums)])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    own, other, source, first = ctx.saved_tensors
    (slope,) = ctx.numbers
    message = operator(own, other, source, first, slope)
    found = pullback(grad, message, source, first, other.shape[0], slope)
    return found[: own.shape[0]], found[own.shape[0] :], None, None, None


def _of_edges(own: Tensor, other: Tensor, source: Tensor, first: Tensor, slope: float) -> Tensor:
    return own.new_empty(source.shape[0], own.shape[1])


def _of_rows(
    grad: Tensor, message: Tensor, source: Tensor, first: Tensor, num_sources: int, slope: float
) -> Tensor:
    return grad.new_empty(first.shape[0] - 1 + num_sources, grad.shape[1])


operator = register(
    _OP,
    "(Tensor own, Tensor other, Tensor source, Tensor first, float slope) -> Tensor",
    reference,
    fake=_of_edges,
    num_rows=0,  # the rows of a batch of graphs have other numbers: a batch of calls is that many calls
    backward=_backward,
)
pullback = register(
    "edge_message_pullback",
    "(Tensor grad, Tensor message, Tensor source, Tensor first, SymInt num_sources, float slope) -> Tensor",
    pullback_reference,
    fake=_of_rows,
    num_rows=0,
    backward=recomputing(pullback_reference),
)
