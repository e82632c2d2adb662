import numpy as np
import pytest

from lhcb_extrap.physics.field_properties import bending_integral_t_m
from lhcb_extrap.physics.jacobian import rk4_with_jacobian, transport_covariance
from lhcb_extrap.physics.runge_kutta import rk4

Z0, DZ, STEP = 3000.0, 4000.0, 200.0
DELTAS = (1e-2, 1e-2, 1e-5, 1e-5, 1e-8)  # mm, mm, 1, 1, 1/MeV


def by_differences(field, start, qop):
    columns = []
    for column, delta in enumerate(DELTAS):
        ends = []
        for sign in (1, -1):
            state, charge = start.copy(), qop.copy()
            if column < 4:
                state[:, column] += sign * delta
            else:
                charge += sign * delta
            ends.append(rk4(field, state, charge, Z0, DZ, step_mm=STEP).state)
        columns.append((ends[0] - ends[1]) / (2 * delta))
    return np.stack(columns, axis=-1)


def test_jacobian_is_the_derivative_of_the_propagation(coils, tracks):
    start, qop = tracks.start[:20], tracks.qop[:20]
    result, jacobian = rk4_with_jacobian(coils, start, qop, Z0, DZ, step_mm=STEP)
    np.testing.assert_allclose(result.state, rk4(coils, start, qop, Z0, DZ, step_mm=STEP).state, rtol=1e-12)
    expected = by_differences(coils, start, qop)
    scale = np.abs(expected).max(axis=0)
    assert (np.abs(jacobian - expected) <= 2e-6 * scale + 1e-12).all()


def test_jacobian_in_a_map(field_map, tracks):
    """In a map the derivative jumps at cell borders, so differences agree only for most tracks."""
    start, qop = tracks.start[:20], tracks.qop[:20]
    _, jacobian = rk4_with_jacobian(field_map, start, qop, Z0, DZ, step_mm=STEP)
    expected = by_differences(field_map, start, qop)
    scale = np.abs(expected).max(axis=0)
    assert np.median(np.abs(jacobian - expected) / scale) < 1e-5


def test_dimensions_and_sizes(coils, tracks):
    """A free flight has dx/dtx = dz, and on the axis dtx/dqop is 0.2998 times the bending integral."""
    start = tracks.start[:5].copy()
    start[0] = 0.0
    _, free = rk4_with_jacobian(coils, start, np.zeros(5), Z0, DZ, step_mm=STEP)
    np.testing.assert_allclose(free[:, 0, :4], np.tile([1.0, 0.0, DZ, 0.0], (5, 1)), atol=1e-9)
    np.testing.assert_allclose(free[:, 2, 2], 1.0)
    kick_mev = -0.299792458e3 * bending_integral_t_m(coils, Z0, Z0 + DZ)
    assert free[0, 2, 4] == pytest.approx(kick_mev, rel=1e-5)
    assert kick_mev == pytest.approx(990.8, abs=0.1)


def test_lost_tracks_have_no_jacobian(coils, tracks):
    qop = tracks.qop[:2].copy()
    qop[0] = 1 / 400.0
    result, jacobian = rk4_with_jacobian(coils, tracks.start[:2], qop, Z0, DZ, step_mm=STEP)
    assert list(result.ok) == [False, True]
    assert np.isnan(jacobian[0]).all()
    assert np.isfinite(jacobian[1]).all()


def test_covariance_transport_is_that_of_a_cloud(coils, tracks):
    start, qop = tracks.start[3], tracks.qop[3]
    sigma = np.array([0.05, 0.05, 2e-5, 2e-5, 1e-3 * abs(qop)])
    rng = np.random.default_rng(0)
    cloud = rng.normal(0, 1, (4000, 5)) * sigma
    ends = rk4(coils, start + cloud[:, :4], qop + cloud[:, 4], Z0, DZ, step_mm=500.0).state
    _, jacobian = rk4_with_jacobian(coils, start[None], np.array([qop]), Z0, DZ, step_mm=STEP)
    covariance = transport_covariance(jacobian, np.diag(sigma**2)[None])[0]
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)[:4]), ends.std(axis=0), rtol=0.05)
    assert covariance[4, 4] == pytest.approx(sigma[4] ** 2)
