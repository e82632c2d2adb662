import numpy as np
import pytest

from jet_foundation.metrics.regression import r_squared, regression_metrics


def test_response_of_a_gaussian() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(50, 200, 100_000)
    metrics = regression_metrics(true * rng.normal(1.02, 0.05, len(true)), true)
    assert metrics["response_median"] == pytest.approx(1.02, abs=1e-3)
    assert metrics["resolution"] == pytest.approx(0.05 / 1.02, rel=0.02)
    assert metrics["mae_gev"] < metrics["rmse_gev"]
    assert 0.9 < metrics["r2"] < 1


def test_r_squared_of_the_mean_is_zero() -> None:
    true = np.array([1.0, 2.0, 6.0])
    assert r_squared(np.full(3, 3.0), true) == pytest.approx(0)
    assert r_squared(true, true) == 1
    assert np.isnan(r_squared(true, np.ones(3)))
