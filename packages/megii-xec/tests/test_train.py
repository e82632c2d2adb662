"""The loop: it learns, and nothing that interrupts it changes the result."""

import json
import os
import signal
import subprocess
import sys
import time

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


# Processes

TRAINER = """
import json, os, signal, sys, time
import numpy as np
import torch
torch.set_num_threads(1)
from pathlib import Path
from hep_shared.config import load_config
from hep_shared.run import RunDir
from megii_xec.config import PRESETS, Config
from megii_xec.train import train

def last_step(out):
    index = out / "checkpoints" / "index.json"
    return json.loads(index.read_text())["last"]["step"] if index.exists() else -1


out, overrides = Path(sys.argv[1]), json.loads(sys.argv[2])
config = load_config(Config, presets=PRESETS, overrides=overrides)
rng = np.random.default_rng(int(sys.argv[3]))
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports for seconds, once and not in every child
kills = readable = 0
while True:
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        train(config, out=out, resume=True, device="cpu", command="test")
        os._exit(0)
    if kills < 20:
        # Some kills fall into the start, most into the steps; how fast this machine is must not matter.
        if rng.random() < 0.75:
            former = last_step(out)
            while last_step(out) == former:
                time.sleep(0.005)
        time.sleep(float(rng.uniform(0.0, 0.2)))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kills += 1
        if out.exists() and (out / "config.json").exists() and RunDir.open(out).has_checkpoint("last"):
            RunDir.open(out).load_checkpoint("last")
            readable += 1
    elif os.WEXITSTATUS(status) != 0:
        sys.exit(f"the training failed after {kills} kills")
    elif kills >= 20:
        break
    else:
        sys.exit(f"the training was over after {kills} kills")
print(json.dumps({"kills": kills, "readable": readable}))
"""


LONG = ("train.epochs=40", "train.save_every_steps=1")  # longer than twenty kills take


def test_twenty_kills_change_nothing(settings, tiny_config, tmp_path):
    overrides = settings(*LONG)
    whole = start(tiny_config(*LONG), tmp_path / "whole")
    command = [sys.executable, "-c", TRAINER, str(tmp_path / "killed"), json.dumps(overrides), "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["kills"] == 20
    assert report["readable"] > 10
    killed = RunDir.open(tmp_path / "killed")
    assert curve(killed) == curve(whole)
    assert not list((tmp_path / "killed").rglob("*.tmp*"))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_signals_save_and_leave_with_85(settings, tmp_path, name):
    out = tmp_path / "run"
    items = [item for setting in settings("train.epochs=100000") for item in ("--set", setting)]
    command = [sys.executable, "-m", "megii_xec.cli", "train", "--out", str(out), "--device", "cpu", *items]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "history.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 85, errors
    assert "checkpointed: " in errors
    assert "--resume" in errors
    assert RunDir.open(out).load_checkpoint("last")["cursor"]["step"] > 0


def test_two_processes_give_the_curve_of_one(settings, tiny_config, tmp_path):
    one = start(tiny_config(*NO_DROPOUT), tmp_path / "one").history()
    out = tmp_path / "two"
    items = [item for setting in settings(*NO_DROPOUT) for item in ("--set", setting)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "megii_xec.cli", "train", "--out", str(out), "--device", "cpu", *items,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    two = RunDir.open(out).history()
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
        assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-5)
        assert a["val_resolution_deg"] == pytest.approx(b["val_resolution_deg"], rel=1e-3)
