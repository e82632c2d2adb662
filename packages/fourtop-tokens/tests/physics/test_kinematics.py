import numpy as np
import pytest

from fourtop_tokens.physics import kinematics as k


def random_momenta(n, mass, seed=0):
    rng = np.random.default_rng(seed)
    return k.four_momentum(rng.exponential(100, n), rng.normal(0, 2, n), rng.uniform(-np.pi, np.pi, n), mass)


def test_collider_coordinates_round_trip():
    rng = np.random.default_rng(1)
    pt, eta, phi = rng.exponential(80, 50) + 1, rng.normal(0, 2, 50), rng.uniform(-np.pi, np.pi, 50)
    p = k.four_momentum(pt, eta, phi, 4.8)
    np.testing.assert_allclose([k.pt(p), k.eta(p), k.phi(p)], [pt, eta, phi], rtol=1e-9)
    np.testing.assert_allclose(k.mass(p), 4.8, rtol=1e-4)


def test_eta_stays_finite_along_the_beam_and_for_nothing():
    along, nothing = np.array([5.0, 0, 0, -5.0])[:, None], np.zeros((4, 1))
    assert k.eta(along)[0] == -20
    assert k.eta(nothing)[0] == 0


@pytest.mark.parametrize(("angle", "wrapped"), [(np.pi, -np.pi), (3 * np.pi / 2, -np.pi / 2), (-0.3, -0.3)])
def test_wrap_phi(angle, wrapped):
    assert k.wrap_phi(angle) == pytest.approx(wrapped)


def test_delta_r_takes_the_short_way_round():
    distance = k.delta_r2(np.array(0.0), np.array(3.1), np.array(0.3), np.array(-3.1))
    assert distance == pytest.approx(0.09 + (2 * np.pi - 6.2) ** 2)


def test_a_boost_keeps_products_and_inverts():
    frame, a, b = random_momenta(20, 90, 1), random_momenta(20, 5, 2), random_momenta(20, 1, 3)
    metric = np.array([1, -1, -1, -1])[:, None]
    boosted_a, boosted_b = k.boost(a, frame), k.boost(b, frame)
    np.testing.assert_allclose(
        (metric * boosted_a * boosted_b).sum(axis=0), (metric * a * b).sum(axis=0), rtol=1e-6
    )
    np.testing.assert_allclose(k.boost(boosted_a, frame * metric), a, rtol=1e-5, atol=1e-6)


def test_a_boost_moves_a_system_from_rest():
    frame = random_momenta(10, 90)
    at_rest = np.zeros((4, 10))
    at_rest[0] = 90
    np.testing.assert_allclose(k.boost(at_rest, frame), frame, rtol=1e-8)


def test_two_body_decay_conserves_momentum_and_masses():
    parent = random_momenta(2000, 125.0)
    first, second = k.two_body_decay(parent, 125.0, 80.4, 20.0, np.random.default_rng(0))
    np.testing.assert_allclose(first + second, parent, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(k.mass(first), 80.4, atol=1e-3)
    np.testing.assert_allclose(k.mass(second), 20.0, atol=1e-2)


def test_two_body_decay_is_isotropic_at_rest():
    parent = np.zeros((4, 20_000))
    parent[0] = 91.0
    first, _ = k.two_body_decay(parent, 91.0, 0, 0, np.random.default_rng(0))
    cosines = first[1:] / first[0]
    np.testing.assert_allclose(cosines.mean(axis=1), 0, atol=5 / np.sqrt(3 * 20_000))
    np.testing.assert_allclose((cosines**2).mean(axis=1), 1 / 3, atol=0.015)
