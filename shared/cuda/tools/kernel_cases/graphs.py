"""Messages along the edges of graphs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops import edges
from kernel_cases import Case


def edge_cases(dtype: torch.dtype, device: str, num_graphs: int) -> list[Case]:
    """Graphs of 12 nodes with 4 neighbours each, 128 channels; forward, and forward and backward.

    Naive: the reference; best torch: `index_select`, sum and LeakyReLU in place where there is no gradient.
    """
    random = torch.Generator().manual_seed(9)
    rows, channels, k = 12 * num_graphs, 128, 4
    source = (
        torch.randint(0, 12, (rows, k), generator=random)
        + 12 * torch.arange(num_graphs).repeat_interleave(12)[:, None]
    )
    source = source.flatten().to(device)
    target = torch.arange(rows, device=device).repeat_interleave(k)
    first = torch.arange(0, k * rows + 1, k, device=device)
    own, other = (
        torch.randn(rows, channels, generator=random).to(device, dtype).requires_grad_() for _ in range(2)
    )
    slope = torch.randn(k * rows, channels, generator=random).to(device, dtype)

    def in_place() -> Tensor:
        with torch.no_grad():
            found = other.index_select(0, source)
            found.view(rows, k, channels).add_(own.unsqueeze(1))
            return functional.leaky_relu_(found, edges.SLOPE)

    def gathered(own: Tensor, other: Tensor) -> Tensor:
        return functional.leaky_relu(own.index_select(0, target) + other.index_select(0, source), edges.SLOPE)

    def plain(own: Tensor, other: Tensor) -> Tensor:
        return edges.reference(own, other, source, first, edges.SLOPE)

    def ours(own: Tensor, other: Tensor) -> Tensor:
        return edges.operator(own, other, source, first, edges.SLOPE)

    def forward(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        def work() -> Tensor:
            with torch.no_grad():
                return run(own, other)

        return work

    def both(run: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.cat(torch.autograd.grad(run(own, other), (own, other), slope))

    what = f"edge_message, {num_graphs} graphs x 12 nodes x 4 x 128, float{8 * dtype.itemsize}"
    return [
        Case(what, forward(plain), in_place, forward(ours), 0, "-"),
        Case(f"{what}, forward and backward", both(plain), both(gathered), both(ours), 0, "-"),
    ]
