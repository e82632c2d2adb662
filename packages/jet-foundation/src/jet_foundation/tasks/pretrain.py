"""Masked-particle training: hide particles of a jet and predict each of them from the others.

Every hidden slot predicts its own particle. What is seen carries nothing of what is hidden: pairs with a
hidden particle have no bias, and the features of the visible particles are relative to the visible jet.

Dimensions: B jets, N particles, M hidden particles, F features.
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
from jet_foundation import plots
from jet_foundation.config import Config, PretrainConfig
from jet_foundation.data.loader import Batch, JetLoader
from jet_foundation.losses import ConservationWeights, conservation_loss
from jet_foundation.metrics.masked import masked_particle_metrics
from jet_foundation.models.coordinates import Coordinates, axis_of
from jet_foundation.models.heads import MaskedParticleModel
from jet_foundation.models.legacy import LegacyEncoder
from jet_foundation.models.legacy_heads import LegacyMaskedModel
from jet_foundation.models.masking import choose_hidden
from jet_foundation.physics import fourvectors as fv
from jet_foundation.tasks.common import build_encoder, num_features, read_stamp, stamp

HEADLINE = ("log_pt_rmse", "log_energy_rmse", "deta_mae", "dphi_mae")
FINISH = ("evaluate",)
_VALIDATION_SEED = 0


class PretrainModule(nn.Module):
    """Network, masking and criterion in one module.

    Args:
        network: The masked-particle model.
        settings: Section `task` of the configuration.
    """

    def __init__(self, network: MaskedParticleModel | LegacyMaskedModel, settings: PretrainConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.weights = ConservationWeights(
            pt=settings.coef_pt,
            eta=settings.coef_eta,
            phi=settings.coef_phi,
            energy=settings.coef_energy,
            bias=settings.bias_gamma,
            mass=settings.coef_mass,
        )

    def forward(
        self,
        p4: Tensor,
        features: Tensor,
        valid_mask: Tensor,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hide particles and predict them.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            generator: Source of the masks; None takes torch's own.

        Returns:
            Loss, and predicted and true coordinates of the hidden particles, (M, 4) each.
        """
        hidden = choose_hidden(
            p4, valid_mask, masking=self.settings.masking, ratio=self.settings.mask_ratio, generator=generator
        )
        everything = self.network(p4, features, valid_mask, hidden)
        predicted = everything[hidden].float()
        coordinates, seen = self.network.coordinates, valid_mask & ~hidden
        true = coordinates.encode(p4, valid_mask, seen)[hidden]
        ratios: dict[str, Tensor] = {}
        if self.weights.mass:
            eta = coordinates.eta(everything[..., 1].float(), axis_of(p4, seen))[hidden]
            momentum = coordinates.log_pt(predicted[:, 0]) + eta.clamp(-6.0, 6.0).cosh().log()
            ratios["log_ratio"] = momentum - coordinates.log_energy(predicted[:, 3])
            chosen = p4[hidden]
            ratios["true_log_ratio"] = (fv.pt(chosen) * fv.eta(chosen).cosh() / chosen[:, 0]).log()
        # An empty prediction still depends on all parameters, which torchrun waits for.
        loss = conservation_loss(predicted, true, self.weights, **ratios) + 0.0 * everything.sum()
        return loss, predicted.detach(), true


def build_model(config: Config, conventions: Mapping[str, str] | None = None) -> PretrainModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        conventions: Stamp of a checkpoint; by default that of the data set.

    Returns:
        The module on the CPU with fresh weights.
    """
    assert isinstance(config.task, PretrainConfig)
    conventions = conventions or stamp(config)
    encoder = build_encoder(config, num_features(conventions), hidden_tokens=True)
    if isinstance(encoder, LegacyEncoder):
        return PretrainModule(LegacyMaskedModel(encoder), config.task)
    network = MaskedParticleModel(encoder, Coordinates(read_stamp(conventions)[1]))
    return PretrainModule(network, config.task)


def compute_loss(forward: nn.Module, batch: Batch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Jets on the module's device.

    Returns:
        Scalar loss.
    """
    loss: Tensor = forward(batch.p4, batch.features, batch.valid_mask)[0]
    return loss


def _run(
    module: nn.Module, stream: JetLoader, device: torch.device, amp: Amp | None = None
) -> tuple[float, int, NDArray[Any], NDArray[Any]]:
    """Sum of the losses weighted with jets, number of jets, predicted and true coordinates."""
    total, num_jets = 0.0, 0
    empty = np.zeros((0, 4), np.float32)
    predicted, true = [empty], [empty]
    for number, batch in enumerate(stream.batches()):
        moved = batch.to(device)
        generator = torch.Generator(device).manual_seed(_VALIDATION_SEED + number)
        with torch.no_grad(), torch.autocast(device.type, enabled=False) if amp is None else amp.autocast():
            loss, ours, theirs = module(moved.p4, moved.features, moved.valid_mask, generator)
        total += loss.item() * len(batch.labels)
        num_jets += len(batch.labels)
        predicted.append(ours.cpu().numpy())
        true.append(theirs.cpu().numpy())
    return total, num_jets, np.concatenate(predicted), np.concatenate(true)


def validate(module: PretrainModule, stream: JetLoader, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation jets, with the same masks every time.

    Args:
        module: The averaged module.
        stream: Ordered jets of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, over the jets of all ranks.
    """
    module.eval()
    total, num_jets, _, _ = _run(module, stream, world.device, amp)
    return world.mean({"val_loss": total / max(num_jets, 1)}, weight=num_jets)


def evaluate(
    module: PretrainModule, stream: JetLoader, device: torch.device
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Measure how well hidden particles are predicted.

    Args:
        module: The trained module on its device, in evaluation mode.
        stream: Ordered jets.
        device: Where the module is.

    Returns:
        Metrics under `metrics`, and pictures by name.
    """
    _, _, predicted, true = _run(module, stream, device)
    coordinates = module.network.coordinates
    scales = coordinates.scales().cpu().numpy().astype(np.float64)
    found = masked_particle_metrics(predicted, true, scales)
    labels = ("normalised ln pT", "normalised Δη", "Δφ [rad]", "normalised ln E")
    return {"metrics": found}, {"masked_particles": plots.predicted_against_true(predicted, true, labels)}
