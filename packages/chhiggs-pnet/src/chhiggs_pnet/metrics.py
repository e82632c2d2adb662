r"""Discrimination, dependence and calibration of a classifier, with weights and honest intervals.

With weights w, signal s and background b, and ties counted half,

    AUC       P(s > b) + P(s = b)/2
    ε_S       signal efficiency at the loosest cut whose background efficiency is at most ε_B
    dCor      sqrt(dCov²(x, y) / sqrt(dCov²(x, x) dCov²(y, y)))
    dCov²     S₁ + S₂ − 2 S₃:   S₁ = Σ w_i w_j a_ij b_ij,   S₂ = Σ w_i w_j a_ij Σ w_i w_j b_ij,
              S₃ = Σ w_i a_i· b_i·,   a_ij = |x_i − x_j|, a_i· = Σ_j w_j a_ij, b alike, Σ w = 1
    ECE       Σ_bins (W_bin / W) |mean probability − fraction of positives|
    KS        sup |F(v) − G(v)| of two weighted samples, with N = (Σ w)² / Σ w² events each

dCov² is exact in O(N log N): sorted by x, |y_i − y_j| (x_i − x_j) needs sums over the earlier events with
smaller y, which a merge tree over the order in y gives level by level.

Models are compared on the same events: a bootstrap resample gives both the same weights, within each class,
and the variance over seeds is added. A model is non-inferior when the one-sided lower bound of the
difference is above minus the margin.

References:
    G. Székely, M. Rizzo, N. Bakirov, Ann. Statist. 35, 2769 (2007), distance correlation.
    X. Huo, G. Székely, Technometrics 58, 435 (2016), O(N log N).
    S. Holm, Scand. J. Statist. 6, 65 (1979).

Legend: N events, R resamples, K seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kstwo

FloatArray = NDArray[np.float64]
_BLOCK = 16  # resamples computed together


class RankedScores:
    """Scores sorted once, for statistics under many weightings.

    Args:
        scores: Larger is more signal-like, (N,), finite.
        is_signal: Class of each event, (N,).

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """

    def __init__(self, scores: ArrayLike, is_signal: ArrayLike) -> None:
        values, signal = np.asarray(scores, np.float64), np.asarray(is_signal, np.bool_)
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are not finite")
        if signal.all() or not signal.any():
            raise ValueError("both signal and background events are needed")
        self._order = np.argsort(-values, kind="stable")
        ordered = values[self._order]
        self._is_signal = signal[self._order]
        self._first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of each tie
        self.thresholds = ordered[self._first]

    def _by_tie(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Signal and background weight of each tie, descending score, normalised, (R, ties)."""
        ordered = weights[:, self._order]
        parts = [
            np.add.reduceat(np.where(chosen, ordered, 0.0), self._first, axis=1)
            for chosen in (self._is_signal, ~self._is_signal)
        ]
        return parts[0] / parts[0].sum(axis=1, keepdims=True), parts[1] / parts[1].sum(axis=1, keepdims=True)

    def auc(self, weights: FloatArray) -> FloatArray:
        """Area under the ROC curve.

        Args:
            weights: (R, N).

        Returns:
            (R,).
        """
        signal, background = self._by_tie(weights)
        above = np.cumsum(signal, axis=1) - signal / 2
        return np.asarray((above * background).sum(axis=1))

    def efficiency(self, weights: FloatArray, background_efficiency: float) -> FloatArray:
        """Signal efficiency at a background efficiency.

        Args:
            weights: (R, N).
            background_efficiency: Largest background efficiency allowed.

        Returns:
            (R,); 0 where even the highest score lets too much background pass.
        """
        signal, background = self._by_tie(weights)
        # Negative weights make the curve non-monotonic: stop before the first cut that is too loose.
        running = np.maximum.accumulate(np.cumsum(background, axis=1), axis=1)
        allowed = running <= background_efficiency + 1e-12
        number = allowed.sum(axis=1)
        passed = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(signal, axis=1)], axis=1)
        return np.asarray(passed[np.arange(len(weights)), number])

    def curve(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ROC curve.

        Args:
            weights: (N,).

        Returns:
            Background and signal efficiency from 0 to 1, one point per distinct score and the origin.
        """
        signal, background = (np.cumsum(part[0]) for part in self._by_tie(weights[None]))
        return np.concatenate([[0.0], background]), np.concatenate([[0.0], signal])


def _weights_of(is_signal: ArrayLike, weights: ArrayLike | None) -> FloatArray:
    return np.ones(len(np.asarray(is_signal))) if weights is None else np.asarray(weights, np.float64)


def auc(scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Weighted area under the ROC curve, ties counted half.

    Args:
        scores: Larger is more signal-like, (N,).
        is_signal: Class of each event, (N,).
        weights: Event weights, (N,); 1 if None.

    Returns:
        In [0, 1] for positive weights.

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    return float(RankedScores(scores, is_signal).auc(_weights_of(is_signal, weights)[None])[0])


def signal_efficiency(
    scores: ArrayLike, is_signal: ArrayLike, background_efficiency: float, weights: ArrayLike | None = None
) -> float:
    """Weighted signal efficiency at a background efficiency.

    Args:
        scores: Larger is more signal-like, (N,).
        is_signal: Class of each event, (N,).
        background_efficiency: Largest background efficiency allowed.
        weights: Event weights, (N,); 1 if None.

    Returns:
        ε_S.

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    ranked = RankedScores(scores, is_signal)
    return float(ranked.efficiency(_weights_of(is_signal, weights)[None], background_efficiency)[0])


def roc_curve(
    scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Weighted ROC curve.

    Args:
        scores: Larger is more signal-like, (N,).
        is_signal: Class of each event, (N,).
        weights: Event weights, (N,); 1 if None.

    Returns:
        Background and signal efficiency, from (0, 0) to (1, 1).

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    return RankedScores(scores, is_signal).curve(_weights_of(is_signal, weights))


def likelihood_ratio(probabilities: ArrayLike, background_yields: ArrayLike) -> FloatArray:
    """Discriminant p_s / (p_s + Σ f_b p_b) with yield fractions f_b, Σ f_b = 1.

    Args:
        probabilities: Class probabilities, signal first, (N, classes).
        background_yields: Expected yield of each background, non-negative, (classes − 1,); a single non-zero
            one gives the discriminant against that background.

    Returns:
        (N,) in [0, 1].
    """
    p, yields = np.asarray(probabilities, np.float64), np.asarray(background_yields, np.float64)
    background = p[:, 1:] @ (yields / yields.sum())
    return np.asarray(p[:, 0] / np.maximum(p[:, 0] + background, 1e-300))


@dataclass(frozen=True)
class Comparison:
    """A parametric model against its reference.

    Attributes:
        value: Statistic of the model, mean over seeds.
        reference: Statistic of the reference, mean over seeds.
        difference: value − reference, or their ratio for a ratio test.
        sigma: Standard deviation of the difference: events and seeds together.
        lower: One-sided lower bound of the difference.
        p_value: Probability of such a difference or a larger one if the truth were at the margin.
        non_inferior: Whether `lower` is above the margin.
    """

    value: float
    reference: float
    difference: float
    sigma: float
    lower: float
    p_value: float
    non_inferior: bool


def bootstrap_weights(
    is_signal: ArrayLike, weights: ArrayLike, num: int, rng: np.random.Generator
) -> FloatArray:
    """Weights of bootstrap resamples, drawn within each class.

    Args:
        is_signal: Class of each event, (N,).
        weights: Event weights, (N,).
        num: Number of resamples.
        rng: Generator.

    Returns:
        (num, N): each weight times how often the event was drawn.
    """
    signal, base = np.asarray(is_signal, np.bool_), np.asarray(weights, np.float64)
    counts = np.zeros((num, len(base)))
    for index in (np.flatnonzero(signal), np.flatnonzero(~signal)):
        for row in counts:
            row[index] = np.bincount(rng.integers(len(index), size=len(index)), minlength=len(index))
    return counts * base


def compare(
    scores: ArrayLike,
    reference_scores: ArrayLike,
    is_signal: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    background_efficiency: float | None = None,
    margin: float,
    level: float = 0.95,
    num_resamples: int = 500,
    seed: int = 0,
) -> Comparison:
    """Test non-inferiority on the same events.

    The statistic is the AUC and the effect its difference, or with `background_efficiency` the signal
    efficiency and the effect its ratio; the threshold of the cut is found again in every resample.

    Args:
        scores: Of the model, (N,) or one row per seed (K, N).
        reference_scores: Of the reference, (N,) or (K', N).
        is_signal: Class of each event, (N,).
        weights: Event weights, (N,); 1 if None.
        background_efficiency: Compare ε_S at this ε_B instead of the AUC.
        margin: Smallest difference that is acceptable, such as −0.005, or ratio such as 0.95.
        level: Confidence level of the one-sided bound.
        num_resamples: Bootstrap resamples.
        seed: Seed of the resamples.

    Returns:
        The comparison.

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    base = _weights_of(is_signal, weights)
    models = [
        [RankedScores(row, is_signal) for row in np.atleast_2d(np.asarray(group))]
        for group in (scores, reference_scores)
    ]

    def statistic(model: RankedScores, sample: FloatArray) -> FloatArray:
        if background_efficiency is None:
            return model.auc(sample)
        return model.efficiency(sample, background_efficiency)

    def effect(a: FloatArray, b: FloatArray) -> FloatArray:
        return a - b if background_efficiency is None else a / np.maximum(b, 1e-12)

    nominal = [np.array([statistic(model, base[None])[0] for model in group]) for group in models]
    rng = np.random.default_rng(seed)
    resampled: list[FloatArray] = []
    for start in range(0, num_resamples, _BLOCK):
        sample = bootstrap_weights(is_signal, base, min(_BLOCK, num_resamples - start), rng)
        means = [np.mean([statistic(model, sample) for model in group], axis=0) for group in models]
        resampled.append(effect(means[0], means[1]))
    value, reference = (float(group.mean()) for group in nominal)
    difference = float(effect(np.array(value), np.array(reference)))
    variance = float(np.var(np.concatenate(resampled), ddof=1))
    scale = 1.0 if background_efficiency is None else max(reference, 1e-12)
    variance += sum(float(np.var(g, ddof=1)) / len(g) for g in nominal if len(g) > 1) / scale**2
    sigma = float(np.sqrt(variance))
    lower = difference - NormalDist().inv_cdf(level) * sigma
    excess = (difference - margin) / sigma if sigma > 0 else np.copysign(np.inf, difference - margin)
    p_value = 1.0 - NormalDist().cdf(excess)
    return Comparison(value, reference, difference, sigma, lower, p_value, lower > margin)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Holm's step-down test: which hypotheses are rejected at a family-wise error rate.

    Args:
        p_values: One for each hypothesis.
        level: Family-wise error rate.

    Returns:
        True where rejected, in the order given.
    """
    order = np.argsort(p_values, kind="stable")
    rejected = [False] * len(p_values)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[int(index)] = True
    return rejected


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


def kolmogorov_smirnov(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> tuple[float, float]:
    """Compare the distributions of two weighted samples.

    Args:
        x: First sample, (N,).
        y: Second sample, (M,).
        x_weights: Non-negative weights, (N,); equal if None.
        y_weights: Non-negative weights, (M,); equal if None.

    Returns:
        Largest distance of the distribution functions, and the probability of a larger one for samples of
        one distribution; too large a probability where values repeat.

    Raises:
        ValueError: A sample is empty, has no positive weight, or holds a value that is not finite.
    """
    values = [np.asarray(sample, np.float64) for sample in (x, y)]
    weights = [
        np.ones(len(v)) if w is None else np.asarray(w, np.float64)
        for v, w in zip(values, (x_weights, y_weights), strict=True)
    ]
    if any(
        not np.isfinite(v).all() or (w < 0).any() or not w.sum() > 0
        for v, w in zip(values, weights, strict=True)
    ):
        raise ValueError("samples need finite values and non-negative weights with a positive sum")
    grid = np.sort(np.concatenate(values))
    reached = []
    for v, w in zip(values, weights, strict=True):
        order = np.argsort(v, kind="stable")
        steps = np.concatenate([[0.0], np.cumsum(w[order]) / w.sum()])
        reached.append(steps[np.searchsorted(v[order], grid, side="right")])
    distance = float(np.abs(reached[0] - reached[1]).max())
    first, second = (float(w.sum() ** 2 / (w**2).sum()) for w in weights)
    return distance, float(kstwo.sf(distance, max(round(first * second / (first + second)), 1)))


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
