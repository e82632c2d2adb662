"""Which differences between classifiers are real.

Two sources of noise: which events are in the test sample, and which seed a model was trained with.

* DeLong covariance of the areas under ROC curves over one test sample (E. DeLong et al., Biometrics 44, 837
  (1988)) from mid-ranks in O(N log N) (X. Sun and W. Xu, IEEE Signal Process. Lett. 21, 1389 (2014)).
* Two-level bootstrap for signal efficiencies: seeds with replacement, and events with replacement within
  signal and within background, the same events for all models.
* Holm's step-down correction (Scand. J. Stat. 6, 65 (1979)); two one-sided tests for equivalence
  (D. Schuirmann, J. Pharmacokinet. Biopharm. 15, 657 (1987)).

R models, N events of which S are signal and B background.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fourtop_tokens.metrics import split_scores

Array = NDArray[np.float64]
EQUIVALENCE_MARGIN = 0.002  # area under the ROC curve


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: Best estimate.
        standard_error: Its standard error.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Two-sided p-value of the hypothesis that the value is 0.
        degrees_of_freedom: Of Student's t; infinite for a normal approximation and for a bootstrap.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float
    degrees_of_freedom: float = np.inf


@dataclass(frozen=True)
class DeLong:
    """Areas under the ROC curves of R models on one sample.

    Attributes:
        aurocs: Areas, (R,).
        covariance: Their covariance from the finite sample, (R, R).
    """

    aurocs: Array
    covariance: Array

    def contrast(self, weights: ArrayLike, confidence: float = 0.95) -> Estimate:
        """Estimate a linear combination of areas, for these trained models.

        Args:
            weights: Weight of each model, (R,).
            confidence: Coverage of the interval.

        Returns:
            The combination; its error is that of the sample alone.
        """
        weights = np.asarray(weights, np.float64)
        error = float(np.sqrt(max(weights @ self.covariance @ weights, 0.0)))
        return _estimate(float(weights @ self.aurocs), error, np.inf, confidence)

    def difference(self, first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> Estimate:
        """Compare two configurations, each trained with several seeds.

        The variance is that of the sample (DeLong, paired) plus that of the seeds (Welch), the degrees of
        freedom follow from Satterthwaite's formula.

        Args:
            first: Indices of the models of the first configuration.
            second: Indices of the models of the second configuration.
            confidence: Coverage of the interval.

        Returns:
            Mean area of the first minus that of the second.

        Raises:
            ValueError: A configuration has fewer than two seeds.
        """
        groups = [np.asarray(first, int), np.asarray(second, int)]
        if min(group.size for group in groups) < 2:
            raise ValueError("two seeds or more are needed for each configuration")
        weights = np.zeros(self.aurocs.size)
        for sign, group in zip((1, -1), groups, strict=True):
            np.add.at(weights, group, sign / group.size)
        seed_variances = [self.aurocs[group].var(ddof=1) / group.size for group in groups]
        variance = float(weights @ self.covariance @ weights) + sum(seed_variances)
        spread = sum(v**2 / (group.size - 1) for v, group in zip(seed_variances, groups, strict=True))
        freedom = variance**2 / spread if spread > 0 else np.inf
        return _estimate(float(weights @ self.aurocs), np.sqrt(max(variance, 0.0)), freedom, confidence)


def delong(is_signal: ArrayLike, scores: ArrayLike) -> DeLong:
    """Areas under ROC curves and their covariance.

    Args:
        is_signal: True for signal, (N,).
        scores: Scores of each model for the same events, (R, N).

    Returns:
        Areas and covariance.

    Raises:
        ValueError: Signal or background has fewer than two events.
    """
    from scipy.stats import rankdata  # a second to import, which no training needs to begin

    signal, background = split_scores(is_signal, np.atleast_2d(scores))
    num_signal, num_background = signal.shape[1], background.shape[1]
    if min(num_signal, num_background) < 2:
        raise ValueError("two events or more are needed in signal and in background")
    ranks = rankdata(np.concatenate([signal, background], axis=1), axis=1)
    # Fraction of the background below each signal event, and of the signal above each background event.
    above = (ranks[:, :num_signal] - rankdata(signal, axis=1)) / num_background
    below = 1 - (ranks[:, num_signal:] - rankdata(background, axis=1)) / num_signal
    covariance = np.atleast_2d(np.cov(above)) / num_signal + np.atleast_2d(np.cov(below)) / num_background
    return DeLong(above.mean(axis=1), covariance)


def _estimate(value: float, error: float, freedom: float, confidence: float) -> Estimate:
    from scipy.stats import t as student

    half_width = float(student.ppf(0.5 + confidence / 2, freedom)) * error
    p_value = 2 * student.sf(abs(value) / error, freedom) if error > 0 else float(value == 0)
    low, high = value - half_width, value + half_width
    return Estimate(value, float(error), low, high, float(p_value), float(freedom))


def combine(
    value: float, sample_variance: float, seed_variance: float, seed_freedom: float, confidence: float = 0.95
) -> Estimate:
    """Put together what the finite sample and the seeds contribute to an error.

    Args:
        value: Best estimate.
        sample_variance: Variance from the sample, taken as known.
        seed_variance: Estimated variance from the seeds.
        seed_freedom: Degrees of freedom of the latter.
        confidence: Coverage of the interval.

    Returns:
        The estimate with Satterthwaite's degrees of freedom.
    """
    variance = max(sample_variance, 0.0) + seed_variance
    freedom = variance**2 * seed_freedom / seed_variance**2 if seed_variance > 0 else np.inf
    return _estimate(value, float(np.sqrt(variance)), freedom, confidence)


def bootstrap_efficiencies(
    is_signal: ArrayLike, scores: ArrayLike, rejection: float, *, num_resamples: int, seed: int
) -> tuple[Array, Array]:
    """Signal efficiencies of every model on resampled events.

    All models see the same resampled events, so that differences between them stay paired.

    Args:
        is_signal: True for signal, (N,).
        scores: Scores of each model for the same events, (R, N).
        rejection: 1/ε_B.
        num_resamples: Number of resamples.
        seed: Seed.

    Returns:
        Efficiencies on the sample itself, (R,), and on each resample, (num_resamples, R).

    Raises:
        ValueError: Signal or background is empty, or the rejection is not above 1.
    """
    signal, background = split_scores(is_signal, np.atleast_2d(scores))
    if rejection <= 1:
        raise ValueError(f"the rejection 1/ε_B must be above 1, not {rejection}")
    num_signal, num_background = signal.shape[1], background.shape[1]
    descending = np.argsort(-background, axis=1, kind="stable")
    sorted_background = np.take_along_axis(background, descending, axis=1)
    signal_order = np.argsort(-signal, axis=1, kind="stable")
    # Signal events that score above the k-th background event, for each k.
    num_above = np.stack(
        [
            np.searchsorted(-ours[order], -theirs, side="left")
            for ours, order, theirs in zip(signal, signal_order, sorted_background, strict=True)
        ]
    )

    def efficiencies(signal_counts: NDArray[np.int64], background_counts: NDArray[np.int64]) -> Array:
        result = np.empty(len(signal))
        for model in range(len(signal)):
            passed = np.cumsum(background_counts[descending[model]])
            first_beyond = np.searchsorted(passed, num_background / rejection, side="right")
            chosen = signal_order[model, : num_above[model, first_beyond]]
            result[model] = signal_counts[chosen].sum() / num_signal
        return result

    nominal = efficiencies(np.ones(num_signal, int), np.ones(num_background, int))
    rng = np.random.default_rng(seed)
    resampled = np.empty((num_resamples, len(signal)))
    for i in range(num_resamples):
        counts = [
            np.bincount(rng.integers(0, size, size), minlength=size) for size in (num_signal, num_background)
        ]
        resampled[i] = efficiencies(counts[0], counts[1])
    return nominal, resampled


def two_level_bootstrap(
    nominal: Array,
    resampled: Array,
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    seed: int,
    confidence: float = 0.95,
) -> Estimate:
    """Mean efficiency of a configuration, or the difference of two, over seeds and events.

    Args:
        nominal: Efficiencies on the sample, (R,), from `bootstrap_efficiencies`.
        resampled: Efficiencies on resampled events, (num_resamples, R).
        first: Indices of the models of one configuration, one for each seed.
        second: Indices of those it is compared with, or None for the mean alone.
        seed: Seed of the second level.
        confidence: Coverage of the percentile interval.

    Returns:
        The estimate; the p-value counts resamples beyond 0 and is at least 2 / (num_resamples + 1).
    """
    rng = np.random.default_rng(seed)
    value, samples = 0.0, np.zeros(len(resampled))
    for sign, group in ((1, first), (-1, second)):
        if group is not None:
            members = np.asarray(group, int)
            drawn = members[rng.integers(0, members.size, (len(resampled), members.size))]
            value += sign * float(nominal[members].mean())
            samples += sign * np.take_along_axis(resampled, drawn, axis=1).mean(axis=1)
    low, high = np.quantile(samples, [0.5 - confidence / 2, 0.5 + confidence / 2])
    tail = min((samples <= 0).sum(), (samples >= 0).sum())
    p_value = min(1.0, 2 * (tail + 1) / (len(samples) + 1))
    return Estimate(value, float(samples.std(ddof=1)), float(low), float(high), float(p_value))


def holm(p_values: ArrayLike) -> Array:
    """Adjust p-values for having made several tests.

    Args:
        p_values: P-values of all tests that were planned.

    Returns:
        Adjusted p-values in the order given; rejecting those below α keeps the chance of a false one below α.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(p_values.size, 0, -1)
    adjusted = np.empty(p_values.size)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def equivalence(estimate: Estimate, margin: float = EQUIVALENCE_MARGIN) -> float:
    """Two one-sided tests: is a difference smaller than a margin in either direction?

    Args:
        estimate: The difference.
        margin: The largest difference that counts as none, positive.

    Returns:
        P-value of the hypothesis that the difference is at least the margin; small means equivalent.
    """
    from scipy.stats import t as student

    if estimate.standard_error == 0:
        return float(abs(estimate.value) >= margin)
    distance = (margin - abs(estimate.value)) / estimate.standard_error
    return float(student.sf(distance, estimate.degrees_of_freedom))


@dataclass(frozen=True)
class MixedModel:
    """Linear model with a random effect of the seed, y = X β + u_seed + ε.

    Attributes:
        names: Name of each column of X.
        beta: Fixed effects β, (P,).
        covariance: Their covariance, (P, P).
        seed_sd: Standard deviation of u.
        residual_sd: Standard deviation of ε.
        degrees_of_freedom: Of ε: observations minus fixed effects minus seeds plus one.
    """

    names: tuple[str, ...]
    beta: Array
    covariance: Array
    seed_sd: float
    residual_sd: float
    degrees_of_freedom: float

    def effect(self, name: str, confidence: float = 0.95) -> Estimate:
        """Estimate one fixed effect.

        Args:
            name: Name of its column.
            confidence: Coverage of the interval.

        Returns:
            The effect with Student's interval.
        """
        i = self.names.index(name)
        error = float(np.sqrt(self.covariance[i, i]))
        return _estimate(float(self.beta[i]), error, self.degrees_of_freedom, confidence)


def mixed_model(values: ArrayLike, design: ArrayLike, names: tuple[str, ...], seeds: ArrayLike) -> MixedModel:
    """Fit a mixed model by restricted maximum likelihood.

    With γ = Var u / Var ε the covariance of y is Var ε (1 + γ Z Zᵀ); γ maximises

        -2 l(γ) = (n - p) ln σ̂² + ln |V| + ln |Xᵀ V⁻¹ X|,       V = 1 + γ Z Zᵀ

    (D. Harville, J. Am. Stat. Assoc. 72, 320 (1977)).

    Args:
        values: Observations, (n,).
        design: Fixed part X, (n, p).
        names: Name of each column.
        seeds: Seed of each observation, (n,).

    Returns:
        The fit.

    Raises:
        ValueError: There are too few observations, or the columns are not independent.
    """
    from scipy.optimize import minimize_scalar

    y, x = np.asarray(values, np.float64), np.asarray(design, np.float64)
    groups = np.unique(np.asarray(seeds), return_inverse=True)[1]
    z = np.eye(groups.max() + 1)[groups]
    freedom = len(y) - x.shape[1] - (z.shape[1] - 1)
    if freedom < 1 or np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"{len(y)} observations are too few for {x.shape[1]} effects and {z.shape[1]} seeds")

    def fit(log_ratio: float) -> tuple[float, Any, Any, float]:
        v = np.eye(len(y)) + np.exp(log_ratio) * z @ z.T
        inverse_x = np.linalg.solve(v, x)
        information = x.T @ inverse_x
        beta = np.linalg.solve(information, inverse_x.T @ y)
        residual = y - x @ beta
        variance = float(residual @ np.linalg.solve(v, residual)) / (len(y) - x.shape[1])
        if variance <= 0:
            return -np.inf, beta, np.zeros_like(information), 0.0
        criterion = (len(y) - x.shape[1]) * np.log(variance)
        criterion += np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1]
        return float(criterion), beta, variance * np.linalg.inv(information), variance

    found = minimize_scalar(lambda log_ratio: fit(log_ratio)[0], bounds=(-12.0, 8.0), method="bounded")
    _, beta, covariance, variance = fit(float(found.x))
    seed_sd = float(np.sqrt(np.exp(found.x) * variance))
    return MixedModel(tuple(names), beta, covariance, seed_sd, float(np.sqrt(variance)), float(freedom))
