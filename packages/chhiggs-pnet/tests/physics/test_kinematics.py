"""Boosts, axes and coordinates against their definitions."""

import numpy as np
import pytest

from chhiggs_pnet.physics import kinematics as k


def random_momenta(num: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mass = rng.uniform(0.0, 200.0, num)
    p = k.four_momentum(rng.exponential(50.0, num), rng.normal(0, 2, num), rng.uniform(-3, 3, num), mass)
    return p, mass


def test_boost_keeps_masses_and_scalar_products() -> None:
    p, mass = random_momenta()
    frame, frame_mass = p[:, ::-1], mass[::-1] + 1.0
    frame = np.concatenate([np.sqrt(frame_mass**2 + np.sum(frame[1:] ** 2, axis=0))[None], frame[1:]])
    moved = k.boost(p, frame, frame_mass)
    np.testing.assert_allclose(k.mass(moved), mass, rtol=1e-5, atol=1e-2)
    rest = np.zeros_like(frame)
    rest[0] = frame_mass
    np.testing.assert_allclose(k.boost(rest, frame, frame_mass), frame, rtol=1e-12, atol=1e-9)


def test_coordinates_invert_each_other() -> None:
    p, mass = random_momenta()
    again = k.four_momentum(k.pt(p), k.eta(p), k.phi(p), mass)
    np.testing.assert_allclose(again, p, rtol=1e-9, atol=1e-9)


def test_transverse_axes_are_an_orthonormal_frame() -> None:
    axis = k.isotropic_directions(np.random.default_rng(0), 500)
    axis[:, 0] = (0.0, 0.0, -1.0)
    frame = np.stack([axis, *k.transverse_axes(axis)])
    product = np.einsum("ain,bin->abn", frame, frame)
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(3)[..., None], product.shape), atol=1e-12)


def test_breakup_momentum_by_hand() -> None:
    assert k.breakup_momentum(10.0, 0.0, 0.0) == pytest.approx(5.0)
    assert k.breakup_momentum(10.0, 6.0, 0.0) == pytest.approx(3.2)
    assert k.breakup_momentum(10.0, 6.0, 5.0) == 0.0


def test_angles_wrap_and_distances_go_the_short_way() -> None:
    np.testing.assert_allclose(k.wrap_phi([0.5, 3.5, -3.5]), [0.5, 3.5 - 2 * np.pi, 2 * np.pi - 3.5])
    assert k.wrap_phi(np.pi) == -np.pi
    one, zero = np.array(3.0), np.array(0.0)
    assert k.delta_r2(zero, one, zero, -one) == pytest.approx((2 * np.pi - 6) ** 2)


def test_system_momentum_has_mass_and_rapidity() -> None:
    p = k.system_momentum(np.array([100.0]), np.array([1.2]), np.array([30.0]), np.array([-40.0]))
    assert k.mass(p)[0] == pytest.approx(100.0)
    assert np.arctanh(p[3] / p[0])[0] == pytest.approx(1.2)
    assert k.pt(p)[0] == pytest.approx(50.0)
