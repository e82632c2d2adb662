"""Regress the photon: emission angle, energy, time and first interaction point together.

The task owns what is specific to it: the network with its heads, the streams of events, the loss on scaled
targets and the numbers a validation reports. The loop in `train.py` knows none of it.

Dimensions: B events, S sensors (4760), K components of a target.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.run import RunDir
from megii_xec.config import Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import Branch
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TARGETS, TargetScaling
from megii_xec.losses import MultiTaskLoss, TaskLoss
from megii_xec.metrics import regression_summary
from megii_xec.models.conventional import ConventionalEstimate
from megii_xec.models.deploy import PhotonReconstruction
from megii_xec.models.encoder import XecEncoder
from megii_xec.models.regressor import XecRegressor

ANGULAR_LOSSES = ("angular", "cosine")  # they need degrees, not scaled angles


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
        self, sensors: Tensor, targets: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Evaluate network and loss.

        Args:
            sensors: Normalised counts and times, shape (B, S, 2).
            targets: Truth in physical units, shapes (B, K).

        Returns:
            Loss; its parts by target; predictions in physical units, shapes (B, K).
        """
        outputs = self.network(sensors)
        predictions = {name: self.scaling.unscale(name, outputs[name].float()) for name in targets}
        compared, wanted = {}, {}
        for name, truth in targets.items():
            if self.criterion.tasks[name].kind in ANGULAR_LOSSES:
                compared[name], wanted[name] = predictions[name], truth
            else:
                compared[name], wanted[name] = outputs[name], self.scaling.scale(name, truth)
        loss, parts = self.criterion(compared, wanted)
        return loss, parts, predictions


def build_model(config: Config) -> RegressionModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.

    Returns:
        The module on the CPU with fresh weights.
    """
    model, normalization = config.model, config.data.normalization
    encoder = XecEncoder(
        rescale_npho=normalization.rescale_npho,
        sentinel_npho=normalization.sentinel_npho,
        sentinel_time=normalization.sentinel_time,
        **model.model_dump(exclude={"kind", "start", "head_dim", "head_dropout"}),
    )
    targets = config.task.targets
    network = XecRegressor(
        encoder,
        {name: TARGETS[name].size for name in targets},
        hidden_dim=model.head_dim,
        dropout=model.head_dropout,
        start=ConventionalEstimate(normalization, config.task.scaling, config.simulation)
        if model.start == "conventional"
        else None,
    )
    criterion = MultiTaskLoss(
        {name: TaskLoss(target.loss, target.weight, target.beta) for name, target in targets.items()},
        weighting=config.task.weighting,
    )
    return RegressionModule(network, criterion, config.task.scaling)


def build_streams(config: Config, world: World) -> tuple[PhotonStream, PhotonStream]:
    """Open the training and the validation events.

    Args:
        config: The whole configuration.
        world: This process and its fellows.

    Returns:
        Shuffled training stream and ordered validation stream of this rank.

    Raises:
        UserError: For files that cannot be used, or too few events.
    """
    share = world.size * config.train.accumulation_steps
    if config.data.batch_size % share:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, which {world.size} processes times "
            f"train.accumulation_steps = {config.train.accumulation_steps} do not divide; "
            f"use a multiple of {share}."
        )
    return build_stream(config, "train", world, shuffle=True), build_stream(config, "validation", world)


def build_stream(
    config: Config,
    split: str,
    world: World | None = None,
    *,
    shuffle: bool = False,
    normalization: Normalization | None = None,
    extra: Sequence[Branch] = (),
) -> PhotonStream:
    """Open the events of one split.

    Args:
        config: The whole configuration.
        split: `train`, `validation` or `test`.
        world: This process and its fellows; None for a single process.
        shuffle: Random order and whole batches, for training.
        normalization: What the sensors become; by default what the network was configured with.
        extra: Branches to deliver besides sensors and targets.

    Returns:
        The stream.

    Raises:
        ConfigError: The configuration names no files for this split.
    """
    data = config.data
    own = {"train": data.train, "validation": data.validation, "test": data.test}[split]
    held_back = split == "validation" and not own
    paths = data.train if held_back else own
    if not paths:
        raise ConfigError(
            f"data.{split} names no files; give ROOT files, for example "
            f"--set data.{split}='[photons/*.root]'."
        )
    cuts = held_back or (split == "train" and not data.validation)
    return PhotonStream(
        paths,
        normalization or data.normalization,
        batch_size=data.batch_size,
        targets=tuple(config.task.targets),
        selection=data.selection,
        shuffle=shuffle,
        seed=config.train.seed,
        split=split if cuts else "all",  # type: ignore[arg-type]
        validation_fraction=data.validation_fraction if cuts else 0.0,
        chunk_events=data.chunk_events,
        num_lanes=data.mixed_chunks,
        num_workers=data.num_threads,
        rank=world.rank if world else 0,
        world_size=world.size if world else 1,
        extra=extra,
    )


def compute_loss(forward: nn.Module, batch: PhotonBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events on the module's device.

    Returns:
        Scalar loss, the mean over the events.
    """
    loss: Tensor = forward(batch.sensors, batch.targets)[0]
    return loss


@torch.no_grad()
def validate(module: RegressionModule, stream: PhotonStream, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation events.

    Args:
        module: The averaged module.
        stream: Ordered events of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

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


def stamp(config: Config) -> dict[str, str]:
    """What must agree between an encoder and the network that takes it over.

    Args:
        config: The whole configuration.

    Returns:
        Normalisation and layout.
    """
    return {
        "normalization": config.data.normalization.fingerprint(),
        "layout": config.model.layout,
        "area_scaling": config.model.area_scaling,
        "outer_mode": config.model.outer_mode,
        "outer_pool": str(config.model.outer_pool),
    }


def check_stamp(config: Config, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs.

    Args:
        config: The whole configuration.
        found: Stamp of the checkpoint.
        source: Where the checkpoint is from.

    Raises:
        CheckpointError: Normalisation or layout differ.
    """
    for name, ours in stamp(config).items():
        if found.get(name) != ours:
            section = "data.normalization" if name == "normalization" else f"model.{name}"
            raise CheckpointError(
                f"the weights in {source} were trained with {name} {found.get(name)}, but {section} is "
                f"{ours}; use the configuration of that run for {section}."
            )


def load_encoder(module: RegressionModule, config: Config, run: Path) -> None:
    """Start from the encoder of another run, its averaged weights.

    Args:
        module: The module whose encoder is filled.
        config: The whole configuration.
        run: Run directory of the other training.

    Raises:
        CheckpointError: The encoder has another size, normalisation or layout.
    """
    checkpoint = RunDir.open(run).load_checkpoint("best")
    check_stamp(config, checkpoint["stamp"], run)
    prefix = "module.network.encoder."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["ema"].items() if k.startswith(prefix)}
    try:
        module.network.encoder.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise CheckpointError(
            f"the encoder in {run} does not fit the one configured ({reason}); use its model section."
        ) from error


def load_reconstruction(config: Config, checkpoint: Mapping[str, Any]) -> PhotonReconstruction:
    """Build what predicts from a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The reconstruction in evaluation mode, with the averaged weights, on the CPU.
    """
    module = build_model(config)
    weights = checkpoint["ema"]
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in weights.items() if k.startswith("module.")}
    )
    targets = tuple(config.task.targets)
    return PhotonReconstruction(
        module.network, config.data.normalization, config.task.scaling, targets
    ).eval()
