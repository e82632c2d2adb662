"""The network: its symmetries, its padding, its peer in PyTorch Geometric, its file."""

import pytest
import torch

from chhiggs_pnet.bench import peer_of
from chhiggs_pnet.models.baselines import DeepSets, Perceptron
from chhiggs_pnet.models.deploy import EventClassifier
from chhiggs_pnet.models.particle_net import ParametricParticleNet
from hep_shared.onnx import export_onnx

COMMON = {"num_features": 14, "num_classes": 4, "mass_mean": (130, 90), "mass_std": (20, 4)}


def build(**more):
    torch.manual_seed(0)
    settings = {**COMMON, "hidden_dims": (16, 24, 32), "num_heads": 4, "head_dim": 16, **more}
    network = ParametricParticleNet(**settings)
    for name, parameter in network.named_parameters():  # masses act from the start
        if "mass_encoder.4" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 1.5)
    return network.eval()


CONDITIONINGS = ("attention", "film", "both", "none")


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@torch.no_grad()
def test_order_of_nodes_does_not_matter(inputs, conditioning):
    network = build(conditioning=conditioning)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    moved = {**inputs, "nodes": inputs["nodes"][:, order], "valid_mask": inputs["valid_mask"][:, order]}
    torch.testing.assert_close(network(**inputs), network(**moved), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["particle_net", "graph", "deepsets", "mlp"])
@torch.no_grad()
def test_padding_changes_nothing(inputs, kind):
    if kind in ("particle_net", "graph"):
        network = build(conditioning="both", input_norm="graph" if kind == "graph" else "standard")
    else:
        network = {"deepsets": DeepSets, "mlp": Perceptron}[kind](**COMMON).eval()
    expected = network(**inputs)
    cut = {**inputs, "nodes": inputs["nodes"][:, :12], "valid_mask": inputs["valid_mask"][:, :12]}
    garbage = torch.where(inputs["valid_mask"].unsqueeze(-1), inputs["nodes"], 123.0)
    torch.testing.assert_close(network(**cut), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(**{**inputs, "nodes": garbage}), expected, rtol=1e-4, atol=1e-5)
    alone = {name: tensor[2:3] for name, tensor in inputs.items()}
    torch.testing.assert_close(network(**alone), expected[2:3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("k", [2, 4, 8])
def test_equals_pytorch_geometric(inputs, training, k):
    pytest.importorskip("torch_geometric")
    network = build(conditioning="none", num_neighbors=k, head_dropout=0.0).train(training)
    order = ("nodes", "valid_mask", "masses", "channel", "era")
    found = network(**inputs)
    found.square().sum().backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    expected = peer_of(network)(*(inputs[name] for name in order))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    for name, parameter in network.named_parameters():
        scale = parameter.grad.abs().max().clamp(min=1.0)
        torch.testing.assert_close(ours[name] / scale, parameter.grad / scale, rtol=1e-3, atol=2e-4)


def test_graph_norm_equals_pytorch_geometric(inputs):
    peer_module = pytest.importorskip("torch_geometric.nn").GraphNorm
    from chhiggs_pnet.models.graph import packing
    from chhiggs_pnet.models.inputs import NodeInputs

    ours, peer = NodeInputs(14, "graph", "detector"), peer_module(14)
    with torch.no_grad():
        for name in ("weight", "bias", "mean_scale"):
            value = torch.rand(14, generator=torch.Generator().manual_seed(len(name)))
            getattr(ours, name).copy_(value)
            getattr(peer, name).copy_(value)
    graph = packing(inputs["valid_mask"])
    expected = peer(inputs["nodes"][inputs["valid_mask"]], graph.event)
    torch.testing.assert_close(ours(inputs["nodes"], graph), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_the_hypothesis_counts(inputs, conditioning):
    network = build(conditioning=conditioning, head_masses=False)
    other = {**inputs, "masses": inputs["masses"] + 5.0}
    same = torch.equal(network(**inputs), network(**other))
    assert same == (conditioning == "none")


def test_a_fresh_network_is_blind_to_the_hypothesis(inputs):
    network = ParametricParticleNet(**COMMON, hidden_dims=(16, 16, 16), num_heads=4, head_masses=False).eval()
    assert torch.equal(network(**inputs), network(**{**inputs, "masses": inputs["masses"] + 5.0}))


def test_channel_and_era_are_inputs_on_request(inputs):
    network = build(use_channel=True, use_era=True)
    expected = network(**inputs)
    for name in ("channel", "era"):
        assert not torch.equal(network(**{**inputs, name: 1 - inputs[name].clamp(max=1)}), expected)
    plain = build()
    assert torch.equal(plain(**inputs), plain(**{**inputs, "era": inputs["era"] * 0}))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_gradients_are_finite(inputs, conditioning):
    network = build(conditioning=conditioning, dropout=0.1, edge_dropout=0.2).train()
    network(**inputs).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("features", "k"), [(9, 8)])
def test_onnx_gives_the_same(inputs, tmp_path, features, k):
    network = build(
        num_features=features,
        num_neighbors=k,
        conditioning="film",
        use_channel=True,
        pair_masses=True,
        frame="event",
    )
    given = {**inputs, "nodes": inputs["nodes"][..., :features]}
    worst = export_onnx(
        EventClassifier(network, 1.3), given, tmp_path / "m.onnx", output_names=["p"], metadata={},
        batches=(1, 12),
    )  # fmt: skip
    assert worst["p"] <= 1e-5


def test_reload(inputs):
    first, second = build(), build()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(**inputs), second(**inputs))
