import json
import os
import subprocess
import sys
import textwrap

import pytest

from hep_shared.cli import print_result

PROGRAM = """
import sys
from pathlib import Path
import typer
from hep_shared.cli import *
from hep_shared.errors import InputFileError, UserError
from hep_shared.signals import StopTraining, stop_flag

app = typer.Typer(no_args_is_help=True)

@app.command()
def options(preset: PresetOption = None, config: ConfigOption = None, set_: SetOption = None,
            out: OutOption = Path("out"), resume: ResumeOption = False, device: DeviceOption = "auto",
            seed: SeedOption = 0, as_json: JsonOption = False, run: RunOption = Path("run"),
            num_events: NumEventsOption = 10, num_workers: NumWorkersOption = 1,
            cluster: ClusterOption = "local", debug: DebugOption = False) -> None:
    print_result({**locals(), "torch": "torch" in sys.modules}, as_json)

@app.command()
def fail(how: str, debug: DebugOption = False) -> None:
    import os, signal
    if how == "user":
        raise InputFileError("a.root", "is empty", "make it again")
    if how == "worker":
        raise UserError("Caught UserError in DataLoader worker process 0.\\nOriginal Traceback:\\n"
                        "  File x\\nhep_shared.errors.UserError: a.root is empty.\\n")
    if how == "memory":
        raise MemoryError
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "defect":
        raise ZeroDivisionError("a defect")
    if how == "signal":
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop_flag().requested
        raise StopTraining(Path("run/checkpoints/step_00000001.pt"))

run_cli(app, "program")
"""


TOO_LITTLE_MEMORY = (
    "error: this machine has too little memory for the command; use a smaller batch or fewer workers.\n"
)
CHECKPOINTED = (
    "SIGUSR1: a training saves its state and ends; the next SIGTERM ends the program at once\n"
    "checkpointed: run/checkpoints/step_00000001.pt; run the command again with --resume.\n"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))

    def run(*args, **env):
        return subprocess.run(
            [sys.executable, str(path), *args],
            capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "200", **env},
        )  # fmt: skip

    return run


@pytest.mark.parametrize(
    ("how", "code", "stderr"),
    [
        ("user", 2, "error: a.root: is empty; make it again.\n"),
        ("worker", 2, "error: a.root is empty.\n"),
        ("memory", 2, TOO_LITTLE_MEMORY),
        ("signal", 85, CHECKPOINTED),
        ("nothing", 0, ""),
    ],
)  # fmt: skip
def test_exit_codes_and_what_stderr_says(program, how, code, stderr):
    result = program("fail", how)
    assert (result.returncode, result.stderr, result.stdout) == (code, stderr, "")


def test_ctrl_c(program):
    result = program("fail", "interrupt")
    assert result.returncode == 130
    assert "Traceback" not in result.stderr


def test_a_defect_keeps_its_traceback(program):
    result = program("fail", "defect")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("ZeroDivisionError: a defect\n")


@pytest.mark.parametrize(("args", "env"), [(["--debug"], {}), ([], {"HEP_DEBUG": "1"})])
def test_debug_adds_the_traceback(program, args, env):
    result = program("fail", "user", *args, **env)
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: a.root: is empty; make it again.\n")


def test_bad_usage(program):
    assert program("options", "--seed", "-1").returncode == 2
    assert program("options", "--num-events", "0").returncode == 2
    assert program("nonsense").returncode == 2


def test_options_arrive_and_torch_is_not_imported(program):
    result = program(
        "options", "--preset", "p", "--config", "c.yaml", "--set", "a.b=1", "--set", "c=2", "--out", "o",
        "--resume", "--device", "cpu", "--seed", "5", "--json", "--run", "r", "--num-events", "7",
        "--num-workers", "0", "--cluster", "slurm",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {
        "preset": "p", "config": "c.yaml", "set_": ["a.b=1", "c=2"], "out": "o", "resume": True,
        "device": "cpu", "seed": 5, "as_json": True, "run": "r", "num_events": 7, "num_workers": 0,
        "cluster": "slurm", "debug": False, "torch": False,
    }  # fmt: skip


def test_help_shows_every_option(program):
    result = program("options", "--help")
    assert result.returncode == 0
    for option in (
        "--preset", "--config", "--set", "--out", "--resume", "--device", "--seed", "--json", "--run",
        "--num-events", "--num-workers", "--cluster", "--debug",
    ):  # fmt: skip
        assert option in result.stdout


def test_print_result_as_json_is_one_strict_line(capsys):
    print_result({"auc": float("nan"), "deep": {"num": 3}}, as_json=True)
    out, err = capsys.readouterr()
    assert (out, err) == ('{"auc": null, "deep": {"num": 3}}\n', "")


def test_print_result_as_a_table(capsys):
    print_result({"sigma_e": 0.0123456789, "deep": {"name": "[bold]x"}, "num": 3}, as_json=False)
    out, err = capsys.readouterr()
    rows = [line.strip("│ ").split("│") for line in out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["sigma_e", "0.0123457"],
        ["deep.name", "[bold]x"],
        ["num", "3"],
    ]
    assert err == ""
