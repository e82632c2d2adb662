"""Heads over an encoder: masked particles, the mass of a jet, and the particles that complete a jet.

Dimensions: B jets, N particles, Q slots to fill, F features, C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hep_shared.ops.linear import Linear
from jet_foundation.models.attention import ClassAttention, ClassAttentionBlock
from jet_foundation.models.coordinates import Coordinates
from jet_foundation.models.encoder import JetEncoder, signed_log

NUM_COORDINATES = 4
_MULTIVECTOR = 16
_MV_SCALE = 0.1  # signed_log of a multivector reaches ±12


def mlp(num_inputs: int, hidden: int, num_outputs: int) -> nn.Sequential:
    """Two linear layers with a norm in front.

    Args:
        num_inputs: Numbers in.
        hidden: Width between.
        num_outputs: Numbers out.

    Returns:
        The layers.
    """
    return nn.Sequential(
        nn.LayerNorm(num_inputs), Linear(num_inputs, hidden), nn.GELU(), Linear(hidden, num_outputs)
    )


class MaskedParticleModel(nn.Module):
    """Predicts every hidden particle of a jet from the ones that are seen.

    Args:
        encoder: Encoder with `hidden_tokens`.
        coordinates: Of the particles.
    """

    def __init__(self, encoder: JetEncoder, coordinates: Coordinates) -> None:
        super().__init__()
        self.encoder, self.coordinates = encoder, coordinates
        extra = _MULTIVECTOR if encoder.is_equivariant else 0
        self.head = mlp(encoder.dim + extra, 2 * encoder.dim, NUM_COORDINATES)

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor, hidden_mask: Tensor) -> Tensor:
        """Predict particles.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV; those of hidden particles are not used.
            features: Normalised features, (B, N, F); those of hidden particles are not used.
            valid_mask: True where a particle is real, (B, N).
            hidden_mask: True where it is hidden, (B, N).

        Returns:
            ln pT, Δη, Δφ, ln E about the axis of the seen particles, see `Coordinates.encode`, (B, N, 4).
        """
        seen = valid_mask & ~hidden_mask
        own = self.coordinates.features(p4, features, seen)
        encoded = self.encoder(p4.masked_fill(~seen[..., None], 0.0), own, valid_mask, hidden_mask)
        if isinstance(encoded, tuple):
            encoded = torch.cat([encoded[0], _MV_SCALE * signed_log(encoded[1])], dim=-1)
        predicted: Tensor = self.head(encoded)
        return predicted


class MassRegressor(nn.Module):
    """Logarithm of the mass of a jet.

    Args:
        encoder: Any encoder.
        num_heads: Heads of the class attention.
        num_layers: Layers of the class attention.
    """

    def __init__(self, encoder: JetEncoder, *, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_attention = ClassAttention(encoder.dim, num_heads, num_layers=num_layers)
        self.head = mlp(encoder.dim, 2 * encoder.dim, 1)

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Predict the mass.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Logarithm of the mass over the task's scale, (B,).
        """
        tokens = self.encoder.tokens(p4, features, valid_mask)
        found: Tensor = self.head(self.class_attention(tokens, valid_mask))[:, 0]
        return found


class SetCompletion(nn.Module):
    """Proposes the particles that are missing from a jet, as a set.

    Learned queries read the given particles and each other; each proposes one particle and says how likely it
    exists.

    Args:
        encoder: Any encoder.
        coordinates: Of the particles.
        num_queries: Slots Q.
        num_heads: Heads.
        num_layers: Layers of the decoder.
    """

    def __init__(
        self,
        encoder: JetEncoder,
        coordinates: Coordinates,
        num_queries: int,
        *,
        num_heads: int,
        num_layers: int,
    ) -> None:
        super().__init__()
        self.encoder, self.coordinates = encoder, coordinates
        self.queries = nn.Parameter(torch.randn(num_queries, encoder.dim))
        self.blocks = nn.ModuleList(ClassAttentionBlock(encoder.dim, num_heads) for _ in range(num_layers))
        self.head = mlp(encoder.dim, 2 * encoder.dim, 4)

    def forward(self, p4: Tensor, features: Tensor, given_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Propose particles.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV; only the given ones are used.
            features: Normalised features, (B, N, F); only those of given particles are used.
            given_mask: True where a particle is given, (B, N).

        Returns:
            ln pT, Δη, Δφ about the axis of the given particles, (B, Q, 3), and logits of existence, (B, Q).
        """
        own = self.coordinates.features(p4, features, given_mask)
        x = self.encoder.tokens(p4.masked_fill(~given_mask[..., None], 0.0), own, given_mask)
        queries = self.queries.to(x.dtype).expand(len(x), -1, -1)
        lowest = torch.finfo(x.dtype).min / 2
        key_bias = x.new_zeros(given_mask.shape).masked_fill(~given_mask, lowest)
        key_bias = F.pad(key_bias, (queries.shape[1], 0))[:, None, None, :]
        for block in self.blocks:
            queries = block(queries, x, key_bias)
        found: Tensor = self.head(queries)
        return found[..., :3], found[..., 3]
