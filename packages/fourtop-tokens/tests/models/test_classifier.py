"""Size, invariances, padding and export of every configuration."""

import pytest
import torch

from fourtop_tokens.config import VqTokens, VqVaeConfig
from fourtop_tokens.export import example_events
from fourtop_tokens.models.classifier import num_trainable
from fourtop_tokens.models.deploy import EventProbabilities
from fourtop_tokens.sweep import Member, member_tokens, members
from fourtop_tokens.tasks import classification
from fourtop_tokens.tasks.common import fit_constants, statistics_of
from hep_shared.onnx import export_onnx

EXTRA = [
    Member("raw", "mean", True, "five"),
    Member("binned_legacy", "cls", True, "four"),
    Member("binned_background", "max", False, "four"),
]


@pytest.fixture(scope="module")
def resolved(tiny_config):
    """Function that gives the resolved configuration of a member; the VQ-VAE is a fresh one."""

    def build(member, *more):
        config = tiny_config(*more)
        tokens = member_tokens(member.tokens, config, None)
        updates = {"tokens": tokens, "pooling": member.pooling, "met": member.met, "vector": member.vector}
        config = fit_constants(config.model_copy(update={"model": config.model.model_copy(update=updates)}))
        if isinstance(config.model.tokens, VqTokens):
            tokens = config.model.tokens.model_copy(
                update={"vqvae": VqVaeConfig(), "statistics": statistics_of(config.data)}
            )
            config = config.model_copy(update={"model": config.model.model_copy(update={"tokens": tokens})})
        return config

    return build


STUDY = ("model.dim=64", "model.depth=8", "model.num_heads=8", "model.mlp_dim=null")


def test_the_36_combinations_are_30_configurations(tiny_config):
    unique, duplicates = members(tiny_config())
    assert len(unique) == len({member.name for member in unique}) == 30
    assert len(duplicates) == 6
    assert duplicates["binned-max-met-five"] == "binned-max-met-four"
    assert {member.tokens for member in unique[:3]} == {"identity", "binned", "vq"}


def test_every_configuration_has_400_thousand_parameters(tiny_config, resolved):
    for member in [*members(tiny_config())[0], *EXTRA]:
        for pairwise in (
            ("none", "physics", "physics_sm") if member.name.startswith("identity-cls") else ("none",)
        ):
            config = resolved(member, *STUDY, f"model.pairwise={pairwise}")
            with torch.device("meta"):
                size = num_trainable(classification.build_model(config))
            assert abs(size / 400_000 - 1) < 0.02, (member.name, pairwise, size)


def test_legacy_sizes_are_those_of_the_reference(resolved):
    legacy = ("model.dim=72", "model.depth=8", "model.num_heads=8", "model.mlp_dim=144")
    for tokens, expected in (("identity", 342_850), ("binned", 405_642)):
        config = resolved(Member(tokens, "cls", False, "five"), *legacy)
        with torch.device("meta"):
            size = num_trainable(classification.build_model(config))
        assert size == pytest.approx(expected, rel=0.01)


ALL = [
    *(
        Member(tokens, pooling, True, "five")
        for tokens in ("identity", "vq")
        for pooling in ("cls", "mean", "max")
    ),
    *(Member("binned", pooling, False, "four") for pooling in ("cls", "mean", "max")),
    Member("identity", "max", False, "four"),
    *EXTRA,
]


@pytest.mark.parametrize("member", ALL, ids=[member.name for member in ALL])
@pytest.mark.parametrize("pairwise", ["none", "physics_sm"])
def test_padding_never_changes_an_output(resolved, member, pairwise):
    torch.manual_seed(0)
    model = classification.build_model(resolved(member, f"model.pairwise={pairwise}")).eval().network
    inputs = example_events(6)
    empty = (inputs["ids"] == 0)[..., None]
    changed = inputs | {"features": torch.where(empty, torch.randn(6, 18, 4) * 1e3, inputs["features"])}
    with torch.no_grad():
        found = model(*inputs.values())
        assert torch.equal(found, model(*changed.values()))
        one_by_one = torch.cat([model(*(t[i : i + 1] for t in inputs.values())) for i in range(6)])
    assert found.shape == (6, 2)
    assert torch.allclose(found, one_by_one, atol=1e-5)


def test_without_positions_the_order_of_objects_does_not_matter(resolved):
    torch.manual_seed(0)
    member = Member("identity", "mean", True, "five")
    inputs = example_events(4)
    order = torch.randperm(18)
    shuffled = inputs | {"ids": inputs["ids"][:, order], "features": inputs["features"][:, order]}
    for positions in (False, True):
        config = resolved(member, "model.pairwise=physics_sm", f"model.positions={positions}")
        model = classification.build_model(config).eval().network
        with torch.no_grad():
            same = torch.allclose(model(*inputs.values()), model(*shuffled.values()), atol=1e-4)
        assert same != positions


@pytest.mark.parametrize("member", [ALL[3]], ids=lambda member: member.name)
def test_reload_and_export_give_the_same_probabilities(resolved, member, tmp_path):
    torch.manual_seed(0)
    config = resolved(member, "model.pairwise=physics_sm")
    module = classification.build_model(config).eval()
    again = classification.build_model(config).eval()
    again.load_state_dict(module.state_dict())
    inputs = example_events(7)
    with torch.no_grad():
        assert torch.equal(module.network(*inputs.values()), again.network(*inputs.values()))
    found = export_onnx(
        EventProbabilities(module.network), inputs, tmp_path / "m.onnx", output_names=["p"], metadata={}
    )
    assert found["p"] <= 1e-5


def test_gradients_are_finite_and_reach_everything(resolved):
    for member in (ALL[0], ALL[3], ALL[6]):
        module = classification.build_model(resolved(member, "model.pairwise=physics_sm"))
        inputs = example_events(8)
        loss, _ = module(tuple(inputs.values()), torch.arange(8) % 5)
        loss.backward()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
