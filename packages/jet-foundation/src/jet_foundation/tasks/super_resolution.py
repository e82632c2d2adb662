"""Complete jets of which only the leading particles are given.

The given particles are kept; a set decoder proposes the softer ones, with a loss that does not know their
order. The features, the pairs and the axis are those of the given particles alone.

Dimensions: B jets, N particles, Q slots, F features.
"""

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from hep_shared.amp import Amp
from hep_shared.distributed import World
from jet_foundation import plots
from jet_foundation.config import Config, SuperResolutionConfig
from jet_foundation.data.loader import Batch, JetLoader
from jet_foundation.losses import set_loss
from jet_foundation.metrics.generation import resolution_metrics, wasserstein_1d
from jet_foundation.metrics.legacy import legacy_resolution_metrics
from jet_foundation.models.coordinates import Coordinates, axis_of
from jet_foundation.models.heads import SetCompletion
from jet_foundation.models.legacy import REAL_ABOVE, LegacyEncoder
from jet_foundation.models.legacy_heads import LegacySuperResolution
from jet_foundation.physics import fourvectors as fv
from jet_foundation.tasks.common import build_encoder, num_features, padded_rows, read_stamp, stamp

HEADLINE = ("chamfer", "emd", "multiplicity_error", "w1_mass_gev")
FINISH = ("evaluate",)
NUM_COORDINATES = 3
PHI_SCALE = 5.0  # Δφ of 0.2 rad, the width of a jet, becomes 1


class SuperResolutionModule(nn.Module):
    """Network and criterion in one module.

    Args:
        network: The set decoder.
        settings: Section `task` of the configuration.
    """

    def __init__(
        self, network: SetCompletion | LegacySuperResolution, settings: SuperResolutionConfig
    ) -> None:
        super().__init__()
        self.network = network
        self.num_given = settings.num_given

    def given(self, valid_mask: Tensor) -> Tensor:
        """Which particles are given: the leading ones.

        Args:
            valid_mask: True where a particle is real, (B, N), by falling pT.

        Returns:
            True where it is given, (B, N).
        """
        return valid_mask & (valid_mask.cumsum(dim=1) <= self.num_given)

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Evaluate the loss.

        Args:
            p4: Four-vectors (E, px, py, pz) by falling pT, (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Scalar loss.
        """
        given = self.given(valid_mask)
        predicted, logits = self.network(p4, features, given)
        true = self.network.coordinates.encode(p4, valid_mask, given)[..., :NUM_COORDINATES]
        true = torch.cat([true[..., :2], PHI_SCALE * true[..., 2:]], dim=-1)
        missing = valid_mask & ~given
        order = (~missing).to(torch.int8).argsort(dim=1, stable=True)  # the missing ones first
        ordered = true.gather(1, order[..., None].expand_as(true))
        width = max(int(missing.sum(dim=1).max()), 1)
        # A jet without missing particles still depends on all parameters, which torchrun waits for.
        loss = set_loss(predicted, logits, ordered[:, :width], missing.sum(dim=1))
        total: Tensor = loss + 0.0 * predicted.float().sum()
        return total

    def complete(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Complete jets.

        Args:
            p4: Four-vectors (E, px, py, pz) by falling pT, (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Given and proposed particles, (B, N + Q, 4) GeV, and where one exists, (B, N + Q).
        """
        given = self.given(valid_mask)
        predicted, logits = self.network(p4, features, given)
        scaled = torch.cat([predicted[..., :2], predicted[..., 2:] / PHI_SCALE], dim=-1).float()
        proposed = self.network.coordinates.decode(scaled, axis_of(p4, given))
        everything = torch.cat([p4, proposed], dim=1)
        exists = torch.cat([given, logits > 0], dim=1)
        return everything.masked_fill(~exists[..., None], 0.0), exists


class LegacySuperResolutionModule(SuperResolutionModule):
    """The 2026 report's way: every slot answers to the particle of its rank, padding to zeros.

    Args:
        network: The slots.
        settings: Section `task` of the configuration.
    """

    network: LegacySuperResolution

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Evaluate the loss.

        Args:
            p4: Four-vectors (E, px, py, pz) by falling pT, (B, N, 4) GeV.
            features: Not used.
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Mean squared error over all slots, scalar.
        """
        given = self.given(valid_mask)
        predicted = self.network(p4, features, given).float()
        true = self.network.coordinates.encode(p4, valid_mask, given)[:, : predicted.shape[1]]
        true = functional.pad(true, (0, 0, 0, predicted.shape[1] - true.shape[1]))
        return functional.mse_loss(predicted, true)

    def complete(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Propose whole jets; the given particles are not kept.

        Args:
            p4: Four-vectors (E, px, py, pz) by falling pT, (B, N, 4) GeV.
            features: Not used.
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Proposed particles, (B, Q, 4) GeV, and where one exists, (B, Q).
        """
        given = self.given(valid_mask)
        predicted = self.network(p4, features, given).float()
        proposed = self.network.coordinates.decode(predicted, axis_of(p4, given))
        exists = predicted[..., 0] > REAL_ABOVE
        return proposed.masked_fill(~exists[..., None], 0.0), exists


def build_model(config: Config, conventions: Mapping[str, str] | None = None) -> SuperResolutionModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        conventions: Stamp of a checkpoint; by default that of the data set.

    Returns:
        The module on the CPU with fresh weights.
    """
    settings = config.task
    assert isinstance(settings, SuperResolutionConfig)
    conventions = conventions or stamp(config)
    encoder = build_encoder(config, num_features(conventions))
    if isinstance(encoder, LegacyEncoder):
        slots = LegacySuperResolution(encoder, settings.num_total, num_heads=config.model.num_heads)
        return LegacySuperResolutionModule(slots, settings)
    network = SetCompletion(
        encoder,
        Coordinates(read_stamp(conventions)[1]),
        settings.num_total - settings.num_given,
        num_heads=config.model.num_heads,
        num_layers=settings.num_layers,
    )
    return SuperResolutionModule(network, settings)


def compute_loss(forward: nn.Module, batch: Batch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Jets on the module's device.

    Returns:
        Scalar loss.
    """
    loss: Tensor = forward(batch.p4, batch.features, batch.valid_mask)
    return loss


@torch.no_grad()
def validate(module: SuperResolutionModule, stream: JetLoader, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation jets.

    Args:
        module: The averaged module.
        stream: Ordered jets of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, over the jets of all ranks.
    """
    module.eval()
    total, num_jets = 0.0, 0
    for batch in stream.batches():
        moved = batch.to(world.device)
        with amp.autocast():
            loss = module(moved.p4, moved.features, moved.valid_mask)
        total += loss.item() * len(batch.labels)
        num_jets += len(batch.labels)
    return world.mean({"val_loss": total / max(num_jets, 1)}, weight=num_jets)


@torch.no_grad()
def evaluate(
    module: SuperResolutionModule, stream: JetLoader, device: torch.device
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Compare completed with true jets.

    Args:
        module: The trained module on its device, in evaluation mode.
        stream: Ordered jets.
        device: Where the module is.

    Returns:
        Metrics under `metrics`, those of the given particles alone under `given_only`, the historical ones
        under `legacy`, and pictures by name.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("true", "true_mask", "given_mask", "completed", "completed_mask")
    }
    for batch in stream.batches():
        moved = batch.to(device)
        completed, exists = module.complete(moved.p4, moved.features, moved.valid_mask)
        columns["true"].append(batch.p4.numpy())
        columns["true_mask"].append(batch.valid_mask.numpy())
        columns["given_mask"].append(module.given(batch.valid_mask).numpy())
        columns["completed"].append(completed.cpu().numpy())
        columns["completed_mask"].append(exists.cpu().numpy())
    true, true_mask, given_mask, completed_jets, completed_mask = (
        padded_rows(parts) for parts in columns.values()
    )

    def metrics(jets: Any, mask: Any) -> dict[str, float]:
        found = resolution_metrics(true, true_mask, jets, mask)
        masses = [
            fv.mass((p4 * m[..., None]).sum(axis=1, dtype="f8"))
            for p4, m in ((true, true_mask), (jets, mask))
        ]
        return {**found, "w1_mass_gev": wasserstein_1d(*masses)}

    found = {
        "metrics": metrics(completed_jets, completed_mask),
        "given_only": metrics(true, given_mask),
        "legacy": legacy_resolution_metrics(*same_width(true, true_mask, completed_jets, completed_mask)),
    }
    samples = {
        "true": (true, true_mask),
        "completed": (completed_jets, completed_mask),
        "given": (true, given_mask),
    }
    # A jet of which something is missing says more than one that was given whole.
    shown = int((true_mask.sum(axis=1) > given_mask.sum(axis=1)).argmax())
    display = {name: jets[shown][mask[shown]] for name, (jets, mask) in samples.items()}
    return found, {"marginals": plots.marginals(samples), "jet_display": plots.jet_display(display)}


def same_width(true: Any, true_mask: Any, other: Any, other_mask: Any) -> tuple[Any, Any, Any, Any]:
    """Give both samples the number of slots of the wider one.

    Args:
        true: (J, N, 4).
        true_mask: (J, N).
        other: (J, N', 4).
        other_mask: (J, N').

    Returns:
        The same arrays with max(N, N') slots.
    """
    num = max(true.shape[1], other.shape[1])
    return (
        padded_rows([true], num),
        padded_rows([true_mask], num),
        padded_rows([other], num),
        padded_rows([other_mask], num),
    )
