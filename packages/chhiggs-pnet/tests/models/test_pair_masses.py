"""Pair masses relative to the hypothesis: the same as the selection's, stable in float32, blind to order."""

import numpy as np
import pytest
import torch

from chhiggs_pnet.data.features import node_features
from chhiggs_pnet.models.baselines import DeepSets, Perceptron
from chhiggs_pnet.models.pair_masses import PairMasses
from chhiggs_pnet.models.particle_net import ParametricParticleNet
from chhiggs_pnet.physics.constants import Z_MASS
from chhiggs_pnet.physics.events import Object
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.selection import pair_masses

SETTINGS = {"num_features": 14, "num_classes": 4, "mass_mean": (130, 90), "mass_std": (20, 4)}
NETWORKS = {
    "particle_net": lambda: ParametricParticleNet(
        **SETTINGS, hidden_dims=(8, 8, 8), num_heads=2, pair_masses=True
    ),
    "deepsets": lambda: DeepSets(**SETTINGS, hidden_dim=8, pair_masses=True),
    "mlp": lambda: Perceptron(**SETTINGS, hidden_dim=8, pair_masses=True),
}


@pytest.mark.parametrize("channel", ["Run1E2Mu", "Run3Mu"])
def test_they_are_those_of_the_selection(channel):
    events = generate_events("signal", channel, 200, 1, point=MassPoint(130, 90)).events
    nodes, mask = (torch.from_numpy(part) for part in node_features(events))
    masses = torch.tensor([[130.0, 88.0]]).expand(len(events), 2)
    event, of_nodes = PairMasses()(nodes, mask, masses)
    first, second = pair_masses(events.kind == Object.MUON, events.pt, events.eta, events.phi, events.charge)
    both = np.stack([first, np.where(second < 0, first, second)]) - 88.0
    near = np.take_along_axis(both, np.abs(both).argmin(axis=0)[None], axis=0)[0]
    far = np.take_along_axis(both, np.abs(both).argmax(axis=0)[None], axis=0)[0]
    np.testing.assert_allclose(torch.sinh(event[:, 0].double()).numpy(), near, atol=2e-3)
    assert (event[:, 1] == 1).all()
    np.testing.assert_array_equal(event[:, 3].numpy() > 0, second >= 0)
    np.testing.assert_allclose(
        torch.sinh(event[:, 2].double()).numpy(), np.where(second >= 0, far, 0.0), atol=2e-3, rtol=1e-4
    )
    # r and r_Z are of one pair: their masses agree, of the event and of every node.
    for from_a, from_z, there in (
        (event[:, 0], event[:, 4], event[:, 1]),
        (event[:, 2], event[:, 5], event[:, 3]),
        (of_nodes[..., 0], of_nodes[..., 2], of_nodes[..., 1]),
    ):
        pair = there > 0
        torch.testing.assert_close(
            torch.sinh(from_a[pair].double()) + 88.0, torch.sinh(from_z[pair].double()) + Z_MASS,
            rtol=1e-4, atol=2e-3,
        )  # fmt: skip
        assert not from_z[~pair].any()
    muons = torch.from_numpy(events.kind == Object.MUON)
    if channel == "Run1E2Mu":
        assert torch.equal(of_nodes[:, :-1, 1] > 0, muons)
    assert not of_nodes[:, -1].any()
    assert torch.equal(
        of_nodes[..., 0].abs().max(dim=1).values > 0, torch.ones(len(events), dtype=torch.bool)
    )


def test_an_event_without_a_pair_says_so():
    nodes, mask = torch.zeros(1, 4, 14), torch.tensor([[True, True, True, False]])
    nodes[0, :2, 4], nodes[0, :2, 7], nodes[0, :, 1] = torch.tensor([1.0, -1.0]), 1.0, 30.0  # two jets
    event, of_nodes = PairMasses()(nodes, mask, torch.tensor([[130.0, 90.0]]))
    assert not event.any()
    assert not of_nodes.any()


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_use_them_and_ignore_padding(inputs, kind):
    torch.manual_seed(0)
    network = NETWORKS[kind]().eval()
    garbage = torch.where(inputs["valid_mask"].unsqueeze(-1), inputs["nodes"], 123.0)
    with torch.no_grad():
        expected = network(**inputs)
        torch.testing.assert_close(network(**{**inputs, "nodes": garbage}), expected, rtol=1e-4, atol=1e-5)
    network.train()(**inputs).square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
