import numpy as np
import pytest

from megii_xec.physics.geometry import inner_index_map, top_ids
from megii_xec.physics.inpainting import neighbor_mean, solid_angle_guess
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.response import build_detector
from megii_xec.physics.simulator import simulate_chunk


def test_neighbour_mean_of_a_plane_is_the_plane():
    row = np.zeros(4760, np.float32)
    row[inner_index_map()] = np.arange(93)[:, None] + 2 * np.arange(44)
    hidden = inner_index_map()[10:80:7, 10:40:7].ravel()
    values = row.copy()
    values[hidden] = np.nan
    np.testing.assert_allclose(neighbor_mean(values[None])[0, hidden], row[hidden], rtol=1e-5)


def test_without_near_neighbours_farther_ones_and_then_the_face_count():
    values = np.full((1, 4760), np.nan, np.float32)
    values[0, top_ids()[0]] = 3.0
    guess = neighbor_mean(values)[0]
    assert guess[top_ids()[72]] == 3.0  # the only live tube of the face
    assert np.isnan(guess[0])  # a face without any


@pytest.fixture(scope="module")
def photons():
    config = SimulationConfig(dead_fraction=0.0, num_dead_clusters=0)
    return simulate_chunk(config, build_detector(config), 24, np.random.default_rng(0)).readout.npho


def test_times_follow_the_flight_of_the_light():
    config = SimulationConfig(
        dead_fraction=0.0, num_dead_clusters=0, sensor_time_ns=0.05, sensor_time_stochastic_ns=0.0
    )
    readout = simulate_chunk(config, build_detector(config), 24, np.random.default_rng(2)).readout
    hidden = np.random.default_rng(3).random(readout.npho.shape) < 0.05
    npho = np.where(hidden, np.float32(np.nan), readout.npho)
    time_ns = np.where(hidden, np.float32(np.nan), readout.time_ns)
    scored = hidden & (readout.npho > 300) & np.isfinite(readout.time_ns)
    error = {
        "mean": np.abs(neighbor_mean(time_ns) - readout.time_ns)[scored].mean(),
        "optics": np.abs(solid_angle_guess(npho, time_ns)[1] - readout.time_ns)[scored].mean(),
    }
    assert error["optics"] < 0.8 * error["mean"]


def test_guesses_are_close_and_the_optical_model_helps_in_large_holes(photons):
    rng = np.random.default_rng(1)
    for hole in (1, 7):
        npho = photons.copy()
        for event in npho:
            for _ in range(12):
                i, j = rng.integers(0, 93 - hole), rng.integers(0, 44 - hole)
                event[inner_index_map()[i : i + hole, j : j + hole]] = np.nan
        hidden = np.isnan(npho)
        guesses = {
            "mean": neighbor_mean(npho),
            "optics": solid_angle_guess(npho, np.full_like(npho, np.nan))[0],
        }
        errors = {
            name: np.abs(guess - photons)[hidden].mean() / photons[hidden].mean()
            for name, guess in guesses.items()
        }
        assert errors["mean"] < 0.8  # bright sensors are few, and their neighbours differ by tens of percent
        assert errors["optics"] < 0.6
    assert errors["optics"] < errors["mean"]
