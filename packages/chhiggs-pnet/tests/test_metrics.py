"""Every fast statistic against its definition."""

import numpy as np
import pytest
from scipy import stats

from chhiggs_pnet import metrics


def scored(num: int = 300, seed: int = 0, *, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_signal = rng.random(num) < 0.4
    scores = rng.normal(size=num) + is_signal
    if ties:
        scores = np.round(scores, 1)
    return scores, is_signal, rng.exponential(1.0, num)


def test_auc_is_the_probability_that_signal_beats_background() -> None:
    scores, is_signal, weights = scored()
    s, b = scores[is_signal][:, None], scores[~is_signal]
    pair = weights[is_signal][:, None] * weights[~is_signal]
    expected = np.sum(pair * ((s > b) + 0.5 * (s == b))) / pair.sum()
    assert metrics.auc(scores, is_signal, weights) == pytest.approx(expected, abs=1e-12)


def test_unweighted_auc_is_the_mann_whitney_statistic() -> None:
    scores, is_signal, _ = scored()
    u = stats.mannwhitneyu(scores[is_signal], scores[~is_signal]).statistic
    expected = u / (is_signal.sum() * (~is_signal).sum())
    assert metrics.auc(scores, is_signal) == pytest.approx(expected, abs=1e-12)


def test_auc_accepts_negative_weights() -> None:
    scores, is_signal, weights = scored()
    weights[::10] *= -1
    s, b = scores[is_signal][:, None], scores[~is_signal]
    pair = weights[is_signal][:, None] * weights[~is_signal]
    expected = np.sum(pair * ((s > b) + 0.5 * (s == b))) / pair.sum()
    assert metrics.auc(scores, is_signal, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("target", [0.01, 0.1, 0.5, 1.0])
def test_efficiency_takes_the_loosest_allowed_cut(target: float) -> None:
    scores, is_signal, weights = scored()
    best = 0.0
    for cut in np.unique(scores):
        passed = scores >= cut
        if weights[passed & ~is_signal].sum() <= target * weights[~is_signal].sum() * (1 + 1e-12):
            best = max(best, weights[passed & is_signal].sum() / weights[is_signal].sum())
    assert metrics.signal_efficiency(scores, is_signal, target, weights) == pytest.approx(best, abs=1e-12)


def test_area_under_the_curve_is_the_auc() -> None:
    scores, is_signal, weights = scored()
    background, signal = metrics.roc_curve(scores, is_signal, weights)
    assert (background[0], signal[0]) == (0.0, 0.0)
    assert background[-1] == pytest.approx(1.0)
    assert np.trapezoid(signal, background) == pytest.approx(
        metrics.auc(scores, is_signal, weights), abs=1e-12
    )


def test_scores_must_be_finite_and_of_two_classes() -> None:
    with pytest.raises(ValueError, match="1 scores are not finite"):
        metrics.auc([0.1, np.nan], [True, False])
    with pytest.raises(ValueError, match="both signal and background"):
        metrics.auc([0.1, 0.2], [True, True])


def test_likelihood_ratio_weighs_backgrounds_by_yield() -> None:
    p = np.array([[0.4, 0.3, 0.2, 0.1]])
    assert metrics.likelihood_ratio(p, [1, 0, 0])[0] == pytest.approx(0.4 / 0.7)
    assert metrics.likelihood_ratio(p, [2, 1, 1])[0] == pytest.approx(0.4 / (0.4 + 0.15 + 0.05 + 0.025))


def test_bootstrap_resamples_keep_the_classes() -> None:
    _, is_signal, _ = scored()
    sample = metrics.bootstrap_weights(is_signal, np.ones(300), 20, np.random.default_rng(0))
    assert (sample[:, is_signal].sum(axis=1) == is_signal.sum()).all()
    assert (sample[:, ~is_signal].sum(axis=1) == (~is_signal).sum()).all()
    assert 0.3 < (sample == 0).mean() < 0.43  # 1/e


def test_the_paired_interval_is_much_narrower_than_the_unpaired() -> None:
    scores, is_signal, weights = scored(2000, ties=False)
    other = scores + 0.05 * np.random.default_rng(1).normal(size=len(scores))
    result = metrics.compare(other, scores, is_signal, weights, margin=-0.005, num_resamples=100)
    alone = metrics.RankedScores(scores, is_signal).auc(
        metrics.bootstrap_weights(is_signal, weights, 100, np.random.default_rng(2))
    )
    assert result.sigma < 0.2 * alone.std()
    assert result.non_inferior
    assert result.lower < result.difference


def test_a_worse_model_is_not_called_non_inferior() -> None:
    scores, is_signal, _ = scored(2000, ties=False)
    worse = scores + np.random.default_rng(1).normal(size=len(scores))
    result = metrics.compare(worse, scores, is_signal, margin=-0.005, num_resamples=100)
    assert not result.non_inferior
    assert result.p_value > 0.99
    ratio = metrics.compare(
        worse, scores, is_signal, margin=0.95, background_efficiency=0.1, num_resamples=50
    )
    assert ratio.difference == pytest.approx(ratio.value / ratio.reference)
    assert not ratio.non_inferior


def test_bootstrap_error_agrees_with_repeated_experiments() -> None:
    def difference(seed: int) -> float:
        scores, is_signal, _ = scored(400, seed, ties=False)
        other = scores + np.random.default_rng(seed + 1000).normal(size=400)
        return metrics.auc(other, is_signal) - metrics.auc(scores, is_signal)

    spread = np.std([difference(seed) for seed in range(300)])
    scores, is_signal, _ = scored(400, 7, ties=False)
    other = scores + np.random.default_rng(1007).normal(size=400)
    result = metrics.compare(other, scores, is_signal, margin=-0.005, num_resamples=400)
    assert result.sigma == pytest.approx(spread, rel=0.2)


def test_seed_variance_widens_the_interval() -> None:
    scores, is_signal, _ = scored(1000, ties=False)
    noise = np.random.default_rng(3).normal(size=(3, 1000)) * np.array([[0.1], [0.5], [1.0]])
    one = metrics.compare(scores, scores, is_signal, margin=-0.005, num_resamples=20)
    three = metrics.compare(scores + noise, scores, is_signal, margin=-0.005, num_resamples=20)
    aucs = [metrics.auc(row, is_signal) for row in scores + noise]
    assert one.sigma == 0.0
    assert three.value == pytest.approx(np.mean(aucs))
    assert three.sigma**2 >= np.var(aucs, ddof=1) / 3


def test_holm_by_hand() -> None:
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert metrics.holm([0.2, 0.001]) == [False, True]


def dcov2_by_definition(x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    w = w / w.sum()
    a, b = np.abs(x[:, None] - x), np.abs(y[:, None] - y)
    a = a - (a @ w)[:, None] - w @ a + w @ a @ w
    b = b - (b @ w)[:, None] - w @ b + w @ b @ w
    return float(w @ (a * b) @ w)


@pytest.mark.parametrize("num", [1, 2, 3, 7, 64, 129])
@pytest.mark.parametrize("ties", [False, True])
def test_distance_covariance_is_exact(num: int, ties: bool) -> None:
    rng = np.random.default_rng(num)
    x = rng.normal(size=num)
    y = x**2 + 0.3 * rng.normal(size=num)
    if ties:
        x, y = np.round(x), np.round(y)
    w = rng.exponential(1.0, num)
    w[0] += 0.1
    expected = dcov2_by_definition(x, y, w)
    assert metrics.distance_covariance2(x, y, w) == pytest.approx(expected, abs=1e-12)
    assert metrics.distance_covariance2(90 + x, y, w) == pytest.approx(expected, abs=1e-9)
    reference = np.sqrt(dcov2_by_definition(x, x, w) * dcov2_by_definition(y, y, w))
    if reference > 0:
        expected_correlation = np.sqrt(max(expected, 0) / reference)
        assert metrics.distance_correlation(x, y, w) == pytest.approx(expected_correlation, abs=1e-7)


def test_distance_correlation_of_special_cases() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    assert metrics.distance_correlation(x, 3 - 2 * x) == pytest.approx(1.0, abs=1e-9)
    assert metrics.distance_correlation(x, rng.normal(size=len(x))) < 0.02
    assert metrics.distance_correlation(x, np.abs(x)) > 0.4  # without linear correlation
    assert metrics.distance_correlation(x, np.ones(len(x))) == 0.0


def test_distance_covariance_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="non-negative weights"):
        metrics.distance_covariance2([1, 2], [1, 2], [1, -1])
    with pytest.raises(ValueError, match="have 2, 3 and 2 events"):
        metrics.distance_covariance2([1, 2], [1, 2, 3])


def test_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    truth = rng.random(len(p)) < p
    assert metrics.expected_calibration_error(p, truth) < 0.006
    overconfident = rng.random(len(p)) < 0.5
    curve = metrics.reliability(p, overconfident, num_bins=10)
    assert curve.ece == pytest.approx(0.25, abs=0.01)
    assert curve.weight.sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="probabilities in"):
        metrics.expected_calibration_error([1.2], [True])


def test_calibration_error_uses_weights() -> None:
    p, truth = np.array([0.9, 0.9]), np.array([True, False])
    assert metrics.expected_calibration_error(p, truth, [9, 1]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.expected_calibration_error(p, truth, [1, 1]) == pytest.approx(0.4)


def test_kolmogorov_smirnov_is_that_of_scipy_and_knows_weights() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=400), rng.normal(0.2, size=300)
    distance, p_value = metrics.kolmogorov_smirnov(x, y)
    expected = stats.ks_2samp(x, y, method="asymp")
    assert distance == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.01)
    # A weight of 2 is the same event twice, with less to say than two events.
    counts = rng.integers(1, 3, len(x))
    weighted = metrics.kolmogorov_smirnov(x, y, counts)
    repeated = metrics.kolmogorov_smirnov(np.repeat(x, counts), y)
    assert weighted[0] == pytest.approx(repeated[0])
    assert weighted[1] > repeated[1]
    assert metrics.kolmogorov_smirnov([1, 1, 2], [1, 2, 1])[0] == 0.0


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0]])
def test_kolmogorov_smirnov_refuses_weights_without_meaning(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="non-negative weights with a positive sum"):
        metrics.kolmogorov_smirnov([1.0, 2.0], [1.0], weights)
