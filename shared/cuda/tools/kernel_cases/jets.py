"""Jets: the equivariant map, the features of pairs, and the network on them."""

import functools
from collections.abc import Callable
from importlib import import_module, util
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hep_shared.ops import equilinear, pair_mlp, pairs
from kernel_cases import Case


def equivariant_cases(dtype: torch.dtype, device: str, num_rows: int) -> list[Case]:
    """The equivariant map of 16 channels to 16, forward and backward to everything."""
    random = torch.Generator().manual_seed(4)
    shapes = ((num_rows, 16, 16), (16, 16, 10), (16, 1))
    inputs = [torch.randn(s, generator=random).to(device, dtype).requires_grad_() for s in shapes]
    slope = torch.randn(shapes[0], generator=random).to(device, dtype)

    def gradients(run: Callable[..., Tensor]) -> Tensor:
        x, weight, bias = inputs
        return torch.autograd.grad(run(x, weight, bias[:, 0]), inputs, slope)[0]

    def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shift = functional.pad(bias[:, None], (0, 15)).flatten()
        return functional.linear(x.flatten(1), equilinear.dense_matrix(weight), shift).view(-1, 16, 16)

    naive, best, peers = dense, equilinear.reference, "dense and in blocks"
    if util.find_spec("lgatr"):
        layer = import_module("lgatr.primitives.linear").equi_linear
        config = import_module("lgatr.primitives.config").PrimitivesConfig

        def lgatr(x: Tensor, weight: Tensor, bias: Tensor, *, sparse: bool) -> Tensor:
            y: Tensor = layer(x, weight, config=config(sparse_linear=sparse))
            return y + functional.pad(bias[:, None], (0, 15))

        naive, best = (functools.partial(lgatr, sparse=sparse) for sparse in (False, True))
        peers = "lgatr dense and sparse"
    return [
        Case(
            f"equi_linear 16 to 16 and its backward, {num_rows} rows, float{8 * dtype.itemsize}; {peers}",
            lambda: gradients(naive),
            lambda: gradients(best),
            lambda: gradients(equilinear.operator),
            0,
            ">= 5 x lgatr" if device == "cpu" else ">= 4 x lgatr",
        )
    ]


def pair_cases(dtype: torch.dtype, device: str, num_jets: int) -> list[Case]:
    """The triangles of jets of 20 to 60 particles."""
    random = torch.Generator().manual_seed(5)
    sizes = torch.randint(20, 61, (num_jets,), generator=random).tolist()
    lists, start = [], 0
    for size in sizes:
        lists.append(start + torch.tril_indices(size, size))
        start += size
    first, second = torch.cat(lists, dim=1).to(device).unbind(0)
    pt, mass2 = torch.rand(2, start, generator=random, dtype=torch.float64) + 0.1
    y, phi = 0.4 * torch.randn(2, start, generator=random, dtype=torch.float64)
    mt = torch.sqrt(pt * pt + mass2)
    scales = (pt, mt, pt, mt, mass2)
    directions = (y.sinh(), y.cosh(), phi.sin(), phi.cos())
    single = pairs.Particles(*(s.to(device, dtype) for s in scales), *(d.to(device) for d in directions))
    table = (torch.stack(single[:5], dim=1), torch.stack(single[5:], dim=1))

    def gathered() -> Tensor:
        a, b = (pairs.Particles(*(values[index] for values in single)) for index in (first, second))
        return pairs.formula(a, b, 1e-8, 0.0)

    return [
        Case(
            f"pair_features, {num_jets} jets, {len(first)} pairs, float{8 * dtype.itemsize}",
            gathered,
            lambda: pairs.reference(first, second, *table, 1e-8, 0.0),
            lambda: pairs.operator(first, second, *table, 1e-8, 0.0),
            0,
            "-",
        )
    ]


def network_cases(num_rows: int) -> list[Case]:
    """The network of the pair bias in training, forward and backward; no other device has kernels for it."""
    widths = (4, 64, 64, 64, 8)
    layers = [nn.Linear(a, b).cuda() for a, b in pairwise(widths)]
    linears = nn.ModuleList(layers)
    norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths).cuda()
    rows, grad = torch.randn(num_rows, 4, device="cuda"), torch.randn(num_rows, 8, device="cuda")
    compiled = torch.compile(lambda rows: pair_mlp.plain_layers(rows, linears, norms))

    def gradient(run: Callable[[Tensor], Tensor], half: bool) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            result = run(rows)
        return torch.autograd.grad(result, layers[1].weight, grad.to(result.dtype))[0]

    return [
        Case(
            f"pair_mlp 4-64-64-64-8, {num_rows} rows, forward and backward, {what}; Triton",
            functools.partial(gradient, lambda rows: pair_mlp.plain_layers(rows, linears, norms), half),
            functools.partial(gradient, compiled, half),
            functools.partial(gradient, lambda rows: pair_mlp.pair_mlp(rows, linears, norms), half),
            0,
            ">= 5 x naive",
        )
        for half, what in ((False, "float32"), (True, "bfloat16"))
    ]
