"""Tracks and fields that the kernel tests share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hep_shared.ops._backend import backend

ORIGIN, SPACING = (-400.0, -300.0, 100.0), (100.0, 75.0, 80.0)


@dataclass(frozen=True)
class Problem:
    """Tracks in a field map: all of them start on the map, some leave it."""

    state: Tensor
    z: Tensor
    dz: Tensor
    grid: Tensor
    frame: list[float]

    @property
    def points(self) -> Tensor:
        return torch.cat((self.state[:, :2], self.z[:, None]), dim=1)

    @property
    def track_args(self) -> tuple[Any, ...]:
        return self.state, self.z, self.dz, self.grid, self.frame


def make_problem(num_tracks: int, dtype: torch.dtype, device: str) -> Problem:
    random = torch.Generator().manual_seed(7)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num_tracks, dtype=torch.float64, generator=random)

    grid = torch.randn(9, 9, 11, 3, dtype=torch.float64, generator=random)
    x, y, tx, ty = uniform(-380, 380), uniform(-280, 280), uniform(-0.3, 0.3), uniform(-0.25, 0.25)
    state = torch.stack((x, y, tx, ty, uniform(-4e-4, 4e-4)), dim=1)
    z, dz = uniform(150, 400), uniform(-300, 600)
    frame = [*ORIGIN, *(1 / s for s in SPACING)]
    tensors = (tensor.to(device, dtype) for tensor in (state, z, dz, grid))
    return Problem(*tensors, frame)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return str(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def problem_of() -> Callable[..., Problem]:
    return make_problem


@pytest.fixture
def problem(dtype: torch.dtype, device: str) -> Callable[[int], Problem]:
    return lambda num_tracks: make_problem(num_tracks, dtype, device)


@pytest.fixture
def native() -> None:
    if backend() == "reference":
        pytest.skip("needs the compiled kernels")


@pytest.fixture
def supported() -> set[str]:
    """Instruction sets of this processor."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    found = {"scalar"}
    if {"avx2", "fma"} <= set(flags):
        found.add("avx2")
        if {"avx512f", "avx512dq", "avx512vl"} <= set(flags):
            found.add("avx512")
    return found


@pytest.fixture(params=["scalar", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, supported: set[str]) -> str:
    """One after the other."""
    if request.param not in supported:
        pytest.skip(f"needs a processor with {request.param}")
    return str(request.param)


@pytest.fixture
def by_threads() -> Callable[..., list[Any]]:
    """Call a function with one and with two threads; its two results."""

    def run(work: Callable[[], Any]) -> list[Any]:
        threads, results = torch.get_num_threads(), []
        try:
            for count in (1, 2):
                torch.set_num_threads(count)
                results.append(work())
        finally:
            torch.set_num_threads(threads)
        return results

    return run


@pytest.fixture
def run_python() -> Callable[..., Any]:
    """Run statements in a fresh interpreter; they `print` JSON, which is returned."""

    def run(code: str, **environment: str) -> Any:
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
