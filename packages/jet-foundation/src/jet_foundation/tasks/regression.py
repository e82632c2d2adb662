"""Predict the mass of jets.

    y = ln(m / 100 GeV),  m of the summed particles or after soft drop, at least 1 GeV
    y = (m′ − 593 GeV) / 452 GeV,  m′ the mass of the 2026 report, see `models/legacy.py`

Dimensions: B jets, J jets of a split.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from hep_shared.errors import UserError
from jet_foundation import plots
from jet_foundation.config import Config, RegressionConfig
from jet_foundation.data.loader import SCALARS, Batch, JetLoader
from jet_foundation.losses import mass_loss
from jet_foundation.metrics.legacy import legacy_mass_metrics
from jet_foundation.metrics.regression import regression_metrics
from jet_foundation.models.heads import MassRegressor
from jet_foundation.models.legacy import MASS_MEAN_GEV, MASS_STD_GEV, LegacyEncoder, legacy_mass
from jet_foundation.models.legacy_heads import LegacyRegressor
from jet_foundation.tasks.common import build_encoder, num_features, stamp

HEADLINE = ("r2", "response_median", "response_iqr", "mae_gev")
FINISH = ("evaluate",)
SCALE_GEV, LOWEST_GEV = 100.0, 1.0


class RegressionModule(nn.Module):
    """Network and criterion in one module.

    Args:
        network: The regressor.
        settings: Section `task` of the configuration.
    """

    def __init__(self, network: MassRegressor | LegacyRegressor, settings: RegressionConfig) -> None:
        super().__init__()
        self.network = network
        self.target, self.delta = settings.target, settings.huber_delta

    def forward(
        self, p4: Tensor, features: Tensor, valid_mask: Tensor, scalars: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate network and loss.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            scalars: Numbers of the jets, (B, S), in the order of `SCALARS`.

        Returns:
            Loss, and predicted and true masses, (B,) GeV each.
        """
        predicted = self.network(p4, features, valid_mask).float()
        if self.target == "report":
            mass = legacy_mass(p4, valid_mask)
            loss = mass_loss(predicted, (mass - MASS_MEAN_GEV) / MASS_STD_GEV, delta=self.delta)
            return loss, MASS_MEAN_GEV + MASS_STD_GEV * predicted, mass
        mass = scalars[:, SCALARS.index(self.target)].clamp_min(LOWEST_GEV)
        loss = mass_loss(predicted, (mass / SCALE_GEV).log(), delta=self.delta)
        return loss, SCALE_GEV * predicted.exp(), mass


def build_model(config: Config, conventions: Mapping[str, str] | None = None) -> RegressionModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        conventions: Stamp of a checkpoint; by default that of the data set.

    Returns:
        The module on the CPU with fresh weights.
    """
    assert isinstance(config.task, RegressionConfig)
    encoder = build_encoder(config, num_features(conventions or stamp(config)))
    if isinstance(encoder, LegacyEncoder):
        return RegressionModule(LegacyRegressor(encoder), config.task)
    network = MassRegressor(
        encoder, num_heads=config.model.num_heads, num_layers=config.model.num_class_layers
    )
    return RegressionModule(network, config.task)


def compute_loss(forward: nn.Module, batch: Batch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Jets on the module's device.

    Returns:
        Scalar loss, the mean over the jets.

    Raises:
        UserError: The jets carry no such mass.
    """
    require_masses(batch)
    loss: Tensor = forward(batch.p4, batch.features, batch.valid_mask, batch.scalars)[0]
    return loss


def require_masses(batch: Batch) -> None:
    """Refuse jets without masses.

    Args:
        batch: The jets.

    Raises:
        UserError: The mass of the summed particles is missing, as in shards of an older make.
    """
    if batch.scalars[:, SCALARS.index("mass")].isnan().any():
        raise UserError(
            f"The batch {batch.name} has jets without a mass; make the data set again with "
            "`jet-foundation preprocess`."
        )


def _run(
    module: nn.Module, stream: JetLoader, device: torch.device, amp: Amp | None = None
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Sum of the losses weighted with jets, true and predicted masses, (J, 2) GeV, and labels."""
    total = 0.0
    rows = [np.zeros((0, 2), np.float64)]
    labels = [np.zeros(0, np.int64)]
    for batch in stream.batches():
        moved = batch.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False) if amp is None else amp.autocast():
            loss, found, true = module(moved.p4, moved.features, moved.valid_mask, moved.scalars)
        total += loss.item() * len(batch.labels)
        rows.append(torch.stack([true, found.to(true.dtype)], dim=1).cpu().numpy().astype(np.float64))
        labels.append(batch.labels.numpy())
    return total, np.concatenate(rows), np.concatenate(labels)


def validate(module: RegressionModule, stream: JetLoader, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation jets.

    Args:
        module: The averaged module.
        stream: Ordered jets of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss` and `val_r2`, over the jets of all ranks.
    """
    module.eval()
    total, rows, _ = _run(module, stream, world.device, amp)
    means = world.mean({"val_loss": total / max(len(rows), 1)}, weight=len(rows))
    true, predicted = world.gather_rows(rows).T
    return {**means, "val_r2": regression_metrics(predicted, true)["r2"]}


def evaluate(
    module: RegressionModule, stream: JetLoader, device: torch.device
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Measure scale and resolution of the mass.

    Args:
        module: The trained module on its device, in evaluation mode.
        stream: Ordered jets.
        device: Where the module is.

    Returns:
        Metrics under `metrics`, those of z-scores under `legacy`, and pictures by name.
    """
    _, rows, labels = _run(module, stream, device)
    true, predicted = rows.T
    by_class = {
        name: regression_metrics(predicted[labels == number], true[labels == number])
        for number, name in enumerate(stream.dataset.info.classes)
        if (labels == number).sum() > 1
    }
    found = {
        "metrics": regression_metrics(predicted, true),
        "legacy": legacy_mass_metrics(predicted, true),
        "by_class": by_class,
        "target": module.target,
    }
    return found, {"mass_response": plots.mass_response(predicted, true)}
