"""Pre-train the encoder as a masked autoencoder; no truth is needed, so recorded data will do.

In every epoch other sensors of an event are hidden, decided by seed, epoch and event alone; a validation
hides the same ones every time.

Dimensions: B events, S sensors (4760), P places on a face.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from megii_xec.config import Config, PretrainConfig
from megii_xec.data.hashing import Purpose, uniform
from megii_xec.data.masking import draw_mask, valid_sensors
from megii_xec.data.normalization import Normalization
from megii_xec.data.predictions import SensorWriter
from megii_xec.data.schema import NUM_SENSORS
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.losses import ReconstructionLoss
from megii_xec.models.mae import MaskedAutoencoder, face_places, sensors_of_places
from megii_xec.tasks import common
from megii_xec.tasks.common import (
    Prepare,
    build_stream,
    build_streams,
    calibrate,
    check_stamp,
    load_encoder,
    stamp,
)
from megii_xec.tasks.hidden import Tally, prediction_file, summarize, training_metrics, weigh

__all__ = [
    "FINISH", "PretrainModule", "build_model", "build_stream", "build_streams", "calibrate",
    "check_stamp", "compute_loss", "hide", "load_autoencoder", "load_encoder", "preparation", "stamp",
    "training_metrics", "validate",
]  # fmt: skip

FINISH = ("evaluate",)  # what can follow a training


def _task(config: Config) -> PretrainConfig:
    assert isinstance(config.task, PretrainConfig)
    return config.task


class PretrainModule(nn.Module):
    """Autoencoder and criterion in one module: learned weights are trained and saved with the network.

    Args:
        network: The autoencoder.
        criterion: Loss of the hidden sensors.
        settings: How sensors are hidden and scored.
        normalization: What the sensors were normalised with.
        seed: Seed of the masks.
    """

    def __init__(
        self,
        network: MaskedAutoencoder,
        criterion: ReconstructionLoss,
        settings: PretrainConfig,
        normalization: Normalization,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.settings, self.normalization, self.seed = settings, normalization, seed
        self.tally = Tally() if settings.track_train_metrics else None

    @property
    def faces(self) -> Sequence[str]:
        """Names of the faces whose sensors it guesses."""
        return self.network.faces

    def forward(self, sensors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Evaluate network and loss.

        Args:
            sensors: Normalised counts and times, nothing hidden, shape (B, S, 2).
            mask: True where a sensor is hidden, shape (B, S).

        Returns:
            Loss; the sums it is made of, see `ReconstructionLoss`; the outputs of the decoders by face.
        """
        guesses = self.network(sensors, mask)
        with torch.autocast(sensors.device.type, enabled=False):  # what is compared with keeps its digits
            places = face_places(
                self.network.encoder, sensors, mask, lambda x: valid_sensors(x, self.normalization)
            )
        faces = {
            face: weigh(
                self.normalization,
                guess.flatten(2),
                places[face][0],
                places[face][1],
                npho_threshold=self.settings.npho_threshold,
                by_npho=self.settings.use_npho_time_weight,
            )
            for face, guess in guesses.items()
        }
        loss, sums = self.criterion(faces)
        if self.training and self.tally is not None:
            self.tally.add(sums)
        return loss, sums, guesses


def hide(
    batch: PhotonBatch, epoch: int, settings: PretrainConfig, normalization: Normalization, seed: int
) -> PhotonBatch:
    """Choose the sensors to hide.

    Args:
        batch: Events.
        epoch: Epoch, from 0.
        settings: How to choose.
        normalization: What the sensors were normalised with.
        seed: Seed of the run.

    Returns:
        The batch with `mask`.
    """
    sensors = batch.sensors
    mask = draw_mask(
        sensors,
        normalization,
        uniform(seed, epoch, Purpose.MASK, batch.index.to(sensors.device), NUM_SENSORS),
        ratio=settings.mask_ratio,
        ratio_by_face=settings.mask_ratio_by_face,
        preference=settings.mask_preference,
        time_scale=settings.time_mask_ratio_scale,
    )
    return replace(batch, mask=mask)


def build_model(config: Config) -> PretrainModule:
    """Build autoencoder and criterion.

    Args:
        config: The whole configuration.

    Returns:
        The module on the CPU with fresh weights.
    """
    task, model = _task(config), config.model
    network = MaskedAutoencoder(
        common.build_encoder(config),
        decoder_channels=task.decoder_channels,
        hex_dim=model.hex_dim,
        layout=model.layout,
        recompute=model.recompute,
    )
    criterion = ReconstructionLoss(
        task.loss,
        npho_weight=task.npho_weight,
        time_weight=task.time_weight,
        beta=task.beta,
        learn_channel_logvars=task.learn_channel_logvars,
    )
    return PretrainModule(network, criterion, task, config.data.normalization, config.train.seed)


def preparation(config: Config, stream: PhotonStream) -> Prepare:
    """Make what hides sensors of a batch as read; arguments as in `regression.preparation`."""
    task, normalization, seed = _task(config), config.data.normalization, config.train.seed

    def prepare(batch: PhotonBatch, epoch: int) -> PhotonBatch:
        return hide(batch, epoch, task, normalization, seed)

    return prepare


def compute_loss(forward: nn.Module, batch: PhotonBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events with hidden sensors on the module's device.

    Returns:
        Scalar loss.
    """
    loss: Tensor = forward(batch.sensors, batch.mask)[0]
    return loss


@torch.no_grad()
def validate(
    module: PretrainModule,
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
        out: Run directory, for the guessed sensors.
        epoch: Epoch, from 0.

    Returns:
        `val_loss`, the metrics of `hidden.summarize` and `actual_mask_ratio`, over the events of all ranks.
    """
    module.eval()
    total: Tensor | None = None
    num_masked = num_valid = 0.0
    path = prediction_file(out, module.settings.save_predictions_every, epoch, world)
    with ExitStack() as stack:
        writer = stack.enter_context(SensorWriter(path, module.normalization)) if path else None
        for batch in stream.batches():
            if not len(batch):
                continue
            moved = hide(batch.to(world.device), 0, module.settings, module.normalization, module.seed)
            assert moved.mask is not None
            with amp.autocast():
                _, sums, guesses = module(moved.sensors, moved.mask)
            total = sums if total is None else total + sums
            num_masked += moved.mask.sum().item()
            num_valid += valid_sensors(moved.sensors, module.normalization).sum().item()
            if writer is not None:
                writer.extend(moved, moved.mask, sensors_of_places(module.network.encoder, guesses))
    faces = module.network.faces
    total = torch.zeros(len(faces), 2, 5) if total is None else total
    metrics = summarize(module.criterion, total, faces, world, world.device)
    ratio = world.mean({"ratio": num_masked / max(num_valid, 1.0)}, weight=num_valid)["ratio"]
    return {"val_loss": metrics["total_loss"], **metrics, "actual_mask_ratio": ratio}


def load_autoencoder(config: Config, checkpoint: Mapping[str, Any]) -> PretrainModule:
    """Build the autoencoder of a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The module in evaluation mode, with the averaged weights, on the CPU.
    """
    module = build_model(config)
    common.load_averaged(module, checkpoint)
    return module.eval()
