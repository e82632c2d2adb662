import numpy as np
import pytest

from fourtop_tokens.data.scaling import EventStatistics, log_momenta
from hep_shared.errors import UserError


def test_log_statistics_are_those_of_the_objects(sample):
    train = sample[1]["train"]
    statistics = EventStatistics.fit(train, "log")
    objects = log_momenta(train.features[train.valid_mask])
    np.testing.assert_allclose(statistics.mean, objects.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.std, objects.std(0), rtol=1e-5)
    assert statistics.class_counts == tuple(np.bincount(train.labels)[1:])


def test_legacy_statistics_count_empty_places(sample):
    train = sample[1]["train"]
    statistics = EventStatistics.fit(train, "legacy")
    np.testing.assert_allclose(statistics.mean, train.features.reshape(-1, 4).mean(0), rtol=1e-4, atol=1e-4)
    assert (statistics.met_mean, statistics.met_std) == (0.0, 1.0)


def test_padding_does_not_move_log_statistics(sample):
    train = sample[1]["train"]
    features = train.features.copy()
    features[~train.valid_mask] = 1e4
    other = type(train)(train.ids, features, train.missing, train.labels)
    assert EventStatistics.fit(other, "log") == EventStatistics.fit(train, "log")
    assert EventStatistics.fit(other, "legacy") != EventStatistics.fit(train, "legacy")


def test_fingerprint_names_the_scheme_and_the_numbers(sample):
    train = sample[1]["train"]
    a, b = EventStatistics.fit(train, "log"), EventStatistics.fit(train[:100], "log")
    assert a.fingerprint().startswith("log-")
    assert a.fingerprint() != b.fingerprint()


def test_constant_features_are_refused(sample):
    train = sample[1]["train"][:10]
    constant = type(train)(train.ids, np.ones_like(train.features), train.missing, train.labels)
    with pytest.raises(UserError, match="a feature that is the same in all of them"):
        EventStatistics.fit(constant, "log")
