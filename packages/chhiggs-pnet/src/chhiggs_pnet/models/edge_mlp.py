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
one pass forwards and one pass backwards over pieces of `PIECE_FLOATS` numbers; `hep_shared.ops.linear`
applies λ before it writes.

References:
    S. Ioffe, C. Szegedy, arXiv:1502.03167, gradient of batch normalisation.

Dimensions: V rows (nodes), E edges ordered by target row, C channels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hep_shared.ops.edges import SLOPE, edge_message, pullback
from hep_shared.ops.linear import linear
from hep_shared.ops.transposed import transposed_product

PIECE_FLOATS = 1 << 19  # 2 MB: faster than 0.25 and 16 MB on the CPU of benchmarks/cpu.md
_LEAKY_BACKWARD: Any = torch.ops.aten.leaky_relu_backward.grad_input


class Edges(NamedTuple):
    """Edges ordered by target row."""

    source: Tensor
    """Row that each edge comes from, (E,) int64."""
    target: Tensor | None
    """Row that each edge goes to, (E,) int64; None when every row has the same number of edges."""
    first: Tensor
    """Edges first[i] to first[i + 1] go to row i, (V + 1,) int64."""

    @property
    def degree(self) -> Tensor:
        """Edges of each row, (V,) int64."""
        return self.first.diff()

    def pieces(self, num_channels: int) -> list[tuple[slice, slice]]:
        """Cut rows and their edges into pieces.

        Args:
            num_channels: Channels C of an edge.

        Returns:
            Slices of the rows and of the edges, of pieces that have edges.
        """
        num_rows, num_edges = len(self.first) - 1, len(self.source)
        wanted = max(PIECE_FLOATS // num_channels, 1)
        step = max(num_rows * wanted // max(num_edges, 1), 1)
        rows = [*range(0, num_rows, step), num_rows]
        first = self.first[torch.tensor(rows)].tolist()
        return [
            (slice(*of_rows), slice(*of_edges))
            for of_rows, of_edges in zip(pairwise(rows), pairwise(first), strict=True)
            if of_edges[1] > of_edges[0]
        ]


class _Moments:
    """Mean and variance of channels, of pieces in one pass each, joined in float64."""

    def __init__(self) -> None:
        self._found: list[tuple[int, Tensor, Tensor]] = []

    def add(self, values: Tensor) -> None:
        mean, variance = torch.batch_norm_update_stats(values, None, None, 0.0)
        self._found.append((len(values), mean.double(), variance.double()))

    def finish(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        total = sum(num for num, _, _ in self._found)
        shares = [(num / total, mean, variance) for num, mean, variance in self._found]
        centre = sum(share * mean for share, mean, _ in shares)
        spread = sum(share * (variance + (mean - centre) ** 2) for share, mean, variance in shares)
        assert isinstance(centre, Tensor)
        assert isinstance(spread, Tensor)
        return centre.to(dtype), spread.to(dtype)


def _first(own: Tensor, other: Tensor, edges: Edges, piece: tuple[slice, slice]) -> Tensor:
    """h₁ of a piece."""
    rows, part = piece
    return edge_message(own[rows], other, edges.source[part], _first_edges(edges, piece), slope=SLOPE)


def _first_edges(edges: Edges, piece: tuple[slice, slice]) -> Tensor:
    """Edges of the rows of a piece, counted from its first edge."""
    rows, part = piece
    return edges.first[rows.start : rows.stop + 1] - int(part.start)


def _add_gradients(
    grad: Tensor, message: Tensor, edges: Edges, piece: tuple[slice, slice], of_own: Tensor, of_other: Tensor
) -> None:
    """Add what the messages of a piece got to the gradients of `own` and `other`.

    The edges of a piece come from few rows, those of the same events: only these are summed.
    """
    rows, part = piece
    source = edges.source[part]
    low, high = (int(bound) for bound in source.aminmax())
    found = pullback(grad, message, source - low, _first_edges(edges, piece), high + 1 - low, SLOPE)
    num_rows = rows.stop - rows.start
    of_own[rows] += found[:num_rows]
    of_other[low : high + 1] += found[num_rows:]


def _sum_at_rows(values: Tensor, edges: Edges, piece: tuple[slice, slice], out: Tensor) -> None:
    """Sum the edges of each row of a piece into the rows of `out`."""
    rows, part = piece
    if edges.target is None:
        torch.sum(values.view(rows.stop - rows.start, -1, values.shape[1]), dim=1, out=out[rows])
    else:
        out.index_add_(0, edges.target[part], values)


def _to_edges(values: Tensor, edges: Edges, piece: tuple[slice, slice], out: Tensor) -> None:
    """Put the value of the target row into the rows of `out`, one for every edge of a piece."""
    rows, part = piece
    if edges.target is not None:
        torch.index_select(values, 0, edges.target[part], out=out)
    else:
        mine = values[rows]
        out.view(len(mine), -1, out.shape[1]).copy_(mine.unsqueeze(1).expand(-1, len(out) // len(mine), -1))


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
    total = torch.zeros_like(own)
    for piece in edges.pieces(own.shape[1]):
        hidden = _first(own, other, edges, piece)
        for weight, bias in layers:
            hidden = linear(hidden, weight, bias, slope=SLOPE)
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
        pieces = edges.pieces(own.shape[1])
        hidden: list[list[Tensor]] = []
        mean = torch.zeros_like(own)
        found: list[Tensor] = []
        affine: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer in range(3):
            moments = _Moments()
            if layer:
                weight, bias = weights[2 * layer - 2 : 2 * layer]
                scale, shift, _ = affine[-1]
                folded, offset = weight * scale, torch.addmv(bias, weight, shift)
            found_here: list[Tensor] = []
            for number, piece in enumerate(pieces):
                if layer == 0:
                    out = _first(own, other, edges, piece)
                else:
                    out = linear(hidden[-1][number], folded, offset, slope=SLOPE)
                moments.add(out)
                if layer == 2:
                    _sum_at_rows(out, edges, piece, mean)
                found_here.append(out)
            hidden.append(found_here)
            centre, variance = moments.finish(own.dtype)
            rstd = torch.rsqrt(variance + eps)
            scale = norms[2 * layer] * rstd
            affine.append((scale, norms[2 * layer + 1] - centre * scale, rstd))
            found += [centre, variance]
        count = edges.degree.clamp(min=1).to(own.dtype).unsqueeze(1)
        mean /= count
        there = (edges.degree > 0).to(own.dtype).unsqueeze(1)
        ctx.edges = edges
        ctx.save_for_backward(
            mean, count, there, *weights, *found[::2], *(tensor for group in affine for tensor in group),
            *(tensor for group in hidden for tensor in group),
        )  # fmt: skip
        ctx.mark_non_differentiable(*found)
        return (mean * affine[2][0] + affine[2][1]) * there, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of own, other and the parameters."""
        saved = ctx.saved_tensors
        (mean, count, there), weights, centres = saved[:3], saved[3:7], saved[7:10]
        affine = [saved[10 + 3 * layer : 13 + 3 * layer] for layer in range(3)]
        edges: Edges = ctx.edges
        num_edges, num_channels = len(edges.source), mean.shape[1]
        pieces = edges.pieces(num_channels)
        hidden = [saved[19 + len(pieces) * layer :][: len(pieces)] for layer in range(3)]
        of_z: list[Tensor] = []
        of_weights: list[Tensor] = []
        of_norms: list[Tensor] = []

        of_y = grads[0] * there
        beta = of_y.sum(dim=0)
        sum_gh = (of_y * mean).sum(dim=0)
        at_rows = of_y / count * affine[2][0]
        folded = mean  # of no use to the last layer
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
            passed: list[Tensor] = []
            for number, piece in enumerate(pieces):
                own_hidden = hidden[layer][number]
                if layer < 2:
                    work = linear(of_z[number], folded, offset)
                else:
                    work = torch.empty_like(own_hidden)
                    _to_edges(at_rows, edges, piece, work)
                work.addcmul_(slope, own_hidden)
                if layer:
                    _LEAKY_BACKWARD(work, own_hidden, SLOPE, True, grad_input=work)
                    matrix += transposed_product(work, hidden[layer - 1][number])
                    total += work.sum(dim=0)
                    passed.append(work)
                else:
                    _add_gradients(work, own_hidden, edges, piece, of_own, of_other)
            of_z = passed
            if layer:
                weight = weights[2 * layer - 2]
                scale, shift, _ = affine[layer - 1]
                of_weights = [matrix * scale + torch.outer(total, shift), total, *of_weights]
                beta, sum_gh = total @ weight, (matrix * weight).sum(dim=0)
                folded = (weight * scale).t().contiguous()
        return of_own, of_other, None, None, *of_weights, *of_norms
