"""The loop: it learns, and nothing that interrupts it changes the result."""

import pytest
import torch

from hep_shared.errors import CheckpointError, ConfigError, TrainingError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, StopTraining
from hep_shared.testing import same_tensors
from megii_xec import train as train_module
from megii_xec.tasks import regression
from megii_xec.train import train

NO_DROPOUT = ("model.dropout=0", "model.head_dropout=0")
SYSTEM = "system/"  # timings, the only numbers that may differ between two equal runs


def start(config, out, resume=False):
    train(config, out=out, resume=resume, device="cpu", command="test")
    return RunDir.open(out)


def curve(run):
    return [{k: v for k, v in record.items() if not k.startswith(SYSTEM)} for record in run.history()]


def same_run(a, b):
    first, second = (run.load_checkpoint("last") for run in (a, b))
    return curve(a) == curve(b) and all(same_tensors(first[k], second[k]) for k in first if k != "config")


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    return start(tiny_config(), tmp_path_factory.mktemp("finished") / "run")


def test_history_holds_losses_and_physics(finished):
    history = finished.history()
    assert [record["epoch"] for record in history] == [1, 2]
    assert history[-1]["step"] == 2 * 64 // 8
    for name in ("train_loss", "val_loss", "val_loss_angle", "val_resolution_deg", "theta_bias", "w_width68"):
        assert history[-1][name] is not None
    assert finished.has_checkpoint("best")


def test_same_seed_same_run(tiny_config, finished, tmp_path):
    assert same_run(start(tiny_config(), tmp_path / "run"), finished)


def test_other_seed_other_run(tiny_config, finished, tmp_path):
    assert curve(start(tiny_config("train.seed=43"), tmp_path / "run")) != curve(finished)


@pytest.mark.parametrize("stop_at", [1, 5, 8, 13])
def test_resume_is_exact(tiny_config, finished, tmp_path, monkeypatch, stop_at):
    calls = iter(range(10_000))

    def stop_flag():
        return StopFlag(requested=next(calls) + 1 == stop_at)

    monkeypatch.setattr(train_module, "stop_flag", stop_flag)
    with pytest.raises(StopTraining):
        start(tiny_config(), tmp_path / "run")
    assert (tmp_path / "run" / "CHECKPOINTED").exists()
    assert len(RunDir.open(tmp_path / "run").history()) < 2
    monkeypatch.undo()
    assert same_run(start(tiny_config(), tmp_path / "run", resume=True), finished)
    assert not (tmp_path / "run" / "CHECKPOINTED").exists()


def test_micro_batches_give_the_same_gradient(tiny_config, tmp_path):
    one = start(tiny_config(*NO_DROPOUT), tmp_path / "one").history()
    four = start(tiny_config(*NO_DROPOUT, "train.accumulation_steps=4"), tmp_path / "four").history()
    for a, b in zip(one, four, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)


def test_a_run_is_not_overwritten(tiny_config, finished):
    with pytest.raises(Exception, match="holds a run already; pass --resume"):
        start(tiny_config(), finished.path)


def test_resume_refuses_other_data(tiny_config, finished, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="trained on other files"):
        start(tiny_config("data.chunk_events=32"), tmp_path / "run", resume=True)


def test_resume_refuses_other_inputs(tiny_config, finished, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"trained with normalization log1p-\w+, but data.normalization is sqrt"
    ):
        start(tiny_config("data.normalization.scheme=sqrt"), tmp_path / "run", resume=True)


def test_encoder_is_handed_over(tiny_config, finished):
    config = tiny_config(f"train.encoder_from={finished.path}")
    module = regression.build_model(config)
    regression.load_encoder(module, config, finished.path)
    weights = finished.load_checkpoint("best")["ema"]
    for name, parameter in module.network.encoder.named_parameters():
        assert torch.equal(parameter, weights[f"module.network.encoder.{name}"])


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("data.normalization.scheme=sqrt", "trained with normalization"),
        ("model.layout=legacy", "trained with layout corrected, but model.layout is legacy"),
        ("model.hex_dim=16", "does not fit the one configured"),
    ],
)
def test_encoder_of_another_kind_is_refused(tiny_config, finished, tmp_path, setting, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        start(tiny_config(f"train.encoder_from={finished.path}", setting), tmp_path / "run")


def test_nan_loss_stops_with_the_place(tiny_config, tmp_path, monkeypatch):
    calls = iter(range(100))

    def poisoned(forward, batch):
        return compute_loss(forward, batch) * (float("nan") if next(calls) == 10 else 1.0)

    compute_loss = regression.compute_loss
    monkeypatch.setattr(regression, "compute_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"loss is nan in epoch 2, step 10, batch of 8 events from run \d+"
    ):
        start(tiny_config(), tmp_path / "run")
    states = RunDir.open(tmp_path / "run").load_checkpoint("last")["model"]
    assert all(torch.isfinite(tensor).all() for tensor in states.values())


def test_overfits_one_batch(tiny_config):
    config = tiny_config(*NO_DROPOUT)
    torch.manual_seed(0)
    module = regression.build_model(config).train()
    batch = next(iter(regression.build_stream(config, "train").batches()))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = regression.compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("weighting", ["fixed", "learned"])
def test_task_weights(tiny_config, weighting):
    module = regression.build_model(tiny_config(f"task.weighting={weighting}"))
    learned = [name for name, _ in module.named_parameters() if name.startswith("criterion")]
    assert len(learned) == (4 if weighting == "learned" else 0)


def test_without_data_there_is_a_hint(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"data.train names no files; give ROOT files"):
        start(tiny_config("data.train=[]"), tmp_path / "run")
