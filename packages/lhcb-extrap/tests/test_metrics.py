import numpy as np
import pytest

from lhcb_extrap.metrics import (
    epochs_to_converge,
    error_map,
    error_profile,
    errors_by_momentum,
    overfitting_ratio,
    targets_met,
    track_errors,
)


def test_track_errors_by_hand():
    truth = np.zeros((4, 4))
    end = np.array([[3, 4, 0, 0], [0, 0, 3e-5, 4e-5], [0, 0, 0, 0], [np.nan, 0, 0, 0]])
    found = track_errors(end, truth)
    assert found["pos_mean_mm"] == pytest.approx(5 / 3)
    assert found["slope_mean"] == pytest.approx(5e-5 / 3)
    assert found["pos_max_mm"] == 5.0
    assert found["x_mean_mm"] == pytest.approx(1.0)
    assert (found["num_tracks"], found["num_failed"]) == (3, 1)
    assert not targets_met(found)["pos_mean_mm"]
    assert targets_met(track_errors(truth, truth))["slope_mean"]


def test_all_lost_is_not_zero_error():
    assert np.isnan(track_errors(np.full((2, 4), np.nan), np.zeros((2, 4)))["pos_mean_mm"])


def test_momentum_ranges():
    momentum = np.array([1.0, 10.0, 50.0])
    found = errors_by_momentum(np.diag([1.0, 2.0, 3.0])[:, :3] @ np.eye(3, 4), np.zeros((3, 4)), momentum)
    assert set(found) == {"low_p", "mid_p", "high_p", "full_range"}
    assert found["mid_p"]["num_tracks"] == 1


def test_profile_and_map():
    error, x = np.array([1.0, 3.0, np.nan, 5.0]), np.array([0.5, 0.6, 0.7, 1.5])
    profile = error_profile(error, x, np.array([0.0, 1.0, 2.0, 3.0]))
    assert profile.mean[:2].tolist() == [2.0, 5.0]
    assert np.isnan(profile.mean[2])
    found = error_map(error, x, x, np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]))
    assert found[0, 0] == 2.0
    assert np.isnan(found[0, 1])


def test_epochs_to_ninety_percent():
    assert epochs_to_converge([10.0, 5.0, 1.5, 1.0, 0.0]) == 4
    assert epochs_to_converge([1.0, 2.0]) is None
    assert epochs_to_converge([1.0]) is None


def test_overfitting_ratio_looks_at_the_end():
    assert overfitting_ratio([1.0] * 20, [1.0] * 18 + [3.0] * 2) == pytest.approx(3.0)
