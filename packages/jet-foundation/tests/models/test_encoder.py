import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jet_foundation.models import packing
from jet_foundation.models.attention import ClassAttention
from jet_foundation.models.encoder import LorentzParTEncoder, ParTEncoder, num_parameters
from jet_foundation.physics import fourvectors as fv

Jets = tuple[Tensor, Tensor, Tensor]
SMALL = {"dim": 32, "num_layers": 2, "num_heads": 4, "embed_dims": (24,), "pair_dims": (16,)}
# Outputs of one network for one jet in different company: the order of sums in float32.
SAME = {"rtol": 2e-5, "atol": 2e-5}


def build(name: str, **options: object) -> nn.Module:
    kind = ParTEncoder if name == "ParT" else LorentzParTEncoder
    torch.manual_seed(1)
    return kind(7, **{**SMALL, **options})  # type: ignore[arg-type]


def tokens(model: nn.Module, *inputs: Tensor | None) -> Tensor:
    output = model(*inputs)
    return output if isinstance(output, Tensor) else torch.cat(output, dim=-1)


def warmed(model: nn.Module, jetful: Jets) -> nn.Module:
    """Evaluation mode after the batch statistics have moved."""
    model.train()
    for _ in range(3):
        model(*jetful)
    return model.eval()


@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_padding_and_company_change_nothing(name: str, jetful: Jets) -> None:
    model = warmed(build(name), jetful)
    p4, features, mask = jetful
    together = tokens(model, *jetful)
    for jet in range(len(p4)):
        num = int(mask[jet].sum())
        alone = tokens(
            model, p4[jet : jet + 1, :num], features[jet : jet + 1, :num], mask[jet : jet + 1, :num]
        )
        torch.testing.assert_close(alone[0], together[jet, :num], **SAME)
        assert not together[jet, num:].any()
    wider = tuple(nn.functional.pad(x, (0, 0, 0, 24)) for x in (p4, features))
    wide = tokens(model, *wider, nn.functional.pad(mask, (0, 24)))
    torch.testing.assert_close(wide[:, : mask.shape[1]], together, **SAME)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_jets_by_length_or_in_a_rectangle(
    name: str, training: bool, jetful: Jets, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for share in (0.0, 2.0):
        monkeypatch.setattr(packing, "_GROUPS_BELOW", share)
        model = build(name, hidden_tokens=True, dropout=0.0)
        model = model.train() if training else warmed(model, jetful)
        hidden = jetful[2] & (torch.arange(jetful[2].shape[1]) % 3 == 1)
        found = tokens(model, *jetful, hidden)
        found.square().mean().backward()
        results.append([found, *(p.grad for p in model.parameters() if p.grad is not None)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_what_lies_in_padded_slots_changes_nothing(name: str, jetful: Jets) -> None:
    model = warmed(build(name), jetful)
    p4, features, mask = jetful
    rubbish = torch.where(mask[..., None], p4, 77.0), torch.where(mask[..., None], features, -3.0)
    torch.testing.assert_close(tokens(model, *rubbish, mask), tokens(model, *jetful), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_training_statistics_do_not_see_padding(name: str, jetful: Jets) -> None:
    models = [build(name, dropout=0.0).train() for _ in range(2)]
    p4, features, mask = jetful
    narrow = tokens(models[0], *jetful)
    wider = tuple(nn.functional.pad(x, (0, 0, 0, 24)) for x in (p4, features))
    wide = tokens(models[1], *wider, nn.functional.pad(mask, (0, 24)))
    torch.testing.assert_close(wide[:, : mask.shape[1]], narrow, rtol=1e-4, atol=1e-4)
    for a, b in zip(models[0].buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_particles_may_come_in_any_order(name: str, jetful: Jets) -> None:
    model = warmed(build(name), jetful)
    order = torch.randperm(jetful[2].shape[1])
    shuffled = tokens(model, *(x[:, order] for x in jetful))
    torch.testing.assert_close(shuffled, tokens(model, *jetful)[:, order], **SAME)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_hidden_particles_do_not_leak(name: str, training: bool, jetful: Jets) -> None:
    """Whatever a hidden particle is, every output stays exactly the same."""
    p4, features, mask = jetful
    model = warmed(build(name, hidden_tokens=True, dropout=0.0), jetful).train(training)
    hidden = mask & (torch.arange(mask.shape[1]) % 3 == 1)
    first = tokens(model, p4, features, mask, hidden)
    other_p4 = torch.where(hidden[..., None], p4.flip(0) + 3.0, p4)
    other_features = torch.where(hidden[..., None], features.flip(0) - 1.0, features)
    assert not torch.equal(other_p4, p4)
    torch.testing.assert_close(tokens(model, other_p4, other_features, mask, hidden), first, rtol=0, atol=0)
    assert not torch.equal(tokens(model, other_p4, other_features, mask), tokens(model, p4, features, mask))
    slots = first[3][hidden[3]]
    assert (slots[0] - slots[1]).abs().max() > 1e-4, "hidden particles must be told apart by their rank"


def test_hiding_needs_hidden_tokens(jetful: Jets) -> None:
    with pytest.raises(ValueError, match="cannot hide particles"):
        build("ParT")(*jetful, jetful[2])


TRANSFORMATIONS = {
    "rotation about the beam": fv.rotation_matrix(np.array([0.0, 0, 1]), 2.2),
    "rotation": fv.rotation_matrix(np.array([1.0, 2, -1]), 0.9),
    "boost along the beam": fv.boost_matrix(np.array([0.0, 0, 0.7])),
    "boost": fv.boost_matrix(np.array([0.3, -0.4, 0.2])),
}


@pytest.mark.parametrize("name", list(TRANSFORMATIONS))
def test_without_spurions_every_lorentz_transformation_leaves_the_tokens(name: str, jetful: Jets) -> None:
    p4, _, mask = jetful
    p4 = p4.double()
    model = LorentzParTEncoder(0, spurions="none", pair_kind="mass", **SMALL).double()  # type: ignore[arg-type]
    model.train()(p4, None, mask)
    model.eval()
    move = torch.from_numpy(TRANSFORMATIONS[name])
    with torch.no_grad():
        x, mv = model(p4, None, mask)
        moved, moved_mv = model(p4 @ move.T, None, mask)
    torch.testing.assert_close(moved, x, rtol=1e-6, atol=1e-6)
    # The vector part of the multivector output moves along.
    torch.testing.assert_close(moved_mv[..., 1:5], mv[..., 1:5] @ move.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved_mv[..., 0], mv[..., 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(TRANSFORMATIONS))
def test_spurions_moved_along_restore_the_symmetry(name: str, jetful: Jets) -> None:
    p4, _, mask = jetful
    p4 = p4.double()
    model = LorentzParTEncoder(0, pair_kind="mass", **SMALL).double().eval()  # type: ignore[arg-type]
    move = torch.from_numpy(TRANSFORMATIONS[name])
    with torch.no_grad():
        x, _ = model(p4, None, mask)
        together, _ = model(p4 @ move.T, None, mask, None, model.spurions @ move.T)
        broken, _ = model(p4 @ move.T, None, mask)
    torch.testing.assert_close(together, x, rtol=1e-6, atol=1e-6)
    kept = name == "rotation about the beam"
    assert torch.allclose(broken, x, atol=1e-6) == kept


def test_float32_tolerance_of_the_symmetry(jetful: Jets) -> None:
    """With float32 momenta of a few hundred GeV, tokens of size one move by less than 2 per cent."""
    p4, _, mask = jetful
    options = {**SMALL, "pair_norm": "none"}
    model = LorentzParTEncoder(0, spurions="none", pair_kind="mass", **options).eval()  # type: ignore[arg-type]
    move = torch.from_numpy(TRANSFORMATIONS["boost"]).float()
    with torch.no_grad():
        difference = (model(p4 @ move.T, None, mask)[0] - model(p4, None, mask)[0]).abs()
    assert difference.median() < 1e-3
    assert difference.max() < 0.02


@pytest.mark.parametrize("num_features", [7, 13, 17])
def test_both_encoders_have_equal_size(num_features: int) -> None:
    sizes = [num_parameters(kind(num_features)) for kind in (ParTEncoder, LorentzParTEncoder)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_size_of_the_published_network() -> None:
    """2,143,486 parameters with full features; our encoder ends with a norm of 256 more."""
    classifier = num_parameters(ClassAttention(128, 8)) + 128 * 10 + 10
    assert num_parameters(ParTEncoder(17)) + classifier - 256 == 2_143_486


@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_every_parameter_gets_a_finite_gradient(name: str, jetful: Jets) -> None:
    model = build(name, hidden_tokens=True).train()
    hidden = jetful[2] & (torch.arange(jetful[2].shape[1]) % 4 == 2)
    tokens(model, *jetful, hidden).square().mean().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", ["ParT", "LorentzParT"])
def test_a_batch_can_be_learned_by_heart(name: str, jetful: Jets) -> None:
    model, head = build(name, dropout=0.0), nn.Linear(32, 6)
    optimizer = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=3e-3)
    labels = torch.arange(6)
    loss = torch.tensor(0.0)
    for _ in range(40):
        x = model(*jetful)
        x = x if isinstance(x, Tensor) else x[0]
        loss = nn.functional.cross_entropy(head(x.sum(1) / jetful[2].sum(1, keepdim=True)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_unknown_spurions() -> None:
    with pytest.raises(ValueError, match="spurions is 'beam'"):
        LorentzParTEncoder(0, spurions="beam")  # type: ignore[arg-type]
