"""Train an inpainter, which fills in dead channels.

Some live sensors of an event are hidden, by chance, in clusters, or by the dead-channel map of a run period,
and the network has to give their counts and times back. The encoder can come from a pre-training and can stay
as it was there (`task.freeze_encoder`).

Dimensions: B events, S sensors (4760).
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from megii_xec.config import Config, InpaintConfig
from megii_xec.data.hashing import Purpose, uniform
from megii_xec.data.masking import DeadChannels, draw_dead, valid_sensors
from megii_xec.data.normalization import Normalization
from megii_xec.data.predictions import SensorWriter
from megii_xec.data.schema import NUM_SENSORS
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TargetScaling
from megii_xec.losses import ReconstructionLoss
from megii_xec.models.conventional import ConventionalEstimate
from megii_xec.models.inpainter import XecInpainter
from megii_xec.physics.geometry import FACES, face_ids
from megii_xec.tasks import common
from megii_xec.tasks.common import Prepare, build_stream, build_streams, check_stamp, load_encoder, stamp
from megii_xec.tasks.hidden import Tally, prediction_file, summarize, training_metrics, weigh

__all__ = [
    "FINISH", "InpaintModule", "build_model", "build_stream", "build_streams", "calibrate", "check_stamp",
    "compute_loss", "hide", "load_encoder", "load_inpainter", "preparation", "stamp",
    "training_metrics", "validate",
]  # fmt: skip

FINISH = ("evaluate",)
NUM_CALIBRATION_EVENTS = 2000  # 20 light up every sensor of the inner face well


def _task(config: Config) -> InpaintConfig:
    assert isinstance(config.task, InpaintConfig)
    return config.task


class InpaintModule(nn.Module):
    """Inpainter and criterion.

    Args:
        network: The inpainter.
        criterion: Loss of the hidden sensors.
        settings: How sensors are hidden and scored.
        normalization: What the sensors were normalised with.
        seed: Seed of the masks.
    """

    def __init__(
        self,
        network: XecInpainter,
        criterion: ReconstructionLoss,
        settings: InpaintConfig,
        normalization: Normalization,
        seed: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion
        self.settings, self.normalization, self.seed = settings, normalization, seed
        self.tally = Tally() if settings.track_train_metrics else None
        if settings.freeze_encoder:
            network.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; a frozen encoder stays as it is in use, without dropout."""
        super().train(mode)
        if self.settings.freeze_encoder:
            self.network.encoder.eval()
        return self

    @property
    def faces(self) -> Sequence[str]:
        """Names of the faces whose sensors it guesses."""
        return FACES

    def forward(self, sensors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate network and loss.

        Args:
            sensors: Normalised counts and times, nothing hidden, shape (B, S, 2).
            mask: True where a sensor is hidden, shape (B, S).

        Returns:
            Loss; the sums it is made of, see `ReconstructionLoss`; the guesses of all sensors, (B, S, 2).
        """
        guess = self.network(sensors, mask)
        faces = {}
        for face in FACES:
            ids = torch.from_numpy(face_ids(face).copy()).to(sensors.device)
            faces[face] = weigh(
                self.normalization,
                guess[:, ids].transpose(1, 2),
                sensors[:, ids].transpose(1, 2),
                mask[:, ids],
                npho_threshold=self.settings.npho_threshold,
                by_npho=self.settings.use_npho_time_weight,
            )
        loss, sums = self.criterion(faces)
        if self.training and self.tally is not None:
            self.tally.add(sums)
        return loss, sums, guess


def hide(
    batch: PhotonBatch, epoch: int, dead: DeadChannels, normalization: Normalization, seed: int
) -> PhotonBatch:
    """Choose the sensors to hide.

    Args:
        batch: Events.
        epoch: Epoch, from 0.
        dead: Which map.
        normalization: What the sensors were normalised with.
        seed: Seed of the run.

    Returns:
        The batch with `mask`.
    """
    index = batch.index.to(batch.sensors.device)
    uniforms = uniform(seed, epoch, Purpose.DEAD, index, NUM_SENSORS)
    return replace(batch, mask=draw_dead(dead, batch.sensors, normalization, uniforms))


def build_model(config: Config) -> InpaintModule:
    """Build inpainter and criterion.

    Args:
        config: The whole configuration.

    Returns:
        The module on the CPU with fresh weights.
    """
    task, normalization = _task(config), config.data.normalization
    network = XecInpainter(
        common.build_encoder(config),
        lambda x: valid_sensors(x, normalization),
        normalization.rescale_npho,
        face_channels=task.face_channels,
        hex_channels=task.hex_channels,
        layout=config.model.layout,
        start=ConventionalEstimate(normalization, TargetScaling(), config.simulation)
        if config.model.start == "conventional"
        else None,
        recompute=config.model.recompute,
    )
    criterion = ReconstructionLoss(
        task.loss, npho_weight=task.npho_weight, time_weight=task.time_weight, beta=task.beta
    )
    return InpaintModule(network, criterion, task, normalization, config.train.seed)


@torch.no_grad()
def calibrate(module: InpaintModule, stream: PhotonStream, world: World) -> None:
    """Measure the gains of the sensors with training events, unless the heads learn them.

    Twice, because a gain is relative to the neighbours', which are known the second time.

    Args:
        module: The fresh module, on its device.
        stream: Training events of this rank.
        world: This process and its fellows.
    """
    network = module.network
    if network.start is None:
        return
    for _ in range(2):
        sums = torch.zeros(2, NUM_SENSORS, device=world.device)
        for batch in islice(stream.batches(), -(-NUM_CALIBRATION_EVENTS // stream.batch_size)):
            network.add_gains(batch.sensors.to(world.device), sums)
        total = world.gather_rows(sums.double().cpu().numpy()[None]).sum(0)
        network.set_gains(torch.from_numpy(total).to(sums))


def preparation(config: Config, stream: PhotonStream) -> Prepare:
    """Make what hides sensors of a batch as read; arguments as in `regression.preparation`."""
    dead, normalization, seed = _task(config).dead, config.data.normalization, config.train.seed

    def prepare(batch: PhotonBatch, epoch: int) -> PhotonBatch:
        return hide(batch, epoch, dead, normalization, seed)

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
    module: InpaintModule,
    stream: PhotonStream,
    world: World,
    amp: Amp,
    *,
    out: Path | None = None,
    epoch: int = 0,
) -> dict[str, float]:
    """Run over all validation events; the filled sensors leave for the disk batch by batch.

    Args:
        module: The averaged module.
        stream: Ordered events of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.
        out: Run directory, for the filled sensors.
        epoch: Epoch, from 0.

    Returns:
        `val_loss`, the metrics of `hidden.summarize`, `actual_mask_ratio` and `n_masked_total`, over the
        events of all ranks.
    """
    module.eval()
    total = torch.zeros(len(FACES), 2, 5, device=world.device)
    num_masked = num_valid = 0.0
    path = prediction_file(out, module.settings.save_predictions_every, epoch, world)
    with ExitStack() as stack:
        writer = stack.enter_context(SensorWriter(path, module.normalization)) if path else None
        for batch in stream.batches():
            if not len(batch):
                continue
            moved = hide(batch.to(world.device), 0, module.settings.dead, module.normalization, module.seed)
            assert moved.mask is not None
            with amp.autocast():
                _, sums, guess = module(moved.sensors, moved.mask)
            total += sums
            num_masked += moved.mask.sum().item()
            num_valid += valid_sensors(moved.sensors, module.normalization).sum().item()
            if writer is not None:
                writer.extend(moved, moved.mask, guess)
    metrics = summarize(module.criterion, total, FACES, world, world.device)
    share = world.mean({"ratio": num_masked / max(num_valid, 1.0)}, weight=num_valid)["ratio"]
    masked = world.mean({"masked": num_masked})["masked"] * world.size
    return {
        "val_loss": metrics["total_loss"], **metrics, "actual_mask_ratio": share, "n_masked_total": masked
    }  # fmt: skip


def load_inpainter(config: Config, checkpoint: Mapping[str, Any]) -> InpaintModule:
    """Build the inpainter of a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The module in evaluation mode, with the averaged weights, on the CPU.
    """
    module = build_model(config)
    common.load_averaged(module, checkpoint)
    return module.eval()
