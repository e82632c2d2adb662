"""Processes that are killed, stopped or several: the result is that of one that ran through."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from hep_shared.run import RunDir
from megii_xec.train import train

NO_DROPOUT = ("model.dropout=0", "model.head_dropout=0")


def start(config, out):
    train(config, out=out, resume=False, device="cpu", command="test")
    return RunDir.open(out)


def curve(run):
    """History without timings, the only numbers that may differ between two equal runs."""
    return [{k: v for k, v in record.items() if not k.startswith("system/")} for record in run.history()]


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
        time.sleep(float(rng.uniform(0.0, 0.1)))
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


LONG = "train.epochs=24"  # 192 steps, longer than twenty kills take


@pytest.fixture
def one_thread():
    """Sums are rounded differently by more threads, and the training that is killed has one."""
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


def test_twenty_kills_change_nothing(settings, tiny_config, tmp_path, one_thread):
    overrides = settings(LONG, "train.save_every_steps=1")
    whole = start(tiny_config(LONG), tmp_path / "whole")
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
