"""Matrix products that PyTorch's libraries are slow at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hep_shared.ops import transposed
from kernel_cases import Case


def transposed_cases(dtype: torch.dtype, device: str, num_rows: int) -> list[Case]:
    """The gradient of the weight of a layer of 96 inputs and 384 outputs, and of one of 128 and 128.

    Best torch: oneDNN in float32, which turns one matrix around.
    """
    if device != "cpu":
        return []  # no kernel of ours
    random = torch.Generator().manual_seed(8)
    onednn: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    cases = []
    for ins, outs in ((96, 384), (128, 128)):
        a, b = (torch.randn(num_rows, width, generator=random).to(dtype) for width in (outs, ins))

        def by_mkl(a: Tensor = a, b: Tensor = b) -> Tensor:
            return transposed.reference(a, b)

        def by_onednn(a: Tensor = a, b: Tensor = b) -> Tensor:
            found: Tensor = onednn(a.t(), b.t(), None, "none", [], "")
            return found

        def ours(a: Tensor = a, b: Tensor = b) -> Tensor:
            return transposed.operator(a, b)

        best: Callable[[], Tensor] = by_onednn if dtype == torch.float32 and onednn is not None else by_mkl
        what = f"transposed_product, {num_rows} rows, {outs} x {ins}, float{8 * dtype.itemsize}"
        peers = "naive: a.t() @ b, best torch: oneDNN" if best is by_onednn else "a.t() @ b"
        cases.append(Case(f"{what}; {peers}", by_mkl, best, ours, 0, "-"))
    return cases
