import math

import numpy as np
import pytest
import torch

from jet_foundation.losses import ConservationWeights, conservation_loss, set_loss
from jet_foundation.metrics.masked import masked_particle_metrics

ALL = ConservationWeights(pt=0.25, eta=0.25, phi=0.25, energy=0.25, bias=0.0, mass=0.0)


def test_terms_of_the_conservation_loss() -> None:
    true = torch.zeros(4, 4)
    shift = torch.tensor([0.4, 0.0, 0.0, 0.0])
    assert conservation_loss(true + shift, true, ALL).item() == pytest.approx(0.25 * 0.4, abs=1e-4)
    shift = torch.tensor([0.0, -0.4, 0.0, 0.0])
    assert conservation_loss(true + shift, true, ALL).item() == pytest.approx(0.25 * 0.4, abs=1e-4)
    shift = torch.tensor([0.0, 0.0, math.pi, 0.0])
    assert conservation_loss(true + shift, true, ALL).item() == pytest.approx(0.25 * 2, abs=1e-4)
    shift = torch.tensor([0.0, 0.0, 2 * math.pi, 0.0])
    assert conservation_loss(true + shift, true, ALL).item() == pytest.approx(0.0, abs=1e-4)


def test_the_bias_penalty_sees_the_mean_only() -> None:
    weights = ALL._replace(bias=2.0)
    true = torch.zeros(2, 4)
    balanced = torch.tensor([[0.3, 0, 0, 0], [-0.3, 0, 0, 0]])
    shifted = torch.tensor([[0.3, 0, 0, 0], [0.3, 0, 0, 0]])
    gain = conservation_loss(shifted, true, weights) - conservation_loss(balanced, true, weights)
    assert gain.item() == pytest.approx(2 * 0.3**2, abs=1e-6)


def test_the_mass_constraint() -> None:
    weights = ALL._replace(mass=3.0)
    true, ratio = torch.zeros(2, 4), torch.tensor([0.0, -0.1])
    exact = conservation_loss(true, true, weights, log_ratio=ratio, true_log_ratio=ratio)
    off = conservation_loss(true, true, weights, log_ratio=ratio + 0.2, true_log_ratio=ratio)
    assert (off - exact).item() == pytest.approx(3 * 0.04, abs=1e-6)


def test_nothing_hidden_is_a_loss_of_zero() -> None:
    predicted = torch.zeros(0, 4, requires_grad=True)
    loss = conservation_loss(predicted, torch.zeros(0, 4), ALL)
    loss.backward()
    assert loss.item() == 0.0


def test_the_set_loss_does_not_know_the_order() -> None:
    torch.manual_seed(0)
    predicted, logits = torch.randn(3, 7, 3), torch.randn(3, 7)
    true, num = torch.randn(3, 5, 3), torch.tensor([5, 2, 0])
    loss = set_loss(predicted, logits, true, num)
    shuffled = true.clone()
    shuffled[0] = true[0, [4, 2, 0, 1, 3]]
    shuffled[1, :2] = true[1, [1, 0]]
    torch.testing.assert_close(set_loss(predicted, logits, shuffled, num), loss)
    slots = torch.randperm(7)
    torch.testing.assert_close(set_loss(predicted[:, slots], logits[:, slots], true, num), loss)
    true[1, 2:] = 99.0  # beyond the particles of the jet
    torch.testing.assert_close(set_loss(predicted, logits, true, num), loss)


def test_the_set_loss_vanishes_for_the_right_set() -> None:
    true, num = torch.randn(2, 4, 3), torch.tensor([4, 3])
    predicted = torch.cat([true.flip(1), torch.full((2, 2, 3), 9.0)], dim=1)
    logits = torch.full((2, 6), -30.0)
    logits[0, :4] = 30.0
    logits[1, 1:4] = 30.0
    assert set_loss(predicted, logits, true, num).item() == pytest.approx(0.0, abs=1e-6)


def test_masked_metrics_in_physical_units() -> None:
    torch.manual_seed(0)
    true = torch.randn(50, 4).numpy()
    predicted = true + np.array([0.2, 0.1, 0.3, -0.2])
    found = masked_particle_metrics(predicted, true, np.array([2.0, 5.0, 2.0]))
    assert found["log_pt_bias"] == pytest.approx(0.1, abs=1e-6)
    assert found["log_energy_rmse"] == pytest.approx(0.1, abs=1e-6)
    assert found["deta_mae"] == pytest.approx(0.02, abs=1e-6)
    assert found["dphi_mae"] == pytest.approx(0.3, abs=1e-6)
    assert math.isnan(masked_particle_metrics(predicted[:0], true[:0], predicted[0])["deta_mae"])
