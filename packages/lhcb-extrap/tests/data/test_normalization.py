import numpy as np
import pytest

from lhcb_extrap.data.normalization import Normalization


def test_constant_quantities_get_the_scale_one(normalization):
    assert normalization.fixed_planes
    assert normalization.start_std[5] == normalization.start_std[6] == 1.0
    assert normalization.start_mean[5:] == (4000.0, 3000.0)
    assert normalization.feature_std[10:] == (1.0, 1.0)


def test_the_embedded_field_is_symmetric(normalization):
    assert normalization.field.flip_x
    assert normalization.field.flip_y
    table = normalization.field.table()
    integral = table(np.array([7000.0]))[0] - table(np.array([3000.0]))[0]
    assert integral == pytest.approx(-3330, rel=0.1)  # T mm


def test_round_trip_and_fingerprint(normalization):
    again = Normalization.model_validate_json(normalization.model_dump_json())
    assert again == normalization
    assert again.fingerprint() == normalization.fingerprint()
    other = normalization.model_copy(update={"end_mean": (0.0, 0.0, 0.0, 0.0)})
    assert other.fingerprint() != normalization.fingerprint()


def test_scales_must_be_positive(normalization):
    with pytest.raises(ValueError, match="end_std holds a number that is not positive"):
        Normalization.model_validate(normalization.model_dump() | {"end_std": (1.0, 0.0, 1.0, 1.0)})
