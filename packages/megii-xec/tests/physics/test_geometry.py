import numpy as np
import pytest

from megii_xec.physics import geometry as geo
from megii_xec.physics.coordinates import xyz_to_uvw

# Rows of the experiment's nominal position table, cm.
NOMINAL = {
    4182: (-105.275, 14.5052, -41.424),
    4185: (-105.043, 16.105, -12.4),  # shared with the centre patch, so off the coarse grid
    4204: (-106.221, -3.23297, 0.0),
    4307: (-52.9019, -92.1667, 41.424),
    4308: (-34.6125, 60.3025, -35.1547),
    4361: (-97.7405, 32.3341, -46.8392),
    4451: (-51.2492, -89.2873, -46.8392),
    4528: (-96.1658, -4.39209, 44.5023),
    4596: (-31.2485, 60.6987, -30.6),
    4668: (-47.0626, 91.417, 39.78),
    4715: (-43.8998, -85.2733, -36.72),
    4746: (-105.828, 9.68694, 0.0),
    4759: (-105.043, -16.105, 6.2),
}


def grid_steps(index_map):
    """Distances between neighbours on a grid of sensors, cm."""
    grid = geo.sensor_positions()[index_map]
    return [np.linalg.norm(np.diff(grid, axis=axis), axis=-1) for axis in (0, 1)]


def test_positions_agree_with_nominal_table():
    ids = list(NOMINAL)
    np.testing.assert_allclose(geo.sensor_positions()[ids], list(NOMINAL.values()), atol=5e-4)


def test_inner_face_grid():
    phi_step, z_step = grid_steps(geo.inner_index_map())
    np.testing.assert_allclose(z_step, 1.509767, atol=1e-9)
    np.testing.assert_allclose(phi_step, 2 * 64.97 * np.sin(np.deg2rad(1.349674 / 2)), atol=1e-9)
    positions = geo.sensor_positions()[geo.inner_index_map()]
    np.testing.assert_allclose(positions[0, 0, 2], -32.46)
    np.testing.assert_allclose(np.rad2deg(np.arctan2(positions[0, 0, 1], positions[0, 0, 0])), 117.915)


def test_every_sensor_belongs_to_one_face_and_kind():
    counts = np.bincount(geo.sensor_face(), minlength=6)
    assert dict(zip(geo.FACES, counts.tolist(), strict=True)) == {
        "inner": 4092, "us": 144, "ds": 144, "outer": 234, "top": 73, "bottom": 73,
    }  # fmt: skip
    assert geo.is_mppc().sum() == 4092
    np.testing.assert_array_equal(np.unique(geo.sensor_area()), [4 * 0.59**2, np.pi * 2.25**2])


def test_index_maps_cover_all_sensors_once():
    maps = [
        geo.inner_index_map(), geo.us_index_map(), geo.ds_index_map(),
        geo.outer_coarse_index_map(), geo.top_ids(), geo.bottom_ids(),
    ]  # fmt: skip
    assert [m.shape for m in maps] == [(93, 44), (24, 6), (24, 6), (9, 24), (73,), (73,)]
    ids = np.concatenate([m.ravel() for m in maps] + [np.arange(4742, 4760)])
    np.testing.assert_array_equal(np.sort(ids), np.arange(4760))


def test_corrected_outer_map_follows_the_positions():
    coarse = geo.outer_coarse_index_map("corrected")
    positions = geo.sensor_positions()[coarse]
    on_grid = ~np.isin(coarse, geo.CENTRAL_COARSE_IDS)
    np.testing.assert_allclose(
        positions[..., 2][on_grid], np.repeat(-41.424 + 10.356 * np.arange(9), 24)[on_grid.ravel()]
    )
    z_step, phi_step = grid_steps(coarse)
    both = [on_grid[1:] & on_grid[:-1], on_grid[:, 1:] & on_grid[:, :-1]]
    assert z_step[both[0]].max() < 10.4
    assert phi_step[both[1]].max() < 9.7
    assert max(z_step.max(), phi_step.max()) < 13  # the 12 shared tubes moved onto the centre grid


def test_legacy_outer_map_puts_distant_tubes_side_by_side():
    legacy = geo.outer_coarse_index_map("legacy")
    np.testing.assert_array_equal(legacy, np.arange(4092, 4308).reshape(9, 24))
    _, phi_step = grid_steps(legacy)
    assert phi_step.max() == pytest.approx(83.41, abs=0.01)


def test_outer_center_map():
    center = geo.outer_center_index_map()
    assert center.shape == (5, 6)
    assert len(geo.CENTRAL_COARSE_IDS) == 12
    shared = center[center < 4742]
    np.testing.assert_array_equal(np.sort(shared), sorted(geo.CENTRAL_COARSE_IDS))
    np.testing.assert_array_equal(np.sort(center[center >= 4742]), np.arange(4742, 4760))
    z_step, phi_step = grid_steps(center)
    np.testing.assert_allclose(z_step, 6.2)
    np.testing.assert_allclose(phi_step, 6.466, atol=1e-3)


def test_fine_grid_shows_every_outer_tube_for_its_area():
    fine = geo.outer_fine_index_map("corrected")
    assert fine.shape == geo.OUTER_FINE_SHAPE == (45, 72)
    ids, pixels = np.unique(fine, return_counts=True)
    np.testing.assert_array_equal(ids, geo.face_ids("outer"))
    center = np.isin(ids, geo.outer_center_index_map())
    assert set(pixels[~center]) == {15}
    assert set(pixels[center]) == {6}
    # The overlay is exactly the block of coarse cells that it replaces.
    coarse = np.kron(geo.outer_coarse_index_map(), np.ones((5, 3), dtype=int))
    replaced = coarse[geo.OUTER_CENTER_ROWS, geo.OUTER_CENTER_COLS]
    assert replaced.shape == (15, 12)
    np.testing.assert_array_equal(np.unique(replaced), sorted(geo.CENTRAL_COARSE_IDS))


def test_legacy_fine_grid_loses_twelve_tubes():
    lost = np.setdiff1d(geo.face_ids("outer"), geo.outer_fine_index_map("legacy"))
    np.testing.assert_array_equal(
        lost, [4174, 4175, 4176, 4177, 4198, 4199, 4200, 4201, 4222, 4223, 4224, 4225]
    )


def test_hex_rows():
    rows = geo.hex_rows()
    assert [len(row) for row in rows] == [11, 12, 11, 12, 13, 14]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(73))
    first_z = [geo.sensor_positions()[geo.top_ids()[row[0]], 2] for row in rows]
    np.testing.assert_allclose(first_z, [-30.6, -33.66, -30.6, -33.66, -36.72, -39.78])


@pytest.mark.parametrize("ids", [geo.top_ids(), geo.bottom_ids()], ids=["top", "bottom"])
def test_corrected_hex_edges_are_the_touching_pairs(ids):
    positions = geo.sensor_positions()[ids]
    source, destination, kind = geo.hex_edges("corrected")
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    touching = np.argwhere((distance > 0) & (distance < 8))
    assert len(touching) == 366
    assert geo.hex_edges("corrected").shape == (3, 439)
    edges = np.stack([source, destination], axis=1)[kind > 0]
    np.testing.assert_array_equal(edges[np.lexsort(edges.T[::-1])], touching)
    np.testing.assert_allclose(distance[source, destination][(kind == 1) | (kind == 2)], 6.12)
    np.testing.assert_allclose(distance[source, destination][kind > 2], 7.557, atol=1e-3)


def test_hex_edge_type_is_one_direction():
    positions = geo.sensor_positions()[geo.top_ids()]
    source, destination, kind = geo.hex_edges("corrected")
    step = positions[destination] - positions[source]
    radial = np.hypot(*positions[destination, :2].T) - np.hypot(*positions[source, :2].T)
    expected = {
        1: (0, -6.12),
        2: (0, 6.12),
        3: (-6.91, -3.06),
        4: (-6.91, 3.06),
        5: (6.91, -3.06),
        6: (6.91, 3.06),
    }
    for number, (dr, dz) in expected.items():
        np.testing.assert_allclose(radial[kind == number], dr, atol=1e-9)
        np.testing.assert_allclose(step[kind == number, 2], dz, atol=1e-9)


@pytest.mark.parametrize("layout", ["corrected", "legacy"])
def test_hex_edges_are_symmetric(layout):
    source, destination, kind = geo.hex_edges(layout)
    types = {(s, d): k for s, d, k in zip(source.tolist(), destination.tolist(), kind.tolist(), strict=True)}
    assert len(types) == len(kind)
    opposite = {0: 0, 1: 2, 2: 1, 3: 6, 6: 3, 4: 5, 5: 4}
    for (s, d), k in types.items():
        assert (d, s) in types
        if layout == "corrected":
            assert types[d, s] == opposite[k]


def test_legacy_hex_edges():
    positions = geo.sensor_positions()[geo.top_ids()]
    source, destination, kind = geo.hex_edges("legacy")
    assert (kind > 0).sum() == 358
    assert len(kind) == 431
    distance = np.linalg.norm(positions[source] - positions[destination], axis=1)[kind > 0]
    assert (distance < 8).sum() == 274
    np.testing.assert_allclose(distance[distance > 8], 11.49, atol=0.01)


@pytest.mark.parametrize("layout", ["corrected", "legacy"])
def test_hex_neighbors_hold_every_edge(layout):
    table = geo.hex_neighbors(layout)
    assert table.shape == (73, 7)
    np.testing.assert_array_equal(table[:, 0], np.arange(73))
    edges = {(int(table[n, t]), n, t) for n, t in np.argwhere(table >= 0).tolist()}
    assert edges == {tuple(edge) for edge in geo.hex_edges(layout).T.tolist()}


def test_normals_point_into_the_xenon():
    normals, positions = geo.sensor_normals(), geo.sensor_positions()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    assert geo.inside_xenon(positions + 0.01 * normals).all()
    behind = positions - 0.2 * normals  # the cold wall is 0.13 cm behind the inner sensors
    assert not geo.inside_xenon(behind).any()


def test_normals_are_perpendicular_to_the_faces():
    normals, positions = geo.sensor_normals(), geo.sensor_positions()
    for index_map in (geo.us_index_map(), geo.ds_index_map()):
        along_radius = np.diff(positions[index_map], axis=1)
        np.testing.assert_allclose(np.sum(along_radius * normals[index_map][:, :-1], axis=-1), 0, atol=1e-9)
    for ids in (geo.top_ids(), geo.bottom_ids()):
        offsets = positions[ids] - positions[ids[0]]
        np.testing.assert_allclose(offsets @ normals[ids[0]], 0, atol=1e-9)
    tilt = np.rad2deg(np.arctan(geo.END_SLOPE))
    assert tilt == pytest.approx(19.27, abs=0.01)


def test_envelope():
    radius = np.hypot(*geo.sensor_positions()[:, :2].T)
    assert radius.min() == pytest.approx(64.97)
    assert radius.max() == pytest.approx(106.27)
    assert geo.R_LXE_MIN_CM == 64.84
    assert pytest.approx(125.52) == geo.PHI_MAX_DEG - geo.PHI_MIN_DEG
    assert 2 * geo.half_length(np.array(64.84)) == pytest.approx(67.03)
    assert 2 * geo.half_length(np.array(106.27)) == pytest.approx(96.0, abs=0.01)
    # The slope of the ends passes through the sensors of the us and ds faces.
    ends = geo.sensor_positions()[geo.ds_index_map()]
    np.testing.assert_allclose(geo.half_length(np.hypot(ends[..., 0], ends[..., 1])), ends[..., 2], atol=1e-2)


def test_sensor_v_and_fiducial_range():
    uvw = xyz_to_uvw(geo.sensor_positions())
    assert np.abs(uvw[:, 1]).max() == pytest.approx(np.deg2rad(62.76) * 64.97)
    points = np.array([[0, 0, 0], [23.8, -67.8, 30], [24, 0, 1], [0, 68, 1], [0, 0, -0.1]], dtype=float)
    assert geo.in_fiducial(points).tolist() == [True, True, False, False, False]


def test_arrays_are_read_only():
    for array in (geo.sensor_positions(), geo.sensor_normals(), geo.inner_index_map(), geo.hex_neighbors()):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
