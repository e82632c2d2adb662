import errno
import json
import math
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from hep_shared.checkpoint import load_checkpoint_file
from hep_shared.config import StrictModel
from hep_shared.errors import CheckpointError, ConfigError, InputFileError, UserError
from hep_shared.run import RunDir, capture, restore
from hep_shared.signals import StopTraining


class Config(StrictModel):
    lr: float = 1e-3
    widths: tuple[int, ...] = (4, 4)


@pytest.fixture
def run(tmp_path):
    return RunDir.create(tmp_path / "run", Config(), command=["xec", "train", "--set", "a=b c"])


def state(step):
    return {
        "step": step,
        "weights": torch.full((64,), float(step)),
        "name": "x",
        "deep": [{"a": None}, (1, 2.5)],
    }


def files(run):
    return sorted(path.name for path in (run.path / "checkpoints").glob("*.pt"))


class TestDirectory:
    def test_config_json_says_what_ran(self, run):
        record = json.loads((run.path / "config.json").read_text())
        assert record["config"] == run.config == {"lr": 1e-3, "widths": [4, 4]}
        assert record["command"] == "xec train --set 'a=b c'"
        assert record["packages"]["torch"] == torch.__version__.split("+")[0]
        assert {"git", "platform", "python", "start_time"} <= record.keys()

    def test_another_run_is_not_overwritten(self, run):
        with pytest.raises(
            UserError, match=r"--out .*run holds a run already; pass --resume or another --out\."
        ):
            RunDir.create(run.path, Config(), command="again")
        assert json.loads((run.path / "config.json").read_text())["command"] != "again"

    def test_resume_begins_where_nothing_is_and_records_every_start(self, tmp_path):
        for command, lr in [("first", 1.0), ("second", 1.0), ("third", 2.0)]:
            run = RunDir.create(tmp_path / "run", Config(lr=lr), command=command, resume=True)
        record = json.loads((run.path / "config.json").read_text())
        assert [start["command"] for start in record["earlier_starts"]] == ["first", "second"]
        assert "config" not in record["earlier_starts"][0]
        assert record["earlier_starts"][1]["config"]["lr"] == 1.0
        assert run.config["lr"] == 2.0

    def test_a_directory_with_foreign_files_is_fine(self, tmp_path):
        (tmp_path / "slurm.out").write_text("log")
        assert RunDir.create(tmp_path, {"a": 1}, command="c").config == {"a": 1}
        assert (tmp_path / "slurm.out").exists()

    def test_no_run(self, tmp_path):
        with pytest.raises(UserError, match=r"holds no run \(config.json is missing\); give the directory"):
            RunDir.open(tmp_path / "absent")

    @pytest.mark.parametrize("text", ["{", "[]", '{"config": 3}'])
    def test_a_damaged_config(self, run, text):
        (run.path / "config.json").write_text(text)
        with pytest.raises(InputFileError, match=r"config.json: cannot be read"):
            RunDir.open(run.path)

    def test_out_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"cannot be written"):
            RunDir.create(tmp_path / "file" / "run", Config(), command="c")

    def test_other_files(self, run):
        assert run.figure_path("roc.svg") == run.path / "figures" / "roc.svg"
        assert json.loads(run.write_json("m.json", {"auc": np.float32("nan")}).read_text()) == {"auc": None}


class TestHistory:
    def test_strict_json_lines(self, run):
        run.log({"step": 1, "loss": math.nan, "lr": np.float32(0.5)})
        run.log({"step": 2, "loss": torch.tensor(2.0)})
        assert run.history() == [{"step": 1, "loss": None, "lr": 0.5}, {"step": 2, "loss": 2.0}]
        assert "NaN" not in (run.path / "history.jsonl").read_text()

    def test_truncate(self, run):
        for step in range(5):
            run.log({"step": step})
        run.log({"event": "note"})
        run.truncate_history(2)
        assert run.history() == [{"step": 0}, {"step": 1}, {"step": 2}, {"event": "note"}]

    def test_a_half_written_last_line_is_left_out_and_repaired_by_resume(self, run):
        run.log({"step": 1})
        run.save_checkpoint(state(1), step=1)
        with (run.path / "history.jsonl").open("a") as file:
            file.write('{"step": 2, "lo')
        assert RunDir.open(run.path).history() == [{"step": 1}]
        resumed = RunDir.create(run.path, Config(), command="c", resume=True)
        resumed.log({"step": 2})
        assert resumed.history() == [{"step": 1}, {"step": 2}]

    def test_resume_forgets_what_came_after_the_checkpoint(self, run):
        run.log({"step": 1})
        run.log({"step": 2})
        assert (
            RunDir.create(run.path, Config(), command="c", resume=True).history() == []
        )  # no checkpoint yet
        run.log({"step": 1})
        run.save_checkpoint(state(1), step=1)
        run.log({"step": 2})
        assert RunDir.create(run.path, Config(), command="c", resume=True).history() == [{"step": 1}]

    def test_damage_in_the_middle_is_reported(self, run):
        (run.path / "history.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
        with pytest.raises(InputFileError, match=r"history.jsonl: cannot be read"):
            run.history()

    def test_a_full_disk(self, run, monkeypatch):
        run.log({"step": 1})
        (run.path / "history.jsonl").unlink()
        (run.path / "history.jsonl").symlink_to("/dev/full")
        with pytest.raises(
            UserError, match=r"history.jsonl cannot be written \(No space left on device\); free"
        ):
            run.log({"step": 2})


class TestCheckpoints:
    def test_round_trip(self, run):
        assert not run.has_checkpoint("last")
        path = run.save_checkpoint(state(3), step=3, metric=0.5)
        assert path.name.startswith("step_00000003_")
        for which in ("last", "best", path.name):
            loaded = RunDir.open(run.path).load_checkpoint(which)
            assert torch.equal(loaded.pop("weights"), state(3)["weights"])
            assert loaded == {"step": 3, "name": "x", "deep": [{"a": None}, (1, 2.5)]}

    @pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
    def test_best_outlives_resume(self, run, mode, best):
        metrics = [(0, None), (1, 0.9), (2, 0.1), (3, math.nan), (4, math.inf), (5, 0.5)]
        for step, metric in metrics:
            run = RunDir.create(run.path, Config(), command="c", resume=True)
            run.save_checkpoint(state(step), step=step, metric=metric, mode=mode)
        assert run.load_checkpoint("best")["step"] == best
        assert run.load_checkpoint("last")["step"] == 5
        assert run.best_metric == dict(metrics)[best]

    def test_without_a_metric_there_is_no_best(self, run):
        run.save_checkpoint(state(1), step=1)
        assert run.has_checkpoint("last")
        assert not run.has_checkpoint("best")
        assert run.best_metric is None
        with pytest.raises(CheckpointError, match=r"holds no checkpoint 'best'; the run has step_00000001_"):
            run.load_checkpoint("best")

    def test_what_is_kept(self, run):
        for step in range(1, 12):
            run.save_checkpoint(state(step), step=step, metric=abs(step - 3.2), keep_every=5, keep_last=1)
        assert [int(name[5:13]) for name in files(run)] == [3, 5, 10, 11]

    def test_saving_one_step_twice(self, run):
        run.save_checkpoint(state(1), step=1, metric=1.0)
        run.save_checkpoint(state(1), step=1, metric=2.0)
        assert len(files(run)) == 1
        run.save_checkpoint({"step": 1, "other": True}, step=1)
        assert run.load_checkpoint("last") == {"step": 1, "other": True}
        assert run.load_checkpoint("best")["weights"][0] == 1

    def test_only_plain_values(self, run):
        for value, kind in [(np.float64(1), "float64"), (np.zeros(2), "ndarray"), (run.path, "Path")]:
            with pytest.raises(
                TypeError, match=rf"state\['a'\]\[0\] is a .*{kind}; a checkpoint holds tensors"
            ):
                run.save_checkpoint({"a": [value]}, step=1)
        assert files(run) == []

    def test_a_missing_checkpoint(self, run):
        with pytest.raises(CheckpointError, match=r"holds no checkpoint 'last'; train the run first"):
            run.load_checkpoint()
        first = run.save_checkpoint(state(1), step=1)
        run.save_checkpoint(state(2), step=2).unlink()
        with pytest.raises(
            CheckpointError, match=f"cannot be read .No such file.*use another .*: {first.name}"
        ):
            run.load_checkpoint()

    def test_every_kind_of_damage_is_found_and_the_other_checkpoint_named(self, run):
        first = run.save_checkpoint(state(1), step=1)
        path = run.save_checkpoint(state(2), step=2)
        good = path.read_bytes()
        rng = random.Random(0)
        for trial in range(60):
            position = rng.randrange(len(good))
            bad = (
                good[:position]
                if trial % 3 == 0
                else good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
            )
            path.write_bytes(bad)
            with pytest.raises(CheckpointError, match=f"{path.name} is damaged .*sha256.*: {first.name}"):
                run.load_checkpoint()
        assert run.load_checkpoint(first.name)["step"] == 1

    def test_damaged_numbers_of_a_foreign_file_are_found_without_a_digest(self, tmp_path):
        path = tmp_path / "foreign.pt"
        torch.save({"weights": torch.arange(1000.0)}, path)
        good = path.read_bytes()
        position = good.index(torch.tensor([500.0, 501.0]).numpy().tobytes())
        path.write_bytes(good[:position] + b"\x01" + good[position + 1 :])
        assert not torch.equal(
            torch.load(path, weights_only=True)["weights"], torch.arange(1000.0)
        )  # unnoticed
        with pytest.raises(CheckpointError, match=r"foreign.pt is damaged .*CRC-32"):
            load_checkpoint_file(path)

    @pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04.", b"not a checkpoint" * 99])
    def test_foreign_bytes(self, tmp_path, content):
        path = tmp_path / "foreign.pt"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"foreign.pt is damaged or not a checkpoint"):
            load_checkpoint_file(path)

    def test_a_pickle_payload_is_refused_and_does_nothing(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "pwned"),)

        torch.save({"weights": torch.zeros(1), "payload": Payload()}, tmp_path / "evil.pt")
        with pytest.raises(CheckpointError, match=r"evil.pt is damaged or not a checkpoint"):
            load_checkpoint_file(tmp_path / "evil.pt")
        assert not (tmp_path / "pwned").exists()

    def test_a_checkpoint_is_a_mapping(self, tmp_path):
        torch.save(torch.zeros(1), tmp_path / "tensor.pt")
        with pytest.raises(CheckpointError, match=r"it holds a Tensor"):
            load_checkpoint_file(tmp_path / "tensor.pt")

    @pytest.mark.parametrize("failing", [1, 2, 3, 4])
    def test_a_full_disk_leaves_the_former_checkpoint(self, run, monkeypatch, failing):
        run.save_checkpoint(state(1), step=1)
        calls = []

        def fsync(descriptor):  # calls: checkpoint, its directory, index, its directory
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match=r"No space left on device"):
            run.save_checkpoint(state(2), step=2)
        monkeypatch.undo()
        assert run.load_checkpoint("last")["step"] == (2 if failing == 4 else 1)
        assert not list(run.path.rglob("*.tmp*"))
        run.save_checkpoint(state(3), step=3, keep_last=1)
        assert len(files(run)) == 1

    def test_stop_leaves_a_marker_until_the_next_start(self, run):
        path = run.save_checkpoint(state(1), step=1)
        stop = run.stop()
        assert isinstance(stop, StopTraining)
        assert stop.checkpoint == path
        assert (run.path / "CHECKPOINTED").read_text() == f"{path.name}\n"
        RunDir.create(run.path, Config(), command="c", resume=True)
        assert not (run.path / "CHECKPOINTED").exists()


SAVING_LOOP = """
import os, sys
from pathlib import Path
import torch
from hep_shared.run import RunDir

while os.fork():  # torch is imported once; a new child goes on whenever the former one was killed
    if os.WIFEXITED(os.wait()[1]):
        sys.exit("the child failed")
run = RunDir.create(Path(sys.argv[1]), {}, command="loop", resume=True)
step = run.load_checkpoint()["step"] if run.has_checkpoint("last") else 0
print(os.getpid(), flush=True)
while True:
    step += 1
    run.log({"step": step})
    state = {"step": step, "weights": torch.full((500_000,), float(step))}
    run.save_checkpoint(state, step=step, metric=-step)
"""


def test_kill_9_at_any_moment_leaves_whole_checkpoints(tmp_path):
    path, rng = tmp_path / "run", random.Random(1)
    command = [sys.executable, "-c", SAVING_LOOP, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        for _ in range(8):
            child = int(parent.stdout.readline())  # written after a resume that loaded the checkpoint
            time.sleep(rng.uniform(0.02, 0.15))
            os.kill(child, signal.SIGKILL)
        os.kill(int(parent.stdout.readline()), signal.SIGKILL)
        parent.kill()
    run = RunDir.open(path)
    last, best = run.load_checkpoint("last"), run.load_checkpoint("best")
    assert last["step"] == best["step"] > 0
    assert torch.equal(last["weights"], torch.full((500_000,), float(last["step"])))
    steps = [record["step"] for record in run.history()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= last["step"]


class TestCapture:
    @staticmethod
    def training():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        return {"model": model, "optimizer": optimizer, "schedule": schedule}

    @staticmethod
    def steps(model, optimizer, schedule, num):
        losses = []
        for _ in range(num):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return losses

    def test_resume_equals_uninterrupted_bit_by_bit(self, run):
        parts = self.training()
        self.steps(**parts, num=3)
        run.save_checkpoint(capture(**parts) | {"step": 3}, step=3)
        uninterrupted = self.steps(**parts, num=4)
        fresh = self.training()
        restore(run.load_checkpoint(), **fresh)
        assert self.steps(**fresh, num=4) == uninterrupted
        for ours, theirs in zip(fresh["model"].parameters(), parts["model"].parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_a_checkpoint_of_another_model(self):
        captured = capture(model=torch.nn.Linear(4, 4))
        with pytest.raises(CheckpointError, match=r"does not fit 'model' .*size mismatch.*; build it with"):
            restore(captured, model=torch.nn.Linear(4, 5))
        with pytest.raises(CheckpointError, match=r"holds no 'ema' but only model, rng"):
            restore(captured, ema=torch.nn.Linear(4, 4))


class BrokenSink:
    records = 0

    def __init__(self, path):
        pass

    def log(self, record):
        type(self).records += 1
        if record["step"] == 2:
            raise ConnectionError("the server is away")

    def close(self):
        raise ConnectionError("the server is away")


class TestSinks:
    def test_a_failing_tracker_is_dropped_once_and_the_run_goes_on(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules["hep_shared.sinks"].SINKS, "tensorboard", BrokenSink)
        monkeypatch.setattr(BrokenSink, "records", 0)
        run = RunDir.create(tmp_path, {}, command="c", sinks=["tensorboard"])
        for step in range(1, 5):
            run.log({"step": step})
        run.close()
        assert len(run.history()) == 4
        assert BrokenSink.records == 2
        assert [record.getMessage() for record in caplog.records] == [
            "tracker tensorboard is dropped, the run goes on: the server is away"
        ]

    def test_a_tracker_that_fails_to_close_does_not_stop_the_run(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setitem(sys.modules["hep_shared.sinks"].SINKS, "mlflow", BrokenSink)
        RunDir.create(tmp_path, {}, command="c", sinks=["mlflow"]).close()
        assert "mlflow is dropped" in caplog.text

    @pytest.mark.parametrize(
        ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow.tracking")]
    )
    def test_a_missing_package_costs_one_warning(self, tmp_path, monkeypatch, caplog, name, module):
        monkeypatch.setitem(sys.modules, module, None)
        run = RunDir.create(tmp_path, {}, command="c", sinks=[name])
        run.log({"step": 1})
        run.close()
        assert run.history() == [{"step": 1}]
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert f"tracker {name} cannot start" in caplog.text

    def test_trackers_get_finite_numbers_and_the_step(self, tmp_path, monkeypatch):
        calls = []

        class Writer:
            def __init__(self, path):
                calls.append(path)

            def add_scalar(self, *args):
                calls.append(args)

            def close(self):
                calls.append("closed")

        module = type(sys)("torch.utils.tensorboard")
        module.SummaryWriter = Writer
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
        run = RunDir.create(tmp_path, {}, command="c", sinks=["tensorboard"])
        run.log({"step": 3, "loss": 0.5, "auc": math.nan, "split": "train"})
        run.close()
        assert calls == [str(tmp_path / "tensorboard"), ("loss", 0.5, 3), "closed"]

    def test_an_unknown_tracker(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no tracker 'wandb'; the trackers are tensorboard, mlflow"):
            RunDir.create(tmp_path, {}, command="c", sinks=["wandb"])


def test_reading_a_run_does_not_import_torch(run):
    run.log({"step": 1})
    code = f"import sys; from hep_shared.run import RunDir; print(RunDir.open({str(run.path)!r}).history()); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
