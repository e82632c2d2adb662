"""The loop: it learns, and nothing that interrupts it changes the result."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from fourtop_tokens import train as train_module
from fourtop_tokens.tasks import classification
from fourtop_tokens.tasks.common import build_stream
from fourtop_tokens.tokenize import tokenize
from fourtop_tokens.train import with_data
from hep_shared.errors import CheckpointError, ConfigError, InputFileError, TrainingError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, StopTraining
from hep_shared.testing import same_tensors

SYSTEM = "system/"  # timings, the only numbers that may differ between two equal runs
FULL = (
    "data.augment=true",
    "model.pairwise=physics_sm",
)  # everything that draws or reduces, dropout included


def curve(run):
    return [{k: v for k, v in record.items() if not k.startswith(SYSTEM)} for record in run.history()]


def same_run(a, b):
    first, second = (run.load_checkpoint("last") for run in (a, b))
    return curve(a) == curve(b) and all(same_tensors(first[k], second[k]) for k in first if k != "config")


@pytest.fixture(scope="module")
def whole(tiny_config, start, tmp_path_factory):
    return start(tiny_config(*FULL), tmp_path_factory.mktemp("whole") / "run")


def test_history_holds_losses_and_areas(whole):
    history = whole.history()
    assert [record["epoch"] for record in history] == [1, 2]
    assert history[-1]["step"] == 2 * 128 // 32
    for name in ("train_loss", "val_loss", "val_auroc", "val_accuracy"):
        assert history[-1][name] is not None
    assert whole.has_checkpoint("best")


def test_same_seed_same_run(tiny_config, start, whole, tmp_path):
    assert same_run(start(tiny_config(*FULL), tmp_path / "run"), whole)


def test_other_seed_other_run(tiny_config, start, whole, tmp_path):
    assert curve(start(tiny_config(*FULL, "train.seed=43"), tmp_path / "run")) != curve(whole)


def interrupted(config, start, out, monkeypatch, stop_at):
    calls = iter(range(10_000))

    def stop_flag():
        return StopFlag(requested=next(calls) + 1 == stop_at)

    monkeypatch.setattr(train_module, "stop_flag", stop_flag)
    with pytest.raises(StopTraining):
        start(config, out)
    assert (out / "CHECKPOINTED").exists()
    monkeypatch.undo()
    return start(config, out, resume=True)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6])
def test_resume_is_exact(tiny_config, start, whole, tmp_path, monkeypatch, stop_at):
    assert same_run(interrupted(tiny_config(*FULL), start, tmp_path / "run", monkeypatch, stop_at), whole)
    assert not (tmp_path / "run" / "CHECKPOINTED").exists()


def test_resume_of_a_vqvae_is_exact(tiny_vqvae_config, start, vqvae_run, tmp_path, monkeypatch):
    assert same_run(interrupted(tiny_vqvae_config(), start, tmp_path / "run", monkeypatch, 3), vqvae_run)


def test_micro_batches_give_the_same_gradient(tiny_config, start, tmp_path):
    plain = "model.dropout=0"
    one = start(tiny_config(plain), tmp_path / "one").history()
    four = start(tiny_config(plain, "train.accumulation_steps=4"), tmp_path / "four").history()
    for a, b in zip(one, four, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)


def test_resume_refuses_other_data(tiny_config, start, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="trained on other files"):
        start(tiny_config("data.batch_size=16"), tmp_path / "run", resume=True)


def test_resume_refuses_other_inputs(tiny_config, start, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    with pytest.raises(
        CheckpointError, match=r"trained with model.vector five, but the configuration gives four"
    ):
        start(tiny_config("model.vector=four"), tmp_path / "run", resume=True)


def test_nan_loss_stops_with_the_place(tiny_config, start, tmp_path, monkeypatch):
    calls = iter(range(100))

    def poisoned(forward, batch):
        return compute_loss(forward, batch) * (float("nan") if next(calls) == 5 else 1.0)

    compute_loss = classification.compute_loss
    monkeypatch.setattr(classification, "compute_loss", poisoned)
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 2, step 5, batch of 32 events \(\d+, \d+"):
        start(tiny_config(), tmp_path / "run")


@pytest.mark.parametrize("tokens", ["identity", "binned"])
@pytest.mark.parametrize("classes", [2, 5])
def test_overfits_one_batch(tiny_config, tmp_path, tokens, classes):
    items = (f"model.tokens.kind={tokens}", f"task.num_classes={classes}", "model.dropout=0")
    config = with_data(tiny_config(*items), tmp_path)
    torch.manual_seed(0)
    module = classification.build_model(config).train()
    batch = next(build_stream(config, "train").batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = classification.compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_training_on_a_binned_file_equals_binning_on_the_way(tiny_config, start, tokens_file, tmp_path):
    binned = ("model.tokens.kind=binned", "model.vector=four")
    events = start(tiny_config(*binned, "data.num_events=null"), tmp_path / "events").history()
    file = start(
        tiny_config(*binned, "data.num_events=null", f"data.tokens={tokens_file}"), tmp_path / "file"
    ).history()
    assert [record["train_loss"] for record in events] == [record["train_loss"] for record in file]


def test_a_binned_file_with_another_vocabulary(tiny_config, start, sample, tmp_path):
    tokenize(sample[0], tmp_path / "t.h5", num_bins=4)
    config = tiny_config("model.tokens.kind=binned", f"data.tokens={tmp_path / 't.h5'}")
    with pytest.raises(InputFileError, match="has a vocabulary of 457 tokens instead of 886"):
        start(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_data_there_is_a_hint(tiny_config, start, tmp_path):
    with pytest.raises(ConfigError, match=r"data.events names no file; give an HDF5 file"):
        start(tiny_config("data.events=null"), tmp_path / "run")


def test_without_data_a_file_is_simulated(tiny_config, start, tmp_path):
    items = ("data.events=null", "data.simulated.num_events=400", "train.epochs=1")
    run = start(tiny_config(*items), tmp_path / "run")
    assert run.config["data"]["events"].endswith("events_400_1.h5")
    before = (tmp_path / "run" / "data" / "events_400_1.h5").stat().st_mtime_ns
    start(tiny_config(*items), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "data" / "events_400_1.h5").stat().st_mtime_ns == before


def test_a_run_is_not_overwritten(tiny_config, start, finished):
    with pytest.raises(Exception, match="holds a run already; pass --resume"):
        start(tiny_config(), finished.path)


# Processes


def test_a_signal_saves_and_leaves_with_85(settings, tmp_path):
    out = tmp_path / "run"
    items = [item for setting in settings("train.epochs=100000") for item in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "fourtop_tokens.cli",
        "train",
        "--out",
        str(out),
        "--device",
        "cpu",
        *items,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (out / "history.jsonl").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 85, errors
    assert "--resume" in errors
    assert RunDir.open(out).load_checkpoint("last")["cursor"]["step"] > 0


def test_two_processes_give_the_curve_of_one(settings, tiny_config, start, tmp_path):
    one = start(tiny_config("model.dropout=0"), tmp_path / "one").history()
    out = tmp_path / "two"
    items = [item for setting in settings("model.dropout=0") for item in ("--set", setting)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "fourtop_tokens.cli", "train", "--out", str(out), "--device", "cpu", *items,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    two = RunDir.open(out).history()
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
        assert a["val_auroc"] == pytest.approx(b["val_auroc"], abs=1e-3)


def test_a_stream_that_is_too_short(tiny_config, start, tmp_path):
    with pytest.raises(ConfigError, match=r"data.batch_size is 256, but the train events"):
        start(tiny_config("data.batch_size=256"), tmp_path / "run")
