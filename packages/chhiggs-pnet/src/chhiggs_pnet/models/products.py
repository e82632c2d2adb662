r"""Matrix products on a CPU by oneDNN: y = λ(x Wᵀ + b), with LeakyReLU λ in the same pass if it is wanted.

PyTorch takes products in float32 from MKL. On the AMD processor of benchmarks/cpu.md those of oneDNN, which
comes with PyTorch too, are twice as fast. Where it cannot be used, for float64, a GPU, autocast, a graph that
is compiled or exported, the same is computed as usual.

oneDNN compiles a kernel for every shape it meets, which takes as long as many products. So numbers of rows
are rounded up to one of eight in each octave: few shapes, and at most an eighth more rows.

Dimensions: N rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hep_shared.ops.transposed import transposed_product

SLOPE = 0.01  # of LeakyReLU below zero
_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def uses_onednn(x: Tensor) -> bool:
    """Whether products with a tensor are oneDNN's."""
    return (
        _HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def rounded(num: int) -> int:
    """Round a number of rows up to a multiple of an eighth of the power of two below it.

    Args:
        num: N.

    Returns:
        At least N, at most 9/8 N.
    """
    step = 1 << max(num.bit_length() - 4, 0)
    return -(-num // step) * step


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activate: bool = False) -> Tensor:
    """Compute λ(x Wᵀ + b) or x Wᵀ + b, without gradients.

    Args:
        x: (N, I), where N should be a `rounded` number.
        weight: W, (O, I).
        bias: b, (O,).
        activate: Whether λ is applied.

    Returns:
        (N, O).
    """
    if uses_onednn(x):
        name, slope = ("leaky_relu", [SLOPE]) if activate else ("none", [])
        # What TorchInductor makes of a linear layer on a CPU; no public function leads to it.
        found: Tensor = torch.ops.mkldnn._linear_pointwise(_dense(x), _dense(weight), bias, name, slope, "")
        return found
    out = F.linear(x, weight, bias)
    return F.leaky_relu_(out, SLOPE) if activate else out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x Wᵀ + b, with gradients.

    Args:
        x: (N, I).
        weight: W, (O, I).
        bias: b, (O,).

    Returns:
        (N, O).
    """
    if not uses_onednn(x) or not len(x):
        return F.linear(x, weight, bias)
    out: Tensor = _Linear.apply(_pad(x), weight, bias)
    return out[: len(x)]


def _dense(matrix: Tensor) -> Tensor:
    """A matrix without gaps: with them oneDNN falls back to a loop that is a thousand times as slow."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def _pad(x: Tensor) -> Tensor:
    """Append rows of zeros up to a rounded number."""
    missing = rounded(len(x)) - len(x)
    return F.pad(x, (0, 0, 0, missing)) if missing else x


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if needs_x else None,
            transposed_product(grad, x) if needs_weight else None,
            grad.sum(dim=0) if needs_bias else None,
        )
