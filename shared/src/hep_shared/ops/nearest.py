r"""Find the nearest code of each vector.

    k(z) = argmin_k |z - e_k|² = argmin_k (|e_k|² / 2 - z·e_k),       ties to the lowest index.

As in `torch.argmin`, a distance that is not a number counts as the smallest. No table of all N × K distances
is made: the reference goes through the vectors in blocks whose distances stay in the second-level cache.
Distances that differ by rounding alone may be told apart in another way by each implementation.

Dimension legend: N vectors, K codes, D dimensions.
"""

import torch
from torch import Tensor

from hep_shared.ops._backend import must_use_reference, register, require, under_autocast, without_autocast

BLOCK_BYTES = 1 << 21
_OP = "nearest_code"


def nearest_code(vectors: Tensor, codes: Tensor) -> Tensor:
    """Find the nearest code of each vector.

    Args:
        vectors: (N, D) float32 or float64.
        codes: (K, D), same dtype and device.

    Returns:
        Indices, (N,) int64.

    Raises:
        ValueError: A shape, a dtype or a device does not fit.
    """
    vectors, codes = under_autocast(vectors, codes)
    require(vectors.dim() == 2, _OP, f"vectors must have the shape (N, D), not {tuple(vectors.shape)}")
    require(
        vectors.dtype in (torch.float32, torch.float64),
        _OP,
        f"vectors must be float32 or float64, not {vectors.dtype}",
    )
    require(
        codes.dim() == 2 and codes.shape[0] > 0 and codes.shape[1] == vectors.shape[1],
        _OP,
        f"codes must have the shape (K, {vectors.shape[1]}) with one code or more, not {tuple(codes.shape)}",
    )
    require(
        codes.dtype == vectors.dtype and codes.device == vectors.device,
        _OP,
        f"codes is {codes.dtype} on {codes.device}, but vectors is {vectors.dtype} on {vectors.device}",
    )
    half_norms = codes.square().sum(1) / 2
    if torch.compiler.is_exporting():  # a loop over blocks has no fixed length in a graph
        return torch.addmm(half_norms, vectors, codes.T, alpha=-1).argmin(1)
    run = reference if must_use_reference() else operator
    return run(vectors, codes, half_norms)


@without_autocast
def reference(vectors: Tensor, codes: Tensor, half_norms: Tensor) -> Tensor:
    """Find them in plain PyTorch, block by block; `half_norms` is |e_k|² / 2, (K,)."""
    # On a GPU fewer and larger blocks keep the device busy.
    factor = 1 if vectors.device.type == "cpu" else 16
    rows = max(1, factor * BLOCK_BYTES // (len(codes) * vectors.element_size()))
    transposed = codes.T.contiguous()
    # An empty set of vectors is one empty block.
    starts = range(0, max(len(vectors), 1), rows)
    return torch.cat(
        [
            torch.addmm(half_norms, vectors[start : start + rows], transposed, alpha=-1).argmin(1)
            for start in starts
        ]
    )


def _fake(vectors: Tensor, codes: Tensor, half_norms: Tensor) -> Tensor:
    return vectors.new_empty((vectors.shape[0],), dtype=torch.long)


operator = register(
    _OP,
    "(Tensor vectors, Tensor codes, Tensor half_norms) -> Tensor",
    reference,
    fake=_fake,
    num_rows=1,
    backward=None,
)
