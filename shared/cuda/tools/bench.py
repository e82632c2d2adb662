"""Time every operator: naive PyTorch, the best PyTorch found, and the compiled kernel, against a floor.

    python shared/cuda/tools/bench.py --out shared/cuda/benchmarks/cpu.md

Kernel and peer run in turn, one pair after the other; times and ratios are medians over the pairs. "native
again" is a second call right after the first, which finds in the cache what the peer would have pushed out,
as a loop over batches does; the ratios are of the first call. On the CPU one thread is used, so that the
figures are per core, and its processor time counts, which other programs on the machine disturb less than the
time on the wall.

- naive: the reference of the operator, eight corners by advanced indexing; for tokens `numpy.digitize`
  on the CPU; for codes `cdist` with argmin.
- best torch: `grid_sample`, which interpolates in one call; for tokens one comparison an edge; for codes
  `addmm` with argmin in blocks. For the equivariant map the dense matrix and products of the blocks that
  are not zero, or lgatr's two ways where it is installed (`uv run --with lgatr`); for pairs nine gathers of
  numbers and two of rows. For the network on pairs both keep the activations, best torch compiled; it is
  timed on a GPU alone.
- floor: for tokens a copy of as many bytes as are read and written; for codes two vectors of products a
  cycle. For tracks the eight corners of every look-up are read once. On the CPU as four runs of neighbouring
  numbers, two runs a cycle at the clock the system reports; on the GPU at the rate of a copy within the
  second-level cache.
"""

import argparse
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from hep_shared.ops._backend import backend
from kernel_cases.events import code_cases, neighbor_cases, token_cases
from kernel_cases.graphs import edge_cases
from kernel_cases.jets import equivariant_cases, network_cases, pair_cases
from kernel_cases.lattice import lattice_cases
from kernel_cases.products import layer_cases
from kernel_cases.timing import time_pairs
from kernel_cases.tracks import track_cases

RUNS_PER_LOOKUP, NUMBERS_PER_LOOKUP = 4, 24


def seconds_per_lookup(device: str) -> float:
    """Time of a look-up in float32 at best: see the head of this file."""
    if device == "cpu":
        clock = re.search(r"cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text())
        return RUNS_PER_LOOKUP / (2 * 1e6 * float(clock[1])) if clock else float("nan")
    source = torch.empty(2 << 20, device=device)  # 8 MiB, and as much to write
    target = torch.empty_like(source)

    def copies() -> None:
        for _ in range(100):
            target.copy_(source)

    numbers = 2 * 100 * source.numel()  # read and written
    return NUMBERS_PER_LOOKUP * time_pairs(copies, copies, device, pairs=5).ours / numbers


def run(device: str, num_pairs: int, only: str) -> list[str]:
    """Measure; returns the lines of the table."""
    lines = [
        "| what | naive ms | best torch ms | native ms | native again ms | naive / native | best / native "
        "| goal | floor ms | floor / native | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lookup_s = seconds_per_lookup(device)
    sizes = (65536, 16384) if device == "cpu" else (1 << 22, 1 << 20)

    for dtype in (torch.float32, torch.float64):
        cases = [
            *track_cases(dtype, device, *sizes),
            *token_cases(dtype, device, sizes[1]),
            *code_cases(dtype, device, 9216 if device == "cpu" else 1 << 18),
            *equivariant_cases(dtype, device, 4096 if device == "cpu" else 1 << 15),
            *pair_cases(dtype, device, 32 if device == "cpu" else 1024),
            *neighbor_cases(dtype, device, 128 if device == "cpu" else 1024),
            *edge_cases(dtype, device, 512 if device == "cpu" else 8192),
            *lattice_cases(dtype, device, 64 if device == "cpu" else 2048),
            *layer_cases(dtype, device, 16384),
        ]
        if device == "cuda" and dtype == torch.float32:
            cases += network_cases(1 << 20)
        for case in (case for case in cases if case.what.startswith(only)):
            if case.difference is None:
                difference = float((case.native() - case.best()).abs().max())
            else:
                difference = case.difference()
            naive = time_pairs(case.native, case.naive, device, num_pairs)
            best = time_pairs(case.native, case.best, device, num_pairs)
            floor = case.num_lookups * lookup_s * (dtype.itemsize / 4 if device == "cuda" else 1)
            floor += case.floor_s
            floor_cells = f"{1e3 * floor:.2f} | {floor / best.ours:.2f}" if floor else "- | -"
            lines.append(
                f"| {case.what} | {1e3 * naive.peer:.1f} | {1e3 * best.peer:.1f} | {1e3 * best.ours:.2f} "
                f"| {1e3 * best.again:.2f} | {naive.ratio:.1f} | {best.ratio:.1f} | {case.goal} "
                f"| {floor_cells} | {difference:.1e} |"
            )
            print(lines[-1], file=sys.stderr)
    return lines


def describe_machine(device: str) -> dict[str, str]:
    """What the figures depend on; hep_shared.bench would need packages that a GPU machine may lack."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": cpu[1] if cpu else platform.machine(),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": backend(),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Time the operators of hep_shared.ops.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs for each comparison")
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--out", type=Path, help="file to write; standard output if absent")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = run(options.device, options.pairs, options.only)
    machine = describe_machine(options.device)
    command = f"python shared/cuda/tools/bench.py --device {options.device} --pairs {options.pairs}"
    head = [
        f"# Kernels on {machine['cpu'] if options.device == 'cpu' else machine['accelerator']}",
        "",
        f"`{command}`; medians of {options.pairs} pairs, kernel and peer in turn. The head of the script "
        "explains columns and floor. The largest difference is between the kernel and the best torch, in T "
        "for field_lookup and in mm for propagate, of tokens, and of squared distances for nearest_code and "
        "knn.",
        "",
        *(f"- {key}: {value}" for key, value in machine.items()),
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
