import math

import pytest
import torch

from megii_xec import losses
from megii_xec.data.targets import TargetScaling
from megii_xec.models import readout

SCALING = TargetScaling()


def test_heads_are_as_wide_as_the_losses_want():
    assert readout.OUTPUTS_PER_TARGET["quantile"] == len(losses.QUANTILES)
    assert losses.QUANTILES[1] == 0.5  # the middle block is the median
    assert readout.head_size("uvwFI", "beta_nll") == 6
    assert readout.head_size("angle", "quantile") == 6
    assert readout.head_size("energy", "l1") == 1
    assert readout.head_size("n_gamma", "cross_entropy") == 5


def test_likelihood_heads_tell_a_standard_deviation():
    output = torch.tensor([[1.0, math.log(0.04)]])  # mean 1 and sigma 0.2 in units of the scale
    value, sigma = readout.decode(SCALING, "energy", "beta_nll", output)
    assert value.item() == pytest.approx(0.0528)
    assert sigma.item() == pytest.approx(0.2 * 0.0528)


def test_quantile_heads_tell_half_the_interval():
    output = torch.tensor([[-0.5, 0.0, 0.1, 0.2, 0.5, 0.4]])  # three blocks of theta, phi
    value, sigma = readout.decode(SCALING, "angle", "quantile", output)
    assert value[0].tolist() == pytest.approx([90 + 26.5 * 0.1, 62.8 * 0.2], rel=1e-5)
    assert sigma[0].tolist() == pytest.approx([26.5 * 0.5, 62.8 * 0.2], rel=1e-4)


def test_directions_are_unit_vectors_and_photons_are_counted():
    value, sigma = readout.decode(SCALING, "angleVec", "cosine", torch.tensor([[3.0, 0.0, 4.0]]))
    assert value[0].tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert sigma is None
    value, _ = readout.decode(SCALING, "n_gamma", "cross_entropy", torch.tensor([[0.0, 1.0, 3.0, 2.0, 0.0]]))
    assert value.tolist() == [[2.0]]
