import pytest
import torch
from torch import nn

from hep_shared.errors import ConfigError
from hep_shared.optim import adamw


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"stem": nn.Conv1d(1, 2, 3), "norm": nn.LayerNorm(2)})
        self.encoder2 = nn.Linear(2, 2)
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def settings(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_decay_spares_vectors_and_position_embeddings() -> None:
    model = Model()
    assert settings(model, adamw(model, lr=1.0, weight_decay=0.1)) == {
        "encoder.stem.weight": (1.0, 0.1),
        "encoder.stem.bias": (1.0, 0.0),
        "encoder.norm.weight": (1.0, 0.0),
        "encoder.norm.bias": (1.0, 0.0),
        "encoder2.weight": (1.0, 0.1),
        "encoder2.bias": (1.0, 0.0),
        "pos_embed": (1.0, 0.0),
    }


def test_longest_prefix_wins() -> None:
    model = Model()
    groups = {"encoder.norm": 0.5, "encoder": 0.1}
    rate = {
        name: lr
        for name, (lr, _) in settings(model, adamw(model, lr=1, weight_decay=0, groups=groups)).items()
    }
    assert rate["encoder.stem.weight"] == rate["encoder.stem.bias"] == 0.1
    assert rate["encoder.norm.weight"] == 0.5
    assert rate["encoder2.weight"] == 1.0  # a prefix matches whole components only


def test_a_shadowed_prefix_is_not_an_error() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2)})
    optimizer = adamw(
        model, lr=1.0, weight_decay=0.0, groups={"head": 0.1, "head.weight": 0.2, "head.bias": 0.3}
    )
    assert settings(model, optimizer) == {"head.weight": (0.2, 0.0), "head.bias": (0.3, 0.0)}


@pytest.mark.parametrize("prefix", ["enc", "frozen"])
def test_a_prefix_without_parameters_is_named(prefix: str) -> None:
    with pytest.raises(ConfigError, match=f"'{prefix}' matches no trainable parameter.*encoder, encoder2"):
        adamw(Model(), lr=1.0, weight_decay=0.0, groups={prefix: 0.1})


def test_decay_moves_only_the_decayed() -> None:
    model = nn.Linear(3, 3)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    optimizer = adamw(model, lr=0.1, weight_decay=0.5)
    (0.0 * model(torch.ones(1, 3))).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.weight, 0.95 * weight)
    assert torch.equal(model.bias, bias)
