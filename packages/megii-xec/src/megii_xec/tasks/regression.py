"""Regress the photon: emission angle, energy, time and first interaction point together.

The task owns what is specific to it: the network with its heads, the streams of events, the loss on scaled
targets and the numbers a validation reports. The loop in `train.py` knows none of it.

Dimensions: B events, S sensors (4760), K components of a target.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from megii_xec.config import Config, RegressionConfig
from megii_xec.data.augmentation import augment
from megii_xec.data.reweighting import HistogramWeights
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TargetScaling
from megii_xec.losses import MultiTaskLoss, TaskLoss
from megii_xec.metrics import regression_summary
from megii_xec.models.conventional import ConventionalEstimate
from megii_xec.models.deploy import PhotonReconstruction
from megii_xec.models.readout import decode, head_size, num_places
from megii_xec.models.regressor import XecRegressor
from megii_xec.tasks import common
from megii_xec.tasks.common import (
    Prepare,
    build_stream,
    calibrate,
    check_stamp,
    load_encoder,
    stamp,
    training_metrics,
)

__all__ = [
    "FINISH", "RegressionModule", "build_model", "build_stream", "build_streams", "calibrate",
    "check_stamp", "compute_loss", "load_encoder", "load_reconstruction", "preparation", "stamp",
    "training_metrics", "validate",
]  # fmt: skip

FINISH = ("export", "evaluate")  # what can follow a training
IN_DEGREES = ("angular", "cosine")  # these losses need angles as they are, not scaled


def _task(config: Config) -> RegressionConfig:
    assert isinstance(config.task, RegressionConfig)
    return config.task


class RegressionModule(nn.Module):
    """Network and criterion in one module: learned task weights are trained and saved with the network.

    Args:
        network: The regressor.
        criterion: Sum of the target losses.
        scaling: Offsets and scales of the targets.
    """

    def __init__(self, network: XecRegressor, criterion: MultiTaskLoss, scaling: TargetScaling) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.scaling = scaling

    def forward(
        self, sensors: Tensor, targets: Mapping[str, Tensor], weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Evaluate network and loss.

        Args:
            sensors: Normalised counts and times, shape (B, S, 2).
            targets: Truth in physical units, shapes (B, K).
            weight: Weights of the events, shape (B,); None for equal ones.

        Returns:
            Loss; its parts by target; predictions in physical units, shapes (B, K).
        """
        outputs = self.network(sensors)
        predictions, compared, wanted = {}, {}, {}
        for name, truth in targets.items():
            kind, output = self.criterion.tasks[name].kind, outputs[name]
            predictions[name], _ = decode(self.scaling, name, kind, output)
            if kind in IN_DEGREES and name == "angle":
                compared[name], wanted[name] = predictions[name], truth
            else:
                compared[name], wanted[name] = output, self.scaling.scale(name, truth)
        loss, parts = self.criterion(compared, wanted, weight)
        return loss, parts, predictions


def build_model(config: Config) -> RegressionModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.

    Returns:
        The module on the CPU with fresh weights.
    """
    model, task = config.model, _task(config)
    targets = task.targets
    network = XecRegressor(
        common.build_encoder(config),
        {name: head_size(name, target.loss) for name, target in targets.items()},
        hidden_dim=model.head_dim,
        dropout=model.head_dropout,
        start=ConventionalEstimate(config.data.normalization, task.scaling, config.simulation)
        if model.start == "conventional"
        else None,
        places={name: num_places(target.loss) for name, target in targets.items()},
    )
    criterion = MultiTaskLoss(
        {name: TaskLoss(target.loss, target.weight, target.beta) for name, target in targets.items()},
        weighting=task.weighting,
    )
    return RegressionModule(network, criterion, task.scaling)


def build_streams(config: Config, world: World) -> tuple[PhotonStream, PhotonStream]:
    """Open the training and the validation events; arguments and errors as in `common.build_streams`."""
    curriculum = _task(config).curriculum
    return common.build_streams(config, world, extra=curriculum.branches if curriculum else ())


def preparation(config: Config, stream: PhotonStream) -> Prepare:
    """Make what turns a batch as read into a batch to train on: weights and augmentation.

    Args:
        config: The whole configuration.
        stream: The training events, whose truth is histogrammed for the weights.

    Returns:
        Function of a batch and an epoch.
    """
    task, seed = _task(config), config.train.seed
    bins = {name: target.reweight_bins for name, target in task.targets.items() if target.reweight_bins}
    truth = stream.scan_targets() if bins else {}
    histograms = {name: HistogramWeights(truth[name], number) for name, number in bins.items()}

    def prepare(batch: PhotonBatch, epoch: int) -> PhotonBatch:
        weights = [histogram(batch.targets[name]) for name, histogram in histograms.items()]
        if task.curriculum is not None:
            weights.append(task.curriculum.weights(batch.extra, epoch).to(batch.sensors.device))
        if weights:
            batch = replace(batch, weight=torch.stack(weights).prod(0))
        if task.augmentation is not None:
            sensors, targets = augment(
                task.augmentation, config.data.normalization, batch.sensors, batch.targets,
                batch.index.to(batch.sensors.device), seed=seed, epoch=epoch,
            )  # fmt: skip
            batch = replace(batch, sensors=sensors, targets=targets)
        return batch

    return prepare


def compute_loss(forward: nn.Module, batch: PhotonBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events on the module's device.

    Returns:
        Scalar loss, the mean over the events.
    """
    loss: Tensor = forward(batch.sensors, batch.targets, batch.weight)[0]
    return loss


@torch.no_grad()
def validate(
    module: RegressionModule,
    stream: PhotonStream,
    world: World,
    amp: Amp,
    *,
    out: Path | None = None,
    epoch: int = 0,
) -> dict[str, float]:
    """Run over all validation events.

    Args:
        module: The averaged module.
        stream: Ordered events of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.
        out: Run directory, where other tasks leave files.
        epoch: Epoch, from 0.

    Returns:
        `val_loss`, `val_loss_<target>` and the metrics of `regression_summary`, over the events of all ranks.
    """
    module.eval()
    sums: dict[str, float] = {}
    predicted: dict[str, list[np.ndarray]] = {name: [] for name in stream.targets}
    truth: dict[str, list[np.ndarray]] = {name: [] for name in stream.targets}
    num_events = 0
    for batch in stream.batches():
        if not len(batch):
            continue
        moved = batch.to(world.device)
        with amp.autocast():
            loss, parts, predictions = module(moved.sensors, moved.targets)
        named = {"val_loss": loss, **{f"val_loss_{name}": part for name, part in parts.items()}}
        for name, value in named.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(batch)
        for name in stream.targets:
            predicted[name].append(predictions[name].cpu().numpy())
            truth[name].append(batch.targets[name].numpy())
        num_events += len(batch)
    means = world.mean({name: total / num_events for name, total in sums.items()}, weight=num_events)
    gathered = [
        {name: world.gather_rows(np.concatenate(values)) for name, values in columns.items()}
        for columns in (predicted, truth)
    ]
    return {**means, **regression_summary(*gathered)}


def load_reconstruction(config: Config, checkpoint: Mapping[str, Any]) -> PhotonReconstruction:
    """Build what predicts from a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The reconstruction in evaluation mode, with the averaged weights, on the CPU.
    """
    module, task = build_model(config), _task(config)
    common.load_averaged(module, checkpoint)
    losses = {name: target.loss for name, target in task.targets.items()}
    return PhotonReconstruction(
        module.network, config.data.normalization, task.scaling, tuple(losses), losses
    ).eval()
