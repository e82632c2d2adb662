import numpy as np
import pytest
import torch

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo


def random_points(num, seed=0):
    rng = np.random.default_rng(seed)
    u, v, w = rng.uniform(-40, 40, num), rng.uniform(-71, 71, num), rng.uniform(-0.1, 41, num)
    return np.stack([u, v, w], axis=1)


def test_uvw_round_trip():
    uvw = random_points(1000)
    np.testing.assert_allclose(co.xyz_to_uvw(co.uvw_to_xyz(uvw)), uvw, atol=1e-12)
    positions = geo.sensor_positions()
    np.testing.assert_allclose(co.uvw_to_xyz(co.xyz_to_uvw(positions)), positions, atol=1e-12)


def test_uvw_definition():
    xyz = co.uvw_to_xyz(random_points(1000))
    phi = np.arctan2(xyz[:, 1], xyz[:, 0]) % (2 * np.pi)
    expected = np.stack([xyz[:, 2], -(phi - np.pi) * 64.97, np.hypot(xyz[:, 0], xyz[:, 1]) - 64.97], axis=1)
    np.testing.assert_allclose(co.xyz_to_uvw(xyz), expected, atol=1e-11)


def test_center_of_the_detector():
    np.testing.assert_array_equal(co.uvw_to_xyz(np.array([0.0, 0.0, 1.0])), [-65.97, 0.0, 0.0])
    np.testing.assert_allclose(co.angles_to_vector(np.array(90.0), np.array(0.0)), [-1, 0, 0], atol=1e-15)
    assert co.uvw_to_xyz(np.array([0.0, 10.0, 0.0]))[1] > 0  # v grows upwards


def test_angle_conventions():
    vector = np.random.default_rng(1).standard_normal((500, 3))
    vector /= np.linalg.norm(vector, axis=1, keepdims=True)
    angles = co.vector_to_angles(vector)
    np.testing.assert_allclose(angles[:, 0], np.rad2deg(np.arccos(vector[:, 2])), atol=1e-9)
    np.testing.assert_allclose(angles[:, 1], np.rad2deg(np.arctan2(vector[:, 1], -vector[:, 0])), atol=1e-9)
    np.testing.assert_allclose(co.angles_to_vector(angles[:, 0], angles[:, 1]), vector, atol=1e-12)


def test_opening_angle_at_all_sizes():
    for angle in (0.0, 1e-9, 1e-4, 1.0, 90.0, 179.999999, 180.0):
        a = np.array([1.0, 0.0, 0.0])
        b = np.array([np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle)), 0.0])
        assert co.opening_angle_deg(a, 3 * b) == pytest.approx(angle, rel=1e-9, abs=1e-13)


def test_torch_agrees_with_numpy_and_has_gradients():
    uvw = random_points(20, seed=3)
    tensor = torch.from_numpy(uvw).requires_grad_()
    xyz = co.uvw_to_xyz(tensor)
    angles = co.vector_to_angles(xyz)
    vector = co.angles_to_vector(angles[:, 0], angles[:, 1])
    opening = co.opening_angle_deg(vector, torch.tensor([[-1.0, 0.0, 0.0]], dtype=torch.float64))
    numpy_xyz = co.uvw_to_xyz(uvw)
    np.testing.assert_allclose(co.xyz_to_uvw(xyz).detach().numpy(), uvw, atol=1e-12)
    np.testing.assert_allclose(angles.detach().numpy(), co.vector_to_angles(numpy_xyz), atol=1e-12)
    expected = co.opening_angle_deg(numpy_xyz, np.array([[-1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(opening.detach().numpy(), expected, atol=1e-9)
    opening.sum().backward()
    assert torch.isfinite(tensor.grad).all()
