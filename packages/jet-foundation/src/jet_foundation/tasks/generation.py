"""Generate the particles of jets, given what the encoder says of a jet or its class alone.

Every generated jet answers to one jet of the data set: it takes over the axis and the number of particles,
and with `condition: jet` the mean of the encoder's tokens. With `condition: class` the encoder is not used.

Dimensions: B jets, N particles, F features, C channels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from jet_foundation import plots
from jet_foundation.config import Config, GenerationConfig
from jet_foundation.data.loader import Batch, JetLoader
from jet_foundation.metrics.generation import generation_metrics
from jet_foundation.metrics.legacy import legacy_generation_metrics
from jet_foundation.models.coordinates import Coordinates, axis_of
from jet_foundation.models.encoder import JetEncoder
from jet_foundation.models.generators import CloudFlow, ParticleCvae
from jet_foundation.models.legacy import LegacyEncoder
from jet_foundation.models.legacy_heads import LegacyCvae
from jet_foundation.tasks.common import build_encoder, num_features, padded_rows, read_stamp, stamp

HEADLINE = ("w1_mass_gev", "w1_pt_share", "fpd", "coverage")
FINISH = ("evaluate",)
NUM_COORDINATES = 3
PHI_SCALE = 5.0  # Δφ of 0.2 rad, the width of a jet, becomes 1
_SEED = 0


class JetGenerator(nn.Module):
    """Condition and generator.

    Args:
        encoder: Any encoder.
        coordinates: Of the particles.
        generator: `CloudFlow` or `ParticleCvae`.
        num_classes: Number of classes for the condition `class`; None conditions on the jet.
        phi_scale: Factor of Δφ in what the generator sees.
    """

    def __init__(
        self,
        encoder: JetEncoder,
        coordinates: Coordinates,
        generator: CloudFlow | ParticleCvae,
        num_classes: int | None,
        phi_scale: float = PHI_SCALE,
    ) -> None:
        super().__init__()
        self.phi_scale = phi_scale
        self.encoder, self.coordinates, self.generator = encoder, coordinates, generator
        self.classes = None if num_classes is None else nn.Embedding(num_classes, encoder.dim)
        if self.classes is not None:
            encoder.requires_grad_(False)

    def condition(self, p4: Tensor, features: Tensor, valid_mask: Tensor, labels: Tensor) -> Tensor:
        """What the generator is told of a jet.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            labels: Class numbers, (B,).

        Returns:
            Condition, (B, C).
        """
        if self.classes is not None:
            found: Tensor = self.classes(labels)
            return found
        tokens = self.encoder.tokens(p4, features, valid_mask)
        return tokens.sum(dim=1) / valid_mask.sum(dim=1, keepdim=True)

    def sample(
        self,
        p4: Tensor,
        features: Tensor,
        valid_mask: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Generate one jet for each jet given.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            labels: Class numbers, (B,).
            generator: Source of random numbers; None takes torch's own.

        Returns:
            Four-vectors of massless particles, (B, N, 4) GeV, zero in padded slots.
        """
        condition = self.condition(p4, features, valid_mask, labels).float()
        drawn = self.generator.sample(valid_mask, condition, generator)
        scaled = self._scaled(drawn, 1 / self.phi_scale)
        return self.coordinates.decode(scaled, axis_of(p4, valid_mask)) * valid_mask[..., None]

    def encode(self, p4: Tensor, valid_mask: Tensor) -> Tensor:
        """What the generator shall produce.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Coordinates of order one, (B, N, D), zero in padded slots.
        """
        true = self.coordinates.encode(p4, valid_mask, valid_mask)[..., : self.generator.num_coordinates]
        return self._scaled(true, self.phi_scale).masked_fill(~valid_mask[..., None], 0.0)

    @staticmethod
    def _scaled(coordinates: Tensor, factor: float) -> Tensor:
        """Multiply the column of Δφ."""
        before, dphi, after = coordinates.tensor_split((2, 3), dim=-1)
        return torch.cat([before, factor * dphi, after], dim=-1)


class GenerationModule(nn.Module):
    """Network and criterion in one module.

    Args:
        network: The generator with its condition.
    """

    def __init__(self, network: JetGenerator) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        p4: Tensor,
        features: Tensor,
        valid_mask: Tensor,
        labels: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Evaluate the loss.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            labels: Class numbers, (B,).
            generator: Source of random numbers; None takes torch's own.

        Returns:
            Scalar loss.
        """
        network = self.network
        true = network.encode(p4, valid_mask)
        condition = network.condition(p4, features, valid_mask, labels)
        return network.generator.loss(true, valid_mask, condition, generator).float()


def build_model(config: Config, conventions: Mapping[str, str] | None = None) -> GenerationModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        conventions: Stamp of a checkpoint; by default that of the data set.

    Returns:
        The module on the CPU with fresh weights.
    """
    settings, model = config.task, config.model
    assert isinstance(settings, GenerationConfig)
    conventions = conventions or stamp(config)
    classes, normalization = read_stamp(conventions)
    encoder = build_encoder(config, num_features(conventions))
    num_classes = len(classes) if settings.condition == "class" else None
    generator: CloudFlow | ParticleCvae
    if isinstance(encoder, LegacyEncoder) and settings.generator == "cvae":
        generator = LegacyCvae(model.dim, latent_dim=settings.latent_dim, beta=settings.beta)
        return GenerationModule(
            JetGenerator(encoder, encoder.coordinates, generator, num_classes, phi_scale=1.0)
        )
    if settings.generator == "flow":
        generator = CloudFlow(
            model.dim,
            NUM_COORDINATES,
            num_heads=model.num_heads,
            num_layers=settings.num_layers,
            num_steps=settings.num_steps,
        )
    else:
        generator = ParticleCvae(
            model.dim, NUM_COORDINATES, latent_dim=settings.latent_dim, beta=settings.beta
        )
    return GenerationModule(JetGenerator(encoder, Coordinates(normalization), generator, num_classes))


def compute_loss(forward: nn.Module, batch: Batch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Jets on the module's device.

    Returns:
        Scalar loss, the mean over the particles.
    """
    loss: Tensor = forward(batch.p4, batch.features, batch.valid_mask, batch.labels)
    return loss


@torch.no_grad()
def validate(module: GenerationModule, stream: JetLoader, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation jets, with the same random numbers every time.

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
    for number, batch in enumerate(stream.batches()):
        moved = batch.to(world.device)
        generator = torch.Generator(world.device).manual_seed(_SEED + number)
        with amp.autocast():
            loss = module(moved.p4, moved.features, moved.valid_mask, moved.labels, generator)
        total += loss.item() * len(batch.labels)
        num_jets += len(batch.labels)
    return world.mean({"val_loss": total / max(num_jets, 1)}, weight=num_jets)


@torch.no_grad()
def evaluate(
    module: GenerationModule, stream: JetLoader, device: torch.device
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Compare generated with true jets.

    Args:
        module: The trained module on its device, in evaluation mode.
        stream: Ordered jets.
        device: Where the module is.

    Returns:
        Metrics under `metrics`, the historical ones under `legacy`, and pictures by name.
    """
    true, masks, drawn = [], [], []
    for number, batch in enumerate(stream.batches()):
        moved = batch.to(device)
        generator = torch.Generator(device).manual_seed(_SEED + number)
        jets = module.network.sample(moved.p4, moved.features, moved.valid_mask, moved.labels, generator)
        true.append(batch.p4.numpy())
        masks.append(batch.valid_mask.numpy())
        drawn.append(jets.cpu().numpy())
    p4, mask, generated = padded_rows(true), padded_rows(masks), padded_rows(drawn)
    found = {
        "metrics": generation_metrics(p4, mask, generated, mask),
        "legacy": legacy_generation_metrics(p4, mask, generated, mask),
    }
    samples = {"true": (p4, mask), "generated": (generated, mask)}
    first = {name: (jets[0][m[0]], m[0]) for name, (jets, m) in samples.items()}
    return found, {
        "marginals": plots.marginals(samples),
        "jet_display": plots.jet_display({name: np.asarray(jet) for name, (jet, _) in first.items()}),
    }
