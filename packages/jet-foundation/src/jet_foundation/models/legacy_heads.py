r"""What the 2026 progress report puts on its encoder, one head a task.

    classification     a class token reads the particles; its answer and their mean → 128 → 256 → classes
    mass               mean of the particles → 256 → 256 → 1
    masked particles   particle and its 16 numbers → 256 → 256 → 4
    CVAE               particle and mean of the jet → μ, ln σ² (32); sample and mean → 4
    super-resolution   128 learned queries read the given particles → 256 → 4

Parameters: classification 135,178, mass 99,329, masked particles 104,452, CVAE 150,852, super-resolution
116,740. The normalised numbers that come in and go out are those of `legacy.LegacyCoordinates`.

Dimensions: B jets, N particles, C channels, Q slots.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jet_foundation.models.attention import ParticleAttention, attend
from jet_foundation.models.generators import ParticleCvae
from jet_foundation.models.legacy import LegacyEncoder


def mean_token(tokens: Tensor, valid_mask: Tensor) -> Tensor:
    """Mean over the real particles of a jet.

    Args:
        tokens: (B, N, C), zero in padded slots.
        valid_mask: True where a particle is real, (B, N).

    Returns:
        (B, C).
    """
    return tokens.sum(dim=1) / valid_mask.sum(dim=1, keepdim=True)


class Reading(ParticleAttention):
    """Multi-head attention of queries to the particles of a jet."""

    def read(self, queries: Tensor, x: Tensor, valid_mask: Tensor) -> Tensor:
        """Read particles.

        Args:
            queries: (B, Q, C).
            x: Particles, (B, N, C).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            What each query read, (B, Q, C).
        """
        dim = x.shape[-1]
        weight, bias = self.in_proj.weight, self.in_proj.bias
        parts = (
            F.linear(queries, weight[:dim], bias[:dim]),
            *F.linear(x, weight[dim:], bias[dim:]).chunk(2, -1),
        )
        q, k, v = (torch.unflatten(part, -1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        lowest = torch.finfo(x.dtype).min / 2
        key_bias = x.new_zeros(valid_mask.shape).masked_fill(~valid_mask, lowest)[:, None, None, :]
        output: Tensor = self.out_proj(attend(q, k, v, key_bias).transpose(1, 2).flatten(2))
        return output


class LegacyClassifier(nn.Module):
    """Class token that attends to the particles, beside their mean.

    Args:
        encoder: The encoder.
        num_classes: Number of classes.
        num_heads: Heads of the attention.
    """

    def __init__(self, encoder: LegacyEncoder, num_classes: int, *, num_heads: int = 8) -> None:
        super().__init__()
        dim = encoder.dim
        self.encoder = encoder
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.attention = Reading(dim, num_heads)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim), nn.GELU(),
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, num_classes),
        )  # fmt: skip

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Classify jets.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Not used.
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Logits, (B, num_classes).
        """
        tokens = self.encoder.tokens(p4, features, valid_mask)
        query = self.token.expand(tokens.shape[0], -1, -1)
        read = self.attention.read(query, tokens, valid_mask)[:, 0]
        logits: Tensor = self.head(torch.cat([read, mean_token(tokens, valid_mask)], dim=-1))
        return logits


class LegacyRegressor(nn.Module):
    """Mass of a jet from the mean of its particles.

    Args:
        encoder: The encoder.
    """

    def __init__(self, encoder: LegacyEncoder) -> None:
        super().__init__()
        dim = encoder.dim
        self.encoder = encoder
        self.head = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(),
            nn.Linear(2 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 1),
        )  # fmt: skip

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Predict the mass.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Not used.
            valid_mask: True where a particle is real, (B, N).

        Returns:
            The task's number for the mass, (B,).
        """
        found: Tensor = self.head(mean_token(self.encoder.tokens(p4, features, valid_mask), valid_mask))[:, 0]
        return found


class LegacyMaskedModel(nn.Module):
    """Predicts the four normalised numbers of hidden particles.

    Args:
        encoder: Encoder with `hidden_tokens`.
    """

    def __init__(self, encoder: LegacyEncoder) -> None:
        super().__init__()
        wide = 2 * encoder.dim
        self.encoder, self.coordinates = encoder, encoder.coordinates
        self.head = nn.Sequential(
            nn.Linear(encoder.dim + 16, wide), nn.LayerNorm(wide), nn.GELU(),
            nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, 4),
        )  # fmt: skip

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor, hidden_mask: Tensor) -> Tensor:
        """Predict particles.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV; those of hidden particles are not used.
            features: Not used.
            valid_mask: True where a particle is real, (B, N).
            hidden_mask: True where it is hidden, (B, N).

        Returns:
            Normalised pT, Δη, Δφ, E about the axis of the seen particles, (B, N, 4).
        """
        seen = valid_mask & ~hidden_mask
        encoded = self.encoder(p4.masked_fill(~seen[..., None], 0.0), features, valid_mask, hidden_mask)
        predicted: Tensor = self.head(torch.cat(encoded, dim=-1))
        return predicted


class LegacyCvae(ParticleCvae):
    """The report's CVAE of single particles: four numbers, 32 latent ones, layer norms.

    Args:
        dim: Channels C of the condition.
        latent_dim: Latent numbers.
        beta: Weight of the Kullback-Leibler term.
    """

    def __init__(self, dim: int, *, latent_dim: int = 32, beta: float = 1.0) -> None:
        super().__init__(dim, 4, latent_dim=latent_dim, beta=beta)
        for network in (self.posterior, self.decoder):
            network.insert(1, nn.LayerNorm(2 * dim))


class LegacySuperResolution(nn.Module):
    """Learned queries that read the given particles; each slot is one particle of the whole jet.

    Args:
        encoder: The encoder.
        num_queries: Slots Q.
        num_heads: Heads of the attention.
    """

    def __init__(self, encoder: LegacyEncoder, num_queries: int, *, num_heads: int = 8) -> None:
        super().__init__()
        dim = encoder.dim
        self.encoder, self.coordinates = encoder, encoder.coordinates
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, dim))
        self.attention = Reading(dim, num_heads)
        self.head = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 4)
        )

    def forward(self, p4: Tensor, features: Tensor, given_mask: Tensor) -> Tensor:
        """Propose all particles of jets.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV; only the given ones are used.
            features: Not used.
            given_mask: True where a particle is given, (B, N).

        Returns:
            Normalised pT, Δη, Δφ, E of every slot about the axis of the given particles, (B, Q, 4).
        """
        tokens = self.encoder.tokens(p4.masked_fill(~given_mask[..., None], 0.0), features, given_mask)
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        read = self.attention.read(queries, tokens, given_mask)
        found: Tensor = self.head(read)
        return found
