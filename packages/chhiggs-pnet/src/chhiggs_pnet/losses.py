r"""The loss: weighted cross-entropy, weights that know the physics, and decorrelation from the pair masses.

    L = Σ ω_i CE_i / Σ |ω_i| + λ Σ_v dCor(s, v),        ω_i = w_i d(m_i),    d(m) = 1 / ((mHc − mA)/mHc + 0.1)

The difficulty d depends on the hypothesis alone and is the same for signal and background, so it cannot act
as a class weight; the sum over |ω| runs over one optimiser step. Negative generator weights make the
cross-entropy unbounded below, which is why there is an option for them.

dCor is the distance correlation of the signal score s with a pair mass v over background events, all at one
hypothesis: at mixed hypotheses s and v would be related through m. It is exact in O(N log N), by the sorted
partial sums of `chhiggs_pnet.metrics.dependence`, here differentiable.

References:
    G. Kasieczka, D. Shih, Phys. Rev. Lett. 125, 122001 (2020), arXiv:2001.05310 (DisCo).
    X. Huo, G. Székely, Technometrics 58, 435 (2016), O(N log N).

Dimensions: B events, N events of a sum.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

NegativeWeights = Literal["abs", "drop", "keep"]
Difficulty = Literal["none", "gap"]
GAP_OFFSET = 0.1  # keeps d finite at mA = mHc


def event_weights(
    weight: NDArray[Any],
    masses: NDArray[Any],
    *,
    difficulty: Difficulty = "none",
    negative: NegativeWeights = "abs",
) -> NDArray[np.float64]:
    """Weights ω of the events of one optimiser step, normalised to Σ|ω| = B.

    Args:
        weight: Event weights, (B,).
        masses: Hypotheses (mHc, mA) in GeV, (B, 2).
        difficulty: `gap` for d(m), `none` for 1.
        negative: What becomes of negative weights: `abs` takes their size, `drop` sets them to 0, `keep`
            leaves them.

    Returns:
        (B,).
    """
    omega = np.asarray(weight, np.float64)
    if negative == "abs":
        omega = np.abs(omega)
    elif negative == "drop":
        omega = np.maximum(omega, 0.0)
    if difficulty == "gap":
        omega = omega / ((masses[:, 0] - masses[:, 1]) / masses[:, 0] + GAP_OFFSET)
    total = np.abs(omega).sum()
    return omega * (len(omega) / total) if total > 0 else omega


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Mean of ω CE.

    Args:
        logits: (B, classes).
        label: Index of the class, (B,).
        weight: ω, with mean |ω| = 1 over the optimiser step, (B,).

    Returns:
        Scalar.
    """
    return (weight * F.cross_entropy(logits.float(), label, reduction="none")).mean()


def _row_sums(x: Tensor) -> Tensor:
    """Σ_j |x_i − x_j| for every i, (N,)."""
    ordered, order = x.sort(stable=True)
    num = len(x)
    rank = torch.arange(1, num + 1, device=x.device, dtype=x.dtype)
    moment = ordered.cumsum(0)
    sums = ordered * (2 * rank - num) + moment[-1] - 2 * moment
    return torch.zeros_like(x).index_copy(0, order, sums)


def _smaller_and_earlier(y: Tensor, columns: Tensor) -> Tensor:
    """For each i the sum of columns over j < i with y_j < y_i, (C, N); see `metrics.dependence`."""
    num = len(y)
    size = 1 << max(num - 1, 0).bit_length()
    padded = F.pad(columns, (0, size - num))
    tail = torch.arange(num, size, device=y.device)
    order = torch.cat([y.detach().argsort(stable=True), tail])
    out = torch.zeros_like(padded)
    half = size // 2
    while half >= 1:
        blocks = order.view(-1, 2 * half)
        is_right = (blocks & half) != 0
        before = (padded[:, order].view(len(columns), *blocks.shape) * ~is_right).cumsum(dim=2)
        right, left = blocks[is_right], blocks[~is_right]
        out = out.index_add(1, right, before[:, is_right])
        order = torch.stack([left.view(-1, half), right.view(-1, half)], dim=1).reshape(-1)
        half //= 2
    return out[:, :num]


def _product_sum(x: Tensor, y: Tensor) -> Tensor:
    """Σ_ij |x_i − x_j| |y_i − y_j|, scalar."""
    order = x.detach().argsort(stable=True)
    x, y = x[order], y[order]
    columns = torch.stack([torch.ones_like(x), x, y, x * y])
    earlier = columns.cumsum(dim=1) - columns
    s, sx, sy, sxy = 2 * _smaller_and_earlier(y, columns) - earlier
    total: Tensor = 2 * (x * y * s - y * sx - x * sy + sxy).sum()
    return total


def distance_covariance2(x: Tensor, y: Tensor) -> Tensor:
    """Squared distance covariance, exact in O(N log N) and differentiable.

    Args:
        x: First variable, (N,).
        y: Second variable, (N,).

    Returns:
        Scalar.
    """
    num = len(x)
    x, y = x - x.detach().mean(), y - y.detach().mean()  # less cancellation
    rows_x, rows_y = _row_sums(x), _row_sums(y)
    first = _product_sum(x, y) / num**2
    return first + rows_x.mean() * rows_y.mean() / num**2 - 2 * (rows_x * rows_y).mean() / num**2


def distance_correlation(x: Tensor, y: Tensor, eps: float = 1e-12) -> Tensor:
    """Distance correlation, exact in O(N log N) and differentiable.

    Args:
        x: First variable, (N,).
        y: Second variable, (N,).
        eps: Keeps the gradient finite where a variable is constant.

    Returns:
        Scalar in [0, 1]; 0 for fewer than two events or a constant variable.
    """
    if len(x) < 2:
        return x.sum() * 0.0
    x, y = x.double(), y.double()
    variance = distance_covariance2(x, x).clamp(min=0) * distance_covariance2(y, y).clamp(min=0)
    ratio = distance_covariance2(x, y).clamp(min=0) / torch.sqrt(variance + eps)
    correlation: Tensor = torch.sqrt(ratio + eps) - eps**0.5
    return correlation


def disco(scores: Tensor, pair_masses: Tensor) -> Tensor:
    """Sum of the distance correlations of a score with both pair masses.

    Args:
        scores: Signal score of background events at one hypothesis, (N,).
        pair_masses: (m1, m2) in GeV, −1 where there is none, (N, 2).

    Returns:
        Scalar.
    """
    total = scores.sum() * 0.0
    for column in pair_masses.unbind(dim=1):
        exists = column >= 0
        total = total + distance_correlation(scores[exists], column[exists])
    return total
