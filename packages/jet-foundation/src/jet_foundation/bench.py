"""`jet-foundation bench`: how fast simulation, loading, training and classification are here.

Where a peer does the same work, both run in the same process in turn: classification in PyTorch against ONNX
Runtime, the equivariant layer against `lgatr` if that is installed.
"""

import tempfile
import time
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

import numpy as np
import torch

from hep_shared.amp import resolve_device
from hep_shared.bench import BenchRow, time_pairs
from hep_shared.onnx import open_session
from jet_foundation.config import Config
from jet_foundation.data.loader import Batch
from jet_foundation.data.preprocess import preprocess
from jet_foundation.export import example_inputs, export_model
from jet_foundation.models.deploy import JetClassification
from jet_foundation.models.equilinear import EquiLinear
from jet_foundation.simulate import simulate
from jet_foundation.tasks import classification, common

EQUILINEAR_CHANNELS, EQUILINEAR_TOKENS = 16, 4096


def bench(
    config: Config, *, device: str = "auto", num_jets: int = 1000, batch_size: int = 32
) -> list[BenchRow]:
    """Measure one configuration.

    Args:
        config: The configuration whose model is measured.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_jets: Toy jets to simulate and read.
        batch_size: Jets at a time in the network.

    Returns:
        One row a measurement.
    """
    where = resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="jet-bench-") as name:
        scratch = Path(name)
        started = time.perf_counter()
        simulate(scratch / "sample", engine="toy", num_jets=num_jets, seed=1)
        rate = num_jets / (time.perf_counter() - started)
        rows = [BenchRow("simulate toy jets, one process", rate, None, "jets/s", None, None, None)]
        preprocess([scratch / "sample"], scratch / "data")
        data = config.data.model_copy(update={"path": scratch / "data", "batch_size": batch_size})
        config = config.model_copy(update={"data": data})
        rows += [loader_row(config), *network_rows(config, where, scratch)]
    return rows + ([equilinear_row()] if util.find_spec("lgatr") else [])


def loader_row(config: Config) -> BenchRow:
    """Read, normalise and pad whole epochs."""
    stream = common.build_stream(config, "train", shuffle=True)
    epoch = [0]

    def work() -> None:
        for _ in stream.batches(epoch[0]):
            pass
        epoch[0] += 1

    work()
    rate = len(stream) * stream.batch_size / median_time(work, 5)
    return BenchRow(f"load, batch {stream.batch_size}", rate, None, "jets/s", None, None, None)


def network_rows(config: Config, device: torch.device, scratch: Path) -> list[BenchRow]:
    """Training step, and classification in ONNX Runtime against PyTorch."""
    torch.manual_seed(0)
    stream = common.build_stream(config, "train", shuffle=True)
    batch: Batch = next(stream.batches()).to(device)
    size = stream.batch_size
    module = classification.build_model(config).to(device).train()

    def step() -> None:
        module.zero_grad(set_to_none=True)
        torch.autograd.backward(classification.compute_loss(module, batch))
        synchronize(device)

    step()
    rate = size / median_time(step, 5)
    rows = [BenchRow(f"training step, batch {size}", rate, None, "jets/s", None, None, None)]
    classes, normalization = common.read_stamp(common.stamp(config))
    model = JetClassification(module.network, normalization, classes).eval()
    file = scratch / "model.onnx"
    difference = export_model(model, file)
    session = open_session(file, device.type, num_threads=torch.get_num_threads())
    inputs = example_inputs(normalization.feature_set, size, 64)
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    moved = {name: tensor.to(device) for name, tensor in inputs.items()}
    model = model.to(device)

    @torch.inference_mode()
    def in_torch() -> None:
        model(**moved)
        synchronize(device)

    onnx_s, torch_s, ratio = time_pairs(lambda: session.run(None, arrays), in_torch, pairs=5, warmup=1)
    what = f"classify with ONNX Runtime, batch {size}; peer: PyTorch"
    rows.append(BenchRow(what, size / onnx_s, size / torch_s, "jets/s", ratio, None, difference))
    return rows


def equilinear_row() -> BenchRow:
    """Forward and backward pass of the equivariant layer against that of lgatr, with the same weights."""
    torch.manual_seed(0)
    ours = EquiLinear(EQUILINEAR_CHANNELS, EQUILINEAR_CHANNELS)
    settings = import_module("lgatr.primitives.config").PrimitivesConfig()
    peer = import_module("lgatr.layers").EquiLinear(EQUILINEAR_CHANNELS, EQUILINEAR_CHANNELS, settings)
    peer.load_state_dict(ours.state_dict())
    x = torch.randn(EQUILINEAR_TOKENS, EQUILINEAR_CHANNELS, 16, requires_grad=True)
    with torch.no_grad():
        difference = float((ours(x) - peer(x)[0]).abs().max())

    def in_ours() -> None:
        torch.autograd.backward(ours(x).sum())

    def in_peer() -> None:
        torch.autograd.backward(peer(x)[0].sum())

    ours_s, peer_s, ratio = time_pairs(in_ours, in_peer, pairs=7)
    return BenchRow(
        f"EquiLinear, {EQUILINEAR_CHANNELS} channels, forward and backward; peer: lgatr",
        EQUILINEAR_TOKENS / ours_s,
        EQUILINEAR_TOKENS / peer_s,
        "particles/s",
        ratio,
        None,
        difference,
    )


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
