import numpy as np
import torch

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.pair_features import (
    FLOOR,
    kinematics,
    literal_pair_features,
    pair_features,
    valid_pairs,
)


def random_p4(num: int, *, spread: float = 0.4, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mass = rng.choice([0.0, 0.1396, 0.4937], num)
    return torch.from_numpy(
        fv.from_pt_eta_phi_mass(
            rng.exponential(20, num) + 0.3, rng.normal(1, spread, num), rng.normal(3, spread, num), mass
        )
    )


def test_agrees_with_the_literal_formulas_in_float64() -> None:
    a, b = random_p4(300), random_p4(300, seed=1)
    exact = pair_features(kinematics(a), kinematics(b))
    torch.testing.assert_close(exact, literal_pair_features(a, b), rtol=1e-7, atol=1e-7)


def test_mass_of_collinear_pairs_keeps_its_digits_in_float32() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        torch.from_numpy(fv.from_pt_eta_phi_mass(np.full(2000, 100.0), *(1 + rng.normal(0, 3e-3, (2, 2000)))))
        for _ in range(2)
    )
    truth = literal_pair_features(a, b)[:, 3]
    ours = pair_features(kinematics(a.float()), kinematics(b.float()))[:, 3] - truth
    literal = literal_pair_features(a.float(), b.float())[:, 3] - truth
    assert ours.abs().quantile(0.9) < 0.5 * literal.abs().quantile(0.9)


def test_single_precision_four_vectors_give_what_double_precision_makes_of_them() -> None:
    """Also for particles 10⁻⁵ apart, where a difference of float32 angles has one digit."""
    rng = np.random.default_rng(1)
    eta, phi = rng.normal(1, 0.5, 500), rng.uniform(-np.pi, np.pi, 500)
    step = 10 ** rng.uniform(-5, -1, (2, 500))
    a = torch.from_numpy(fv.from_pt_eta_phi_mass(rng.exponential(50, 500) + 0.5, eta, phi)).float()
    b = torch.from_numpy(
        fv.from_pt_eta_phi_mass(rng.exponential(5, 500) + 0.5, eta + step[0], phi + step[1], 0.14)
    ).float()
    ours = pair_features(kinematics(a), kinematics(b))
    truth = pair_features(kinematics(a.double()), kinematics(b.double()))
    torch.testing.assert_close(ours[:, :3].double(), truth[:, :3], rtol=0, atol=2e-6)


def test_symmetric_and_unchanged_by_boosts_along_the_beam() -> None:
    a, b = random_p4(200), random_p4(200, seed=1)
    features = pair_features(kinematics(a), kinematics(b))
    torch.testing.assert_close(features, pair_features(kinematics(b), kinematics(a)))
    move = torch.from_numpy(
        fv.boost_matrix(np.array([0, 0, 0.8])) @ fv.rotation_matrix(np.array([0, 0, 1.0]), 2.0)
    )
    moved = pair_features(kinematics(a @ move.T), kinematics(b @ move.T))
    torch.testing.assert_close(features, moved, rtol=1e-8, atol=1e-8)


def test_a_particle_with_itself() -> None:
    p4 = random_p4(5)
    features = pair_features(kinematics(p4), kinematics(p4))
    torch.testing.assert_close(features[:, 2], torch.full((5,), np.log(FLOOR), dtype=torch.float64))
    torch.testing.assert_close(features[:, 1], torch.full((5,), np.log(0.5), dtype=torch.float64))


def test_valid_pairs_lists_each_real_pair_once() -> None:
    mask = torch.tensor([[True, True, False, True], [False, False, True, False]])
    pairs = valid_pairs(mask)
    found = list(zip(*(column.tolist() for column in pairs), strict=True))
    assert found == [(0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 3, 0), (0, 3, 1), (0, 3, 3), (1, 2, 2)]
