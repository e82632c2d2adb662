import numpy as np
import pytest

from hep_shared.errors import UserError
from jet_foundation.data.features import FEATURE_NAMES, particle_features
from jet_foundation.data.normalization import LIMIT, Moments, Normalization
from jet_foundation.physics.jet_table import Jets


def test_moments_do_not_depend_on_the_pieces() -> None:
    values = np.random.default_rng(0).normal(3, 2, (1000, 2))
    moments = Moments(2)
    for piece in np.split(values, [1, 1, 400]):
        moments.add(piece)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0))
    np.testing.assert_allclose(moments.std, values.std(axis=0))


def test_fitted_features_have_unit_width_and_flags_stay(toy_jets: Jets) -> None:
    features = particle_features(toy_jets, "full")
    moments = Moments(17)
    moments.add(features)
    normalized = Normalization.fitted("full", moments).apply(features.copy())
    assert np.abs(normalized).max() <= LIMIT
    np.testing.assert_allclose(normalized[:, :7].mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(normalized[:, :7].std(axis=0), 1, atol=0.1)
    np.testing.assert_array_equal(normalized[:, 7:13], features[:, 7:13])


def test_the_fixed_numbers(toy_jets: Jets) -> None:
    features = particle_features(toy_jets, "kin")
    normalized = Normalization.part("kin").apply(features.copy())
    np.testing.assert_allclose(normalized[:, 0], np.clip((features[:, 0] - 1.7) * 0.7, -5, 5), atol=1e-5)
    np.testing.assert_allclose(normalized[:, 4], np.clip((features[:, 4] - 0.2) * 4, -5, 5), atol=1e-5)
    np.testing.assert_array_equal(normalized[:, 5:], features[:, 5:])


def test_a_constant_feature_is_refused() -> None:
    moments = Moments(7)
    moments.add(np.ones((5, 7)))
    with pytest.raises(UserError, match=f"Feature '{FEATURE_NAMES['kin'][0]}' has the same value 1"):
        Normalization.fitted("kin", moments)
