"""What the packages' tests share: damaged files, command lines run for real, exact comparison.

Nothing here imports pytest, so that developer tools may use it too.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

BLOCK = 4096


def mutate_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file's content as a full disk, a bad cable or a lost block does.

    Args:
        data: The sound content, at least one byte.
        rng: Source of the damage.

    Returns:
        The content cut short, with one bit flipped, or with up to 4 kB set to zero; never equal to `data`.
    """
    start = int(rng.integers(len(data)))
    kind = rng.choice(["truncate", "flip", "zero"])
    if kind == "truncate":
        return data[:start]
    end = min(len(data), start + BLOCK)
    if kind == "zero" and any(data[start:end]):
        return data[:start] + bytes(end - start) + data[end:]
    flipped = data[start] ^ (1 << int(rng.integers(8)))
    return data[:start] + bytes([flipped]) + data[start + 1 :]


def run_cli(
    args: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    timeout: float = 120.0,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program as a user does, in its own process.

    Args:
        args: The module and its arguments, such as `["megii_xec.cli", "train", "--help"]`.
        cwd: Directory to run in.
        timeout: Longest wait [s].
        env: Variables to set on top of this process's own.

    Returns:
        The finished process with its text output.
    """
    return subprocess.run(  # noqa: S603
        [sys.executable, "-m", *(os.fspath(arg) for arg in args)],
        cwd=cwd,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_user_error(process: subprocess.CompletedProcess[str], *mentions: str) -> None:
    """Check that a program refused as promised: exit code 2 and one sentence, no traceback.

    Args:
        process: The finished process.
        mentions: Pieces of text the sentence must hold, such as the option and the value.
    """
    output = f"exit {process.returncode}\n{process.stdout}\n{process.stderr}"
    assert process.returncode == 2, output
    assert "Traceback" not in process.stderr + process.stdout, output
    sentences = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, output
    assert sentences[0].endswith("."), output
    for mention in mentions:
        assert mention in sentences[0], f"'{mention}' is not in: {sentences[0]}"


@contextlib.contextmanager
def kill_after(process: subprocess.Popen[Any], seconds: float) -> Iterator[None]:
    """Kill a process (SIGKILL) some time into the block, unless it ended before.

    Args:
        process: A process started by the test.
        seconds: Delay [s].

    Yields:
        Nothing; wait for the process inside the block.
    """
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def same_tensors(a: Any, b: Any) -> bool:
    """Compare two nested states bit by bit.

    Args:
        a: Tensors, arrays and plain values in dicts, lists and tuples.
        b: The other one.

    Returns:
        Whether types, keys, shapes, dtypes and all values agree; NaN agrees with NaN.
    """
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same_tensors(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_tensors, a, b))
    if isinstance(a, torch.Tensor):
        a, b = a.detach().cpu(), b.detach().cpu()
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bits(a), _bits(b))
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and bool(a.dtype == b.dtype) and a.tobytes() == b.tobytes()
    return bool(a == b) or bool(a != a and b != b)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
