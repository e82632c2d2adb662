import numpy as np
import pytest
from scipy import stats

from fourtop_tokens import metrics
from fourtop_tokens import statistics as s


def models(num_models=3, n=300, seed=0, ties=False, shift=1.0):
    """Correlated classifiers: a common part and one of their own."""
    rng = np.random.default_rng(seed)
    is_signal = rng.random(n) < 0.5
    values = shift * is_signal + rng.normal(0, 0.8, n) + rng.normal(0, 0.6, (num_models, n))
    return is_signal, np.round(values, 1) if ties else values


@pytest.mark.parametrize("ties", [False, True])
def test_delong_equals_the_sum_over_all_pairs(ties):
    is_signal, values = models(ties=ties)
    signal, background = values[:, is_signal], values[:, ~is_signal]
    kernel = (signal[:, :, None] > background[:, None]) + 0.5 * (signal[:, :, None] == background[:, None])
    result = s.delong(is_signal, values)
    np.testing.assert_allclose(result.aurocs, kernel.mean(axis=(1, 2)), atol=1e-12)
    expected = (
        np.cov(kernel.mean(axis=2)) / signal.shape[1] + np.cov(kernel.mean(axis=1)) / background.shape[1]
    )
    np.testing.assert_allclose(result.covariance, expected, atol=1e-14)


def test_delong_error_is_the_spread_over_samples():
    aurocs, errors = [], []
    for seed in range(300):
        is_signal, values = models(2, 200, seed)
        estimate = s.delong(is_signal, values).contrast([1, -1])
        aurocs.append(estimate.value)
        errors.append(estimate.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(aurocs), rel=0.12)


def test_a_single_model():
    is_signal, values = models(1)
    result = s.delong(is_signal, values[0])
    estimate = result.contrast([1])
    assert estimate.value == pytest.approx(metrics.auroc(is_signal, values[0]))
    assert estimate.low < estimate.value < estimate.high


def test_equal_models_do_not_differ():
    is_signal, values = models(1)
    estimate = s.delong(is_signal, np.vstack([values, values])).contrast([1, -1])
    assert (estimate.value, estimate.p_value) == (0, 1)


def test_normal_interval_of_a_contrast():
    is_signal, values = models()
    estimate = s.delong(is_signal, values).contrast([1, -1, 0])
    assert estimate.high - estimate.value == pytest.approx(1.959964 * estimate.standard_error, rel=1e-6)
    z = estimate.value / estimate.standard_error
    assert estimate.p_value == pytest.approx(2 * stats.norm.sf(abs(z)))


def test_difference_without_sample_noise_is_welchs_test():
    aurocs = np.array([0.80, 0.81, 0.82, 0.83, 0.845])
    estimate = s.DeLong(aurocs, np.zeros((5, 5))).difference([3, 4], [0, 1, 2])
    welch = stats.ttest_ind(aurocs[3:], aurocs[:3], equal_var=False)
    assert estimate.p_value == pytest.approx(welch.pvalue)
    assert estimate.degrees_of_freedom == pytest.approx(welch.df)
    interval = welch.confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_sample_noise_widens_a_difference():
    is_signal, values = models(6, 400)
    result = s.delong(is_signal, values)
    both = result.difference([0, 1, 2], [3, 4, 5])
    seeds = s.DeLong(result.aurocs, np.zeros((6, 6))).difference([0, 1, 2], [3, 4, 5])
    assert both.standard_error > seeds.standard_error
    assert both.degrees_of_freedom > seeds.degrees_of_freedom


def test_one_seed_is_not_enough():
    with pytest.raises(ValueError, match="two seeds"):
        s.DeLong(np.array([0.8, 0.9, 0.85]), np.eye(3)).difference([0], [1, 2])
    with pytest.raises(ValueError, match="two events"):
        s.delong([1, 0, 0], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rejection", [5, 50])
def test_bootstrap_starts_from_the_metric(rejection, ties):
    is_signal, values = models(ties=ties)
    nominal, _ = s.bootstrap_efficiencies(is_signal, values, rejection, num_resamples=1, seed=0)
    expected = [metrics.signal_efficiency_at(is_signal, row, rejection) for row in values]
    np.testing.assert_allclose(nominal, expected, atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_a_resample_is_the_metric_on_repeated_events(ties):
    is_signal, values = models(2, ties=ties)
    _, resampled = s.bootstrap_efficiencies(is_signal, values, 10, num_resamples=3, seed=4)
    rng = np.random.default_rng(4)
    signal, background = np.flatnonzero(is_signal), np.flatnonzero(~is_signal)
    for row in resampled:
        drawn = np.concatenate([part[rng.integers(0, part.size, part.size)] for part in (signal, background)])
        expected = [metrics.signal_efficiency_at(is_signal[drawn], v[drawn], 10) for v in values]
        np.testing.assert_allclose(row, expected, atol=1e-12)


def _efficiency(is_signal, values):
    return metrics.signal_efficiency_at(is_signal, values[0], 10)


def test_bootstrap_error_is_the_spread_over_samples():
    values = [_efficiency(*models(1, 1000, seed)) for seed in range(200)]
    is_signal, scores = models(1, 1000, 999)
    _, resampled = s.bootstrap_efficiencies(is_signal, scores, 10, num_resamples=300, seed=0)
    assert resampled.std() == pytest.approx(np.std(values), rel=0.3)


def test_two_levels_add_the_spread_of_the_seeds():
    nominal = np.array([0.2, 0.3, 0.4, 0.5])
    resampled = np.tile(nominal, (4000, 1))  # no noise from events
    estimate = s.two_level_bootstrap(nominal, resampled, [0, 1, 2, 3], seed=0)
    assert estimate.value == pytest.approx(0.35)
    assert estimate.standard_error == pytest.approx(nominal.std() / 2, rel=0.05)
    assert estimate.low < 0.30 < 0.40 < estimate.high


def test_two_levels_find_a_difference_and_none():
    is_signal, good = models(3, 2000, 1, shift=2.0)
    _, poor = models(3, 2000, 1, shift=1.0)
    nominal, resampled = s.bootstrap_efficiencies(
        is_signal, np.vstack([good, poor]), 10, num_resamples=200, seed=0
    )
    apart = s.two_level_bootstrap(nominal, resampled, [0, 1, 2], [3, 4, 5], seed=0)
    assert apart.low > 0
    assert apart.p_value == pytest.approx(2 / 201)
    same = s.two_level_bootstrap(nominal, resampled, [0, 1, 2], [0, 1, 2], seed=0)
    assert same.value == 0
    assert same.p_value > 0.5


def test_holm_by_hand():
    np.testing.assert_allclose(s.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(s.holm([0.6, 0.9]), [1, 1])
    assert s.holm([]).size == 0


def test_equivalence_is_the_larger_of_two_one_sided_tests():
    rng = np.random.default_rng(0)
    sample = rng.normal(0.0004, 0.002, 12)
    error = sample.std(ddof=1) / np.sqrt(12)
    estimate = s.Estimate(sample.mean(), error, 0, 0, 0, 11)
    expected = max(
        stats.ttest_1samp(sample, -0.002, alternative="greater").pvalue,
        stats.ttest_1samp(sample, 0.002, alternative="less").pvalue,
    )
    assert s.equivalence(estimate) == pytest.approx(expected)


@pytest.mark.parametrize(("value", "p_value"), [(0.001, 0), (0.003, 1)])
def test_equivalence_without_error(value, p_value):
    assert s.equivalence(s.Estimate(value, 0, value, value, 0)) == p_value


def test_many_events_take_no_square_of_memory():
    is_signal, values = models(4, 40_000)
    assert s.delong(is_signal, values).covariance.shape == (4, 4)


def test_mixed_model_recovers_its_parameters():
    rng = np.random.default_rng(3)
    seeds = np.repeat(np.arange(30), 20)
    x = np.stack([np.ones(600), rng.normal(size=600)], axis=1)
    y = x @ [2.0, 0.5] + rng.normal(0, 0.3, 30)[seeds] + rng.normal(0, 0.1, 600)
    model = s.mixed_model(y, x, ("mean", "slope"), seeds)
    assert model.effect("slope").value == pytest.approx(0.5, abs=0.015)
    assert model.effect("slope").standard_error == pytest.approx(0.1 / np.sqrt(600), rel=0.15)
    assert model.effect("mean").standard_error == pytest.approx(0.3 / np.sqrt(30), rel=0.4)
    assert model.seed_sd == pytest.approx(0.3, rel=0.3)
    assert model.residual_sd == pytest.approx(0.1, rel=0.1)


def test_mixed_model_without_seed_effect_is_least_squares():
    rng = np.random.default_rng(4)
    seeds = np.tile(np.arange(4), 25)
    x = np.stack([np.ones(100), rng.normal(size=100)], axis=1)
    residual = rng.normal(size=100)
    residual -= np.array([residual[seeds == k].mean() for k in range(4)])[seeds]  # no variance between seeds
    y = x @ [1.0, 2.0] + residual
    model = s.mixed_model(y, x, ("mean", "slope"), seeds)
    np.testing.assert_allclose(model.beta, np.linalg.lstsq(x, y, rcond=None)[0], rtol=1e-4)
    assert model.seed_sd < 0.02


def test_mixed_model_needs_observations():
    with pytest.raises(ValueError, match="3 observations are too few for 2 effects and 3 seeds"):
        s.mixed_model([1.0, 2, 3], [[1, 0], [1, 1], [1, 2]], ("a", "b"), [0, 1, 2])


def test_combine_takes_the_freedom_of_the_seeds():
    only_seeds = s.combine(0.1, 0.0, 0.01, 4)
    assert only_seeds.degrees_of_freedom == pytest.approx(4)
    only_sample = s.combine(0.1, 0.01, 0.0, 4)
    assert only_sample.degrees_of_freedom == np.inf
    assert only_sample.high == pytest.approx(0.1 + 1.96 * 0.1, abs=1e-3)
    assert only_seeds.high > only_sample.high
