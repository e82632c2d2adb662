"""Convolution on a hexagonal lattice of sensors."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops import hex as hex_op
from kernel_cases import Case


def hexagon(radius: int) -> Tensor:
    """Neighbours of the nodes of a hexagon, -1 where there is none, (N, 7)."""
    reach = range(-radius, radius + 1)
    nodes = {place: i for i, place in enumerate((q, r) for q in reach for r in reach if abs(q + r) <= radius)}
    steps = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1))
    return torch.tensor([[nodes.get((q + a, r + b), -1) for a, b in steps] for q, r in nodes])


def lattice_cases(dtype: torch.dtype, device: str, num_events: int) -> list[Case]:
    """61 nodes of 96 channels, forward, and forward and backward; the compiled form is the best PyTorch."""
    random = torch.Generator().manual_seed(5)
    table = hexagon(4).to(device)
    x, grad = (torch.randn(num_events, 61, 96, generator=random).to(device, dtype) for _ in range(2))
    parameters = [torch.randn(7, 96, generator=random).to(device, dtype)]
    parameters += [torch.randn(96, generator=random).to(device, dtype) for _ in range(3)]
    inputs = [tensor.requires_grad_() for tensor in (x, *parameters)]
    node, direction = (table >= 0).nonzero().unbind(1)
    source = table[node, direction]

    def scatter(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        messages = x[:, source] * weight[direction]
        index = node[None, :, None].expand_as(messages)
        y = torch.zeros_like(x).scatter_add(1, index, messages) + bias
        return functional.layer_norm(y, gamma.shape, gamma, beta, 1e-6)

    def gathers(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return hex_op.reference(x, table, weight, bias, gamma, beta, 1e-6)

    def native(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return hex_op.operator(x, table, weight, bias, gamma, beta, 1e-6)

    def forward(run: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: run(*inputs))

    def both(run: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(run(*inputs), inputs, grad)[0]

    compiled = torch.compile(gathers)
    what = f"{num_events} events x 61 nodes x 96, float{8 * dtype.itemsize}"
    goal = ">= 10 x naive, >= 1 x best" if device == "cpu" else ">= 8 x naive"
    return [
        Case(
            f"hex_conv_norm, {what}{more}; naive: scatter, best torch: gathers, compiled",
            way(scatter),
            way(compiled),
            way(native),
            0,
            goal,
        )
        for way, more in ((forward, ""), (both, ", forward and backward"))
    ]
