r"""The layers of an edge convolution after its first product, in pieces that stay in the cache of a CPU core.

For the edge e = (i, j) with own a and other b, both of the first linear layer,

    h₁ = λ(a_i + b_j),   h_{l+1} = λ(W_{l+1} n_l + c_{l+1}),   n_l = s_l h_l + t_l,   y_i = mean_{e at i} n₃

where λ is LeakyReLU and n_l the batch normalisation, s = γ r, t = β − μ s, r = (σ² + ε)^{-1/2}. It is applied
nowhere: s and t are folded into the next product, W n + c = (W s) h + (W t + c), or behind the mean. Only h_l
are kept. Backwards, with g_l = ∂L/∂n_l, sums over all E edges, and z the argument of λ,

    ∂L/∂h_l = s g_l + A h_l + B,    A = −s r γ'/E,    B = −s β'/E − A μ,
    β' = Σ g_l,    γ' = r (Σ g_l h_l − μ β')

and for l < 3 the sums follow from matrices of size C × C that the gradient of W needs anyway: with
M = Σ ∂L/∂z_{l+1} h_lᵀ and S = Σ ∂L/∂z_{l+1}, Σ g_l = Wᵀ S and Σ g_l h_l = Σ_rows W ⊙ M. So each layer is
one pass forwards and one pass backwards over pieces of `PIECE_FLOATS` numbers.

References:
    S. Ioffe, C. Szegedy, arXiv:1502.03167, gradient of batch normalisation.

Dimensions: V rows (nodes), E edges ordered by target row, C channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SLOPE = 0.01  # of LeakyReLU below zero
PIECE_FLOATS = 1 << 19  # 2 MB: faster than 0.25 and 16 MB on the CPU of benchmarks/cpu.md
_LEAKY_BACKWARD: Any = torch.ops.aten.leaky_relu_backward.grad_input


class Edges(NamedTuple):
    """Edges ordered by target row."""

    source: Tensor
    """Row that each edge comes from, (E,) int64."""
    target: Tensor | None
    """Row that each edge goes to, (E,) int64; None when every row has the same number of edges."""
    degree: Tensor
    """Edges of each row, (V,) int64."""

    def pieces(self, num_channels: int) -> list[tuple[slice, slice]]:
        """Cut rows and their edges into pieces.

        Args:
            num_channels: Channels C of an edge.

        Returns:
            Slices of the rows and of the edges.
        """
        num_rows, num_edges = len(self.degree), len(self.source)
        wanted = max(PIECE_FLOATS // num_channels, 1)
        step = max(num_rows * wanted // max(num_edges, 1), 1)
        rows = [*range(0, num_rows, step), num_rows]
        first = torch.cat([self.degree.new_zeros(1), self.degree.cumsum(0)])[torch.tensor(rows)].tolist()
        return [(slice(rows[i], rows[i + 1]), slice(first[i], first[i + 1])) for i in range(len(rows) - 1)]


class _Moments:
    """Mean and variance of channels, shifted against cancellation, summed in float64."""

    def __init__(self, num_channels: int) -> None:
        self._shift: Tensor | None = None
        self._sums = torch.zeros(2, num_channels, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        if self._shift is None:
            self._shift = values.mean(dim=0)
        centred = values - self._shift
        self._sums[0] += centred.sum(dim=0)
        self._sums[1] += centred.square_().sum(dim=0)

    def finish(self, num: int) -> tuple[Tensor, Tensor]:
        assert self._shift is not None
        first, second = self._sums / num
        mean = self._shift.double() + first
        variance = (second - first * first).clamp(min=0.0)
        return mean.to(self._shift.dtype), variance.to(self._shift.dtype)


def _first(own: Tensor, other: Tensor, edges: Edges, piece: tuple[slice, slice], out: Tensor) -> Tensor:
    """h₁ of a piece, into `out`."""
    rows, part = piece
    torch.index_select(other, 0, edges.source[part], out=out)
    if edges.target is None:
        mine = own[rows]
        out.view(len(mine), -1, out.shape[1]).add_(mine.unsqueeze(1))
    else:
        out.add_(own.index_select(0, edges.target[part]))
    return F.leaky_relu_(out, SLOPE)


def _sum_at_rows(values: Tensor, edges: Edges, piece: tuple[slice, slice], out: Tensor) -> None:
    """Sum the edges of each row of a piece into the rows of `out`."""
    rows, part = piece
    if edges.target is None:
        torch.sum(values.view(rows.stop - rows.start, -1, values.shape[1]), dim=1, out=out[rows])
    else:
        out.index_add_(0, edges.target[part], values)


def infer(own: Tensor, other: Tensor, edges: Edges, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean of h₃ at every row, without gradients.

    Args:
        own: a, (V, C).
        other: b, (V, C).
        edges: The edges.
        layers: Weight (C, C) and bias (C,) of each further product, normalisations folded in.

    Returns:
        (V, C); zero for a row without edges.
    """
    num_channels = own.shape[1]
    total = torch.zeros_like(own)
    pieces = edges.pieces(num_channels)
    size = max((part.stop - part.start for _, part in pieces), default=0)
    buffers = [own.new_empty(size, num_channels) for _ in range(2)]
    for piece in pieces:
        num = piece[1].stop - piece[1].start
        if num == 0:
            continue
        hidden, spare = buffers[0][:num], buffers[1][:num]
        _first(own, other, edges, piece, hidden)
        for weight, bias in layers:
            torch.addmm(bias, hidden, weight.t(), out=spare)
            hidden, spare = F.leaky_relu_(spare, SLOPE), hidden
        _sum_at_rows(hidden, edges, piece, total)
    return total / edges.degree.clamp(min=1).to(total.dtype).unsqueeze(1)


class EdgeMean(torch.autograd.Function):
    """y and the statistics of the three normalisations, of a training step."""

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, other: Tensor, edges: Edges, eps: float, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """Evaluate.

        Args:
            ctx: What the gradient needs.
            own: a, (V, C).
            other: b, (V, C).
            edges: The edges, E > 0.
            eps: ε of the normalisations.
            parameters: W₂, c₂, W₃, c₃, γ₁, β₁, γ₂, β₂, γ₃, β₃.

        Returns:
            y (V, C), zero for a row without edges; mean and variance of h₁, h₂ and h₃, (C,) each.
        """
        weights, norms = parameters[:4], parameters[4:]
        num_edges, num_channels = len(edges.source), own.shape[1]
        pieces = edges.pieces(num_channels)
        hidden = [own.new_empty(num_edges, num_channels) for _ in range(3)]
        mean = torch.zeros_like(own)
        found: list[Tensor] = []
        affine: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer in range(3):
            moments = _Moments(num_channels)
            if layer:
                weight, bias = weights[2 * layer - 2 : 2 * layer]
                scale, shift, _ = affine[-1]
                folded, offset = (weight * scale).t(), torch.addmv(bias, weight, shift)
            for piece in pieces:
                part = piece[1]
                out = hidden[layer][part]
                if len(out) == 0:
                    continue
                if layer == 0:
                    _first(own, other, edges, piece, out)
                else:
                    F.leaky_relu_(torch.addmm(offset, hidden[layer - 1][part], folded, out=out), SLOPE)
                moments.add(out)
                if layer == 2:
                    _sum_at_rows(out, edges, piece, mean)
            centre, variance = moments.finish(num_edges)
            rstd = torch.rsqrt(variance + eps)
            scale = norms[2 * layer] * rstd
            affine.append((scale, norms[2 * layer + 1] - centre * scale, rstd))
            found += [centre, variance]
        count = edges.degree.clamp(min=1).to(own.dtype).unsqueeze(1)
        mean /= count
        there = (edges.degree > 0).to(own.dtype).unsqueeze(1)
        ctx.edges = edges
        ctx.save_for_backward(
            *hidden,
            mean,
            count,
            there,
            *weights,
            *found[::2],
            *(tensor for group in affine for tensor in group),
        )
        ctx.mark_non_differentiable(*found)
        return (mean * affine[2][0] + affine[2][1]) * there, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of own, other and the parameters."""
        saved = ctx.saved_tensors
        hidden, (mean, count, there), weights = saved[:3], saved[3:6], saved[6:10]
        centres, affine = saved[10:13], [saved[13 + 3 * layer : 16 + 3 * layer] for layer in range(3)]
        edges: Edges = ctx.edges
        num_edges, num_channels = hidden[0].shape
        pieces = [piece for piece in edges.pieces(num_channels) if piece[1].stop > piece[1].start]
        size = max(part.stop - part.start for _, part in pieces)
        buffer = mean.new_empty(size, num_channels)
        of_z = torch.empty_like(hidden[0])
        of_weights: list[Tensor] = []
        of_norms: list[Tensor] = []

        of_y = grads[0] * there
        beta = of_y.sum(dim=0)
        sum_gh = (of_y * mean).sum(dim=0)
        at_rows = of_y / count * affine[2][0]
        folded = mean
        of_own, of_other = torch.zeros_like(mean), torch.zeros_like(mean)
        for layer in (2, 1, 0):
            scale, _, rstd = affine[layer]
            gamma = rstd * (sum_gh - centres[layer] * beta)
            of_norms = [gamma, beta, *of_norms]
            slope = -scale * rstd * gamma / num_edges
            offset = -scale * beta / num_edges - slope * centres[layer]
            if layer == 2:
                at_rows += offset
            matrix = mean.new_zeros(num_channels, num_channels)
            total = mean.new_zeros(num_channels)
            for rows, part in pieces:
                own_hidden, out = hidden[layer][part], of_z[part]
                work = buffer[: len(out)]
                if layer < 2:
                    torch.addmm(offset, out, folded, out=work)
                elif edges.target is None:
                    mine = at_rows[rows].unsqueeze(1)
                    work.view(len(mine), -1, num_channels).copy_(mine.expand(-1, len(out) // len(mine), -1))
                else:
                    torch.index_select(at_rows, 0, edges.target[part], out=work)
                work.addcmul_(slope, own_hidden)
                _LEAKY_BACKWARD(work, own_hidden, SLOPE, True, grad_input=out)
                if layer:
                    matrix.addmm_(out.t(), hidden[layer - 1][part])
                    total += out.sum(dim=0)
                else:
                    _sum_at_rows(out, edges, (rows, part), of_own)
                    of_other.index_add_(0, edges.source[part], out)
            if layer:
                weight = weights[2 * layer - 2]
                scale, shift, _ = affine[layer - 1]
                of_weights = [matrix * scale + torch.outer(total, shift), total, *of_weights]
                beta, sum_gh = total @ weight, (matrix * weight).sum(dim=0)
                folded = weight * scale
        return of_own, of_other, None, None, *of_weights, *of_norms
