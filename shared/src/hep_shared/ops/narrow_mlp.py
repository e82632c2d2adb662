r"""A multilayer perceptron of at most 64 neurons a layer, from the first layer to the last in one go.

    h_0 = row,    h_l = f(W_l h_(l-1) + b_l),    out = W_L h_(L-1) + b_L,

f = tanh, silu, relu or isru, v / sqrt(1 + v^2). A layer this narrow takes less time than bringing its numbers
from the memory and back, so one kernel takes rows through all layers: some tens at a time on the CPU, one a
thread on a GPU.

Dimension legend: N rows, L layers, P weights in all.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from hep_shared.ops._backend import (
    must_use_reference,
    recomputing,
    register,
    require,
    under_autocast,
    without_autocast,
)

MAX_WIDTH, MAX_LAYERS = 64, 8
Activation = Literal["tanh", "silu", "relu", "isru"]
_OP = "narrow_mlp"


def narrow_mlp(rows: Tensor, weights: Tensor, sizes: Sequence[int], activation: Activation) -> Tensor:
    """Evaluate; differentiable in both tensors, by recomputing.

    Args:
        rows: Inputs, (N, sizes[0]) float32 or float64.
        weights: W_1 row by row, b_1, W_2 and so on, (P,), see `pack`.
        sizes: Number of inputs, widths of the hidden layers, number of outputs; each at most 64.
        activation: What is between the layers.

    Returns:
        Outputs, (N, sizes[-1]).

    Raises:
        ValueError: A shape, a dtype, a device, a size or the activation does not fit.
    """
    rows, weights = under_autocast(rows, weights)
    sizes = list(sizes)
    require(
        2 <= len(sizes) <= MAX_LAYERS + 1 and all(1 <= size <= MAX_WIDTH for size in sizes),
        _OP,
        f"sizes must be two to {MAX_LAYERS + 1} numbers from 1 to {MAX_WIDTH}, not {sizes}",
    )
    kinds = get_args(Activation)
    require(activation in kinds, _OP, f"activation must be one of {', '.join(kinds)}, not {activation!r}")
    require(
        rows.dim() == 2 and rows.shape[1] == sizes[0],
        _OP,
        f"rows must have the shape (N, {sizes[0]}), not {tuple(rows.shape)}",
    )
    require(
        rows.dtype in (torch.float32, torch.float64),
        _OP,
        f"rows must be float32 or float64, not {rows.dtype}",
    )
    num = sum((size_in + 1) * size_out for size_in, size_out in pairwise(sizes))
    require(weights.shape == (num,), _OP, f"weights must have the shape ({num},), not {tuple(weights.shape)}")
    require(
        weights.dtype == rows.dtype and weights.device == rows.device,
        _OP,
        f"weights is {weights.dtype} on {weights.device}, but rows is {rows.dtype} on {rows.device}",
    )
    run = reference if must_use_reference() else operator
    return run(rows, weights, sizes, kinds.index(activation))


def pack(layers: nn.Module) -> tuple[Tensor, list[int]]:
    """Collect the weights of linear layers.

    Args:
        layers: Module whose `nn.Linear` layers, in this order, are the network.

    Returns:
        Weights (P,) and sizes for `narrow_mlp`.
    """
    linear = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
    weights = torch.cat([part.reshape(-1) for layer in linear for part in (layer.weight, layer.bias)])
    return weights, [linear[0].in_features, *(layer.out_features for layer in linear)]


@without_autocast
def reference(rows: Tensor, weights: Tensor, sizes: Sequence[int], activation: int) -> Tensor:
    """Evaluate in plain PyTorch; `activation` counts in the order of `Activation`."""
    start, values = 0, rows
    for number, (size_in, size_out) in enumerate(pairwise(sizes)):
        if number:
            values = _activate(values, get_args(Activation)[activation])
        middle = start + size_in * size_out
        matrix, bias = weights[start:middle].view(size_out, size_in), weights[middle : middle + size_out]
        values = torch.addmm(bias, values, matrix.T)
        start = middle + size_out
    return values.contiguous()


def _activate(values: Tensor, kind: str) -> Tensor:
    if kind == "isru":
        return values / torch.sqrt(1 + values * values)
    if kind == "silu":
        return nn.functional.silu(values)
    return torch.tanh(values) if kind == "tanh" else torch.relu(values)


def _like_rows(rows: Tensor, weights: Tensor, sizes: Sequence[int], activation: int) -> Tensor:
    return rows.new_empty(rows.shape[0], sizes[-1])


operator = register(
    _OP,
    "(Tensor rows, Tensor weights, int[] sizes, int activation) -> Tensor",
    reference,
    fake=_like_rows,
    num_rows=1,
    backward=recomputing(reference),
)
