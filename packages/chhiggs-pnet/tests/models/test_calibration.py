"""The temperature that generated the labels is found again."""

import numpy as np
import pytest

from chhiggs_pnet.models.calibration import calibrated, fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_is_recovered(temperature):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    truth = calibrated(logits, temperature)
    label = (truth.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    raw = np.log(calibrated(logits, 1.0))
    assert fit_temperature(raw, label, np.ones(20_000)) == pytest.approx(temperature, rel=0.05)


def test_probabilities_add_up():
    found = calibrated(np.array([[0.0, -800.0, 5.0, 1.0]]), 0.5)
    assert found.sum() == pytest.approx(1)
    assert np.isfinite(found).all()
