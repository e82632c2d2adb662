"""Linear layers, for which PyTorch calls MKL."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hep_shared.ops import linear, transposed
from kernel_cases import Case


def layer_cases(dtype: torch.dtype, device: str, num_rows: int) -> list[Case]:
    """Layers of 96 inputs and 384 outputs and of 128 and 128, and what their weights get in the backward.

    Naive: `F.linear`, and `a.t() @ b`; best torch: oneDNN in float32, by a function that is not public.
    """
    if device != "cpu":
        return []  # no kernel of ours
    random = torch.Generator().manual_seed(8)
    onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    best = "oneDNN" if dtype == torch.float32 and onednn is not None else "naive"
    cases = []
    for ins, outs in ((96, 384), (128, 128)):
        shapes = ((num_rows, ins), (num_rows, outs), (outs, ins), (outs,))
        x, grad, weight, bias = (torch.randn(shape, generator=random).to(dtype) for shape in shapes)

        def layer(run: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], Tensor]:
            return lambda: run(*tensors, 1.0)

        def sums(run: Callable[..., Tensor], *tensors: Tensor) -> Callable[[], Tensor]:
            return lambda: run(*tensors)

        def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None, slope: float = 1.0) -> Tensor:
            found: Tensor = onednn(x, weight, bias, "none", [], "")
            return found

        def sums_by_onednn(grad: Tensor, x: Tensor) -> Tensor:
            return by_onednn(grad.t(), x.t())

        fast = (by_onednn, sums_by_onednn) if best == "oneDNN" else (linear.reference, transposed.reference)
        what = f"{num_rows} rows, {ins} to {outs}, float{8 * dtype.itemsize}; best torch: {best}"
        for name, make, tensors, naive, ours, peer in (
            ("linear", layer, (x, weight, bias), linear.reference, linear.operator, fast[0]),
            ("transposed_product", sums, (grad, x), transposed.reference, transposed.operator, fast[1]),
        ):
            found = Case(
                f"{name}, {what}", make(naive, *tensors), make(peer, *tensors), make(ours, *tensors), 0, "-"
            )
            cases.append(found)
    return cases
