import numpy as np
import pytest
import torch

from hep_shared.errors import ConfigError
from megii_xec.data.schema import MISSING
from megii_xec.data.targets import TARGETS, Affine, TargetScaling


def test_timing_is_relative_to_the_first_sensor(columns: dict[str, np.ndarray]) -> None:
    timing = TARGETS["timing"].compute(columns)
    assert timing.shape == (60, 1)
    np.testing.assert_allclose(timing, -1.5, atol=1e-4)


def test_missing_reference_time_gives_nan(columns: dict[str, np.ndarray]) -> None:
    broken = {**columns, "time_min_used": np.full(60, MISSING, np.float32)}
    assert np.isnan(TARGETS["timing"].compute(broken)).all()
    assert np.isfinite(TARGETS["energy"].compute(broken)).all()


@pytest.mark.parametrize("name", list(TARGETS))
def test_scaling_is_inverted_and_gives_numbers_of_order_one(
    name: str, columns: dict[str, np.ndarray]
) -> None:
    scaling, values = TargetScaling(), TARGETS[name].compute(columns)
    scaled = scaling.scale(name, values)
    assert np.abs(scaled).max() < 5
    np.testing.assert_allclose(scaling.unscale(name, scaled), values, rtol=1e-5, atol=1e-5)
    tensor = torch.from_numpy(values)
    np.testing.assert_allclose(scaling.scale(name, tensor).numpy(), scaled, rtol=1e-6)


def test_scaling_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="give 2 of each, for theta, phi"):
        TargetScaling(angle=Affine(offset=(0.0,), scale=(1.0,)))
    with pytest.raises(ConfigError, match="positive"):
        TargetScaling(energy=Affine(offset=(0.0,), scale=(0.0,)))
