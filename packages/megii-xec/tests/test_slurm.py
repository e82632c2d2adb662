"""The batch script of the documentation, with stand-ins for the two programs of Slurm that it calls."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hep_shared.run import RunDir

SCRIPT = Path(__file__).parents[1] / "slurm" / "train.sbatch"

# One process a task with the variables that Slurm sets; the exit code is the largest one.
SRUN = """#!/bin/bash
[ "$1" = --wait=120 ] && shift
pids=() code=0
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; last=$?; [ $last -gt $code ] && code=$last; done
exit $code
"""
SCONTROL = """#!/bin/bash
case "$1" in
  show) printf '127.0.0.1\\nother\\n' ;;
  *) echo "$@" >> "$SCONTROL_LOG" ;;
esac
"""


@pytest.fixture
def submit(tmp_path):
    """Function that runs the script as a job of Slurm would."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "scontrol.log").touch()

    def run(*arguments, num_tasks=1, python=sys.executable):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SCONTROL_LOG": str(tmp_path / "scontrol.log"),
            "SLURM_JOB_ID": str(port % 10000), "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_NTASKS": str(num_tasks), "XEC_PYTHON": str(python), "GLOO_SOCKET_IFNAME": "lo",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(SCRIPT), *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        return done, (tmp_path / "scontrol.log").read_text()

    return run


def stand_in(tmp_path, code):
    """A Python that says how it was called and leaves with a code."""
    path = tmp_path / "python"
    path.write_text(
        '#!/bin/bash\necho "$RANK of $WORLD_SIZE on $LOCAL_RANK at $MASTER_ADDR:$MASTER_PORT: $*"\n'
        f"exit {code}\n"
    )
    path.chmod(0o755)
    return path


def test_options_of_the_scheduler():
    lines = SCRIPT.read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--requeue", "--open-mode=append", "--signal=USR1@120"} <= set(options)


@pytest.mark.parametrize(("code", "left_with", "requeued"), [(0, 0, False), (85, 0, True), (2, 2, False)])
def test_a_checkpointed_job_goes_back_into_the_queue(submit, tmp_path, code, left_with, requeued):
    done, log = submit("train", "--out", "runs/a b", python=stand_in(tmp_path, code))
    assert done.returncode == left_with, done.stderr
    assert log.startswith("requeue ") is requeued
    said = done.stdout.strip()
    assert said.startswith("0 of 1 on 0 at 127.0.0.1:")
    assert said.endswith("-m megii_xec.cli train --out runs/a b --resume")


def test_every_task_is_a_rank(submit, tmp_path):
    done, _ = submit("pretrain", num_tasks=3, python=stand_in(tmp_path, 0))
    assert sorted(line[:11] for line in done.stdout.splitlines()) == [
        "0 of 3 on 0",
        "1 of 3 on 1",
        "2 of 3 on 2",
    ]


def test_two_tasks_train_one_network(submit, settings, tmp_path):
    overrides = [item for setting in settings("train.epochs=1") for item in ("--set", setting)]
    arguments = ["train", "--out", str(tmp_path / "run"), "--device", "cpu", "--json", *overrides]
    done, log = submit(*arguments, num_tasks=2)
    assert done.returncode == 0, done.stderr
    assert log == ""
    assert json.loads(done.stdout.strip().splitlines()[-1])["run"] == str(tmp_path / "run")
    (record,) = RunDir.open(tmp_path / "run").history()
    assert record["step"] == 8  # 64 events in batches of 8, shared by both
