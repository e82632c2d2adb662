"""The distance correlation against its definition."""

import numpy as np
import pytest

from chhiggs_pnet.metrics.dependence import distance_correlation, distance_covariance2


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
    assert distance_covariance2(x, y, w) == pytest.approx(expected, abs=1e-12)
    assert distance_covariance2(90 + x, y, w) == pytest.approx(expected, abs=1e-9)
    reference = np.sqrt(dcov2_by_definition(x, x, w) * dcov2_by_definition(y, y, w))
    if reference > 0:
        expected_correlation = np.sqrt(max(expected, 0) / reference)
        assert distance_correlation(x, y, w) == pytest.approx(expected_correlation, abs=1e-7)


def test_distance_correlation_of_special_cases() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    assert distance_correlation(x, 3 - 2 * x) == pytest.approx(1.0, abs=1e-9)
    assert distance_correlation(x, rng.normal(size=len(x))) < 0.02
    assert distance_correlation(x, np.abs(x)) > 0.4  # without linear correlation
    assert distance_correlation(x, np.ones(len(x))) == 0.0


def test_distance_covariance_refuses_bad_input() -> None:
    with pytest.raises(ValueError, match="non-negative weights"):
        distance_covariance2([1, 2], [1, 2], [1, -1])
    with pytest.raises(ValueError, match="have 2, 3 and 2 events"):
        distance_covariance2([1, 2], [1, 2, 3])
