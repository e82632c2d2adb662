"""What was built: the libraries are there where they must be, and stay within torch's stable ABI."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import hep_shared_cuda

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = os.environ.get("HEP_SHARED_REQUIRE_NATIVE") == "1"
# Everything of torch that the libraries may call: C functions which torch promises to keep.
ALLOWED = re.compile(r"(aoti_torch|torch)_[a-z0-9_]+")
FORBIDDEN = re.compile(r"(_ZNK?(2at|3c10|5torch)|_ZT[ISV]N(2at|3c10|5torch)|Py[A-Z_])")


@pytest.mark.skipif(not REQUIRED, reason="HEP_SHARED_REQUIRE_NATIVE=1 asks for this test")
def test_native_libraries_are_there() -> None:
    assert hep_shared_cuda.library("cpu") is not None
    if shutil.which("nvcc"):
        assert hep_shared_cuda.library("cuda") is not None
    assert hep_shared_cuda.load()


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_only_stable_symbols(name: str) -> None:
    library = hep_shared_cuda.library(name)
    if library is None or shutil.which("nm") is None:
        pytest.skip(f"needs the {name} library and nm")
    output = subprocess.run(["nm", "-D", "-u", library], capture_output=True, text=True, check=True).stdout
    symbols = {line.split()[-1].split("@")[0] for line in output.splitlines()}
    assert not [symbol for symbol in symbols if FORBIDDEN.match(symbol)]
    ours = {symbol for symbol in symbols if "torch" in symbol}
    assert ours
    assert not [symbol for symbol in ours if not ALLOWED.fullmatch(symbol)]


@pytest.mark.gpu
def test_cuda_kernels_are_registered() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert "cuda" in hep_shared_cuda.load()


def test_no_kernel_spills_registers() -> None:
    """The CUDA kernels keep their numbers in registers on every architecture they are built for."""
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    source = ROOT / "csrc" / "kernels.cu"
    command = ["nvcc", "-std=c++17", "-O3", "-Xptxas=-v", "--cubin", "-o", os.devnull, str(source)]
    for arch in ("sm_80", "sm_90"):
        done = subprocess.run([*command, f"-arch={arch}"], capture_output=True, text=True, check=True)
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
        # Two types of number; look-up, its derivative, three methods, event tokens, nearest code;
        # equivariant map, its gradient in two kernels, features of pairs, narrow network.
        num_kernels = 24
        num_kernels += 6  # neighbours: two types, three limits on their number
        num_kernels += 8  # convolution on a lattice: two types, one kernel forwards and three backwards
        num_kernels += 2  # messages along edges
        assert len(spills) == num_kernels, done.stderr
        assert set(spills) == {("0", "0")}, f"{arch}: {done.stderr}"
