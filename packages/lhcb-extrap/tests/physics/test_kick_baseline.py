import numpy as np
import pytest
import torch

from lhcb_extrap.physics.field_properties import FieldIntegral
from lhcb_extrap.physics.kick_baseline import (
    apply_correction,
    canonicalize,
    correction_from_states,
    kick_baseline,
    plane_baseline,
)
from lhcb_extrap.physics.plane_fields import NODES, TERMS, PlaneFields
from lhcb_extrap.physics.runge_kutta import rk4

Z0, DZ = 3000.0, 4000.0


class AxisField:
    """By(z) of the beam axis everywhere: what the baseline describes exactly."""

    def __init__(self, coils):
        self.coils = coils

    def __call__(self, x, y, z):
        by = self.coils(np.zeros_like(z), np.zeros_like(z), z)[1]
        return np.zeros_like(by), by, np.zeros_like(by)


@pytest.fixture(scope="module")
def integral(coils):
    return FieldIntegral.along_beam(coils)


def baseline_of(tracks, integral, qop=None):
    num = len(tracks.qop)
    qop = tracks.qop if qop is None else qop
    return kick_baseline(tracks.start, qop, np.full(num, Z0), np.full(num, DZ), integral)


def test_direction_is_exact_in_a_pure_by(coils, tracks, integral):
    end = rk4(AxisField(coils), tracks.start, tracks.qop, Z0, DZ, step_mm=20.0).state
    baseline = baseline_of(tracks, integral)
    cosine = 1 / np.sqrt(1 + end[:, 2] ** 2 + end[:, 3] ** 2)
    assert np.abs(baseline.u_end - end[:, 2] * cosine).max() < 1e-8
    assert np.abs(baseline.v_end - end[:, 3] * cosine).max() < 1e-10
    assert np.abs(baseline.w_end - cosine).max() < 1e-8
    # Position up to the quadrature: the bend is 200 mm and more.
    straight = tracks.start[:, 0] + DZ * tracks.start[:, 2]
    bend = np.abs(end[:, 0] - straight)
    assert bend.max() > 200
    assert (np.abs(baseline.x_end - end[:, 0]) < 0.01 * bend + 1e-3).all()
    assert baseline.crosses.all()


def test_exact_for_straight_tracks_whatever_the_correction(tracks, integral):
    num = len(tracks.qop)
    baseline = baseline_of(tracks, integral, np.zeros(num))
    end = apply_correction(baseline, np.random.default_rng(0).normal(0, 10, (num, 4)), np.full(num, DZ))
    np.testing.assert_allclose(end[:, :2], tracks.start[:, :2] + DZ * tracks.start[:, 2:], atol=1e-9)
    np.testing.assert_allclose(end[:, 2:], tracks.start[:, 2:], atol=1e-14)
    np.testing.assert_allclose(baseline.x_mid, tracks.start[:, 0] + DZ / 2 * tracks.start[:, 2], atol=1e-9)


def test_corrections_are_small_and_lead_to_the_true_end(coils, tracks, integral):
    end = rk4(coils, tracks.start, tracks.qop, Z0, DZ, step_mm=50.0).state
    baseline = baseline_of(tracks, integral)
    correction = correction_from_states(baseline, end, np.full(len(end), DZ))
    np.testing.assert_allclose(apply_correction(baseline, correction, np.full(len(end), DZ)), end, rtol=1e-10)
    # The baseline takes most of the bend away: of the order of a tenth of the kick is left.
    assert np.abs(correction).mean() < 0.1


def test_numpy_and_torch_agree_and_gradients_are_finite(tracks, integral):
    num = len(tracks.qop)
    arrays = baseline_of(tracks, integral)
    state = torch.tensor(tracks.start, requires_grad=True)
    qop = torch.tensor(tracks.qop, requires_grad=True)
    z0, dz = (torch.full((num,), value, dtype=torch.float64) for value in (Z0, DZ))
    tensors = kick_baseline(state, qop, z0, dz, integral)
    for name in ("kick", "x_mid", "y_mid", "x_end", "y_end", "u_end", "v_end", "w_end"):
        np.testing.assert_allclose(getattr(tensors, name).detach(), getattr(arrays, name), atol=1e-9)
    apply_correction(tensors, torch.zeros(num, 4, dtype=torch.float64), dz).sum().backward()
    assert torch.isfinite(state.grad).all()
    assert torch.isfinite(qop.grad).all()


def test_particles_that_turn_around_are_marked_and_finite(tracks, integral):
    baseline = baseline_of(tracks, integral, np.full(len(tracks.qop), 1 / 500.0))
    assert not baseline.crosses.any()
    assert all(np.isfinite(getattr(baseline, name)).all() for name in ("x_end", "y_end", "u_end", "w_end"))


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, True), (True, False), (False, True), (False, False)])
def test_reflection_commutes_with_propagation(coils, tracks, flip_x, flip_y):
    end = rk4(coils, tracks.start, tracks.qop, Z0, DZ, step_mm=200.0).state
    state, qop, signs = canonicalize(tracks.start, tracks.qop, flip_x=flip_x, flip_y=flip_y)
    assert (qop >= 0).all() == flip_x
    assert (state[:, 1] >= 0).all() == flip_y
    reflected = rk4(coils, state, qop, Z0, DZ, step_mm=200.0).state
    np.testing.assert_allclose(reflected * signs, end, atol=1e-8)


def test_reflection_is_wrong_in_a_displaced_field(coils, tracks):
    """Why the reflections need a symmetric field: 20 mm of misalignment already cost far more than the
    target."""

    def displaced(x, y, z):
        return coils(x - 20.0, y - 20.0, z)

    end = rk4(displaced, tracks.start, tracks.qop, Z0, DZ, step_mm=200.0).state
    state, qop, signs = canonicalize(tracks.start, tracks.qop, flip_x=True, flip_y=True)
    reflected = rk4(displaced, state, qop, Z0, DZ, step_mm=200.0).state
    assert np.abs(reflected * signs - end)[:, :2].max() > 0.1


def test_zero_charge_and_zero_y_are_left_alone():
    state, qop, signs = canonicalize(
        np.array([[1.0, 0.0, 0.1, -0.1]]), np.array([0.0]), flip_x=True, flip_y=True
    )
    np.testing.assert_array_equal(state, [[1.0, 0.0, 0.1, -0.1]])
    np.testing.assert_array_equal(signs, np.ones((1, 4)))
    assert qop[0] == 0.0


@pytest.fixture(scope="module")
def planes(coils, integral):
    return PlaneFields.fit(coils, integral, Z0, DZ, flip_x=True, flip_y=True)


def test_polynomials_follow_the_field_and_its_symmetries(coils, integral, planes):
    rng = np.random.default_rng(2)
    half = 0.8 * planes.half_mm[:, None, :]
    x, y = (h * rng.uniform(-1, 1, (200, 8)) for h in half)
    z = np.broadcast_to(Z0 + DZ * NODES, x.shape)
    expected = np.stack(coils(x, y, z))
    expected[1] -= coils(0 * x, 0 * y, z)[1]
    found = np.stack(planes.off_axis(x, y))
    assert np.abs(found - expected).max() < 0.02  # T; of 1.04 T
    forbidden = [[i % 2 == 0 or j % 2 == 0, i % 2 or j % 2, i % 2 or j % 2 == 0] for i, j in TERMS]
    assert not planes.coefficients[np.array(forbidden, bool).T].any()
    free = PlaneFields.fit(coils, integral, Z0, DZ, flip_x=False, flip_y=False)
    np.testing.assert_allclose(free.coefficients, planes.coefficients, atol=1e-9)
    outside = planes.off_axis(3 * half[0] * np.ones_like(x), 0 * y)
    np.testing.assert_array_equal(outside, planes.off_axis(4 * half[0] * np.ones_like(x), 0 * y))


def test_baseline_through_the_planes_leaves_little(coils, tracks, integral, planes):
    end = rk4(coils, tracks.start, tracks.qop, Z0, DZ, step_mm=50.0).state
    dz = np.full(len(end), DZ)
    errors = []
    for baseline in (
        baseline_of(tracks, integral),
        plane_baseline(tracks.start, tracks.qop, dz, planes, num_iterations=0),
        plane_baseline(tracks.start, tracks.qop, dz, planes),
    ):
        assert baseline.crosses.all()
        found = apply_correction(baseline, np.zeros((len(end), 4)), dz)
        errors.append(np.hypot(*(found - end)[:, :2].T).mean())
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    assert errors[2] < errors[0] / 30


def test_baseline_through_the_planes_is_exact_without_charge(tracks, planes):
    dz = np.full(len(tracks.qop), DZ)
    baseline = plane_baseline(tracks.start, 0 * tracks.qop, dz, planes)
    end = apply_correction(baseline, np.random.default_rng(0).normal(0, 10, (len(dz), 4)), dz)
    np.testing.assert_allclose(end[:, :2], tracks.start[:, :2] + DZ * tracks.start[:, 2:], atol=1e-9)
    np.testing.assert_allclose(end[:, 2:], tracks.start[:, 2:], atol=1e-14)
    np.testing.assert_allclose(baseline.x_mid, tracks.start[:, 0] + DZ / 2 * tracks.start[:, 2], atol=1e-9)


def test_baseline_through_the_planes_in_torch(tracks, planes):
    dz = np.full(len(tracks.qop), DZ)
    arrays = plane_baseline(tracks.start, tracks.qop, dz, planes)
    state = torch.tensor(tracks.start, requires_grad=True)
    tensors = plane_baseline(state, torch.tensor(tracks.qop), torch.tensor(dz), planes)
    for name in ("kick", "x_mid", "y_mid", "x_end", "y_end", "u_end", "v_end", "w_end"):
        np.testing.assert_allclose(getattr(tensors, name).detach(), getattr(arrays, name), atol=1e-9)
    (tensors.x_end + tensors.y_end + tensors.u_end).sum().backward()
    assert torch.isfinite(state.grad).all()
    turned = plane_baseline(tracks.start, np.full(len(dz), 1 / 300.0), dz, planes)
    assert not turned.crosses.any()
    assert all(np.isfinite(getattr(turned, name)).all() for name in ("x_end", "y_end", "u_end", "w_end"))
