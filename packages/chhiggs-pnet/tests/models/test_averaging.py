"""Averages: the mean, permutations that change nothing, and matching that finds them."""

import pytest
import torch

from chhiggs_pnet.models.averaging import (
    mean_state,
    permutation_groups,
    permute,
    rebasin,
    reset_norms,
    restore_norm_momentum,
)
from chhiggs_pnet.models.particle_net import ParametricParticleNet


def network(conditioning="both"):
    torch.manual_seed(5)
    found = ParametricParticleNet(
        num_features=14, num_classes=4, mass_mean=(130, 90), mass_std=(20, 4), hidden_dims=(8, 16, 8),
        num_heads=4, head_dim=8, conditioning=conditioning,
    )  # fmt: skip
    for part in found.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    for name, parameter in found.named_parameters():
        if "mass_encoder.4" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return found.eval()


def shuffled(model, seed=0):
    generator, state = torch.Generator().manual_seed(seed), model.state_dict()
    for group in permutation_groups(model):
        state = permute(state, group, torch.randperm(group.size, generator=generator))
    return state


@pytest.mark.parametrize("conditioning", ["attention", "film", "both", "none"])
@torch.no_grad()
def test_permutations_keep_the_function(inputs, conditioning):
    model = network(conditioning)
    expected, state = model(**inputs), shuffled(model)
    assert not torch.equal(
        state["convolutions.1.linears.1.weight"], model.state_dict()["convolutions.1.linears.1.weight"]
    )
    model.load_state_dict(state)
    torch.testing.assert_close(model(**inputs), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rebasin_undoes_a_permutation_and_the_plain_mean_does_not(inputs):
    model = network()
    expected, first = model(**inputs), {k: v.clone() for k, v in model.state_dict().items()}
    second = shuffled(model, seed=2)
    model.load_state_dict(rebasin([first, second], model))
    torch.testing.assert_close(model(**inputs), expected, rtol=1e-4, atol=1e-5)
    model.load_state_dict(mean_state([first, second]))
    assert (model(**inputs) - expected).abs().max() > 1e-2


def test_mean_keeps_counters():
    states = [
        {"w": torch.tensor([1.0]), "n": torch.tensor(3)},
        {"w": torch.tensor([2.0]), "n": torch.tensor(5)},
    ]
    found = mean_state(states)
    assert (found["w"].item(), found["n"].item()) == (1.5, 3)
    assert states[0]["w"].item() == 1.0


def test_norms_are_measured_again(inputs):
    model = network().train()
    reset_norms(model)
    for _ in range(3):
        model(**inputs)
    first = model.convolutions[0].norms[0].running_mean.clone()
    model.eval()
    fresh = network().train()
    reset_norms(fresh)
    fresh(**inputs)
    torch.testing.assert_close(first, fresh.convolutions[0].norms[0].running_mean)
    restore_norm_momentum(model)
    assert all(p.momentum == 0.1 for p in model.modules() if isinstance(p, torch.nn.BatchNorm1d))
