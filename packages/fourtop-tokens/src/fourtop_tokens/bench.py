"""`fourtop-tokens bench`: how fast simulation, tokenising, the codebook and training are here, beside peers.

Each row compares with a peer that does the same work in the same run, in turn: `numpy.digitize`,
`torch.cdist` with argmin, a one-hot matrix product, `torch.nn.TransformerEncoder`, and single trainings for
the ensemble.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fourtop_tokens.config import ClassifierConfig, Config
from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet
from fourtop_tokens.data.scaling import EventStatistics
from fourtop_tokens.data.stream import event_inputs
from fourtop_tokens.data.tokenizer import Backend, Binning, native_backend
from fourtop_tokens.ensemble import Ensemble
from fourtop_tokens.models.codebook import sums_by_code
from fourtop_tokens.models.normformer import NormFormer
from fourtop_tokens.simulate import simulate
from fourtop_tokens.tasks import classification
from hep_shared.amp import resolve_device
from hep_shared.bench import BenchRow, time_pairs
from hep_shared.errors import ConfigError
from hep_shared.ops import nearest as nearest_op

NUM_CODES, LATENT_DIM = 512, 32  # of the default VQ-VAE
NUM_MEMBERS = 12
MIN_EVENTS = 3000  # for the statistics of the train split


def bench(
    config: Config, *, device: str = "auto", num_events: int = 20_000, batch_size: int = 512
) -> list[BenchRow]:
    """Measure one configuration.

    Args:
        config: The configuration whose model is measured.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_events: Events to simulate and tokenise.
        batch_size: Events at a time in the network.

    Returns:
        One row a measurement; the ensemble only with a GPU.
    """
    if not isinstance(config.model, ClassifierConfig):
        raise ConfigError(f"model.kind is {config.model.kind}; bench measures the classifier normformer.")
    where = resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="fourtop-bench-") as scratch:
        started = time.perf_counter()
        splits = simulate(Path(scratch) / "events.h5", max(num_events, MIN_EVENTS), seed=1, progress=None)
        rate = max(num_events, MIN_EVENTS) / (time.perf_counter() - started)
    rows = [BenchRow("simulate and write, one process", rate, None, "events/s", None, 2000.0, None)]
    train = splits["train"]
    backends: list[Backend] = ["native", "numpy"] if native_backend() == "native" else ["numpy"]
    rows += [tokenize_row(train, backend) for backend in backends]
    rows += [*codebook_rows(where), train_row(config.model, where, batch_size)]
    if where.type == "cuda":
        rows.append(ensemble_row(config, train, where, batch_size))
    return rows


def tokenize_row(events: EventSet, backend: Backend) -> BenchRow:
    """Bin events, against the same formula with numpy.digitize."""
    binning = Binning.fit(events)

    def peer() -> NDArray[np.int64]:
        return digitize_tokens(binning, events)

    def ours() -> NDArray[np.int64]:
        return binning.transform(events, backend)

    equal = np.array_equal(ours(), peer())
    ours_s, peer_s, ratio = time_pairs(ours, peer, pairs=15, warmup=1)
    return BenchRow(
        f"tokenise, 5 bins, {backend}; peer: numpy.digitize", len(events) / ours_s, len(events) / peer_s,
        "events/s", ratio, 10.0 if backend == "native" else 1.4, 0.0 if equal else float("inf"),
    )  # fmt: skip


def digitize_tokens(binning: Binning, events: EventSet) -> NDArray[np.int64]:
    """The token formula with one `numpy.digitize` for each quantity.

    Args:
        binning: Mode `full` with quantile edges.
        events: Any events.

    Returns:
        (N, 20) int64.
    """
    b, v = binning.vocabulary.num_bins, binning.vocabulary
    pt, eta, phi = (
        np.digitize(events.features[..., column], edges)
        for column, edges in (
            (schema.PT, binning.pt_edges), (schema.ETA, binning.eta_edges), (schema.PHI, binning.phi_edges),
        )
    )  # fmt: skip
    objects = b**3 * (events.ids.astype(np.int64) - 1) + b**2 * pt + b * eta + phi + 1
    met = 1 + v.num_object_tokens + np.digitize(events.missing[:, 0], binning.met_edges)
    met_phi = 1 + v.num_object_tokens + b + np.digitize(events.missing[:, 1], binning.phi_edges)
    return np.concatenate([objects * (events.ids > 0), met[:, None], met_phi[:, None]], axis=1)


def codebook_rows(device: torch.device) -> list[BenchRow]:
    """Nearest code against cdist and argmin; update of the averages against a one-hot product."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(512 * 18, LATENT_DIM, generator=generator).to(device)
    codes = torch.randn(NUM_CODES, LATENT_DIM, generator=generator).to(device)

    def by_distance() -> Tensor:
        found = torch.cdist(vectors, codes).argmin(1)
        synchronize(device)
        return found

    half_norms = codes.square().sum(1) / 2

    def ours() -> Tensor:
        found = nearest_op.nearest_code(vectors, codes)
        synchronize(device)
        return found

    def in_torch() -> Tensor:
        found = nearest_op.reference(vectors, codes, half_norms)
        synchronize(device)
        return found

    # A tie in float32 may go either way: compare distances in float64, not indices.
    def distances(found: Tensor) -> Tensor:
        return (vectors.double() - codes.double()[found]).square().sum(1)

    rows = []
    ways = [("torch", in_torch, 1.3)]
    if native_backend() == "native":
        ways.insert(0, ("native", ours, 4.0))
    for name, way, goal in ways:
        difference = float((distances(way()) - distances(by_distance())).abs().max())
        ours_s, peer_s, ratio = time_pairs(way, by_distance, pairs=15)
        rows.append(
            BenchRow(
                f"nearest of 512 codes, {name}; peer: cdist + argmin", len(vectors) / ours_s,
                len(vectors) / peer_s, "vectors/s", ratio, goal, difference,
            )
        )  # fmt: skip
    nearest = ours()

    def one_hot() -> tuple[Tensor, Tensor]:
        table = nn.functional.one_hot(nearest, NUM_CODES).to(vectors.dtype)
        result = table.sum(0), table.T @ vectors
        synchronize(device)
        return result

    def scatter() -> tuple[Tensor, Tensor]:
        result = sums_by_code(vectors, nearest, NUM_CODES)
        synchronize(device)
        return result

    difference = max(float((a - b).abs().max()) for a, b in zip(scatter(), one_hot(), strict=True))
    ours_s, peer_s, ratio = time_pairs(scatter, one_hot, pairs=15)
    rows.append(
        BenchRow(
            "codebook update; peer: one-hot product", len(vectors) / ours_s, len(vectors) / peer_s,
            "vectors/s", ratio, 50.0, difference,
        )
    )  # fmt: skip
    return rows


def train_row(model: ClassifierConfig, device: torch.device, batch_size: int) -> BenchRow:
    """Forward and backward of the backbone, against torch's transformer of the same width and depth."""
    mlp_dim, num_tokens = model.mlp_dim or 4 * model.dim, 1 + schema.NUM_TOKENS
    torch.manual_seed(0)
    ours = NormFormer(
        dim=model.dim, depth=model.depth, num_heads=model.num_heads, mlp_dim=mlp_dim, dropout=model.dropout
    ).to(device)
    layer = nn.TransformerEncoderLayer(
        model.dim, model.num_heads, mlp_dim, model.dropout, "gelu", batch_first=True, norm_first=True
    )
    peer = nn.TransformerEncoder(layer, model.depth, enable_nested_tensor=False).to(device)
    x = torch.randn(batch_size, num_tokens, model.dim, device=device)
    valid = torch.arange(num_tokens, device=device) < torch.randint(8, 21, (batch_size, 1), device=device)

    def step(module: nn.Module, *mask: Tensor, **masks: Tensor) -> None:
        module.zero_grad(set_to_none=True)
        module(x, *mask, **masks).square().mean().backward()
        synchronize(device)

    ours_s, peer_s, ratio = time_pairs(
        lambda: step(ours, valid), lambda: step(peer, src_key_padding_mask=~valid), pairs=5, warmup=1
    )
    return BenchRow(
        f"training step, batch {batch_size}; peer: nn.TransformerEncoder", batch_size / ours_s,
        batch_size / peer_s, "events/s", ratio, 1.0, None,
    )  # fmt: skip


def ensemble_row(config: Config, train: EventSet, device: torch.device, batch_size: int) -> BenchRow:
    """One step of an ensemble against the steps of its members one after another."""
    statistics = EventStatistics.fit(train, config.data.scaling)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"statistics": statistics, "tokens": None})}
    )
    inputs = [torch.from_numpy(a[:batch_size]).to(device) for a in event_inputs(train).values()]
    inputs[0] = inputs[0].long()
    labels = torch.from_numpy(train.labels[:batch_size]).long().to(device) - 1
    modules = [classification.build_model(config).train() for _ in range(NUM_MEMBERS)]
    ensemble = Ensemble(modules, config, 1000, device)
    stacked = tuple(tensor.expand(NUM_MEMBERS, *tensor.shape) for tensor in inputs)
    many = labels.expand(NUM_MEMBERS, -1)
    alone = classification.build_model(config).to(device).train()
    optimizer = torch.optim.AdamW(alone.parameters(), lr=config.optim.lr)

    def together() -> None:
        ensemble.step(stacked, many)
        synchronize(device)

    def one_by_one() -> None:
        for _ in range(NUM_MEMBERS):
            optimizer.zero_grad(set_to_none=True)
            alone(tuple(inputs), labels)[0].backward()
            nn.utils.clip_grad_norm_(alone.parameters(), 1.0)
            optimizer.step()
        synchronize(device)

    ours_s, peer_s, ratio = time_pairs(together, one_by_one, pairs=9)
    total = NUM_MEMBERS * len(labels)
    return BenchRow(
        f"step of {NUM_MEMBERS} members, batch {len(labels)}; peer: one after another", total / ours_s,
        total / peer_s, "model-events/s", ratio, 8.0, None,
    )  # fmt: skip


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that its work is inside the measured time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
