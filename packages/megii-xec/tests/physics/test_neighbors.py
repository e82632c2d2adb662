import numpy as np
import pytest

from megii_xec.physics.geometry import hex_neighbors, inner_index_map, sensor_face, sensor_positions, top_ids
from megii_xec.physics.neighbors import nearest_on_face


def test_neighbours_are_near_and_on_the_same_face():
    table = nearest_on_face(9)
    assert np.array_equal(table[:, 0], np.arange(4760))
    assert (sensor_face()[table] == sensor_face()[:, None]).all()
    assert all(len(set(row)) == 9 for row in table[::97].tolist())
    distance = np.linalg.norm(sensor_positions()[table] - sensor_positions()[:, None], axis=2)
    assert (np.diff(distance, axis=1) > -0.02).all()


def test_inside_the_inner_face_they_are_the_ring():
    grid, table = inner_index_map(), nearest_on_face(9)
    assert set(table[grid[40, 20]]) == set(grid[39:42, 19:22].ravel())


def test_inside_the_hexagons_they_are_the_touching_tubes():
    table, touching = nearest_on_face(7), hex_neighbors()
    inside = np.flatnonzero((touching >= 0).all(axis=1))
    assert len(inside) > 20
    for node in inside:
        assert set(table[top_ids()[node]]) == set(top_ids()[touching[node]])


@pytest.mark.parametrize("num", [0, 74])
def test_numbers_out_of_range_are_refused(num):
    with pytest.raises(ValueError, match="between 1 and 73"):
        nearest_on_face(num)
