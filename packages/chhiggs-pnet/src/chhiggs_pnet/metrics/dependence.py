r"""How much two variables depend on each other: the distance correlation, exact in O(N log N).

    dCor      sqrt(dCov²(x, y) / sqrt(dCov²(x, x) dCov²(y, y)))
    dCov²     S₁ + S₂ − 2 S₃:   S₁ = Σ w_i w_j a_ij b_ij,   S₂ = Σ w_i w_j a_ij Σ w_i w_j b_ij,
              S₃ = Σ w_i a_i· b_i·,   a_ij = |x_i − x_j|, a_i· = Σ_j w_j a_ij, b alike, Σ w = 1

Sorted by x, |y_i − y_j| (x_i − x_j) needs sums over the earlier events with smaller y, which a merge tree
over the order in y gives level by level.

References:
    G. Székely, M. Rizzo, N. Bakirov, Ann. Statist. 35, 2769 (2007), distance correlation.
    X. Huo, G. Székely, Technometrics 58, 435 (2016), O(N log N).

Legend: N events, C columns.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def _row_sums(x: FloatArray, w: FloatArray) -> FloatArray:
    """Σ_j w_j |x_i − x_j| for every i, (N,)."""
    order = np.argsort(x, kind="stable")
    xs, ws = x[order], w[order]
    below, moment = np.cumsum(ws), np.cumsum(ws * xs)
    out = np.empty(len(x))
    out[order] = xs * (2 * below - below[-1]) + moment[-1] - 2 * moment
    return out


def _smaller_and_earlier(y: FloatArray, columns: FloatArray) -> FloatArray:
    """For each i the sum of columns over j < i with y_j < y_i, (C, N), by a merge tree over positions.

    The events, in the order of y, are split by the bits of their position from the highest down. In a block
    of one split, every event of the right half collects what lies before it, in y, of the left half. Blocks
    are rows of a matrix, so a level is one cumulative sum.
    """
    num = len(y)
    size = 1 << max(num - 1, 0).bit_length()
    padded = np.zeros((len(columns), size))
    padded[:, :num] = columns
    order = np.concatenate([np.argsort(y, kind="stable"), np.arange(num, size)])
    out = np.zeros_like(padded)
    half = size // 2
    while half >= 1:
        blocks = order.reshape(-1, 2 * half)
        is_right = (blocks & half) != 0
        values = padded[:, blocks] * ~is_right
        before = np.cumsum(values, axis=2)
        right = blocks[is_right]
        out[:, right] += before[:, is_right]
        left = blocks[~is_right].reshape(-1, half)
        order = np.stack([left, right.reshape(-1, half)], axis=1).reshape(-1)
        half //= 2
    return out[:, :num]


def _product_sum(x: FloatArray, y: FloatArray, w: FloatArray) -> float:
    """Σ_ij w_i w_j |x_i − x_j| |y_i − y_j|."""
    order = np.argsort(x, kind="stable")
    x, y, w = x[order], y[order], w[order]
    columns = np.stack([w, w * x, w * y, w * x * y])
    earlier = np.cumsum(columns, axis=1) - columns
    # |y_i − y_j| = (y_i − y_j)(2 [y_j < y_i] − 1); equal values do not matter.
    s, sx, sy, sxy = 2 * _smaller_and_earlier(y, columns) - earlier
    return float(2 * np.sum(w * (x * y * s - y * sx - x * sy + sxy)))


def distance_covariance2(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Squared distance covariance of two variables, exact in O(N log N).

    Args:
        x: First variable, (N,).
        y: Second variable, (N,).
        weights: Non-negative event weights, (N,); equal if None.

    Returns:
        dCov², in the product of the units.

    Raises:
        ValueError: The lengths differ, there is no event, or a weight is negative.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, np.float64)
    if not (len(a) == len(b) == len(w) > 0):
        raise ValueError(f"x, y and weights have {len(a)}, {len(b)} and {len(w)} events")
    if (w < 0).any() or w.sum() <= 0:
        raise ValueError("distance covariance needs non-negative weights with a positive sum")
    w = w / w.sum()
    a, b = a - a @ w, b - b @ w  # less cancellation
    rows_a, rows_b = _row_sums(a, w), _row_sums(b, w)
    return _product_sum(a, b, w) + float((w @ rows_a) * (w @ rows_b) - 2 * (w @ (rows_a * rows_b)))


def _distance_variance(x: FloatArray, w: FloatArray) -> float:
    """dCov²(x, x): here Σ w w a² is 2 Var(x)."""
    w = w / w.sum()
    x = x - x @ w
    rows = _row_sums(x, w)
    return float(2 * (w @ x**2) + (w @ rows) ** 2 - 2 * (w @ rows**2))


def distance_correlation(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Distance correlation of two variables, exact in O(N log N).

    Args:
        x: First variable, (N,).
        y: Second variable, (N,).
        weights: Non-negative event weights, (N,); equal if None.

    Returns:
        In [0, 1]; 0 if one of the variables is constant.

    Raises:
        ValueError: The lengths differ, there is no event, or a weight is negative.
    """
    covariance = distance_covariance2(x, y, weights)
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    w = np.ones(len(a)) if weights is None else np.asarray(weights, np.float64)
    variance = _distance_variance(a, w) * _distance_variance(b, w)
    if variance <= 0:
        return 0.0
    return float(np.sqrt(max(covariance, 0.0) / np.sqrt(variance)))
