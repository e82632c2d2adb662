r"""Linear layers on a CPU: y = λ(x Wᵀ + b), with LeakyReLU λ in the same pass if it is wanted.

PyTorch takes these products from MKL, which keeps to AVX2 on processors that are not Intel's. The compiled
operator is twice as fast there, forwards and backwards, as shared/cuda/benchmarks/cpu.md has it, and needs no
time for a shape that it has not met before. Where it does not serve, on a GPU, under autocast, in an exported
or traced graph, for half precision or few numbers, `linear` is `torch.nn.functional.linear`.

Backwards, with g = λ' ∂L/∂y,   ∂L/∂x = g W,   ∂L/∂W = gᵀ x (`hep_shared.ops.transposed`),   ∂L/∂b = Σ_n g_n.

Dimension legend: N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hep_shared.ops import transposed
from hep_shared.ops._backend import register, require, without_autocast

LEAST_PRODUCTS = 1 << 21  # N I O: below, calling an operator takes longer than it saves
LEAST_ROWS = 16  # below, turning the weight around does
_OP = "linear"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, slope: float = 1.0) -> Tensor:
    """Apply a linear layer; differentiable in x, weight and bias.

    Args:
        x: Inputs, (..., I).
        weight: W, (O, I).
        bias: b, (O,).
        slope: Slope of λ below zero; 1 for no λ.

    Returns:
        y, (..., O).

    Raises:
        ValueError: The shape of the weight or the bias does not fit.
        RuntimeError: PyTorch's own, where it serves.
    """
    if not serves(x, weight):
        return _plain(x, weight, bias, slope)
    require(
        weight.dim() == 2 and x.shape[-1:] == weight.shape[1:],
        _OP,
        f"weight must have the shape (O, {x.shape[-1]}), not {tuple(weight.shape)}",
    )
    require(
        bias is None or bias.shape == weight.shape[:1],
        _OP,
        f"bias must have the shape ({weight.shape[0]},), not {() if bias is None else tuple(bias.shape)}",
    )
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    return operator(x.flatten(0, -2), weight, bias, slope).view(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`: the same parameters and the same names in a checkpoint."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply.

        Args:
            input: (..., I).

        Returns:
            (..., O).
        """
        return linear(input, self.weight, self.bias)


def serves(x: Tensor, weight: Tensor) -> bool:
    """Whether the compiled operator computes `linear`: where it is there, and worth its call.

    Args:
        x: (..., I).
        weight: W, (O, I).

    Returns:
        False where `torch.nn.functional.linear` does.
    """
    return (
        transposed.serves(x, weight)
        and x.dim() > 1
        and x.numel() * weight.shape[0] >= LEAST_PRODUCTS
        and x.numel() >= LEAST_ROWS * x.shape[-1]
    )


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    """Apply the layer in plain PyTorch."""
    y = functional.linear(x, weight, bias)
    return y if slope == 1.0 else functional.leaky_relu(y, slope)


reference = without_autocast(_plain)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    (slope,) = ctx.numbers
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    if slope != 1.0:
        grad = torch.where(operator(x, weight, bias, 1.0) > 0, grad, slope * grad)
    of_x = operator(grad, weight.t(), grad.new_zeros(x.shape[1]), 1.0) if needs_x else None
    return (
        of_x,
        transposed.operator(grad, x) if needs_weight else None,
        grad.sum(dim=0) if needs_bias else None,
        None,
    )


def _rows(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


operator = register(
    _OP,
    "(Tensor x, Tensor weight, Tensor bias, float slope) -> Tensor",
    reference,
    fake=_rows,
    num_rows=1,
    backward=_backward,
)
