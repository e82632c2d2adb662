"""The program as a user runs it, on a tiny quickstart."""

import json
import subprocess
import sys

import numpy as np
import pytest

from hep_shared.testing import assert_user_error, run_cli

PROGRAM = "lhcb_extrap.cli"
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
SMALL = (
    "data.simulated.num_tracks=400", "data.batch_size=64", "train.epochs=2", "train.polish.num_steps=1",
    "train.polish.num_tracks=100", "simulation.step_mm=250",
)  # fmt: skip


def cli(*args, cwd):
    return run_cli([PROGRAM, *map(str, args)], cwd=cwd, timeout=300, env=ENVIRONMENT)


def result_of(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory with a quickstart run in it."""
    path = tmp_path_factory.mktemp("quickstart")
    items = [item for setting in SMALL for item in ("--set", setting)]
    result = result_of(cli("train", "--preset", "quickstart", "--out", "run", *items, "--json", cwd=path))
    assert result["network"]["num_failed"] == 0
    assert (path / result["onnx"]).exists()
    return path


def test_quickstart_can_be_used(folder):
    simulated = result_of(
        cli("generate", "--out", "new.npz", "--num-events", 30, "--study", "mid_p", "--json", cwd=folder)
    )
    assert simulated["num_tracks"] == 30
    predicted = result_of(
        cli("predict", "--run", "run", "--input", "new.npz", "--output", "ends.npz", "--json", cwd=folder)
    )
    assert predicted["num_marked"] == 0
    with np.load(folder / "new.npz") as new, np.load(folder / "ends.npz") as ends:
        assert np.hypot(*(ends["Y"] - new["Y"])[:, :2].T).mean() < 30


def test_mistakes_end_in_one_sentence(folder):
    again = cli(
        "train",
        "--preset",
        "quickstart",
        "--set",
        "data.batch_size=8",
        "--set",
        "data.files=[new.npz]",
        "--out",
        "run",
        cwd=folder,
    )
    assert_user_error(again, "--out run", "--resume")
    assert_user_error(cli("simulate", "--out", "t.npz", "--study", "soft", cwd=folder), "--study", "low_p")


def test_help_is_light():
    code = f"import sys, {PROGRAM}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
    helped = run_cli([PROGRAM, "--help"])
    for verb in ("simulate", "generate", "merge", "run-all", "evaluate-all", "compare-with-cpp", "jacobian"):
        assert verb in helped.stdout
