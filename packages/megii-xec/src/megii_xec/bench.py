"""`xec bench`: how fast simulation, reading, training and reconstruction are here, beside what they could be.

Each row compares with a peer that does the same work in the same run, in turn: reading with bare uproot,
reconstruction in PyTorch with ONNX Runtime.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import uproot
from torch import Tensor, nn

from hep_shared.amp import resolve_device
from hep_shared.bench import BenchRow, kernel_rows, time_pairs
from hep_shared.onnx import export_onnx, open_session
from megii_xec.config import Config, InpaintConfig, PretrainConfig, RegressionConfig
from megii_xec.data.schema import NPHO as NPHO_BRANCH
from megii_xec.data.schema import NUM_SENSORS, RELATIVE_TIME, TREE
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TARGETS
from megii_xec.export import example_inputs
from megii_xec.models.deploy import PhotonReconstruction
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.simulate import simulate
from megii_xec.tasks import inpaint, pretrain, regression


def bench(
    config: Config, *, device: str = "auto", num_events: int = 1000, batch_size: int = 32
) -> list[BenchRow]:
    """Measure one configuration.

    Args:
        config: The configuration whose model is measured; its task is replaced where another one is measured.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_events: Events to simulate and read.
        batch_size: Events at a time in the network.

    Returns:
        One row a measurement.
    """
    where = resolve_device(device)
    if not isinstance(config.task, RegressionConfig):
        config = config.model_copy(update={"task": RegressionConfig()})
    with tempfile.TemporaryDirectory(prefix="xec-bench-") as scratch:
        path = Path(scratch) / "photons.root"
        started = time.perf_counter()
        simulate(SimulationConfig(), path, num_events=num_events, seed=1)
        rate = num_events / (time.perf_counter() - started)
        simulated = BenchRow("simulate, one process", rate, None, "events/s", None, 200.0, None)
        return [
            simulated,
            read_row(config, path),
            *network_rows(config, where, Path(scratch), batch_size),
            *hidden_rows(config, where, batch_size),
        ]


def read_row(config: Config, path: Path) -> BenchRow:
    """Read and normalise with one thread, against bare decompression by uproot."""
    stream = PhotonStream(path, config.data.normalization, batch_size=256, targets=("energy",), num_workers=1)

    def ours() -> None:
        for _ in stream.batches():
            pass

    def bare() -> None:
        with uproot.open(path) as file:
            for _ in file[TREE].iterate([NPHO_BRANCH.name, RELATIVE_TIME.name], step_size=1000, library="np"):
                pass

    ours_s, peer_s, ratio = time_pairs(ours, bare, pairs=5, warmup=1)
    num_events = stream.num_events
    stream.close()
    return BenchRow(
        "read and normalise, one thread; peer: bare uproot",
        num_events / ours_s,
        num_events / peer_s,
        "events/s",
        ratio,
        0.85,
        None,
    )


def network_rows(config: Config, device: torch.device, scratch: Path, batch_size: int) -> list[BenchRow]:
    """Training step, inference in PyTorch, and inference in ONNX Runtime against it."""
    torch.manual_seed(0)
    module = regression.build_model(config).to(device).train()
    sensors = torch.randn(batch_size, NUM_SENSORS, 2, device=device)
    targets = {
        name: torch.zeros(batch_size, head, device=device) for name, head in head_sizes(config).items()
    }

    step = training_step(module, lambda: module(sensors, targets)[0], device)
    what = f"training step, batch {batch_size}"
    rows = [
        BenchRow(what, batch_size / median_time(step, 5), None, "events/s", None, None, None),
        *kernel_rows(what, step, batch_size, "events/s"),
    ]
    losses = {name: target.loss for name, target in config.task.targets.items()}
    model = PhotonReconstruction(
        module.network, config.data.normalization, module.scaling, tuple(losses), losses
    ).eval()
    file = scratch / "model.onnx"
    difference = export_onnx(model, example_inputs(), file, output_names=model.outputs, metadata={})
    session = open_session(file, device.type, num_threads=torch.get_num_threads())
    inputs = example_inputs(batch_size)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}

    @torch.inference_mode()
    def in_torch() -> None:
        model(**moved)
        synchronize(device)

    onnx_s, torch_s, ratio = time_pairs(lambda: session.run(None, arrays), in_torch, pairs=5, warmup=1)
    rows.append(
        BenchRow(
            f"reconstruct with ONNX Runtime, batch {batch_size}; peer: PyTorch",
            batch_size / onnx_s,
            batch_size / torch_s,
            "events/s",
            ratio,
            None,
            max(difference.values()),
        )
    )
    return rows


def hidden_rows(config: Config, device: torch.device, batch_size: int) -> list[BenchRow]:
    """Training steps of the autoencoder and of the inpainter, drawing the hidden sensors included."""
    empty = torch.zeros(batch_size, dtype=torch.int32)
    sensors = torch.rand(batch_size, NUM_SENSORS, 2, device=device)
    batch = PhotonBatch(sensors, {}, {}, empty, empty, torch.arange(batch_size), torch.zeros(batch_size))
    normalization, masked, dead = config.data.normalization, PretrainConfig(), InpaintConfig()
    torch.manual_seed(0)
    autoencoder = pretrain.build_model(config.model_copy(update={"task": masked})).to(device).train()
    inpainter = inpaint.build_model(config.model_copy(update={"task": dead})).to(device).train()

    def pretraining() -> Tensor:
        return pretrain.compute_loss(autoencoder, pretrain.hide(batch, 0, masked, normalization, 0))

    def inpainting() -> Tensor:
        return inpaint.compute_loss(inpainter, inpaint.hide(batch, 0, dead.dead, normalization, 0))

    rows = []
    for name, module, loss in (
        ("pre-training", autoencoder, pretraining),
        ("inpainting", inpainter, inpainting),
    ):
        what = f"{name} step, batch {batch_size}"
        rate = batch_size / median_time(training_step(module, loss, device), 5)
        rows.append(BenchRow(what, rate, None, "events/s", None, None, None))
    return rows


def training_step(module: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> Callable[[], None]:
    """A forward and a backward pass, done once before it is handed out."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        loss().backward()  # type: ignore[no-untyped-call]
        synchronize(device)

    step()
    return step


def head_sizes(config: Config) -> dict[str, int]:
    """Number of components of every target of a configuration."""
    return {name: TARGETS[name].size for name in config.task.targets}


def median_time(work: Callable[[], None], repeats: int) -> float:
    """Median duration of a call, seconds."""
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return float(np.median(durations))


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that its work is inside the measured time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
