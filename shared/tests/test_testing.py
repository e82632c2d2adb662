import subprocess
import sys

import numpy as np
import pytest
import torch

from hep_shared.testing import assert_user_error, kill_after, mutate_bytes, run_cli, same_tensors


@pytest.mark.parametrize("data", [bytes(range(256)) * 64, bytes(10_000), b"x"])
def test_mutations_always_change_the_data(data: bytes) -> None:
    rng = np.random.default_rng(0)
    mutants = [mutate_bytes(data, rng) for _ in range(60)]
    assert all(mutant != data for mutant in mutants)
    assert any(len(mutant) < len(data) for mutant in mutants)
    assert any(len(mutant) == len(data) for mutant in mutants)


def test_run_cli_and_user_errors(tmp_path) -> None:
    (tmp_path / "tool.py").write_text(
        "import os, sys\n"
        "print(f\"error: {sys.argv[1]} is wrong for {os.environ['WHO']}; change it.\", file=sys.stderr)\n"
        "sys.exit(2)\n"
    )
    process = run_cli(["tool", "--mass"], cwd=tmp_path, env={"WHO": "me"})
    assert_user_error(process, "--mass", "me")
    with pytest.raises(AssertionError, match="'--charge' is not in"):
        assert_user_error(process, "--charge")


@pytest.mark.parametrize(
    ("code", "stderr"),
    [
        (1, "error: a is b."),
        (2, "a is b."),
        (2, "error: a"),
        (2, "error: a.\nerror: b."),
        (2, "Traceback\nerror: a."),
    ],
)
def test_other_failures_are_no_user_errors(code: int, stderr: str) -> None:
    with pytest.raises(AssertionError):
        assert_user_error(subprocess.CompletedProcess([], code, "", stderr))


def test_kill_after() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with kill_after(process, 0.1):
        assert process.wait(30) == -9


def test_same_tensors_is_exact() -> None:
    state = {"a": [torch.tensor([1.0, float("nan")]), 2], "b": (np.zeros(2), None, float("nan"))}
    assert same_tensors(
        state, {"a": [torch.tensor([1.0, float("nan")]), 2], "b": (np.zeros(2), None, float("nan"))}
    )
    one = torch.tensor(1.0)
    for other in (one.double(), one[None], torch.nextafter(one, one + 1), 1.0):
        assert not same_tensors(one, other)
    assert not same_tensors(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same_tensors({"a": 1}, {"a": 1, "b": 2})
    assert not same_tensors([1, 2], [1])
    assert not same_tensors(np.zeros(2), np.zeros(3))
