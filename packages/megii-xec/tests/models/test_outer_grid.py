"""The image of the outer face: geometry, counts, times, missing tubes."""

import numpy as np
import pytest
import torch

from megii_xec.data.normalization import Normalization
from megii_xec.models.outer_grid import OuterGrid, outer_matrix, pixel_areas
from megii_xec.physics.geometry import (
    CENTRAL_COARSE_IDS,
    NUM_SENSORS,
    OUTER_FINE_SHAPE,
    face_ids,
    outer_coarse_index_map,
    outer_fine_index_map,
    sensor_positions,
)

NORMALIZATION = Normalization(scheme="new")


def grid(**options):
    return OuterGrid(**{"rescale_npho": NORMALIZATION.rescale_npho, **options})


def normalized(counts: np.ndarray, times: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(NORMALIZATION.apply(counts, times))


def test_every_tube_has_one_place_in_the_corrected_layout():
    matrix, ids, areas = outer_matrix(None, "corrected")
    assert sorted(ids) == sorted(face_ids("outer"))
    np.testing.assert_allclose(matrix.sum(0), areas)
    assert (areas == 6).sum() == 30
    assert (areas == 15).sum() == 204


def test_the_legacy_layout_loses_twelve_tubes_and_repeats_the_central_ones():
    _, ids, areas = outer_matrix(None, "legacy")
    lost = set(face_ids("outer")) - set(ids)
    assert lost == {*range(4174, 4178), *range(4198, 4202), *range(4222, 4226)}
    assert set(ids[areas == 15]) & set(ids[areas == 6]) == set(CENTRAL_COARSE_IDS)


def test_neighbouring_pixels_are_neighbours_in_the_detector():
    def largest_step(layout):
        xyz = sensor_positions()[outer_fine_index_map(layout)]
        return max(np.linalg.norm(np.diff(xyz, axis=axis), axis=-1).max() for axis in (0, 1))

    assert largest_step("corrected") < 13.0
    assert largest_step("legacy") > 80.0


@pytest.mark.parametrize(
    ("pool", "shape"), [(None, (45, 72)), ((3, 3), (15, 24)), ((2, 2), (22, 36)), ((5, 3), (9, 24))]
)
def test_shape_and_weights(pool, shape):
    layer = grid(pool=pool)
    assert layer(torch.zeros(2, NUM_SENSORS, 2))[0].shape == (2, *shape, 2)
    np.testing.assert_allclose(layer.cells.sum(0), 1.0, rtol=1e-6)


def test_counts_are_divided_by_the_area_before_the_normalisation():
    counts = np.full((1, NUM_SENSORS), 3000.0)
    image, _ = grid(pool=None)(normalized(counts, np.zeros((1, NUM_SENSORS))))
    pixels = NORMALIZATION.denormalize_npho(image[0, ..., 0].double())
    torch.testing.assert_close(pixels, torch.from_numpy(3000.0 / pixel_areas()), rtol=1e-4, atol=0)
    np.testing.assert_allclose(float(pixels.sum()), 234 * 3000.0, rtol=1e-4)  # light is conserved


def test_a_dead_tube_shows_the_sentinel_and_leaves_its_neighbours_alone():
    counts, times = np.full((1, NUM_SENSORS), 3000.0), np.full((1, NUM_SENSORS), 2e-8)
    healthy, _ = grid(pool=None)(normalized(counts, times))
    dead = outer_coarse_index_map()[0, 0]
    counts[0, dead] = 1e10
    image, _ = grid(pool=None)(normalized(counts, times))
    assert (image[0, :5, :3] == -1.0).all()
    torch.testing.assert_close(image[0, 5:], healthy[0, 5:])
    torch.testing.assert_close(image[0, :5, 3:], healthy[0, :5, 3:])


def test_pooled_values_are_means_of_valid_tubes_only():
    counts, times = np.full((1, NUM_SENSORS), 3000.0), np.full((1, NUM_SENSORS), 2e-8)
    healthy, _ = grid(pool=(3, 3))(normalized(counts, times))
    counts[0, outer_coarse_index_map()[0, 0]] = 1e10
    image, _ = grid(pool=(3, 3))(normalized(counts, times))
    assert (image[0, 0, 0] == -1.0).all()  # only the dead tube
    torch.testing.assert_close(image[0, 1, 0], healthy[0, 1, 0])  # two rows of it, one of the next
    legacy = OuterGrid((3, 3), area_scaling="legacy")(normalized(counts, times))[0]
    assert -0.07 < legacy[0, 0, 0, 0] < 0  # the dead tube looks alive


def test_a_cell_is_visible_if_any_of_its_tubes_is():
    layer = grid(pool=(3, 3))
    x = torch.zeros(1, NUM_SENSORS, 2)
    visible = torch.zeros(1, NUM_SENSORS, 1)
    visible[0, outer_coarse_index_map()[0, 0]] = 1
    _, seen = layer(x, visible)
    assert seen[0, ..., 0].nonzero().tolist() == [[0, 0], [1, 0]]


def test_a_sentinel_of_zero_counts_as_no_light():
    layer = grid(pool=(3, 3), sentinel_npho=0.0)
    assert (layer(torch.zeros(1, NUM_SENSORS, 2))[0][..., 0] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rescale_npho": None}, "needs rescale_npho, for example Normalization.rescale_npho"),
        ({"area_scaling": "none"}, "area_scaling is 'none'; use one of raw, legacy"),
        ({"pool": (0, 3)}, "outer_pool is .0, 3."),
        ({"pool": (46, 3)}, f"between .1, 1. and .{OUTER_FINE_SHAPE[0]}, {OUTER_FINE_SHAPE[1]}."),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        grid(**options)
