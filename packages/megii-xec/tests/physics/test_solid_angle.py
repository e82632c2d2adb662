import numpy as np
import pytest
from scipy import integrate

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics import solid_angle as sa


def points_in_xenon(num, seed=0):
    rng = np.random.default_rng(seed)
    candidates = np.stack([rng.uniform(-107, -25, 20 * num), rng.uniform(-100, 100, 20 * num),
                           rng.uniform(-48, 48, 20 * num)], axis=1)  # fmt: skip
    return candidates[geo.inside_xenon(candidates)][:num]


def all_exact(point):
    return sa.exact_solid_angle(np.repeat(point[None], geo.NUM_SENSORS, axis=0), np.arange(geo.NUM_SENSORS))


@pytest.mark.parametrize("d", [0.2, 1.0, 7.0, 60.0])
def test_disc_on_axis(d):
    exact = 2 * np.pi * (1 - d / np.hypot(d, 2.25))
    assert sa.disc_solid_angle(np.array(0.0), np.array(d)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("rho", "d"), [(1.0, 0.5), (2.25, 1.0), (4.0, 0.7), (10.0, 3.0)])
def test_disc_off_axis_matches_direct_integration(rho, d):
    def integrand(phi, r):
        return r * d / (r * r + rho * rho - 2 * r * rho * np.cos(phi) + d * d) ** 1.5

    exact, _ = integrate.dblquad(integrand, 0, 2.25, 0, 2 * np.pi)
    assert sa.disc_solid_angle(np.array(rho), np.array(d)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("point", [(0.0, 0.0, 0.3), (0.5, -0.4, 1.0), (2.0, 3.0, 0.8), (-6.0, 1.0, 5.0)])
def test_mppc_matches_direct_integration(point):
    x, y, d = point
    exact = 0.0
    for x0 in (-0.615, 0.025):
        for y0 in (-0.615, 0.025):
            part, _ = integrate.dblquad(
                lambda b, a: d / ((a - x) ** 2 + (b - y) ** 2 + d * d) ** 1.5, x0, x0 + 0.59, y0, y0 + 0.59
            )
            exact += part
    assert sa.mppc_solid_angle(*(np.array(c) for c in point)) == pytest.approx(exact, rel=1e-6)


def test_mppc_close_up_is_half_of_space_over_a_chip():
    omega = sa.mppc_solid_angle(np.array([0.32, 0.0]), np.array([0.32, 0.0]), np.array([1e-5, 1e-5]))
    np.testing.assert_allclose(omega, [2 * np.pi, 0], atol=1e-3)  # over a chip; over the gap


def test_points_behind_see_nothing():
    zero = np.zeros(2)
    behind = np.array([0.0, -1.0])
    np.testing.assert_array_equal(sa.mppc_solid_angle(zero, zero, behind), 0)
    np.testing.assert_array_equal(sa.disc_solid_angle(zero, behind), 0)


def test_far_field_is_area_times_cosine_over_distance_squared():
    point = np.array([-85.0, 3.0, 5.0])
    distance, omega = sa.sensor_view(point[None])
    offset = point - geo.sensor_positions()
    cosine = np.sum(offset * geo.sensor_normals(), axis=1) / np.linalg.norm(offset, axis=1)
    np.testing.assert_allclose(distance[0], np.linalg.norm(offset, axis=1), rtol=1e-6)
    far = (distance[0] > 45) & (omega[0] > 0)
    assert far.sum() > 300
    expected = geo.sensor_area() * cosine / distance[0] ** 2
    np.testing.assert_allclose(omega[0, far], expected[far], rtol=5e-3)


def test_fast_view_is_exact_to_a_thousandth():
    points = points_in_xenon(40)
    _, omega = sa.sensor_view(points)
    for point, fast in zip(points, omega, strict=True):
        seen = fast > 0
        np.testing.assert_allclose(fast[seen], all_exact(point)[seen], rtol=1e-3)


def test_view_stays_finite_next_to_the_sensors():
    near = geo.sensor_positions() + 1e-3 * geo.sensor_normals()
    _, omega = sa.sensor_view(near[::97])
    assert np.isfinite(omega).all()
    assert omega.min() >= 0
    assert omega.max() <= 2 * np.pi


def test_monte_carlo_rays_hit_the_inner_sensors_as_often_as_their_solid_angle_says():
    point = co.uvw_to_xyz(np.array([1.0, 5.0, 4.0]))
    rng = np.random.default_rng(2)
    num = 200_000
    rays = rng.standard_normal((num, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    sensors = np.argsort(np.linalg.norm(geo.sensor_positions() - point, axis=1))[:60]
    hits = 0
    for sensor in sensors:
        center, normal = geo.sensor_positions()[sensor], geo.sensor_normals()[sensor]
        toward = rays @ normal
        t = ((center - point) @ normal) / np.where(toward < 0, toward, np.nan)
        offset = point + t[:, None] * rays - center
        side = np.abs([offset[:, 2], normal[0] * offset[:, 1] - normal[1] * offset[:, 0]])
        hits += ((side > 0.025) & (side < 0.615)).all(axis=0).sum()
    expected = float(sa.sensor_view(point[None])[1][0, sensors].sum()) / (4 * np.pi)
    assert hits / num == pytest.approx(expected, abs=4 * np.sqrt(expected / num))


def test_sensors_cover_less_than_their_share_of_the_sphere():
    _, omega = sa.sensor_view(points_in_xenon(200, seed=5))
    total = omega.sum(axis=1) / (4 * np.pi)
    assert total.max() < 0.9
    assert total.min() > 0.02  # in a corner between large tubes
    for face in geo.FACES:
        assert omega[:, geo.face_ids(face)].sum(axis=1).max() < 2 * np.pi
    inner = omega[:, : geo.NUM_MPPC].sum(axis=1)
    assert (
        inner.max() < 2 * np.pi * 0.7
    )  # half of space times the packing fraction, 0.61, and its fluctuation


def test_bore_hides_tubes_on_the_other_side():
    top = co.uvw_to_xyz(np.array([[0.0, 70.0, 2.0]]))
    hidden = sa.in_shadow(top)[0]
    bottom = geo.bottom_ids() - geo.NUM_MPPC
    assert hidden[bottom[:11]].all()  # the row at the bore
    assert not hidden[geo.top_ids() - geo.NUM_MPPC].any()
    assert (sa.sensor_view(top)[1][0, geo.bottom_ids()[:11]] == 0).all()


def test_shadow_agrees_with_points_along_the_line():
    points = points_in_xenon(20, seed=7)
    hidden = sa.in_shadow(points)
    step = np.linspace(0, 1, 2001)[:, None]
    for point, row in zip(points, hidden, strict=True):
        for sensor in range(0, 668, 53):
            line = point + step * (geo.sensor_positions()[geo.NUM_MPPC + sensor] - point)
            margin = np.hypot(line[:, 0], line[:, 1]).min() - geo.R_LXE_MIN_CM
            if abs(margin) > 0.01:
                assert row[sensor] == (margin < 0)
