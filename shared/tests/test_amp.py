import math

import pytest
import torch
from torch import nn

from hep_shared.amp import Amp, StepInfo, check_loss, explain_oom, resolve_device
from hep_shared.errors import ConfigError, TrainingError, UserError
from hep_shared.testing import same_tensors

CPU = torch.device("cpu")


def make(precision="fp32", max_grad_norm=None):
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    return model, torch.optim.SGD(model.parameters(), lr=1.0), Amp(CPU, precision, max_grad_norm)


def step(model, optimizer, amp, x) -> StepInfo:
    optimizer.zero_grad()
    with amp.autocast():
        loss = model(torch.tensor([x])).sum()
    amp.backward(loss)
    return amp.step(optimizer, model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_step_clips_to_the_norm(precision: str) -> None:
    model, optimizer, amp = make(precision, max_grad_norm=1.0)
    info = step(model, optimizer, amp, [3.0, 4.0])
    assert info.grad_norm == pytest.approx(5.0)
    assert not info.skipped
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.4, 0.2]]), atol=1e-5, rtol=0)


def test_without_threshold_gradients_stay() -> None:
    model, optimizer, amp = make()
    step(model, optimizer, amp, [3.0, 4.0])
    assert torch.equal(model.weight.detach(), torch.tensor([[-2.0, -3.0]]))


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_autocast_dtype(precision: str, dtype: torch.dtype) -> None:
    model, _, amp = make(precision)
    with amp.autocast():
        assert model(torch.ones(1, 2)).dtype == dtype


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_is_skipped_and_counted(precision: str, bad: float) -> None:
    model, optimizer, amp = make(precision, max_grad_norm=1.0)
    info = step(model, optimizer, amp, [bad, 1.0])
    assert info.skipped
    assert not math.isfinite(info.grad_norm)
    assert torch.equal(model.weight.detach(), torch.ones(1, 2))
    assert amp.num_skipped == 1
    assert not step(model, optimizer, amp, [1.0, 1.0]).skipped


def test_fp16_lowers_its_scale_on_overflow() -> None:
    model, optimizer, amp = make("fp16")
    before = amp.state_dict()["scaler"]["scale"]
    step(model, optimizer, amp, [math.inf, 1.0])
    assert amp.state_dict()["scaler"]["scale"] == before / 2


def test_five_bad_steps_in_a_row_end_the_training() -> None:
    model, optimizer, amp = make("bf16")
    for _ in range(4):
        step(model, optimizer, amp, [math.nan, 1.0])
    step(model, optimizer, amp, [1.0, 1.0])  # a good step starts the count again
    for _ in range(4):
        step(model, optimizer, amp, [math.nan, 1.0])
    with pytest.raises(TrainingError, match=r"nan in 5 optimizer steps in a row.*precision to fp32"):
        step(model, optimizer, amp, [math.nan, 1.0])
    assert torch.isfinite(model.weight).all()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_state_round_trip(precision: str, tmp_path) -> None:
    model, optimizer, amp = make(precision)
    for x in ([math.nan, 1.0], [1.0, 1.0], [math.nan, 1.0]):
        step(model, optimizer, amp, x)
    torch.save(amp.state_dict(), tmp_path / "amp.pt")
    resumed = Amp(CPU, precision, None)
    resumed.load_state_dict(torch.load(tmp_path / "amp.pt", weights_only=True))
    assert same_tensors(resumed.state_dict(), amp.state_dict())
    assert resumed.num_skipped == 2


def test_unknown_precision() -> None:
    with pytest.raises(ConfigError, match="'fp8'; choose one of fp32, bf16, fp16"):
        Amp(CPU, "fp8", None)


def test_resolve_device(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(UserError, match=r"--device cuda was asked for.*sees 0 CUDA devices.*--device cpu"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"cuda:2 was asked for.*sees 2 CUDA devices"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", ""])
def test_resolve_device_refuses_other_names(name: str) -> None:
    with pytest.raises(UserError, match=f"--device is '{name}'; choose auto"):
        resolve_device(name)


def test_check_loss() -> None:
    where = {"epoch": 3, "step": 120, "batch_id": "a.root entries 0..9"}
    assert check_loss(torch.tensor(0.5), **where, checkpoint=None) == 0.5
    with pytest.raises(
        TrainingError, match=r"loss is nan in epoch 3, step 120, batch a.root entries 0..9.*start again"
    ):
        check_loss(torch.tensor(math.nan), **where, checkpoint=None)
    with pytest.raises(TrainingError, match=r"loss is -inf.*resume from run/last.pt"):
        check_loss(torch.tensor(-math.inf), **where, checkpoint="run/last.pt")


def test_out_of_memory_names_the_option() -> None:
    with pytest.raises(TrainingError, match=r"CUDA out of memory\); lower train.batch_size"), explain_oom():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    remedy = "lower data.num_tracks"
    with pytest.raises(TrainingError, match=f"computer has no memory left; {remedy}"), explain_oom(remedy):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size mismatch"), explain_oom():
        raise RuntimeError("size mismatch")
