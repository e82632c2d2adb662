"""A guess for every sensor, from what is visible alone."""

import numpy as np
import pytest
import torch

from megii_xec.data.masking import valid_sensors
from megii_xec.data.normalization import Normalization
from megii_xec.models.inpainter import NeighborMean, XecInpainter, nearest_cells
from megii_xec.physics.geometry import NUM_SENSORS, face_ids, inner_index_map, sensor_face
from megii_xec.physics.inpainting import neighbor_mean

NORM = Normalization(scheme="new")


@pytest.fixture
def make_inpainter(make_encoder):
    def make(trained=True, **options):
        torch.manual_seed(0)
        model = XecInpainter(
            make_encoder(**options),
            lambda x: valid_sensors(x, NORM),
            NORM.rescale_npho,
            face_channels=16,
            hex_channels=16,
        )
        if trained:
            for layer in model.out.values():
                torch.nn.init.normal_(layer.weight, std=0.1)
        return model.eval()

    return make


@pytest.fixture
def mask():
    return torch.rand(4, NUM_SENSORS, generator=torch.Generator().manual_seed(6)) < 0.1


@pytest.mark.parametrize("options", [{}, {"outer_mode": "split"}, {"outer_pool": None}, {"layout": "legacy"}])
def test_all_sensors_get_a_guess_of_their_own(make_inpainter, events, mask, options):
    with torch.no_grad():
        guess = make_inpainter(**options)(events, mask)
    assert guess.shape == events.shape
    assert torch.isfinite(guess).all()
    tubes = guess[0, sensor_face() == 3, 0]
    assert len(tubes.unique()) == len(tubes) == 234  # tubes, not pixels of an image that several share


def test_hidden_values_do_not_show_through(make_inpainter, events, mask):
    model = make_inpainter()
    other = torch.where((mask & valid_sensors(events, NORM))[..., None], torch.rand_like(events) * 3, events)
    with torch.no_grad():
        assert torch.equal(model(events, mask), model(other, mask))


def test_dead_in_the_file_and_hidden_by_hand_are_the_same(make_inpainter, events):
    model, dead = make_inpainter(), ~valid_sensors(events, NORM)
    with torch.no_grad():
        assert torch.equal(model(events, dead), model(events, torch.zeros_like(dead)))


def test_an_untrained_head_gives_the_mean_of_the_neighbours(make_inpainter, events, mask):
    with torch.no_grad():
        guess = make_inpainter(trained=False)(events, mask)
    visible = ~mask & valid_sensors(events, NORM)
    seen = torch.where(visible, events[..., 0], torch.nan).numpy()
    expected = neighbor_mean(seen)
    np.testing.assert_allclose(guess[..., 0], expected, rtol=1e-4, atol=1e-5)


def test_a_gain_multiplies_the_own_counts_and_divides_those_the_neighbours_see(make_inpainter):
    model = make_inpainter(trained=False)
    bright, beside = int(inner_index_map()[40, 20]), int(inner_index_map()[40, 21])
    x = NORM.apply_torch(torch.full((1, NUM_SENSORS), 800.0), torch.full((1, NUM_SENSORS), 1e-8))
    mask = torch.zeros(1, NUM_SENSORS, dtype=torch.bool)
    mask[0, bright] = True
    with torch.no_grad():
        model.log_gain[bright] = np.log(1.25)
        assert NORM.denormalize_npho(model(x, mask)[0, bright, 0]).item() == pytest.approx(1000, rel=1e-3)
        model.log_gain[bright], model.log_gain[beside] = 0.0, np.log(2.0)
        light = model.neighbors(
            torch.stack([NORM.rescale_npho(x[..., 0], (-model.log_gain).exp()), x[..., 1]], -1), ~mask
        )
        assert torch.allclose(model(x, mask)[0, bright], light[0, bright], atol=1e-5)
        assert NORM.denormalize_npho(model(x, mask)[0, bright, 0]).item() < 780


def test_a_hole_is_filled_from_the_ring_around_it():
    x = torch.full((1, NUM_SENSORS, 2), 0.5)
    usable = torch.ones(1, NUM_SENSORS, dtype=torch.bool)
    usable[0, inner_index_map()[39:42, 19:22].ravel().copy()] = False
    assert NeighborMean(-1.0)(x, usable)[0, int(inner_index_map()[40, 20]), 0] == 0.5


def test_neighbour_times_are_of_those_that_have_one():
    x = torch.full((1, NUM_SENSORS, 2), 0.5)
    x[..., 1] = -1.0
    centre, timed = int(inner_index_map()[40, 20]), int(inner_index_map()[41, 20])
    x[0, timed, 1] = 0.25
    mean = NeighborMean(-1.0)(x, torch.ones(1, NUM_SENSORS, dtype=torch.bool))
    assert mean[0, centre].tolist() == [0.5, 0.25]


@pytest.mark.parametrize("options", [{}, {"outer_mode": "split"}, {"outer_pool": None}])
def test_a_tube_attends_to_the_cells_that_show_it(make_encoder, options):
    encoder = make_encoder(**options)
    ids, cells = nearest_cells(encoder, 9)
    assert sorted(ids.tolist()) == sorted(face_ids("outer").tolist())
    x = torch.full((1, NUM_SENSORS, 2), 0.1)
    base, _ = encoder.outer(x)
    for tube in (4092, 4307, 4185, 4742, 4759, 4200 - 50):
        bright = x.clone()
        bright[0, tube, 0] = 0.9
        changed = (encoder.outer(bright)[0] - base).abs().sum(-1).flatten()
        shown = np.flatnonzero(changed >= 0.99 * changed.max())
        assert set(shown) & set(cells[list(ids).index(tube)])


def test_gradients_reach_every_part(make_inpainter, events, mask):
    model = make_inpainter()
    model(events, mask)[mask].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
