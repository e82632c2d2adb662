"""`chhiggs-pnet bench`: how fast simulation, loading, training and inference are here, beside their peers.

The peer of the network is the same network written with PyTorch Geometric's `MessagePassing` and the same
weights: packed nodes, a dense nearest-neighbour search, edges [x_i, x_j − x_i] through the MLP. The peer of
the loader is PyTorch Geometric's `DataLoader` of graphs. It is needed for these rows only.
"""

import importlib
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chhiggs_pnet.config import Config
from chhiggs_pnet.data.branch_map import load_branch_map
from chhiggs_pnet.data.point_events import load_point, to_tensors
from chhiggs_pnet.data.schema import CLASSES, FEATURE_SETS
from chhiggs_pnet.data.store import Store
from chhiggs_pnet.data.stream import EventStream
from chhiggs_pnet.losses import event_weights
from chhiggs_pnet.models.deploy import EventClassifier
from chhiggs_pnet.models.graph import directions, packing
from chhiggs_pnet.models.particle_net import ParametricParticleNet
from chhiggs_pnet.physics.mass_points import MassPoint, MassTable
from chhiggs_pnet.prepare import prepare
from chhiggs_pnet.simulate import simulate
from hep_shared.amp import resolve_device
from hep_shared.bench import BenchRow, kernel_rows, time_pairs
from hep_shared.errors import UserError
from hep_shared.onnx import export_onnx, open_session

POINT = MassPoint(130, 90)
DIMS = (128, 128, 128)  # of the CMS analysis
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def bench(config: Config, *, device: str = "auto", num_events: int = 1024) -> list[BenchRow]:
    """Measure.

    Args:
        config: Gives the feature set.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_events: Events in a batch.

    Returns:
        One row a measurement.

    Raises:
        UserError: PyTorch Geometric is not installed.
    """
    try:
        peer_module("torch_geometric")
    except ImportError:
        raise UserError(
            "bench compares with PyTorch Geometric, which is not installed; install torch-geometric>=2.6."
        ) from None
    where = resolve_device(device)
    with tempfile.TemporaryDirectory(prefix="chhiggs-bench-") as scratch:
        samples, store_path = Path(scratch) / "samples", Path(scratch) / "store"
        wanted = max(2 * num_events, 2000)
        # What is imported and tabulated once is not part of the rate.
        simulate(Path(scratch) / "warm-up", points=[POINT], num_events=10, seed=2, channels=("Run1E2Mu",))
        started = time.perf_counter()
        files = simulate(samples, points=[POINT], num_events=wanted, seed=1, channels=("Run1E2Mu",))
        rate = wanted * len(files) / (time.perf_counter() - started)
        simulated = BenchRow("simulate and write, one process", rate, None, "events/s", None, 10_000, None)
        table = MassTable(train=(POINT,), validation=(), interpolation=(), extrapolation=())
        prepare(samples, store_path, branch_map=load_branch_map("flat"), table=table)
        store = Store(store_path)
        features = config.data.features
        inputs = move(batch_of(store, features, num_events), where)
        rows = [simulated, loader_row(store, features)]
        for k in (4, 8):
            rows += network_rows(inputs, len(FEATURE_SETS[features]), k, where)
        rows.append(latency_row(inputs, len(FEATURE_SETS[features]), Path(scratch)))
    return rows


def peer_module(name: str) -> Any:
    """Import a module of PyTorch Geometric, whose import warns of PyTorch's deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def batch_of(store: Store, features: str, num_events: int) -> Inputs:
    """Events of all classes as inputs of the network."""
    events = load_point(store, POINT, range(store.num_folds), features=features, channel=None)
    chosen = np.random.default_rng(0).permutation(len(events.weight))[:num_events]
    columns = {name: values[chosen] for name, values in events.columns.items()}
    mass = np.array([POINT.mHc, POINT.mA])
    batch = to_tensors(columns, np.tile(mass, (len(chosen), 1)), columns["weight"], mass, "bench")
    return batch.nodes, batch.valid_mask, batch.masses, batch.channel, batch.era


def move(inputs: Inputs, device: torch.device) -> Inputs:
    """Inputs on a device."""
    nodes, valid_mask, masses, channel, era = (tensor.to(device) for tensor in inputs)
    return nodes, valid_mask, masses, channel, era


def network(num_features: int, num_neighbors: int) -> ParametricParticleNet:
    """The network that is measured: no attention, which the peer has not either."""
    torch.manual_seed(0)
    return ParametricParticleNet(
        num_features=num_features, num_classes=len(CLASSES), mass_mean=(130, 90), mass_std=(20, 4),
        hidden_dims=DIMS, num_neighbors=num_neighbors, conditioning="none", head_dropout=0.0,
        frame="detector",
    )  # fmt: skip


def network_rows(inputs: Inputs, num_features: int, k: int, device: torch.device) -> list[BenchRow]:
    """Inference and training step against the peer with the same weights."""
    ours = network(num_features, k).to(device)
    peer = peer_of(ours)
    num_events = len(inputs[0])

    def step(model: Callable[..., Tensor]) -> Callable[[], None]:
        def work() -> None:
            ours.zero_grad(set_to_none=True)
            torch.autograd.backward(model(*inputs).square().mean())
            synchronize(device)

        return work

    def infer(model: Callable[..., Tensor]) -> Callable[[], None]:
        @torch.inference_mode()
        def work() -> None:
            model(*inputs)
            synchronize(device)

        return work

    ours.eval()
    with torch.inference_mode():
        difference = float((ours(*inputs) - peer(*inputs)).abs().max())
    found = time_pairs(infer(ours), infer(peer), pairs=7, warmup=1)
    rows = [
        BenchRow(
            f"inference, batch {num_events}, k={k}; peer: PyTorch Geometric", num_events / found.ours_s,
            num_events / found.peer_s, "events/s", found.ratio, 1.8, difference,
        ),
        *kernel_rows(f"inference, batch {num_events}, k={k}", infer(ours), num_events, "events/s"),
    ]  # fmt: skip
    ours.train()
    found = time_pairs(step(ours), step(peer), pairs=5, warmup=1)
    rows.append(
        BenchRow(
            f"training step, batch {num_events}, k={k}; peer: PyTorch Geometric", num_events / found.ours_s,
            num_events / found.peer_s, "events/s", found.ratio, 1.9 if k == 4 else 2.5, None,
        )
    )  # fmt: skip
    return rows


def peer_of(ours: ParametricParticleNet) -> Callable[..., Tensor]:
    """The same network with PyTorch Geometric's `MessagePassing`, on the weights of `ours`.

    Args:
        ours: The network; its parameters are shared.

    Returns:
        Function of the same arguments.
    """
    message_passing: Any = peer_module("torch_geometric.nn").MessagePassing
    peer_pool = peer_module("torch_geometric.nn").global_mean_pool
    peer_dense = peer_module("torch_geometric.utils").to_dense_batch

    def plain(x: Tensor, layer: Any) -> Tensor:
        return F.linear(x, layer.weight, layer.bias)  # our layers have a kernel of their own

    class PeerEdgeConv(message_passing):  # type: ignore[misc]
        """EdgeConv as in PyTorch Geometric's documentation, with the layers of the CMS analysis."""

        def __init__(self, conv: nn.Module) -> None:
            super().__init__(aggr="mean")
            object.__setattr__(self, "conv", conv)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            out: Tensor = self.propagate(edge_index, x=x, size=(len(x), len(x)))
            return out + plain(x, self.conv.shortcut)

        def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
            hidden = torch.cat([x_i, x_j - x_i], dim=1)
            for linear, norm in zip(self.conv.linears, self.conv.norms, strict=True):
                hidden = norm(F.leaky_relu(plain(hidden, linear)))
            return hidden

    layers = [PeerEdgeConv(conv) for conv in ours.convolutions]

    def forward(nodes: Tensor, valid_mask: Tensor, masses: Tensor, channel: Tensor, era: Tensor) -> Tensor:
        graph = packing(valid_mask)
        batch = graph.event
        x = ours.inputs(nodes, graph)
        pooled = []
        for block, layer in enumerate(layers):
            with torch.no_grad():
                if block == 0:
                    distances = direction_distances(nodes[..., 1], nodes[..., 2], nodes[..., 3])
                else:
                    distances = feature_distances(peer_dense(x, batch, max_num_nodes=valid_mask.shape[1])[0])
                edges = dense_knn(distances, valid_mask, ours.num_neighbors)
            x = layer(x, edges)
            pooled.append(peer_pool(x, batch))
        hypothesis = ours.masses(masses)
        out: Tensor = ours.classifier(
            torch.cat([*pooled, *ours.event_inputs(hypothesis, channel, era)], dim=1)
        )
        return out

    return forward


def direction_distances(px: Tensor, py: Tensor, pz: Tensor) -> Tensor:
    """Squared distances ΔR² of all pairs, (B, P, P)."""
    eta, phi = directions(px, py, pz).unbind(-1)
    dphi = torch.remainder(phi.unsqueeze(2) - phi.unsqueeze(1) + torch.pi, 2 * torch.pi) - torch.pi
    deta = eta.unsqueeze(2) - eta.unsqueeze(1)
    return deta * deta + dphi * dphi


def feature_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs, (B, P, P)."""
    square = (x * x).sum(dim=-1)
    return square.unsqueeze(2) + square.unsqueeze(1) - 2.0 * torch.bmm(x, x.transpose(1, 2))


def dense_knn(distances: Tensor, valid_mask: Tensor, k: int) -> Tensor:
    """Edges (source, target) to the k nearest nodes of each event, (2, E)."""
    num_events, num_slots = valid_mask.shape
    eye = torch.eye(num_slots, dtype=torch.bool, device=distances.device)
    distances = distances.masked_fill(eye | ~valid_mask[:, None, :], torch.inf)
    chosen, slot = distances.sort(dim=-1, stable=True)
    chosen, slot = chosen[..., :k], slot[..., :k]
    row = (valid_mask.reshape(-1).cumsum(0) - 1).view(num_events, num_slots)
    target = row.unsqueeze(-1).expand_as(slot)
    source = torch.gather(row.unsqueeze(1).expand(-1, num_slots, -1), 2, slot)
    real = torch.isfinite(chosen) & valid_mask.unsqueeze(-1)
    return torch.stack([source[real], target[real]])


def loader_row(store: Store, features: str, batch_size: int = 512) -> BenchRow:
    """Batches from the store against PyTorch Geometric's `DataLoader` of graphs in memory."""
    stream = EventStream(
        store, [POINT], range(store.num_folds), features=features, channel=None, batch_size=batch_size,
        events_per_point=None, seed=0, weighting=lambda weight, masses: event_weights(weight, masses),
    )  # fmt: skip
    num_events = stream.num_batches * batch_size
    data = peer_module("torch_geometric.data").Data
    loader_class = peer_module("torch_geometric.loader").DataLoader
    events = load_point(store, POINT, range(store.num_folds), features=features, channel=None).columns
    graphs = [
        data(
            x=torch.from_numpy(events["nodes"][i][events["valid_mask"][i]]), y=int(events["label"][i]),
            weight=float(events["weight"][i]),
        )
        for i in range(min(len(events["label"]), 2048))
    ]  # fmt: skip
    loader = loader_class(graphs, batch_size=batch_size, shuffle=True)

    def ours() -> None:
        for _ in stream.batches(0):
            pass

    def peer() -> None:
        for _ in loader:
            pass

    found = time_pairs(ours, peer, pairs=5, warmup=1)
    rates = num_events / found.ours_s, len(graphs) / found.peer_s
    return BenchRow(
        "load batches; peer: PyTorch Geometric DataLoader",
        *rates,
        "events/s",
        rates[0] / rates[1],
        100.0,
        None,
    )


def latency_row(inputs: Inputs, num_features: int, scratch: Path) -> BenchRow:
    """One event through ONNX Runtime against the peer."""
    ours = network(num_features, 4).eval()
    names = ("nodes", "valid_mask", "masses", "channel", "era")
    padded = {name: tensor[:8].cpu() for name, tensor in zip(names, inputs, strict=True)}
    file = scratch / "model.onnx"
    difference = export_onnx(EventClassifier(ours), padded, file, output_names=["probabilities"], metadata={})
    session = open_session(file, "cpu", num_threads=1)
    wanted = {entry.name for entry in session.get_inputs()}
    one = {name: tensor[:1].numpy() for name, tensor in padded.items() if name in wanted}
    peer, single = peer_of(ours), [tensor[:1] for tensor in padded.values()]

    @torch.inference_mode()
    def with_peer() -> None:
        peer(*single)

    found = time_pairs(lambda: session.run(None, one), with_peer, pairs=51, warmup=5)
    return BenchRow(
        "latency of one event, ONNX Runtime; peer: PyTorch Geometric", found.ours_s * 1e3, found.peer_s * 1e3,
        "ms", found.ratio, 6.0, max(difference.values()),
    )  # fmt: skip


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that its work is inside the measured time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
