"""Whether one classifier is as good as another, on the same events.

A bootstrap resample gives both the same weights, drawn within each class; the variance over seeds is added:

    σ² = Var_resamples(effect) + Var_seeds(A) / K_A + Var_seeds(B) / K_B
    lower bound = effect − z_95 σ,   non-inferior when it is above the margin

The effect is the difference of AUCs, or the ratio of signal efficiencies, for which the last two terms are
divided by ε_S(B)². Several claims share an error rate through Holm's correction.

References:
    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall (1993).
    S. Holm, Scand. J. Statist. 6, 65 (1979).

Legend: N events, R resamples, K seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chhiggs_pnet.metrics.discrimination import RankedScores

FloatArray = NDArray[np.float64]
_BLOCK = 16  # resamples computed together


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
    base = np.ones(np.shape(is_signal)) if weights is None else np.asarray(weights, np.float64)
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
