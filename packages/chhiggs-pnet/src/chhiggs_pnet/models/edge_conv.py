r"""Edge convolution on packed graphs, with its first layer moved from edges to nodes.

    y_i = mean_{j ∈ N(i)} MLP([x_i, x_j − x_i]) + S x_i,    MLP = 3 × [Linear, LeakyReLU, BatchNorm, Dropout]

The first linear layer of the MLP is W [x_i, x_j − x_i] = (W₁ − W₂) x_i + W₂ x_j: two products on V nodes and
a gather replace one product on V K edges. In evaluation a batch normalisation s·h + t is not applied to the
edges at all: W (s·h + t) + b = (W s) h + (W t + b) folds it into the next layer, and mean(s·h + t) =
s·mean(h) + t moves the last one behind the average.

On a CPU the layers run piece by piece through its cache (`edge_mlp`), in training too.

References:
    H. Qu, L. Gouskos, Phys. Rev. D 101, 056019 (2020), arXiv:1902.08570; the order of the layers and the
    linear shortcut are those of the CMS charged-Higgs analysis.

Dimensions: V rows (real nodes of a batch), K neighbours, E edges, C channels.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chhiggs_pnet.models.edge_mlp import EdgeMean, Edges, infer
from chhiggs_pnet.models.graph import Neighbors
from hep_shared.ops.linear import Linear, linear

NUM_LAYERS = 3


class EdgeConv(nn.Module):
    """One edge convolution.

    Args:
        in_dim: Channels of a node before.
        out_dim: Channels of a node after.
        dropout: Dropout after each layer.
        edge_dropout: Probability of leaving out an edge in training.
    """

    def __init__(self, in_dim: int, out_dim: int, *, dropout: float = 0.0, edge_dropout: float = 0.0) -> None:
        super().__init__()
        widths = [2 * in_dim] + [out_dim] * NUM_LAYERS
        self.in_dim, self.dropout, self.edge_dropout = in_dim, dropout, edge_dropout
        self.linears = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(out_dim) for _ in range(NUM_LAYERS))
        self.shortcut = Linear(in_dim, out_dim)

    def forward(self, x: Tensor, neighbors: Neighbors) -> Tensor:
        """Convolve.

        Args:
            x: Nodes, (V, C_in).
            neighbors: Neighbours of each node.

        Returns:
            (V, C_out); a node without neighbours keeps its shortcut alone.
        """
        head: Any = self.linears[0]
        first, second = head.weight[:, : self.in_dim], head.weight[:, self.in_dim :]
        own, other = linear(x, first - second, head.bias), linear(x, second)
        shortcut = self.shortcut(x)
        index, mask = neighbors
        if self.training and self.edge_dropout > 0:
            kept = torch.rand(index.shape, device=x.device) >= self.edge_dropout
            mask = kept if mask is None else mask & kept
        if self._in_pieces(x):
            found: Tensor = self._mean_in_pieces(own, other, edges_of(index, mask)) + shortcut
            return found
        num_rows, num_neighbors = index.shape
        if mask is None or torch.compiler.is_exporting():
            gathered = other.index_select(0, index.reshape(-1)).view(num_rows, num_neighbors, -1)
            edges = (own.unsqueeze(1) + gathered).flatten(0, 1)
            message = self._mlp(edges).view(num_rows, num_neighbors, -1)
            if mask is None:
                mean = self._last_norm(message.mean(dim=1))
            else:
                real = mask.to(x.dtype)
                count = real.sum(dim=1, keepdim=True)
                mean = (message * real.unsqueeze(-1)).sum(dim=1) / count.clamp(min=1.0)
                mean = self._last_norm(mean) * (count > 0)
        else:
            target = mask.nonzero()[:, 0]
            message = self._mlp(own.index_select(0, target) + other.index_select(0, index[mask]))
            count = mask.sum(dim=1, keepdim=True).to(message.dtype)
            total = message.new_zeros(num_rows, message.shape[-1]).index_add(0, target, message)
            mean = self._last_norm(total / count.clamp(min=1.0)) * (count > 0)
        out: Tensor = mean + shortcut
        return out

    def _in_pieces(self, x: Tensor) -> bool:
        """Whether the layers run piece by piece: plain arithmetic on a CPU, without dropout."""
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return False
        return self.dropout == 0 if self.training else not torch.is_grad_enabled()

    def _mean_in_pieces(self, own: Tensor, other: Tensor, edges: Edges) -> Tensor:
        """Mean of the messages, (V, C)."""
        linears: list[Any] = list(self.linears[1:])
        norms: list[Any] = list(self.norms)
        if not len(edges.source):
            return own * 0.0
        if not self.training:
            layers = []
            for line, norm in zip(linears, norms, strict=False):
                scale, shift = _affine(norm)
                layers.append((line.weight * scale, line.bias + line.weight @ shift))
            mean = infer(own, other, edges, layers)
            return self._last_norm(mean) * (edges.degree > 0).unsqueeze(1)
        parameters = [tensor for line in linears for tensor in (line.weight, line.bias)]
        parameters += [tensor for norm in norms for tensor in (norm.weight, norm.bias)]
        out: Tensor
        out, *found = EdgeMean.apply(own, other, edges, norms[0].eps, *parameters)
        for norm, mean, variance in zip(norms, found[::2], found[1::2], strict=True):
            _update(norm, mean, variance, len(edges.source))
        return out

    def _mlp(self, edges: Tensor) -> Tensor:
        """The layers after the first product; (E, C) to (E, C), without the last norm in evaluation."""
        hidden = F.leaky_relu(edges, inplace=True)
        for layer, norm in enumerate(self.norms):
            if self.training:
                hidden = F.dropout(norm(hidden), self.dropout)
            if layer + 1 == NUM_LAYERS:
                break
            line: Any = self.linears[layer + 1]
            if self.training:
                hidden = F.leaky_relu(line(hidden), inplace=True)
            else:
                scale, shift = _affine(norm)
                bias = line.bias + line.weight @ shift
                hidden = F.leaky_relu(linear(hidden, line.weight * scale, bias), inplace=True)
        return hidden

    def _last_norm(self, mean: Tensor) -> Tensor:
        if self.training:
            return mean
        scale, shift = _affine(self.norms[-1])
        return mean * scale + shift


def edges_of(index: Tensor, mask: Tensor | None) -> Edges:
    """List the edges of nearest neighbours.

    Args:
        index: Neighbours of each row, (V, K).
        mask: True for a neighbour, (V, K); None when all are there.

    Returns:
        The edges.
    """
    num_rows, num_neighbors = index.shape
    if mask is None:
        first = torch.arange(num_rows + 1, device=index.device) * num_neighbors
        return Edges(index.reshape(-1), None, first)
    first = F.pad(mask.sum(dim=1).cumsum(0), (1, 0))
    return Edges(index[mask], mask.nonzero()[:, 0], first)


@torch.no_grad()
def _update(norm: nn.Module, mean: Tensor, variance: Tensor, num: int) -> None:
    """Follow the statistics of a batch as `BatchNorm1d` does."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = norm.momentum if norm.momentum is not None else 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance * (num / max(num - 1, 1)), share)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale s and shift t of a batch normalisation in evaluation, (C,) each."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
