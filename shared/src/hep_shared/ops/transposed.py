r"""Product of two tall matrices with the rows summed over: what a linear layer's weight gets in its backward.

    c = aᵀ b,    c_io = Σ_n a_ni b_no

A matrix product wants one of the two turned around, which costs a pass over it; here both are read as they
lie in memory. On the processor of shared/cuda/benchmarks/cpu.md it is twice as fast as MKL, which PyTorch
takes, and 1.0 to 1.9 times as fast as oneDNN in float32. There is no kernel for a GPU, whose libraries do
this well: PyTorch serves there.

Dimension legend: N rows, I columns of a, O columns of b.
"""

from typing import Any

import torch
from torch import Tensor

from hep_shared.ops._backend import (
    must_use_reference,
    register,
    require,
    under_autocast,
    without_autocast,
)

_OP = "transposed_product"


def transposed_product(a: Tensor, b: Tensor) -> Tensor:
    """Compute aᵀ b; differentiable in both.

    Args:
        a: (N, I) float32 or float64.
        b: (N, O), of the dtype and on the device of `a`.

    Returns:
        (I, O); zero where there are no rows.

    Raises:
        ValueError: A shape, a dtype or a device does not fit.
    """
    a, b = under_autocast(a, b)
    require(a.dim() == 2, _OP, f"a must have the shape (N, I), not {tuple(a.shape)}")
    require(a.dtype in (torch.float32, torch.float64), _OP, f"a must be float32 or float64, not {a.dtype}")
    require(
        b.dim() == 2 and b.shape[0] == a.shape[0],
        _OP,
        f"b must have the shape ({a.shape[0]}, O), not {tuple(b.shape)}",
    )
    require(
        b.dtype == a.dtype and b.device == a.device,
        _OP,
        f"b is {b.dtype} on {b.device}, but a is {a.dtype} on {a.device}",
    )
    run = reference if must_use_reference() else operator
    return run(a, b)


@without_autocast
def reference(a: Tensor, b: Tensor) -> Tensor:
    """Multiply in plain PyTorch."""
    return a.t() @ b


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    needs_a, needs_b = ctx.needs_input_grad
    return b @ grad.t() if needs_a else None, a @ grad if needs_b else None


def _product_shape(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[1], b.shape[1])


operator = register(
    _OP,
    "(Tensor a, Tensor b) -> Tensor",
    reference,
    fake=_product_shape,
    num_rows=0,  # sums over the rows: a batch of calls is that many calls
    backward=_backward,
)
