"""Tell signal, nonprompt, diboson and ttX apart under a mass hypothesis.

The task owns what is specific to it: the network, the balanced streams of events, the loss and the numbers a
validation reports. The loop in `train.py` knows none of it.

Dimensions: B events, P slots, F features.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chhiggs_pnet.config import Config, MassScaling
from chhiggs_pnet.data.point_events import PointEvents, load_point, point_batches
from chhiggs_pnet.data.schema import CLASSES, FEATURE_SETS
from chhiggs_pnet.data.store import Store
from chhiggs_pnet.data.stream import EventBatch, EventStream
from chhiggs_pnet.losses import disco, event_weights, weighted_cross_entropy
from chhiggs_pnet.metrics.discrimination import auc, likelihood_ratio
from chhiggs_pnet.models.baselines import DeepSets, Perceptron
from chhiggs_pnet.models.deploy import EventClassifier
from chhiggs_pnet.models.frame import align
from chhiggs_pnet.models.inputs import statistics
from chhiggs_pnet.models.particle_net import ParametricParticleNet
from chhiggs_pnet.physics.events import Array
from chhiggs_pnet.physics.mass_points import MassPoint
from hep_shared.amp import Amp
from hep_shared.distributed import World
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.files import reader_boundary

CALIBRATION_FILE = "calibration.json"
VALIDATION_BATCH = 2048
STATISTICS_EVENTS = 2000  # of each part, for mean and standard deviation of the features
NETWORKS = {"particle_net": ParametricParticleNet, "deepsets": DeepSets, "mlp": Perceptron}


class ClassificationModule(nn.Module):
    """Network and criterion in one module, so that a step is one forward pass, also under torchrun.

    Args:
        network: The network.
        disco_weight: Factor of the decorrelation.
    """

    def __init__(self, network: nn.Module, disco_weight: float) -> None:
        super().__init__()
        self.network = network
        self.disco_weight = disco_weight

    def forward(self, batch: EventBatch) -> Tensor:
        """Evaluate network and loss.

        Args:
            batch: Events with weights of mean size 1.

        Returns:
            Scalar loss.
        """
        inputs = (batch.nodes, batch.valid_mask, batch.masses, batch.channel, batch.era)
        if self.disco_weight == 0:
            return weighted_cross_entropy(self.network(*inputs), batch.label, batch.weight)
        # The same background events once more, all at one hypothesis.
        again = (batch.label > 0).nonzero().squeeze(1)
        fixed = (batch.nodes, batch.valid_mask, batch.fixed_masses, batch.channel, batch.era)
        logits = self.network(
            *(torch.cat([own, other[again]]) for own, other in zip(inputs, fixed, strict=True))
        )
        scores = torch.softmax(logits[len(batch) :].float(), dim=1)[:, 0]
        decorrelation = disco(scores, batch.pair_masses[again]).to(logits.dtype)
        loss = weighted_cross_entropy(logits[: len(batch)], batch.label, batch.weight)
        return loss + self.disco_weight * decorrelation


@dataclass(frozen=True)
class Streams:
    """What a training reads.

    Attributes:
        train: Balanced batches.
        validation: Events by the point they are evaluated at.
        statistics: Mean and standard deviation of the compressed features.
    """

    train: EventStream
    validation: dict[MassPoint, PointEvents]
    statistics: tuple[Tensor, Tensor]


def open_store(config: Config) -> Store:
    """Open the store of a configuration.

    Args:
        config: The whole configuration.

    Returns:
        The store.

    Raises:
        ConfigError: The configuration names none, or a fold that it does not have.
    """
    if config.data.store is None:
        raise ConfigError("data.store names no store; give one, for example --set data.store=data/store.")
    store = Store(config.data.store, max_open_bytes=config.data.max_open_mb << 20)
    if config.data.fold >= store.num_folds:
        raise ConfigError(
            f"data.fold is {config.data.fold}, but {store.path} has the folds 0 to {store.num_folds - 1}."
        )
    return store


def folds_of(config: Config, num_folds: int, split: str) -> list[int]:
    """Folds of a split.

    Args:
        config: The whole configuration.
        num_folds: Folds of the store.
        split: `train`, `validation` or `test`.

    Returns:
        Numbers of the folds.
    """
    test, validation = config.data.fold, (config.data.fold - 1) % num_folds
    if split == "train":
        return [fold for fold in range(num_folds) if fold not in (test, validation)]
    return [validation if split == "validation" else test]


def train_points(config: Config, store: Store) -> tuple[MassPoint, ...]:
    """Points that train a network.

    Args:
        config: The whole configuration.
        store: The store.

    Returns:
        The configured ones, or those of the mass table.
    """
    return store.table.train if config.data.train_points is None else config.data.train_points


def validation_points(config: Config, store: Store) -> tuple[MassPoint, ...]:
    """Points that select the checkpoint: fixed, so that losses of different epochs mean the same.

    Args:
        config: The whole configuration.
        store: The store.

    Returns:
        The configured ones; else the training points, with the validation points of the table where the
        training points are the table's.
    """
    if config.data.validation_points is not None:
        return config.data.validation_points
    if config.data.train_points is not None:
        return config.data.train_points
    available = set(store.signal_points)
    return (*store.table.train, *(point for point in store.table.validation if point in available))


def build_model(config: Config, points: Sequence[MassPoint] = ()) -> ClassificationModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        points: Training points, for the scale of the masses where the configuration gives none.

    Returns:
        The module on the CPU with fresh weights.
    """
    scaling = config.task.mass_scaling or MassScaling.of(tuple(points) or config.masses.train)
    network = NETWORKS[config.model.kind](
        num_features=len(FEATURE_SETS[config.data.features]),
        num_classes=len(CLASSES),
        mass_mean=(scaling.mHc_mean_gev, scaling.mA_mean_gev),
        mass_std=(scaling.mHc_std_gev, scaling.mA_std_gev),
        **config.model.model_dump(exclude={"kind"}),
    )
    return ClassificationModule(network, config.task.disco_weight)


def build_streams(config: Config, world: World) -> Streams:
    """Open the training and the validation events.

    Args:
        config: The whole configuration.
        world: This process and its fellows.

    Returns:
        What this rank reads.

    Raises:
        UserError: For a store that cannot be used, or too few events.
    """
    share = world.size * config.train.accumulation_steps
    if config.data.batch_size % share:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, which {world.size} processes times "
            f"train.accumulation_steps = {config.train.accumulation_steps} do not divide; "
            f"use a multiple of {share}."
        )
    store = open_store(config)
    stream = EventStream(
        store,
        train_points(config, store),
        folds_of(config, store.num_folds, "train"),
        features=config.data.features,
        channel=config.data.channel,
        batch_size=config.data.batch_size,
        events_per_point=config.data.events_per_point,
        seed=config.train.seed,
        weighting=partial(
            event_weights, difficulty=config.task.difficulty, negative=config.task.negative_weights
        ),
        rank=world.rank,
        world_size=world.size,
    )
    validation = {
        point: split_events(config, store, point, "validation", limit=config.data.validation_events)
        for point in validation_points(config, store)
    }
    first = split_events(config, store, stream.points[0], "train", limit=STATISTICS_EVENTS).columns
    nodes, valid_mask = (torch.from_numpy(first[name]) for name in ("nodes", "valid_mask"))
    found = statistics(align(nodes, valid_mask) if config.model.frame == "event" else nodes, valid_mask)
    return Streams(stream, validation, found)


def split_events(
    config: Config, store: Store, point: MassPoint | None, split: str, *, limit: int | None = None
) -> PointEvents:
    """Load the events of one split to be evaluated at a point.

    Args:
        config: The whole configuration.
        store: The store.
        point: The hypothesis and its signal; None for the backgrounds alone.
        split: `train`, `validation` or `test`.
        limit: At most so many events of each class.

    Returns:
        The events.
    """
    return load_point(
        store,
        point,
        folds_of(config, store.num_folds, split),
        features=config.data.features,
        channel=config.data.channel,
        limit=limit,
    )


def compute_loss(forward: nn.Module, batch: EventBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events on the module's device.

    Returns:
        Scalar loss, the mean over the events.
    """
    loss: Tensor = forward(batch)
    return loss


def balanced_weights(events: PointEvents) -> Array:
    """Sizes of the event weights with the same sum for every class, (N,), mean 1."""
    label, weight = events.label, np.abs(events.weight)
    totals = np.bincount(label, weight, len(CLASSES))
    present = totals > 0
    scaled = weight / np.maximum(totals[label], 1e-300)
    return np.asarray(scaled * len(weight) / present.sum())


def background_yields(events: PointEvents) -> Array:
    """Expected rate of each background in fb, never negative, (classes − 1,)."""
    return np.maximum(np.bincount(events.label, events.weight, len(CLASSES))[1:], 0.0)


@torch.no_grad()
def logits_of(
    network: nn.Module, events: PointEvents, point: MassPoint, device: torch.device, amp: Amp | None = None
) -> Tensor:
    """Evaluate a network on events, all at one hypothesis.

    Args:
        network: The network in evaluation mode.
        events: The events.
        point: The hypothesis.
        device: Where the network is.
        amp: Arithmetic of the forward pass; fp32 if None.

    Returns:
        Logits on the CPU, (N, classes).
    """
    found = []
    for batch in point_batches(events, point, VALIDATION_BATCH):
        moved = batch.to(device)
        inputs = (moved.nodes, moved.valid_mask, moved.masses, moved.channel, moved.era)
        if amp is None:
            found.append(network(*inputs).float().cpu())
        else:
            with amp.autocast():
                found.append(network(*inputs).float().cpu())
    return torch.cat(found)


def validate(
    module: ClassificationModule, validation: Mapping[MassPoint, PointEvents], world: World, amp: Amp
) -> dict[str, float]:
    """Evaluate every validation point; the ranks share the points.

    Args:
        module: The averaged module.
        validation: Events by point.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss` and `val_auc`, means over the points, and both for each point. The loss is the
        cross-entropy with the same weight for every class; the AUC is that of the likelihood ratio with
        expected yields.
    """
    module.eval()
    sums = {f"{name}_{point.name}": 0.0 for point in validation for name in ("val_loss", "val_auc")}
    for number, (point, events) in enumerate(validation.items()):
        if number % world.size != world.rank:
            continue
        logits = logits_of(module.network, events, point, world.device, amp)
        weight = torch.from_numpy(balanced_weights(events)).float()
        label = torch.from_numpy(events.label)
        sums[f"val_loss_{point.name}"] = weighted_cross_entropy(logits, label, weight).item()
        scores = likelihood_ratio(torch.softmax(logits.double(), dim=1).numpy(), background_yields(events))
        sums[f"val_auc_{point.name}"] = safe_auc(scores, events.label == 0, np.abs(events.weight))
    values = world.sum(sums)
    means = {
        name: float(np.mean([values[f"{name}_{point.name}"] for point in validation]))
        for name in ("val_loss", "val_auc")
    }
    return {**means, **values}


def safe_auc(scores: Array, is_signal: Array, weight: Array) -> float:
    """AUC, or NaN where a diverged network gives scores that are not finite."""
    return auc(scores, is_signal, weight) if np.isfinite(scores).all() else float("nan")


def stamp(config: Config) -> dict[str, str]:
    """What must agree between a checkpoint and the network that takes it over.

    Args:
        config: The whole configuration.

    Returns:
        Features and kind of the network.
    """
    return {"features": config.data.features, "kind": config.model.kind}


def check_stamp(config: Config, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs.

    Args:
        config: The whole configuration.
        found: Stamp of the checkpoint.
        source: Where the checkpoint is from.

    Raises:
        CheckpointError: Features or kind differ.
    """
    for name, ours in stamp(config).items():
        if found.get(name) != ours:
            section = "data.features" if name == "features" else "model.kind"
            raise CheckpointError(
                f"the weights in {source} were trained with {section} {found.get(name)}, but it is {ours} "
                f"now; use the configuration of that run for {section}."
            )


def load_network(config: Config, checkpoint: Mapping[str, Any]) -> nn.Module:
    """Build the network of a checkpoint with its averaged weights.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The network in evaluation mode, on the CPU.
    """
    module = build_model(config)
    weights = checkpoint["ema"]
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in weights.items() if k.startswith("module.")}
    )
    return module.network.eval()


def load_classifier(
    config: Config, checkpoint: Mapping[str, Any], temperature: float = 1.0
) -> EventClassifier:
    """Build what predicts from a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.
        temperature: Of the calibration.

    Returns:
        The classifier in evaluation mode, with the averaged weights, on the CPU.
    """
    return EventClassifier(load_network(config, checkpoint), temperature).eval()


def read_temperature(run: Path) -> float:
    """Temperature that an evaluation has stored in a run directory, 1 without one."""
    file = run / CALIBRATION_FILE
    if not file.exists():
        return 1.0
    with reader_boundary(file, remedy="evaluate the run again"):
        return float(json.loads(file.read_text())["temperature"])
