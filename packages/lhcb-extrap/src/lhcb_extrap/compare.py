"""`lhcb-extrap compare-with-cpp`: tracks a second at a stated error, classical methods beside networks.

All methods move the same tracks between the same planes on one thread, timed in seconds of the processor, so
that other programs of the machine do not count. The tracks lie in the layout and the precision of a method
before the clock starts. The error is the distance to RK4 with steps of 5 mm in double
precision. A speed without its error means nothing: a straight line beats everything. Which implementation
served is part of each row: `native` is the compiled operator of hep-shared-cuda, `numpy` and `torch` the
references, `onnxruntime` the exported network, `c++` the exported header compiled on the spot.

Dimension legend: N tracks.
"""

import ctypes
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hep_shared.bench import environment
from hep_shared.cli import table_console
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_json, atomic_write_text
from hep_shared.onnx import open_session
from hep_shared.run import RunDir
from lhcb_extrap.config import Config
from lhcb_extrap.data.field_source import load_field
from lhcb_extrap.export import export_network
from lhcb_extrap.metrics import track_errors
from lhcb_extrap.models.cpp_header import kick_header
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.cash_karp import StepControl, cash_karp
from lhcb_extrap.physics.field_map import FieldMap
from lhcb_extrap.physics.runge_kutta import rk4, rkn4
from lhcb_extrap.physics.sampling import generate_tracks
from lhcb_extrap.physics.transport import Method, native_backend, operator_grid
from lhcb_extrap.tasks import TASKS

BASELINE = "Cash-Karp 0.01 mm"
RIVAL = "RKN4 8 steps"
_REPEATS = 5
_LONG_S, _MANY_TRACKS = 0.2, 400_000  # tracks are repeated until a call takes that long
_NETWORK_BATCH = 1024
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
_WRAPPER = """#include "{header}"
extern "C" void extrapolate(const float* s, const float* q, long n, float* e) {{
  lhcb_extrap::kick::extrapolate(s, s + n, s + 2 * n, s + 3 * n, q, n, e, e + n, e + 2 * n, e + 3 * n);
}}
"""
Run = Callable[[], FloatArray]
Mover = Callable[[FloatArray], Run]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        method: What moved the tracks.
        kind: `classical` or `network`.
        backend: Implementation.
        tracks_per_s: Speed on one thread.
        pos_mean_mm: Mean position error.
        pos_95_mm: Its 95th percentile.
        slope_mean: Mean slope error.
        num_failed: Tracks it lost.
        ratio: Speed over the fastest Cash-Karp with a tolerance of 0.01 mm in double precision, the
            arithmetic of the LHCb software.
        over_rkn: Speed over the fastest Runge-Kutta-Nystrom with eight steps.
    """

    method: str
    kind: str
    backend: str
    tracks_per_s: float
    pos_mean_mm: float
    pos_95_mm: float
    slope_mean: float
    num_failed: int
    ratio: float | None = None
    over_rkn: float | None = None


def compare(runs: Sequence[Path], *, num_tracks: int = 2000, out: Path | None = None) -> dict[str, Any]:
    """Measure classical methods and trained networks.

    Args:
        runs: Run directories, or directories of runs; all of them between the same fixed planes.
        num_tracks: Tracks to move, drawn as in the simulation of the first run.
        out: JSON file to write as well.

    Returns:
        `rows`, `environment`, `num_tracks`, `planes_mm`.

    Raises:
        UserError: A run cannot be used, has variable planes or others than the first.
    """
    paths = expand_runs(runs)
    config = Config.model_validate(RunDir.open(paths[0]).config)
    field = load_field(config.field)
    move = partial(rk4, field, step_mm=config.simulation.step_mm, acceptance=config.simulation.acceptance)
    drawn = generate_tracks(config.simulation.sampler(), move, num_tracks, np.random.SeedSequence(4))
    tracks = np.column_stack([drawn.start, drawn.qop, drawn.dz, drawn.z0])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.process_time()
        truth = rk4(field, drawn.start, drawn.qop, drawn.z0, drawn.dz, step_mm=5.0).state
        speed = num_tracks / (time.process_time() - started)
        rows = [Row("RK4 5 mm (reference)", "classical", "numpy", speed, 0.0, 0.0, 0.0, 0)]
        for name, backend, mover in classical_methods(field):
            rows.append(measure(name, "classical", backend, mover, tracks, truth))
        with tempfile.TemporaryDirectory(prefix="lhcb-extrap-") as scratch:
            for path in paths:
                for backend, mover in network_movers(path, tracks, Path(scratch)):
                    rows.append(measure(path.name, "network", backend, mover, tracks, truth))
    finally:
        torch.set_num_threads(threads)
    cash_karp_rate, rkn_rate = (
        max(row.tracks_per_s for row in rows if row.method == method and bits in row.backend)
        for method, bits in ((BASELINE, "float64"), (RIVAL, "float32"))
    )
    result = {
        "rows": [
            asdict(row)
            | {"ratio": row.tracks_per_s / cash_karp_rate, "over_rkn": row.tracks_per_s / rkn_rate}
            for row in rows
        ],
        "environment": environment(),
        "num_tracks": num_tracks,
        "planes_mm": [float(drawn.z0[0]), float(drawn.z0[0] + drawn.dz[0])],
    }
    if out is not None:
        atomic_write_json(out, result)
    return result


def expand_runs(runs: Sequence[Path]) -> list[Path]:
    """Replace directories of runs by the runs in them.

    Args:
        runs: Run directories, or directories of runs.

    Returns:
        Run directories with a checkpoint.

    Raises:
        UserError: There is none.
    """
    found: list[Path] = []
    for path in runs:
        inside = sorted(file.parent for file in path.glob("*/config.json"))
        found += inside if inside and not (path / "config.json").exists() else [path]
    trained = [path for path in found if RunDir.open(path).has_checkpoint("best")]
    if not trained:
        raise UserError(f"{', '.join(map(str, runs))} holds no trained run; train one first.")
    return trained


def classical_methods(field: FieldMap) -> list[tuple[str, str, Mover]]:
    """Classical methods: name, implementation, mover."""
    single = field.astype(np.float32)
    methods: list[tuple[str, str, Mover]] = []

    def with_tolerance(tracks: FloatArray, tolerance: float) -> Run:
        control = StepControl(tolerance_mm=tolerance)
        x, qop, dz, z0 = tracks[:, :4], tracks[:, 4], tracks[:, 5], tracks[:, 6]
        return lambda: cash_karp(field, x, qop, z0, dz, control=control).state

    def with_steps(tracks: FloatArray, num_steps: int) -> Run:
        x, qop, dz, z0 = tracks[:, :4].astype(np.float32), tracks[:, 4], tracks[:, 5], tracks[:, 6]
        return lambda: rkn4(single, x, qop, z0, dz, num_steps=num_steps).state

    for tolerance in (0.001, 0.01, 0.1):
        name = f"Cash-Karp {tolerance:g} mm"
        methods.append((name, "numpy, float64", partial(with_tolerance, tolerance=tolerance)))
    for num_steps in (13, 8):
        name = f"RKN4 {num_steps} steps"
        methods.append((name, "numpy, float32", partial(with_steps, num_steps=num_steps)))
    if native_backend() == "native":
        for tolerance in (0.001, 0.01, 0.1):
            for dtype in ("float64", "float32"):
                name = f"Cash-Karp {tolerance:g} mm"
                methods.append((name, f"native, {dtype}", native_adaptive(field, tolerance, dtype)))
        methods += [
            ("RK4 5 mm", "native, float64", native_mover(field, "rk4", 5.0, "float64")),
            ("RKN4 13 steps", "native, float32", native_mover(field, "rkn4", 13, "float32")),
            ("RKN4 8 steps", "native, float32", native_mover(field, "rkn4", 8, "float32")),
        ]
    return methods


def native_mover(field: FieldMap, method: Method, steps: float, dtype: str) -> Mover:
    """Equal steps by the compiled operator.

    Args:
        field: Field map.
        method: `rk4` or `rkn4`.
        steps: Number of steps, or for `rk4` the length of a step in mm.
        dtype: Name of the precision.

    Returns:
        The mover.
    """
    from hep_shared.ops.propagate import propagate

    grid = operator_grid(field, dtype)

    def prepare(tracks: FloatArray) -> Run:
        columns = operator_columns(tracks, dtype)
        count = int(steps) if method == "rkn4" else int(np.ceil(np.abs(tracks[:, 5]).max() / steps))

        @torch.no_grad()
        def run() -> FloatArray:
            moved: FloatArray = propagate(*columns, *grid, num_steps=count, method=method)[:, :4].numpy()
            return moved

        return run

    return prepare


def native_adaptive(field: FieldMap, tolerance_mm: float, dtype: str) -> Mover:
    """The compiled Cash-Karp, with the limits of LHCb but for the tolerance.

    Args:
        field: Field map.
        tolerance_mm: Error of x and y allowed in a step.
        dtype: Name of the precision.

    Returns:
        The mover.
    """
    from hep_shared.ops.propagate_adaptive import propagate_adaptive

    grid = operator_grid(field, dtype)
    control = asdict(StepControl(tolerance_mm=tolerance_mm))

    def prepare(tracks: FloatArray) -> Run:
        columns = operator_columns(tracks, dtype)

        def run() -> FloatArray:
            moved: FloatArray = propagate_adaptive(*columns, *grid, **control)[:, :4].numpy()
            return moved

        return run

    return prepare


def operator_columns(tracks: FloatArray, dtype: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """State, z and dz of tracks (N, 7) as the operators take them."""
    rows = torch.from_numpy(tracks).to(getattr(torch, dtype))
    return rows[:, :5].contiguous(), rows[:, 6].contiguous(), rows[:, 5].contiguous()


def network_movers(run: Path, tracks: FloatArray, scratch: Path) -> list[tuple[str, Mover]]:
    """Ways to run a trained network: PyTorch, ONNX Runtime and, for kick nets, C++ where there is a compiler.

    Args:
        run: Run directory.
        tracks: x, y, tx, ty, q/p, dz, z0, (N, 7), mm, 1, 1/MeV.
        scratch: Directory for the exported files.

    Returns:
        Implementation and mover.

    Raises:
        UserError: The run was trained between other planes.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    network, normalization = task.load_network(config, directory.load_checkpoint("best"), directory)
    planes = (float(tracks[0, 6]), float(tracks[0, 5]))
    if not normalization.fixed_planes or planes != (normalization.z0_mm[0], normalization.dz_mm[0]):
        raise UserError(
            f"{run} was trained for z0 {normalization.z0_mm} and dz {normalization.dz_mm} mm, not for the "
            f"fixed planes {planes} of the first run; compare runs between the same planes."
        )
    file = scratch / f"{run.name}.onnx"
    precision = export_network(network, normalization, file)["precision"]
    session = open_session(file, "cpu", num_threads=1)

    def in_torch(tracks: FloatArray) -> Run:
        parts = torch.split(torch.from_numpy(tracks.astype(np.float32)), _NETWORK_BATCH)

        @torch.inference_mode()
        def run() -> FloatArray:
            moved: FloatArray = torch.cat([network(part) for part in parts]).numpy()
            return moved

        return run

    def in_onnx(tracks: FloatArray) -> Run:
        inputs = tracks[:, :6].astype(np.float32)
        parts = np.array_split(inputs, -(-len(inputs) // _NETWORK_BATCH))
        return lambda: np.concatenate([session.run(["end"], {"tracks": part})[0] for part in parts])

    in_runtime = "onnxruntime" if precision == "single" else "onnxruntime, float64"
    movers: list[tuple[str, Mover]] = [("torch", in_torch), (in_runtime, in_onnx)]
    if isinstance(network, KickNet) and shutil.which("g++"):
        header = scratch / f"{run.name}.hpp"
        atomic_write_text(header, kick_header(network, *planes, run.name))
        movers.append(("c++", compile_header(header)))
        network.float()
    return movers


def compile_header(header: Path) -> Mover:
    """Compile an exported header with g++ and load it.

    Args:
        header: The header; the library is made beside it.

    Returns:
        Mover of tracks (N, 5 or more), float32 inside.

    Raises:
        UserError: The compiler fails.
    """
    source, library = header.with_suffix(".cpp"), header.with_suffix(".so")
    atomic_write_text(source, _WRAPPER.format(header=header.name))
    command = ["g++", *_FLAGS, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        reason = lines[0] if lines else "no message"
        raise UserError(f"g++ cannot compile {header} ({reason}); use g++ 9 or later.")
    function = ctypes.CDLL(str(library)).extrapolate
    pointer = np.ctypeslib.ndpointer(np.float32, flags="C_CONTIGUOUS")
    function.argtypes, function.restype = [pointer, pointer, ctypes.c_long, pointer], None

    def prepare(tracks: FloatArray) -> Run:
        state = np.ascontiguousarray(tracks[:, :4].T, dtype=np.float32)
        qop = np.ascontiguousarray(tracks[:, 4], dtype=np.float32)

        def run() -> FloatArray:
            end = np.empty_like(state)
            function(state, qop, len(qop), end)
            return end.T

        return run

    return prepare


def measure(method: str, kind: str, backend: str, move: Mover, tracks: FloatArray, truth: FloatArray) -> Row:
    """Time a method, median of five calls after one, and compare it with the truth.

    Args:
        method: Name.
        kind: `classical` or `network`.
        backend: Implementation.
        move: Prepares tracks (N, 7) and gives what moves them to their ends (N, 4).
        tracks: The tracks.
        truth: Their ends.

    Returns:
        The row, without a ratio.
    """
    run = move(tracks)
    started = time.process_time()
    end = run()
    wanted = int(len(tracks) * _LONG_S / max(time.process_time() - started, 1e-6))
    many = np.tile(tracks, (max(1, min(wanted, _MANY_TRACKS) // len(tracks)), 1))
    run = move(many)
    run()
    seconds = []
    for _ in range(_REPEATS):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    errors = track_errors(end, truth)
    return Row(
        method, kind, backend, len(many) / statistics.median(seconds), errors["pos_mean_mm"],
        errors["pos_95_mm"], errors["slope_mean"], int(errors["num_failed"]),
    )  # fmt: skip


def print_table(result: dict[str, Any], as_json: bool) -> None:
    """Print the rows on stdout.

    Args:
        result: Of `compare`.
        as_json: One JSON object a line instead of a table.
    """
    if as_json:
        for row in result["rows"]:
            print(json.dumps(row, allow_nan=False))
        return
    from rich.table import Table

    table = Table(
        "method", "backend", "tracks/s", "mean mm", "95 % mm", "slope", "lost", "x CK 0.01", "x RKN-8"
    )
    for row in result["rows"]:
        table.add_row(
            row["method"], row["backend"], f"{row['tracks_per_s']:,.0f}", f"{row['pos_mean_mm']:.3g}",
            f"{row['pos_95_mm']:.3g}", f"{row['slope_mean']:.2g}", str(row["num_failed"]),
            f"{row['ratio']:.3g}", f"{row['over_rkn']:.3g}",
        )  # fmt: skip
    table_console().print(table)
