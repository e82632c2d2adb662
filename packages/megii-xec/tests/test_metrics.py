import numpy as np
import pytest
from scipy import optimize, stats

from megii_xec import metrics
from megii_xec.data.schema import MISSING

NUM_EVENTS = 4000


def truth(rng, num_events=NUM_EVENTS):
    return {
        "angle": np.stack([rng.uniform(60, 120, num_events), rng.uniform(-60, 60, num_events)], axis=1),
        "energy": rng.uniform(0.015, 0.060, num_events),
        "timing": rng.normal(0, 10, (num_events, 1)),
        "uvwFI": np.stack(
            [
                rng.uniform(-24, 24, num_events),
                rng.uniform(-68, 68, num_events),
                rng.exponential(5, num_events),
            ],
            axis=1,
        ),
    }


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_moments_agree_with_scipy(rng):
    sample = rng.gamma(2.0, size=(3, 1000))
    np.testing.assert_allclose(metrics.bias(sample), sample.mean(axis=1))
    np.testing.assert_allclose(metrics.rms(sample), stats.tstd(sample, axis=1, ddof=0))
    np.testing.assert_allclose(metrics.skewness(sample), stats.skew(sample, axis=1), rtol=1e-12)


def test_moments_of_numbers_worked_by_hand():
    sample = np.array([0.0, 0.0, 0.0, 4.0])  # mean 1, deviations -1 -1 -1 3, variance 3, third moment 6
    assert metrics.bias(sample) == 1.0
    assert metrics.rms(sample) == pytest.approx(np.sqrt(3))
    assert metrics.skewness(sample) == pytest.approx(6 / 3**1.5)
    assert metrics.width68(np.linspace(0, 1, 101)) == pytest.approx(metrics.ONE_SIGMA / 2)
    assert metrics.percentile68(np.linspace(0, 1, 101)) == pytest.approx(0.68)


def test_width_of_a_gaussian_is_sigma_and_ignores_tails(rng):
    sample = rng.normal(3.0, 2.0, 100_000)
    assert metrics.width68(sample) == pytest.approx(2.0, rel=0.015)  # expected error 0.4 %
    sample[:100] = 1e6
    assert metrics.width68(sample) == pytest.approx(2.0, rel=0.015)
    assert metrics.rms(sample) > 1e4


def test_skewness_of_equal_values_is_nan():
    assert np.isnan(metrics.skewness(np.ones(5)))


def test_bootstrap_interval_covers_as_often_as_it_says(rng):
    inside = 0
    for seed in range(200):
        low, high = metrics.bootstrap_interval(
            metrics.width68, rng.normal(size=300), num_resamples=100, seed=seed
        )
        inside += low < 1.0 < high
    assert 0.55 < inside / 200 < 0.80  # 68 % with a binomial error of 3.3 %


def test_bootstrap_is_seeded_and_independent_of_the_block_size(rng, monkeypatch):
    sample = rng.normal(size=200)
    interval = metrics.bootstrap_interval(metrics.bias, sample, seed=3)
    assert interval == metrics.bootstrap_interval(metrics.bias, sample, seed=3)
    assert interval != metrics.bootstrap_interval(metrics.bias, sample, seed=4)
    monkeypatch.setattr(metrics, "_MAX_ELEMENTS", 1000)
    assert interval == metrics.bootstrap_interval(metrics.bias, sample, seed=3)


@pytest.mark.parametrize("num_events", [2, 25, 2000])
def test_order_statistics_reproduce_the_resampled_quantiles(rng, num_events):
    sample = rng.gamma(2.0, size=num_events)
    probabilities = metrics._QUANTILES["width68"]
    fast = metrics._resampled_quantiles(sample, probabilities, 4000, rng)
    index = rng.integers(num_events, size=(4000, num_events))
    slow = np.quantile(sample[index], probabilities, axis=1).T
    for column in range(2):
        assert stats.ks_2samp(fast[:, column], slow[:, column]).pvalue > 1e-3
    assert stats.ks_2samp(np.diff(fast)[:, 0], np.diff(slow)[:, 0]).pvalue > 1e-3


def test_residuals_have_the_units_of_the_quantities():
    pred = {"angle": [[90.0, 179.0]], "energy": [0.0541], "timing": [[1.5]], "uvwFI": [[1.0, 2.0, 3.5]]}
    true = {"angle": [[90.0, -179.0]], "energy": [0.0541 / 1.02], "timing": [1.4], "uvwFI": [[1.2, 2.0, 3.0]]}
    result = metrics.residuals(pred, true)
    assert result["theta"] == 0.0
    assert result["phi"] == pytest.approx(-2.0)  # the short way round
    assert result["opening_angle"] == pytest.approx(2.0)
    assert result["energy"] == pytest.approx(1e3 * (0.0541 - 0.0541 / 1.02))
    assert result["energy_relative"] == pytest.approx(2.0)
    assert result["timing"] == pytest.approx(100.0)
    assert [result[name].item() for name in "uvw"] == pytest.approx([-2.0, 0.0, 5.0])
    assert result["distance"] == pytest.approx(np.hypot(2.0, 5.0))  # same v: a right angle in space


def test_summary_names_and_values(rng):
    true = truth(rng)
    pred = {name: values.astype(np.float32) for name, values in true.items()}
    pred["angle"] = true["angle"] + rng.normal([1.0, 0.0], [2.0, 3.0], (NUM_EVENTS, 2))
    pred["timing"] = true["timing"] + rng.normal(0, 0.065, (NUM_EVENTS, 1))
    pred["energy"] = true["energy"] * rng.normal(1, 0.018, NUM_EVENTS)
    pred["uvwFI"] = true["uvwFI"] + rng.normal(0, 0.25, (NUM_EVENTS, 3))
    summary = metrics.regression_summary(pred, true)
    moments = {f"{q}_{s}" for q in metrics.QUANTITIES for s in ("bias", "rms", "skew", "width68")}
    derived = {"val_resolution_deg", "energy_resolution_percent", "uvw_distance68_mm"}
    counts = {f"num_missing_{task}" for task in true} | {"num_events"}
    assert set(summary) == moments | derived | counts
    assert summary["theta_bias"] == pytest.approx(1.0, abs=0.15)
    assert summary["theta_rms"] == pytest.approx(2.0, rel=0.05)
    assert summary["phi_width68"] == pytest.approx(3.0, rel=0.06)
    assert summary["timing_width68"] == pytest.approx(65, rel=0.06)
    assert summary["energy_resolution_percent"] == pytest.approx(1.8, rel=0.06)
    assert summary["u_width68"] == pytest.approx(2.5, rel=0.06)
    residual = metrics.residuals(pred, true)
    assert summary["val_resolution_deg"] == np.percentile(residual["opening_angle"], 68)
    assert all(isinstance(value, float) for value in summary.values())


def test_summary_intervals_enclose_their_value(rng):
    true = truth(rng, 500)
    pred = {"energy": true["energy"] * rng.normal(1, 0.02, 500)}
    summary = metrics.regression_summary(pred, true, num_resamples=50)
    for name in ("energy_rms", "energy_width68", "energy_resolution_percent"):
        assert summary[f"{name}_low"] < summary[name] < summary[f"{name}_high"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, MISSING])
def test_missing_predictions_are_counted_and_left_out(rng, bad):
    true = truth(rng, 50)
    pred = {name: values.copy() for name, values in true.items()}
    pred["uvwFI"][:7, 1] = bad  # one bad column spoils the whole prediction
    true["energy"][:2] = bad
    summary = metrics.regression_summary(pred, true)
    assert summary["num_events"] == 50
    assert summary["num_missing_uvwFI"] == 7
    assert summary["num_missing_energy"] == 2
    assert summary["num_missing_angle"] == 0
    assert summary["u_rms"] == summary["energy_rms"] == 0.0
    assert np.isnan(metrics.residuals(pred, true)["w"]).sum() == 7


def test_summary_without_events_is_nan():
    summary = metrics.regression_summary(
        {"energy": np.full(3, np.nan)}, {"energy": np.ones(3)}, num_resamples=5
    )
    assert summary["num_missing_energy"] == 3
    assert np.isnan([summary["energy_width68"], summary["energy_width68_low"]]).all()


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="energy has 2 predictions for 3 true values"):
        metrics.residuals({"energy": np.ones(2)}, {"energy": np.ones(3)})
    with pytest.raises(ValueError, match="angle has 2 columns, got 3"):
        metrics.residuals({"angle": np.ones((2, 3))}, {"angle": np.ones((2, 2))})
    with pytest.raises(KeyError, match="position"):
        metrics.residuals({"position": np.ones(2)}, {"energy": np.ones(2)})


def test_metric_units():
    expected = {
        "theta_bias": "deg",
        "timing_width68": "ps",
        "u_rms_low": "mm",
        "energy_bias": "MeV",
        "w_skew": "1",
        "num_missing_energy": "1",
        "val_resolution_deg": "deg",
        "energy_resolution_percent_high": "%",
        "uvw_distance68_mm": "mm",
    }
    assert {name: metrics.metric_unit(name) for name in expected} == expected


def test_profile_bins_and_counts(rng):
    x = np.concatenate([np.repeat([0.5, 1.5, 3.0], 100), [-1.0, 7.0, np.nan]])
    residual = np.concatenate([rng.normal(1, 2, 100), rng.normal(0, 1, 100), np.zeros(100), np.ones(3)])
    residual[:10] = np.nan
    profile = metrics.profile(x, residual, [0.0, 1.0, 2.0, 2.5, 3.0])  # an upper edge belongs to the last bin
    assert profile.num_events.tolist() == [90, 100, 0, 100]
    assert profile.num_missing.tolist() == [10, 0, 0, 0]
    assert profile.num_outside == 3
    assert profile.centers.tolist() == [0.5, 1.5, 2.25, 2.75]
    assert profile.width[0] == metrics.width68(residual[10:100])
    assert profile.bias[1] == pytest.approx(residual[100:200].mean())
    assert profile.bias_error[1] == pytest.approx(residual[100:200].std() / 10)
    assert np.isnan(profile.width[2])
    assert profile.width[3] == 0.0
    assert profile.width_low[0] < profile.width[0] < profile.width_high[0]
    half = (profile.width_high[1] - profile.width_low[1]) / 2
    # Asymptotic variance of width68 for a Gaussian: 0.92 sigma^2 / N, from those of its two quantiles.
    assert half == pytest.approx(np.sqrt(0.92 / 100), rel=0.5)


def test_profile_of_a_distance_uses_the_percentile(rng):
    x, distance = rng.uniform(size=500), rng.rayleigh(size=500)
    profile = metrics.profile(x, distance, [0.0, 1.0], statistic="percentile68")
    assert profile.width[0] == np.percentile(distance, 68)
    assert profile.width_low[0] < profile.width[0] < profile.width_high[0]


def test_profile_shows_nothing_below_the_minimum(rng):
    x, residual = np.zeros(19), rng.normal(size=19)
    assert np.isnan(metrics.profile(x, residual, [-1.0, 1.0]).width[0])
    assert np.isfinite(metrics.profile(x, residual, [-1.0, 1.0], min_events=19).width[0])


def test_paired_comparison_profits_from_what_is_shared(rng):
    shared = rng.normal(size=3000)
    network, baseline = shared, 2 * shared + rng.normal(0, 0.05, 3000)
    network[:3] = np.nan
    baseline[2:7] = np.nan
    paired = metrics.compare_widths(network, baseline)
    assert (paired.num_events, paired.num_missing_network, paired.num_missing_baseline) == (2993, 3, 5)
    assert paired.low < 0.5 < paired.high
    assert paired.low < paired.ratio < paired.high
    other = metrics.compare_widths(network, rng.permutation(baseline))
    assert paired.high - paired.low < 0.3 * (other.high - other.low)


def test_comparison_without_common_events():
    comparison = metrics.compare_widths(np.array([np.nan, 1.0]), np.array([1.0, np.nan]))
    assert np.isnan([comparison.ratio, comparison.low, comparison.high]).all()
    assert comparison.num_events == 0


def test_energy_fit_recovers_its_coefficients():
    energy = np.linspace(0.015, 0.060, 20)
    resolution = np.sqrt(0.003**2 / energy + 0.012**2 + 0.0004**2 / energy**2)
    fit = metrics.fit_energy_resolution(energy, resolution, 0.01 * resolution)
    assert (fit.a, fit.b, fit.c) == pytest.approx((0.003, 0.012, 0.0004), rel=1e-6)
    assert fit.chi2 == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(fit(energy), resolution, rtol=1e-9)


def test_energy_fit_agrees_with_non_negative_least_squares(rng):
    energy = np.linspace(0.015, 0.060, 12)
    for _ in range(50):
        terms = rng.uniform(0, 1, 3) * (rng.uniform(size=3) < 0.6) * [0.004**2, 0.02**2, 0.0006**2] + [
            0,
            1e-5,
            0,
        ]
        design = np.stack([1 / energy, np.ones(12), 1 / energy**2], axis=1)
        resolution = np.sqrt(design @ terms) * rng.normal(1, 0.03, 12)
        error = 0.03 * resolution
        fit = metrics.fit_energy_resolution(energy, resolution, error)
        weight = 1 / (2 * resolution * error)
        scale = np.array([0.04, 1.0, 0.04**2])
        expected, norm = optimize.nnls(design * scale * weight[:, None], resolution**2 * weight)
        squares = np.array([fit.a, fit.b, fit.c]) ** 2
        np.testing.assert_allclose(squares, expected * scale, rtol=1e-5, atol=1e-12)
        assert fit.chi2 == pytest.approx(norm**2, rel=1e-6)


def test_energy_fit_errors_describe_the_scatter(rng):
    energy = np.linspace(0.015, 0.060, 12)
    resolution = np.sqrt(0.004**2 / energy + 0.02**2 + 0.0006**2 / energy**2)
    fits = [
        metrics.fit_energy_resolution(energy, resolution * rng.normal(1, 0.002, 12), 0.002 * resolution)
        for _ in range(300)
    ]
    for name in "abc":
        scatter = np.std([getattr(fit, name) for fit in fits])
        assert np.median([getattr(fit, f"{name}_error") for fit in fits]) == pytest.approx(scatter, rel=0.15)


def test_energy_fit_needs_three_points():
    with pytest.raises(ValueError, match="three measured points, got 2"):
        metrics.fit_energy_resolution([0.02, 0.03, 0.04], [0.02, np.nan, 0.018], [1e-3, 1e-3, 1e-3])
