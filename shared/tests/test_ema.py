import copy

import pytest
import torch
from torch import nn

from hep_shared.ema import Ema
from hep_shared.testing import same_tensors


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def train_step(model: nn.Module) -> None:
    """Move the weights and the running statistics."""
    model(torch.randn(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("warmup", [True, False])
def test_follows_the_recursion(warmup: bool) -> None:
    model = make_model()
    ema = Ema(model, decay=0.5, warmup=warmup)
    expected = torch.empty(0)
    for n in range(12):
        train_step(model)
        ema.update()
        current = model[0].weight.detach()
        decay = min(0.5, (1 + n) / (10 + n)) if warmup else 0.5
        expected = current.clone() if n == 0 else decay * expected + (1 - decay) * current
        torch.testing.assert_close(ema.module[0].weight, expected)
    assert ema.num_updates == 12


def test_copies_buffers() -> None:
    model = make_model()
    ema = Ema(model)
    for _ in range(3):
        train_step(model)
        ema.update()
    assert int(ema.module[1].num_batches_tracked) == 3
    assert same_tensors(dict(ema.module.named_buffers()), dict(model.named_buffers()))


def test_does_not_train_or_share_weights() -> None:
    model = make_model()
    ema = Ema(model)
    before = copy.deepcopy(ema.module.state_dict())
    train_step(model)
    assert same_tensors(ema.module.state_dict(), before)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_resumes_exactly(tmp_path) -> None:
    model = make_model()
    ema = Ema(model, decay=0.9)
    for _ in range(5):
        train_step(model)
        ema.update()
    torch.save({"model": model.state_dict(), "ema": ema.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed_model = make_model()
    resumed_model.load_state_dict(state["model"])
    resumed = Ema(resumed_model, decay=0.9)
    resumed.load_state_dict(state["ema"])
    for one_model, one_ema in ((model, ema), (resumed_model, resumed)):
        torch.manual_seed(1)
        for _ in range(5):
            train_step(one_model)
            one_ema.update()
    assert same_tensors(resumed.state_dict(), ema.state_dict())
