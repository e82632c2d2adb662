"""Every family: size, finite gradients, the properties it claims."""

import pytest
import torch

from hep_shared.config import load_config
from hep_shared.errors import ConfigError
from lhcb_extrap.config import PRESETS, Config
from lhcb_extrap.models.rk_pinn import INITIAL_WEIGHTS, NODES, collocation_matrix
from lhcb_extrap.tasks.extrapolation import build_network

# Trained weights as the layers imply; for kick nets with ten features.
COUNTS = {
    "mlp_tiny": 4868, "mlp_small": 17_924, "mlp_medium": 100_996, "mlp_wide": 430_980,
    "pinn_tiny": 4868, "pinn_small": 17_924, "pinn_medium": 100_996, "pinn_wide": 430_980,
    "rkpinn_tiny": 18_388, "rkpinn_small": 69_524, "rkpinn_medium": 201_748, "rkpinn_wide": 531_732,
    "kick16": 516, "kick32": 1540, "kick48": 3076, "kick64": 5124,
}  # fmt: skip
FAMILIES = ("mlp_tiny", "pinn_tiny", "rkpinn_tiny", "kick32")


def network_of(preset, normalization, *settings):
    config = load_config(Config, presets=PRESETS, preset=preset, overrides=settings)
    torch.manual_seed(0)
    return build_network(config.model, normalization)


@pytest.fixture(scope="module")
def batch(track_file):
    from lhcb_extrap.data.stream import read_sample

    tracks, end = read_sample([track_file]).tensors()
    return tracks[:64], end[:64]


@pytest.mark.parametrize(("preset", "count"), COUNTS.items())
def test_number_of_weights(preset, count, normalization):
    network = network_of(preset, normalization)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("preset", FAMILIES)
def test_shape_gradients_and_independence_of_rows(preset, normalization, batch):
    network = network_of(preset, normalization)
    end = network(batch[0])
    assert end.shape == (64, 4)
    (end / torch.tensor([1e3, 1e3, 1.0, 1.0])).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in network.parameters())
    torch.testing.assert_close(network(batch[0][:1]), end[:1], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("preset", FAMILIES)
def test_with_variable_planes_z0_matters(preset, normalization, batch):
    network = network_of(preset, normalization, "model.use_planes=true")
    shifted = batch[0].clone()
    shifted[:, 6] += 500.0
    assert (network(shifted) - network(batch[0])).abs().max() > 1e-3


def test_pinn_derivative_is_that_of_the_state(normalization, batch):
    network = network_of("pinn_tiny", normalization).double()
    tracks = batch[0].double()
    length = torch.linspace(0, 4000, 64, dtype=torch.float64)
    state, rate = network.state_and_rate(tracks, length)
    torch.testing.assert_close(state, network.at(tracks, length))
    ahead, behind = network.at(tracks, length + 0.5), network.at(tracks, length - 0.5)
    torch.testing.assert_close(rate, ahead - behind, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(network(tracks), network.at(tracks, tracks[:, 5]))


def test_rk_weights_begin_as_in_rk4_and_stages_use_their_place(normalization, batch):
    network = network_of("rkpinn_tiny", normalization)
    assert network.weights.tolist() == torch.tensor(INITIAL_WEIGHTS).tolist()
    assert network.weights.sum().item() == pytest.approx(1.0, abs=1e-7)
    still = batch[0].clone()
    still[:, 5] = 0.0
    torch.testing.assert_close(network(still), still[:, :4], rtol=0, atol=0)


def test_collocation_integrates_cubics_exactly():
    matrix = torch.tensor(collocation_matrix(), dtype=torch.float64)
    nodes = torch.tensor(NODES, dtype=torch.float64)
    for power in range(4):
        torch.testing.assert_close(matrix @ nodes**power, nodes ** (power + 1) / (power + 1))


def test_kick_is_exact_without_charge(normalization, batch):
    network = network_of("kick32", normalization).double()
    tracks = batch[0].double()
    tracks[:, 4] = 0.0
    end = network(tracks)
    straight = tracks[:, :2] + tracks[:, 5:6] * tracks[:, 2:4]
    torch.testing.assert_close(end[:, :2], straight, rtol=0, atol=1e-9)
    torch.testing.assert_close(end[:, 2:], tracks[:, 2:4], rtol=0, atol=1e-14)


SIGN_X = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
SIGN_Y = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("signs", [SIGN_X, SIGN_Y])
def test_kick_mirrors_only_where_the_field_does(normalization, batch, signs):
    network = network_of("kick32", normalization)
    reflected = network(batch[0] * signs) * signs[:4]
    torch.testing.assert_close(reflected, network(batch[0]), rtol=1e-5, atol=1e-3)
    crooked = normalization.model_copy(
        update={"field": normalization.field.model_copy(update={"flip_x": False, "flip_y": False})}
    )
    plain = network_of("kick32", crooked)
    assert (plain(batch[0] * signs) * signs[:4] - plain(batch[0])).abs().max() > 1.0


def test_networks_refuse_planes_they_do_not_see(normalization):
    moving = normalization.model_copy(update={"z0_mm": (2000.0, 3000.0)})
    with pytest.raises(ConfigError, match=r"use_planes is false, .*z0 from 2000 to 3000 mm"):
        network_of("mlp_tiny", moving)
