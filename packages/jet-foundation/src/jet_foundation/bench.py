"""`jet-foundation bench`: how fast simulation, loading, training and classification are here.

Where a peer does the same work, both run in the same process in turn: classification in PyTorch against ONNX
Runtime, the equivariant layer against `lgatr`, the Particle Transformer of published size against that of
`weaver-core`, the latter two if they are installed. Weaver's network gets 128 slots a jet, as its own loader
pads them, and drops empty ones itself; ours gets as many as the longest jet needs. The weights are the same.
"""

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hep_shared.amp import resolve_device
from hep_shared.bench import BenchRow, kernel_rows, time_pairs
from hep_shared.onnx import open_session
from jet_foundation.config import Config
from jet_foundation.data.loader import Batch
from jet_foundation.data.preprocess import preprocess
from jet_foundation.export import example_inputs, export_model
from jet_foundation.models.classifier import JetClassifier
from jet_foundation.models.deploy import JetClassification
from jet_foundation.models.encoder import ParTEncoder
from jet_foundation.models.equilinear import EquiLinear
from jet_foundation.simulate import simulate
from jet_foundation.tasks import classification, common

EQUILINEAR_CHANNELS, EQUILINEAR_TOKENS = 16, 4096
WEAVER_SLOTS = 128
LOADER_GOAL_PER_S = 20_000.0
Arguments = tuple[Tensor, Tensor, Tensor]

log = logging.getLogger(__name__)


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
        if _is_installed("weaver", "the Particle Transformer", "weaver-core"):
            rows += weaver_rows(config, where)
    if _is_installed("lgatr", "the equivariant layer", "lgatr"):
        rows.append(equilinear_row())
    return rows


def _is_installed(module: str, what: str, name: str) -> bool:
    """Whether a peer is there; otherwise say what is left out."""
    if util.find_spec(module):
        return True
    log.info("%s is not compared with a peer: install %s for that.", what, name)
    return False


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
    return BenchRow(f"load, batch {stream.batch_size}", rate, None, "jets/s", None, LOADER_GOAL_PER_S, None)


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
    what = f"training step, batch {size}"
    rows = [
        BenchRow(what, rate, None, "jets/s", None, None, None),
        *kernel_rows(what, step, size, "jets/s"),
    ]
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
        2.0,
        difference,
    )


def published_part(num_features: int, num_classes: int) -> JetClassifier:
    """Our Particle Transformer of published size, without the norm that only our encoder ends with.

    Args:
        num_features: Features of a particle.
        num_classes: Classes.

    Returns:
        The network with the pair features of weaver's formulas.
    """
    encoder = ParTEncoder(num_features, pair_kind="literal")
    encoder.norm = nn.Identity()  # type: ignore[assignment]
    return JetClassifier(encoder, num_classes, num_heads=8, num_layers=2)


def from_weaver(state: dict[str, Tensor], num_heads: int = 8) -> dict[str, Tensor]:
    """Rename the weights of weaver's ParticleTransformer, version 1, to those of `published_part`.

    Weaver's heads keep their order (head, channel); ours leave in the order (channel, head). The rows of the
    projection behind the attention are permuted so that both agree, with weaver's head factors multiplied in.

    Args:
        state: Its state dict.
        num_heads: Attention heads.

    Returns:
        Our state dict.
    """
    found: dict[str, Tensor] = {"class_attention.token": state["cls_token"]}
    renamed = [
        ("embed.input_bn", "encoder.embedding.input_norm"),
        ("embed.embed", "encoder.embedding.layers"),
    ]
    renamed += [
        ("norm", "class_attention.norm"),
        ("fc.0", "head"),
        ("pair_embed.embed.0", "encoder.pair_bias.norms.0"),
    ]
    for number in range(
        sum(name.startswith("pair_embed") and name.endswith("running_var") for name in state) - 1
    ):
        renamed.append((f"pair_embed.embed.{1 + 3 * number}", f"encoder.pair_bias.linears.{number}"))
        renamed.append((f"pair_embed.embed.{2 + 3 * number}", f"encoder.pair_bias.norms.{number + 1}"))
    parts = {"pre_attn_norm": "pre_norm", "attn.in_proj": "attention.in_proj", "post_attn_norm": "post_norm",
             "attn.out_proj": "attention.out_proj", "pre_fc_norm": "feed_forward.pre_norm",
             "fc1": "feed_forward.expand", "post_fc_norm": "feed_forward.post_norm",
             "fc2": "feed_forward.contract"}  # fmt: skip
    for theirs, ours in (("blocks", "encoder.blocks"), ("cls_blocks", "class_attention.blocks")):
        for block in sorted({name.split(".")[1] for name in state if name.startswith(f"{theirs}.")}):
            a, b = f"{theirs}.{block}", f"{ours}.{block}"
            renamed += [(f"{a}.{old}", f"{b}.{new}") for old, new in parts.items()]
            found[f"{b}.residual_scale"] = state[f"{a}.w_resid"]
            found[f"{b}.head_scale.weight"] = torch.ones(num_heads)
    for old, new in renamed:
        for name, value in state.items():
            if name.startswith(f"{old}."):
                found[new + name.removeprefix(old)] = value
    for name, value in found.items():
        if ".linears." in name and name.endswith("weight"):
            found[name] = value.squeeze(-1)
        if ".out_proj." in name:
            block = name.split(".attention.")[0]
            source = block.replace("encoder.blocks", "blocks").replace("class_attention.blocks", "cls_blocks")
            scale = state[f"{source}.c_attn"].repeat_interleave(len(value) // num_heads)
            order = torch.arange(len(value)).view(-1, num_heads).t().flatten()
            found[name] = (value * scale.view(-1, *[1] * (value.dim() - 1)))[order]
    return found


def weaver_inputs(batch: Batch) -> Arguments:
    """Arrange a batch as weaver's loader does.

    Args:
        batch: Jets, at most 128 particles each.

    Returns:
        Features (B, F, 128), four-vectors (px, py, pz, E) (B, 4, 128) GeV, and mask (B, 1, 128).
    """
    missing = WEAVER_SLOTS - batch.p4.shape[1]
    p4 = nn.functional.pad(batch.p4[..., [1, 2, 3, 0]], (0, 0, 0, missing))
    features = nn.functional.pad(batch.features, (0, 0, 0, missing))
    mask = nn.functional.pad(batch.valid_mask, (0, missing))
    return features.transpose(1, 2).contiguous(), p4.transpose(1, 2).contiguous(), mask[:, None].float()


def weaver_part(num_features: int, num_classes: int, **options: Any) -> nn.Module:
    """Build weaver's default ParticleTransformer, past the steps in which it drops no empty slots.

    Args:
        num_features: Features of a particle.
        num_classes: Classes.
        **options: Further arguments of it.

    Returns:
        The network.
    """
    logging.getLogger("weaver").setLevel(logging.ERROR)
    package = import_module("weaver.nn.model.ParticleTransformer")
    network: nn.Module = package.ParticleTransformer(num_features, num_classes, **options)
    network.get_buffer("trimmer._counter").fill_(5)
    return network


def inference(network: nn.Module, inputs: Arguments) -> Callable[[], Tensor]:
    """Make a function that classifies.

    Args:
        network: Maps the inputs to logits.
        inputs: Its arguments.

    Returns:
        The function, which gives the logits.
    """

    @torch.inference_mode()
    def classify() -> Tensor:
        found: Tensor = network.eval()(*inputs)
        synchronize(found.device)
        return found

    return classify


def training_step(network: nn.Module, inputs: Arguments, labels: Tensor) -> Callable[[], None]:
    """Make a function that does one optimiser step.

    Args:
        network: Maps the inputs to logits.
        inputs: Its arguments.
        labels: Class numbers.

    Returns:
        The function.
    """
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(nn.functional.cross_entropy(network(*inputs), labels))
        optimizer.step()
        synchronize(labels.device)

    return step


def weaver_rows(config: Config, device: torch.device) -> list[BenchRow]:
    """Inference, training and memory of the published size against weaver-core."""
    torch.manual_seed(0)
    stream = common.build_stream(config, "train", shuffle=True)
    batch = stream.dataset.batch(np.arange(stream.batch_size)).to(device)
    size, num_features, num_classes = (
        len(batch.labels),
        batch.features.shape[-1],
        len(stream.dataset.info.classes),
    )
    ours, theirs = (
        published_part(num_features, num_classes).to(device),
        weaver_part(num_features, num_classes).to(device),
    )
    dense = weaver_part(num_features, num_classes, trim=False, pair_embed_sparse_eval=(False, False)).to(
        device
    )
    inputs: Arguments = (batch.p4, batch.features, batch.valid_mask)
    peer_inputs = weaver_inputs(batch)
    with torch.no_grad():
        theirs.train()(*peer_inputs)  # moves the running statistics off their initial values
    dense.load_state_dict(theirs.state_dict())
    ours.load_state_dict(from_weaver(theirs.state_dict()))
    rows = []
    for what, peer, goal in (("default", theirs, 1.5), ("dense pairs", dense, 4.0)):
        in_ours, in_peer = inference(ours, inputs), inference(peer, peer_inputs)
        difference = float((in_ours() - in_peer()).abs().max())
        timing = time_pairs(in_ours, in_peer, pairs=5, warmup=1)
        name = f"classify with ParT of published size, batch {size}; peer: weaver-core, {what}"
        rates = size / timing.ours_s, size / timing.peer_s
        rows.append(BenchRow(name, *rates, "jets/s", timing.ratio, goal, difference))
    timing = time_pairs(
        training_step(ours, inputs, batch.labels), training_step(theirs, peer_inputs, batch.labels),
        pairs=5, warmup=1,
    )  # fmt: skip
    name = f"training step of ParT of published size, batch {size}; peer: weaver-core, default"
    rates = size / timing.ours_s, size / timing.peer_s
    rows.append(BenchRow(name, *rates, "jets/s", timing.ratio, 1.7, None))
    if device.type == "cpu" and Path("/proc/self/clear_refs").exists():
        context = multiprocessing.get_context("spawn")
        peaks = {}
        for which in ("ours", "peer"):
            with context.Pool(1) as pool:
                peaks[which] = pool.apply(peak_memory, (config, which))
        name = f"memory of a training step, batch {size}; peer: weaver-core, default"
        ratio = peaks["peer"] / peaks["ours"]
        rows.append(BenchRow(name, peaks["ours"], peaks["peer"], "MB", ratio, 1 / 0.6, None))
    return rows


def peak_memory(config: Config, which: str) -> float:
    """Memory that the first training step of a fresh process takes on top of the network, MB."""
    stream = common.build_stream(config, "train", shuffle=True)
    batch = stream.dataset.batch(np.arange(stream.batch_size))
    num_features, num_classes = batch.features.shape[-1], len(stream.dataset.info.classes)
    if which == "ours":
        network: nn.Module = published_part(num_features, num_classes)
        step = training_step(network, (batch.p4, batch.features, batch.valid_mask), batch.labels)
    else:
        network = weaver_part(num_features, num_classes)
        step = training_step(network, weaver_inputs(batch), batch.labels)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _memory_mb("VmRSS")
    step()
    return _memory_mb("VmHWM") - before


def _memory_mb(name: str) -> float:
    """A line of this process's memory record."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1024


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
