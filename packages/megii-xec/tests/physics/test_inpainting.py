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


def test_guesses_are_close_and_the_optical_model_helps_in_large_holes(photons):
    rng = np.random.default_rng(1)
    for hole in (1, 7):
        npho = photons.copy()
        for event in npho:
            for _ in range(12):
                i, j = rng.integers(0, 93 - hole), rng.integers(0, 44 - hole)
                event[inner_index_map()[i : i + hole, j : j + hole]] = np.nan
        hidden = np.isnan(npho)
        errors = {
            name: np.abs(guess(npho) - photons)[hidden].mean() / photons[hidden].mean()
            for name, guess in {"mean": neighbor_mean, "optics": solid_angle_guess}.items()
        }
        assert errors["mean"] < 0.8  # bright sensors are few, and their neighbours differ by tens of percent
        assert errors["optics"] < 0.6
    assert errors["optics"] < errors["mean"]
