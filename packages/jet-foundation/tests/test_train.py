"""The loop: it learns, and nothing that interrupts it changes the result."""

import os
import subprocess
import sys

import pytest
import torch

from hep_shared.errors import CheckpointError, ConfigError, TrainingError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, StopTraining
from hep_shared.testing import same_tensors
from jet_foundation import train as train_module
from jet_foundation.data.preprocess import preprocess
from jet_foundation.tasks import classification, common
from jet_foundation.train import train

SYSTEM = "system/"  # timings, the only numbers that may differ between two equal runs
STEPS = 60 // 8  # in an epoch


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


def test_history_holds_losses_and_metrics(finished):
    history = finished.history()
    assert [record["epoch"] for record in history] == [1, 2]
    assert history[-1]["step"] == 2 * STEPS
    for name in ("train_loss", "val_loss", "val_accuracy", "val_auc_ovr"):
        assert history[-1][name] is not None
    assert finished.has_checkpoint("best")


def test_same_seed_same_run(tiny_config, finished, tmp_path):
    assert same_run(start(tiny_config(), tmp_path / "run"), finished)


def test_other_seed_other_run(tiny_config, finished, tmp_path):
    assert curve(start(tiny_config("train.seed=43"), tmp_path / "run")) != curve(finished)


@pytest.mark.parametrize("stop_at", [1, 4, STEPS, STEPS + 3])
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


def test_resume_refuses_another_order(tiny_config, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="trained on other jets"):
        start(tiny_config("data.batch_size=16"), tmp_path / "run", resume=True)


def test_resume_refuses_another_normalisation(tiny_config, sample, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    preprocess([sample], tmp_path / "other", scheme="part")
    with pytest.raises(CheckpointError, match="trained with other normalization than those of"):
        start(tiny_config(f"data.path={tmp_path / 'other'}"), tmp_path / "run", resume=True)


def test_nan_loss_stops_with_the_place(tiny_config, tmp_path, monkeypatch):
    calls = iter(range(100))

    def poisoned(forward, batch):
        return compute_loss(forward, batch) * (float("nan") if next(calls) == STEPS + 2 else 1.0)

    compute_loss = classification.compute_loss
    monkeypatch.setattr(classification, "compute_loss", poisoned)
    with pytest.raises(
        TrainingError, match=rf"loss is nan in epoch 2, step {STEPS + 2}, batch of 8 jets from number \d+"
    ):
        start(tiny_config(), tmp_path / "run")
    states = RunDir.open(tmp_path / "run").load_checkpoint("last")["model"]
    assert all(torch.isfinite(tensor).all() for tensor in states.values())


@pytest.mark.parametrize("kind", ["lorentz_part", "part"])
def test_overfits_one_batch(tiny_config, kind):
    config = tiny_config("model.dropout=0", f"model.kind={kind}", "model.dim=16")
    torch.manual_seed(0)
    module = classification.build_model(config).train()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = classification.compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_all_that_is_trained_gets_a_gradient(tiny_config):
    config = tiny_config()
    module = classification.build_model(config).train()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    classification.compute_loss(module, batch).backward()
    without = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_accumulation_splits_a_batch_into_the_same_jets(tiny_config):
    batch = next(common.build_stream(tiny_config(), "train", shuffle=True).batches())
    parts = batch.split(4)
    assert [len(part.labels) for part in parts] == [2, 2, 2, 2]
    assert torch.equal(torch.cat([part.p4 for part in parts]), batch.p4)


def test_without_data_there_is_a_hint(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"data.path names no data set; give one made by"):
        start(tiny_config("data.path=null"), tmp_path / "run")


def test_two_processes_train_together(settings, tmp_path):
    out = tmp_path / "two"
    items = [item for setting in settings("train.epochs=1") for item in ("--set", setting)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "jet_foundation.cli", "train", "--out", str(out), "--device", "cpu", *items,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    history = RunDir.open(out).history()
    assert [record["step"] for record in history] == [STEPS]
