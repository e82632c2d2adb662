"""`lhcb-extrap bench`: how fast simulation and inference are on this machine.

Without a preset the networks of the study and the kick nets are measured with fresh weights, since speed does
not depend on what was learned. The peer of a network in ONNX Runtime is the same network in PyTorch.

Dimension legend: N tracks.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from hep_shared.amp import resolve_device
from hep_shared.bench import BenchRow, time_pairs
from hep_shared.config import load_config
from hep_shared.onnx import export_onnx, open_session
from lhcb_extrap.config import PRESETS, Config
from lhcb_extrap.data.field_source import load_field
from lhcb_extrap.data.normalization import Normalization
from lhcb_extrap.data.tracks import TrackBatch
from lhcb_extrap.export import export_network
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.field_map import FieldMap
from lhcb_extrap.physics.sampling import generate_tracks
from lhcb_extrap.physics.transport import native_backend, transport
from lhcb_extrap.tasks import extrapolation

BATCH_SIZES = (1, 32, 256, 1024, 4096)
PERCENTILES = (50, 95, 99)
NETWORKS = (
    "mlp_tiny", "mlp_small", "mlp_medium", "mlp_wide", "rkpinn_tiny", "kick16", "kick32", "kick48",
    "kick64",
)  # fmt: skip
SIMULATION_GOAL = 10.0  # native over NumPy
LAYERS_GOAL = 3.0  # compiled layers over ONNX Runtime, both at their best batch
_WARMUP, _CALLS, _MAX_S = 10, 100, 1.0
_NUM_TRACKS = 2000


def bench(config: Config, *, preset: str | None = None, device: str = "auto") -> list[BenchRow]:
    """Measure simulation, and networks at several batch sizes.

    Args:
        config: Its network is measured when `preset` is given; its simulation and field always.
        preset: Name of the network; None measures all of them.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        One row a measurement: tracks a second at the median latency, and latencies at three percentiles.
    """
    where = resolve_device(device)
    field = load_field(config.field)
    rows = [simulation_row(config, field)]
    names = [preset] if preset else list(NETWORKS)
    for name in names:
        chosen = config if preset else load_config(Config, presets=PRESETS, preset=name)
        rows += network_rows(name, chosen, field, where)
    return rows


def simulation_row(config: Config, field: FieldMap) -> BenchRow:
    """Move tracks with the fastest implementation, against NumPy."""
    simulation = config.simulation
    drawn = simulation.sampler().draw(np.random.Generator(np.random.Philox(0)), _NUM_TRACKS)
    move = partial(
        transport, field, drawn.start, drawn.qop, drawn.z0, drawn.dz, num_steps=simulation.num_steps,
        method=simulation.method, acceptance=simulation.acceptance,
    )  # fmt: skip
    what = f"simulate, {simulation.method}, {simulation.step_mm:g} mm"
    if native_backend() == "numpy":
        started = time.perf_counter()
        move(backend="numpy")
        rate = _NUM_TRACKS / (time.perf_counter() - started)
        return BenchRow(f"{what}, NumPy (no compiled operator)", rate, None, "tracks/s", None, None, None)
    found = time_pairs(partial(move, backend="native"), partial(move, backend="numpy"), pairs=3, warmup=1)
    ours, theirs = move(backend="native").state, move(backend="numpy").state
    difference = float(np.nanmax(np.abs(ours - theirs)))
    return BenchRow(
        f"{what}, compiled; peer: NumPy", _NUM_TRACKS / found.ours_s, _NUM_TRACKS / found.peer_s, "tracks/s",
        found.ratio, SIMULATION_GOAL, difference,
    )  # fmt: skip


def network_rows(name: str, config: Config, field: FieldMap, device: torch.device) -> list[BenchRow]:
    """ONNX Runtime against PyTorch at every batch size, and the latencies of PyTorch."""
    torch.manual_seed(0)
    simulation = config.simulation
    move = partial(transport, field, num_steps=40, method="rkn4", acceptance=simulation.acceptance)
    tracks = generate_tracks(simulation.sampler(), move, _NUM_TRACKS, np.random.SeedSequence(0))
    batch = TrackBatch(
        np.column_stack([tracks.start, tracks.qop, tracks.dz]), tracks.end, tracks.momentum_gev
    )
    normalization = Normalization.of(batch, tracks.z0, field)
    network = extrapolation.build_network(config.model, normalization).eval()
    rows_in = np.column_stack([batch.X, tracks.z0]).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="lhcb-extrap-") as scratch:
        file = Path(scratch) / "model.onnx"
        exported = export_network(network, normalization, file)
        session = open_session(file, device.type, num_threads=torch.get_num_threads())
    rows: list[BenchRow] = []
    if isinstance(network, KickNet) and native_backend() == "native" and device.type == "cpu":
        rows.append(layers_row(name, network))
    network = network.to(device)
    difference = max(exported["max_abs_diff"].values())
    for size in BATCH_SIZES:
        picked = rows_in[np.arange(size) % len(rows_in)]
        moved = torch.from_numpy(picked).to(device)
        inputs = {"tracks": picked[:, :6].copy()}
        if not normalization.fixed_planes:
            inputs["z0"] = picked[:, 6].copy()

        @torch.inference_mode()
        def in_torch(moved: torch.Tensor = moved) -> None:
            network(moved)
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        def in_onnx(inputs: dict[str, FloatArray] = inputs) -> None:
            session.run(None, inputs)

        found = time_pairs(in_onnx, in_torch, pairs=15, warmup=3)
        rows.append(
            BenchRow(
                f"{name}, ONNX Runtime in {exported['precision']} precision, batch {size}; peer: PyTorch",
                size / found.ours_s,
                size / found.peer_s,
                "tracks/s",
                found.ratio,
                None,
                difference,
            )
        )
        for percentile, milliseconds in latencies(in_torch).items():
            what = f"{name}, PyTorch, batch {size}, latency p{percentile}"
            rows.append(BenchRow(what, milliseconds, None, "ms", None, None, None))
    return rows


def layers_row(name: str, network: KickNet) -> BenchRow:
    """The dense layers of a kick net as one compiled operator, against ONNX Runtime, on one thread."""
    from hep_shared.ops import narrow_mlp

    weights, sizes = narrow_mlp.pack(network.layers)
    features = torch.randn(max(BATCH_SIZES), sizes[0], generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="lhcb-extrap-") as scratch, torch.inference_mode():
            file = Path(scratch) / "layers.onnx"
            export_onnx(network.layers, {"input": features[:64]}, file, output_names=["output"], metadata={})
            session = open_session(file, "cpu", num_threads=1)
            batches = [features[:size] for size in BATCH_SIZES]
            arrays = [batch.numpy() for batch in batches]

            def ours(number: int) -> torch.Tensor:
                return narrow_mlp.narrow_mlp(batches[number], weights, sizes, network.activation)

            def theirs(number: int) -> FloatArray:
                result: FloatArray = session.run(None, {"input": arrays[number]})[0]
                return result

            def best(work: Callable[[int], object], other: Callable[[int], object]) -> int:
                rates = []
                for number, size in enumerate(BATCH_SIZES):
                    found = time_pairs(partial(work, number), partial(other, number), pairs=15, warmup=3)
                    rates.append(size / found.ours_s)
                return int(np.argmax(rates))

            mine, peer = best(ours, theirs), best(theirs, ours)
            sizes_of = BATCH_SIZES[mine], BATCH_SIZES[peer]
            found = time_pairs(partial(ours, mine), partial(theirs, peer), pairs=31, warmup=3)
            rates_of = sizes_of[0] / found.ours_s, sizes_of[1] / found.peer_s
            difference = float(np.abs(ours(0).numpy() - theirs(0)).max())
    finally:
        torch.set_num_threads(threads)
    return BenchRow(
        f"{name}, layers alone, compiled operator, batch {sizes_of[0]}; peer: ONNX Runtime, "
        f"batch {sizes_of[1]}",
        *rates_of,
        "tracks/s",
        rates_of[0] / rates_of[1],
        LAYERS_GOAL,
        difference,
    )


def latencies(work: Callable[[], None]) -> dict[int, float]:
    """Percentiles of the duration of a call, ms: 100 calls after 10, fewer where they take over a second."""
    for _ in range(_WARMUP):
        work()
    durations: list[float] = []
    while not durations or (len(durations) < _CALLS and sum(durations) < _MAX_S):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return {p: float(np.percentile(durations, p)) * 1e3 for p in PERCENTILES}
