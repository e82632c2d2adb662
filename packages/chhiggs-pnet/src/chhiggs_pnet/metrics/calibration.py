"""Whether predicted probabilities are observed fractions.

    ECE = Σ_bins (W_bin / W) |mean probability − fraction of positives|

Reference:
    M. Naeini, G. Cooper, M. Hauskrecht, AAAI 2015 (bins of equal width).

Legend: N events.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Calibration curve in bins of equal width.

    Attributes:
        probability: Mean predicted probability, (bins,); NaN in an empty bin.
        fraction: Fraction of positives, (bins,); NaN in an empty bin.
        weight: Share of the total weight, (bins,).
    """

    probability: FloatArray
    fraction: FloatArray
    weight: FloatArray

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        filled = self.weight > 0
        return float(np.sum(self.weight[filled] * np.abs(self.probability - self.fraction)[filled]))


def reliability(
    probability: ArrayLike, is_positive: ArrayLike, weights: ArrayLike | None = None, num_bins: int = 15
) -> Reliability:
    """Compare predicted probabilities with observed fractions.

    Args:
        probability: Predicted, in [0, 1], (N,).
        is_positive: Truth, (N,).
        weights: Non-negative event weights, (N,); 1 if None.
        num_bins: Bins of equal width over [0, 1].

    Returns:
        The calibration curve.

    Raises:
        ValueError: A probability is outside [0, 1], or a weight is negative.
    """
    p, positive = np.asarray(probability, np.float64), np.asarray(is_positive, np.float64)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, np.float64)
    if not ((p >= 0) & (p <= 1)).all() or (w < 0).any():
        raise ValueError("calibration needs probabilities in [0, 1] and non-negative weights")
    index = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)
    total = np.bincount(index, w, num_bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, fraction = (np.bincount(index, w * v, num_bins) / total for v in (p, positive))
    return Reliability(mean, fraction, total / total.sum())


def expected_calibration_error(
    probability: ArrayLike, is_positive: ArrayLike, weights: ArrayLike | None = None, num_bins: int = 15
) -> float:
    """Expected calibration error in bins of equal width.

    Args:
        probability: Predicted, in [0, 1], (N,).
        is_positive: Truth, (N,).
        weights: Non-negative event weights, (N,); 1 if None.
        num_bins: Number of bins.

    Returns:
        ECE in [0, 1].

    Raises:
        ValueError: A probability is outside [0, 1], or a weight is negative.
    """
    return reliability(probability, is_positive, weights, num_bins).ece
