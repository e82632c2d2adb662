"""What pre-training and inpainting share: scoring hidden sensors, and the numbers a validation reports.

Dimensions: B events, P places on a face.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hep_shared.distributed import World
from megii_xec.data.normalization import Normalization
from megii_xec.losses import CHANNELS, HiddenFace, ReconstructionLoss


def weigh(
    normalization: Normalization,
    prediction: Tensor,
    target: Tensor,
    hidden: Tensor,
    *,
    npho_threshold: float | None,
    by_npho: bool,
) -> HiddenFace:
    """Decide which values of a face are scored, and how much.

    Args:
        normalization: What the sensors were normalised with.
        prediction: Normalised counts and times, shape (B, 2, P).
        target: The same without hidden sensors, shape (B, 2, P).
        hidden: Which places are hidden and have a count, shape (B, P).
        npho_threshold: Smallest count whose time is scored; None for that of the normalisation.
        by_npho: Weigh times by the square root of the count.

    Returns:
        What the loss compares.
    """
    npho = normalization.denormalize_npho(target[:, 0].float())
    timed = hidden & (target[:, 1] != normalization.sentinel_time)
    if npho_threshold is not None:
        timed = timed & (npho >= npho_threshold)
    time_weight = timed.float()
    if by_npho:
        time_weight = time_weight * npho.clamp_min(0).sqrt()
    return HiddenFace(prediction, target, torch.stack([hidden.float(), time_weight], dim=1))


def summarize(
    criterion: ReconstructionLoss, sums: Tensor, faces: Sequence[str], world: World, device: torch.device
) -> dict[str, float]:
    """Turn the sums over all batches into the metrics of the run.

    Args:
        criterion: The loss.
        sums: What `ReconstructionLoss` returned, added over the batches, shape (faces, 2, 5).
        faces: Names of the faces.
        world: This process and its fellows.
        device: Where the criterion is.

    Returns:
        `total_loss`, `loss_npho`, `loss_time`; for each face `loss_<face>`, `loss_<face>_npho` and so on;
        `mae_*` and `rmse_*` for all faces together and for each, in normalised units. NaN without events.
    """
    total: NDArray[np.float64] = world.gather_rows(sums.double().cpu().numpy()[None]).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = total[..., 0] / total[..., 1]
        mae, rmse = total[..., 2] / total[..., 4], np.sqrt(total[..., 3] / total[..., 4])
        all_mae = total[..., 2].sum(0) / total[..., 4].sum(0)
        all_rmse = np.sqrt(total[..., 3].sum(0) / total[..., 4].sum(0))
    by_channel = np.nansum(loss, axis=0)
    tensor = torch.tensor(by_channel, dtype=torch.float32, device=device)
    metrics = {"total_loss": criterion.combine(tensor).item()}
    for k, channel in enumerate(CHANNELS):
        metrics[f"loss_{channel}"] = float(by_channel[k])
        metrics[f"mae_{channel}"], metrics[f"rmse_{channel}"] = float(all_mae[k]), float(all_rmse[k])
    weights = criterion.channel_weights.tolist()
    for row, face in enumerate(faces):
        metrics[f"loss_{face}"] = float(np.nansum(loss[row] * weights))
        for k, channel in enumerate(CHANNELS):
            name = f"{face}_{channel}"
            metrics[f"loss_{name}"] = float(loss[row, k])
            metrics[f"mae_{name}"], metrics[f"rmse_{name}"] = float(mae[row, k]), float(rmse[row, k])
    return metrics


class Tally:
    """Adds up the sums of an epoch of training, so that training has the metrics of a validation too."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, sums: Tensor) -> None:
        """Add what `ReconstructionLoss` returned for a batch, shape (faces, 2, 5)."""
        self._sums = sums if self._sums is None else self._sums + sums

    def metrics(self, criterion: ReconstructionLoss, faces: Sequence[str], world: World) -> dict[str, float]:
        """Return the metrics of `summarize` with `train_` before their names, and begin anew."""
        sums = torch.zeros(len(faces), 2, 5) if self._sums is None else self._sums
        self._sums = None
        found = summarize(criterion, sums, faces, world, world.device)
        return {f"train_{name}": value for name, value in found.items()}


class HidesSensors(Protocol):
    """A module that is trained on hidden sensors."""

    criterion: ReconstructionLoss
    tally: Tally | None  # None without `task.track_train_metrics`

    @property
    def faces(self) -> Sequence[str]:
        """Names of the faces whose sensors it guesses."""


def training_metrics(module: HidesSensors, world: World) -> dict[str, float]:
    """Metrics of the epoch of training that has ended, where `task.track_train_metrics` asks for them.

    Args:
        module: The module that was trained.
        world: This process and its fellows.

    Returns:
        The metrics of `summarize` as `train_<metric>`, over the events since the epoch began or was resumed.
    """
    if module.tally is None:
        return {}
    return module.tally.metrics(module.criterion, module.faces, world)


def prediction_file(out: Path | None, every: int, epoch: int, world: World) -> Path | None:
    """Where the predictions of an epoch go.

    Args:
        out: Run directory; None for none.
        every: Epochs between files; 0 for none.
        epoch: Epoch, from 0.
        world: This process and its fellows; each writes a file of its own.

    Returns:
        `predictions_epoch_<number>.root` in the run directory, or None if this epoch has none.
    """
    if out is None or not every or (epoch + 1) % every:
        return None
    rank = f"_rank{world.rank}" if world.size > 1 else ""
    return out / f"predictions_epoch_{epoch + 1}{rank}.root"
