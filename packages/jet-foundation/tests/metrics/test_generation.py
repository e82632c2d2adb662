import numpy as np
import pytest

from jet_foundation.metrics import generation as g
from jet_foundation.metrics import legacy
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets


def padded(jets: Jets, slots: int = 60) -> tuple[np.ndarray, np.ndarray]:
    jets = jets.truncated(slots)
    mask = np.arange(slots) < jets.num_particles[:, None]
    p4 = np.zeros((len(jets), slots, 4), np.float32)
    p4[mask] = jets.p4
    return p4, mask


def test_wasserstein_of_shifted_samples() -> None:
    a = np.random.default_rng(0).normal(0, 1, 500)
    assert g.wasserstein_1d(a, a + 0.7) == pytest.approx(0.7)
    assert g.wasserstein_1d(np.array([0.0, 1.0]), np.array([0.5])) == pytest.approx(0.5)


def test_frechet_distance_of_known_gaussians() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (50_000, 2)), rng.normal(0, 1, (50_000, 2)) * [2, 1] + [1, 0]
    assert g.frechet_distance(a, b) == pytest.approx(2.0, rel=0.05)
    assert abs(g.frechet_physics_distance(a, a.copy(), rng)) < 0.01
    assert g.frechet_physics_distance(a, b, rng) == pytest.approx(2.0, rel=0.1)


def test_kernel_distance_tells_distributions_apart() -> None:
    rng = np.random.default_rng(0)
    a, b, shifted = rng.normal(0, 1, (3, 1500, 4)) + np.array([0, 0, 0.5])[:, None, None]
    assert abs(g.kernel_physics_distance(a, b, rng)) < 0.1 * g.kernel_physics_distance(a, shifted, rng)


def test_coverage_sees_missing_modes() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1, (400, 3))
    assert g.coverage(true, true) == 1
    assert g.coverage(true, np.zeros((400, 3))) == 1 / 400


def test_distances_between_jets() -> None:
    jet = fv.from_pt_eta_phi_mass(np.array([60.0, 40.0]), np.array([0.1, 0.3]), np.array([3.1, -3.1]))
    moved = fv.from_pt_eta_phi_mass(np.array([60.0, 40.0]), np.array([0.1, 0.4]), np.array([3.1, -3.1]))
    assert g.chamfer_distance(jet, jet) == 0
    assert g.chamfer_distance(jet, moved) == pytest.approx(0.05)
    assert g.energy_movers_distance(jet, moved) == pytest.approx(0.04)
    # A particle split in two collinear ones is the same jet.
    split = np.concatenate([jet[:1] / 2, jet[:1] / 2, jet[1:]])
    assert g.energy_movers_distance(jet, split) == pytest.approx(0, abs=1e-9)


def test_metrics_ignore_padding_and_see_changes(toy_jets: Jets) -> None:
    p4, mask = padded(toy_jets)
    half = len(p4) // 2
    wide = np.pad(p4, ((0, 0), (0, 9), (0, 0)), constant_values=5.0)
    wide_mask = np.pad(mask, ((0, 0), (0, 9)))
    plain = g.generation_metrics(p4[::2], mask[::2], p4[1::2], mask[1::2])
    assert g.generation_metrics(p4[::2], mask[::2], wide[1::2], wide_mask[1::2]) == pytest.approx(plain)
    scaled = g.generation_metrics(p4[::2], mask[::2], p4[1::2] * np.float32(1.2), mask[1::2])
    assert scaled["w1_mass_gev"] > 2 * plain["w1_mass_gev"]
    assert scaled["fpd"] > plain["fpd"]
    assert scaled["w1_pt_share"] == pytest.approx(plain["w1_pt_share"])
    pairs = g.resolution_metrics(p4[:half], mask[:half], wide[:half], wide_mask[:half], max_emd_jets=3)
    assert pairs == pytest.approx(
        {"chamfer": 0, "emd": 0, "multiplicity_error": 0, "empty_share": 0}, abs=1e-7
    )


def test_legacy_definitions() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1, (6, 40, 4))
    assert legacy.mass_resolution(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == pytest.approx(0.5)
    assert legacy.mmd(true, true, np.random.default_rng(1)) == pytest.approx(0, abs=0.05)
    assert legacy.mmd(true, true + 2, np.random.default_rng(1)) > 0.1
    assert legacy.pt_kl_divergence(true, true) == pytest.approx(0, abs=1e-9)
    assert legacy.pt_kl_divergence(true, true * 2) > 0.1
    assert legacy.marginal_histogram_mse(true, true) == 0
    assert legacy.chamfer(true, true) == 0
    one, two = np.zeros((1, 1, 4)), np.array([[[0.0, 3.0, 4.0, 0.0]]])
    assert legacy.chamfer(one, two) == pytest.approx(50)
    assert legacy.pt_emd(true, true + 0.5) == pytest.approx(0.5)
    assert legacy.multiplicity_error(np.ones((2, 4, 4)), np.stack([np.ones((4, 4)), np.zeros((4, 4))])) == 0.5
