r"""A VQ-VAE over single objects: encoder → code → decoder, and a head for the missing momentum.

    z = f(x, id),   k = nearest code,   x̂, îd = g(e_k),   MÊT = h(mean over the event's objects of e_k)

Gradients pass the quantisation straight through (A. van den Oord et al., arXiv:1711.00937). Empty places are
neither encoded into the codebook nor reconstructed.

B events, P objects, D latent dimensions, F features.
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fourtop_tokens.data import schema
from fourtop_tokens.models.codebook import Codebook
from hep_shared.ops.linear import Linear
from hep_shared.ops.nearest import nearest_code

_ID_DIM = 8


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with GELU between them.

    Args:
        widths: Input, hidden and output widths.

    Returns:
        The network.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class ObjectEncoder(nn.Module):
    """Scaled features and id of an object to a latent vector.

    Args:
        num_features: Features F: 4 with E, else 3.
        hidden_dim: Width of the two hidden layers.
        latent_dim: Dimension D.
    """

    def __init__(self, num_features: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(schema.NUM_IDS + 1, _ID_DIM)
        self.network = mlp(num_features + _ID_DIM, hidden_dim, hidden_dim, latent_dim)

    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        """Encode objects.

        Args:
            features: Scaled, (..., F).
            ids: Object codes, (...).

        Returns:
            (..., D).
        """
        latent: Tensor = self.network(torch.cat([features, self.embedding(ids)], dim=-1))
        return latent


class Quantised(NamedTuple):
    """What a VQ-VAE makes of a batch."""

    latent: Tensor
    """Encoder output of the objects that exist, (N, D)."""
    codes: Tensor
    """Their nearest codes, (N, D)."""
    indices: Tensor
    """Indices of these, (N,)."""
    features: Tensor
    """Reconstructed scaled features, (N, F)."""
    id_logits: Tensor
    """Logits of the ids 1 to 7, (N, 7)."""
    missing: Tensor
    """Reconstructed scaled missing momentum, cos and sin of its azimuth, (B, 3)."""


class VqVae(nn.Module):
    """Encoder, codebook, decoder.

    Args:
        num_features: Features F.
        hidden_dim: Width of the hidden layers.
        latent_dim: Dimension D.
        num_codes: Number of codes K.
        decay: Decay of the codebook's averages.
        dead_below: Share of the average use below which a code is revived.
        missing_dim: Hidden width of the head for the missing momentum.
    """

    def __init__(
        self,
        *,
        num_features: int,
        hidden_dim: int = 128,
        latent_dim: int = 32,
        num_codes: int = 512,
        decay: float = 0.99,
        dead_below: float = 0.1,
        missing_dim: int = 32,
    ) -> None:
        super().__init__()
        self.encoder = ObjectEncoder(num_features, hidden_dim, latent_dim)
        self.codebook = Codebook(num_codes, latent_dim, decay=decay, dead_below=dead_below)
        self.decoder = mlp(latent_dim, hidden_dim, hidden_dim, num_features + schema.NUM_IDS)
        self.missing_head = mlp(latent_dim, missing_dim, 3)
        self.num_features = num_features

    def forward(self, features: Tensor, ids: Tensor) -> Quantised:
        """Encode, quantise and decode; in training mode the codebook follows.

        Args:
            features: Scaled, (B, P, F).
            ids: Object codes, 0 for padding, (B, P).

        Returns:
            Everything the loss needs.
        """
        valid = ids != schema.PAD
        latent = self.encoder(features[valid], ids[valid])
        indices = nearest_code(latent.detach().float(), self.codebook.codes)
        codes = self.codebook.codes[indices]
        straight = latent + (codes - latent).detach()
        if self.training:
            self.codebook.update(latent.detach().float(), indices)
        decoded = self.decoder(straight)
        event = valid.nonzero()[:, 0]
        sums = straight.new_zeros(len(ids), straight.shape[1]).index_add(0, event, straight)
        mean = sums / valid.sum(1, keepdim=True).clamp(min=1)
        return Quantised(
            latent, codes, indices, decoded[:, : self.num_features], decoded[:, self.num_features :],
            self.missing_head(mean),
        )  # fmt: skip


class ObjectTokenizer(nn.Module):
    """The frozen part of a VQ-VAE that turns objects into code indices.

    Args:
        num_features: Features F.
        hidden_dim: Width of the encoder's hidden layers.
        latent_dim: Dimension D.
        num_codes: Number of codes K.
    """

    codes: Tensor

    def __init__(self, *, num_features: int, hidden_dim: int, latent_dim: int, num_codes: int) -> None:
        super().__init__()
        self.encoder = ObjectEncoder(num_features, hidden_dim, latent_dim).requires_grad_(False)
        self.register_buffer("codes", torch.randn(num_codes, latent_dim))

    @torch.no_grad()
    def forward(self, features: Tensor, ids: Tensor) -> Tensor:
        """Find the codes of objects; padding gets one too, which the caller masks.

        Args:
            features: Scaled, (B, P, F).
            ids: Object codes, (B, P).

        Returns:
            Indices, (B, P) int64.
        """
        # Always float32: under autocast the nearest code would depend on the arithmetic.
        with torch.autocast(features.device.type, enabled=False):
            latent = self.encoder(features.float(), ids)
            return nearest_code(latent.reshape(-1, latent.shape[-1]), self.codes).reshape(ids.shape)
