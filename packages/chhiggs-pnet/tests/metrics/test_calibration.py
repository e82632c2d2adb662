"""The calibration error where it is known."""

import numpy as np
import pytest

from chhiggs_pnet.metrics.calibration import expected_calibration_error, reliability


def test_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100_000)
    truth = rng.random(len(p)) < p
    assert expected_calibration_error(p, truth) < 0.006
    overconfident = rng.random(len(p)) < 0.5
    curve = reliability(p, overconfident, num_bins=10)
    assert curve.ece == pytest.approx(0.25, abs=0.01)
    assert curve.weight.sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="probabilities in"):
        expected_calibration_error([1.2], [True])


def test_calibration_error_uses_weights() -> None:
    p, truth = np.array([0.9, 0.9]), np.array([True, False])
    assert expected_calibration_error(p, truth, [9, 1]) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(p, truth, [1, 1]) == pytest.approx(0.4)
