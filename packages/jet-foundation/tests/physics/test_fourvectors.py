import numpy as np
import pytest
import torch

from jet_foundation.physics import fourvectors as fv


@pytest.fixture
def p4() -> np.ndarray:
    rng = np.random.default_rng(0)
    return fv.from_pt_eta_phi_mass(
        rng.exponential(30, 50), rng.normal(0, 2, 50), rng.uniform(-np.pi, np.pi, 50), rng.exponential(1, 50)
    )


def test_coordinates_survive_a_round_trip(p4: np.ndarray) -> None:
    again = fv.from_pt_eta_phi_mass(fv.pt(p4), fv.eta(p4), fv.phi(p4), fv.mass(p4))
    np.testing.assert_allclose(again, p4, rtol=1e-9, atol=1e-9)


def test_rapidity_agrees_with_its_definition(p4: np.ndarray) -> None:
    expected = 0.5 * np.log((p4[:, 0] + p4[:, 3]) / (p4[:, 0] - p4[:, 3]))
    np.testing.assert_allclose(fv.rapidity(p4), expected, rtol=1e-8)


def test_rapidity_keeps_its_digits_for_forward_particles_in_float32() -> None:
    forward = fv.from_pt_eta_phi_mass(np.array([1.0]), np.array([9.0]), np.array([0.3]))
    assert fv.rapidity(forward.astype(np.float32))[0] == pytest.approx(9.0, abs=1e-5)


@pytest.mark.parametrize("name", ["pt", "eta", "phi", "rapidity", "mass", "transverse_mass", "mass_squared"])
def test_torch_and_numpy_agree(name: str, p4: np.ndarray) -> None:
    function = getattr(fv, name)
    np.testing.assert_allclose(function(torch.from_numpy(p4)).numpy(), function(p4), rtol=1e-9, atol=1e-9)


def test_padding_is_finite() -> None:
    zero = torch.zeros(3, 4)
    for function in (fv.pt, fv.eta, fv.phi, fv.rapidity, fv.mass):
        torch.testing.assert_close(function(zero), torch.zeros(3))


@pytest.mark.parametrize(
    ("phi", "wrapped"), [(np.pi, -np.pi), (3.5, 3.5 - 2 * np.pi), (-7.0, -7.0 + 2 * np.pi)]
)
def test_wrap_phi(phi: float, wrapped: float) -> None:
    assert fv.wrap_phi(phi) == pytest.approx(wrapped)


def test_delta_r_crosses_the_seam() -> None:
    assert fv.delta_r(0.3, np.pi - 0.1, 0.3, -np.pi + 0.1) == pytest.approx(0.2)


def test_transformations_keep_the_mass_and_move_what_rests(p4: np.ndarray) -> None:
    boost = fv.boost_matrix(np.array([0.3, -0.2, 0.6]))
    rotation = fv.rotation_matrix(np.array([1.0, 2.0, -1.0]), 0.7)
    np.testing.assert_allclose(fv.mass_squared(p4 @ (boost @ rotation).T), fv.mass_squared(p4), atol=1e-8)
    moving = boost @ np.array([1.0, 0, 0, 0])
    np.testing.assert_allclose(moving[1:] / moving[0], [0.3, -0.2, 0.6])


def test_boost_refuses_the_speed_of_light() -> None:
    with pytest.raises(ValueError, match=r"\|beta\| is 1"):
        fv.boost_matrix(np.array([0.0, 0.0, 1.0]))
