r"""Generators of the particles of a jet under a condition.

    CVAE   every particle by itself: q(z | x, c), p(x | z, c);  L = |x − x̂|² + β KL(q | N(0, 1))
    flow   the whole cloud together: v(x_t, t, c) with x_t = (1 − t) x_0 + t x_1, x_0 ~ N(0, 1);
           L = |v − (x_1 − x_0)|²;  a jet is the solution of dx/dt = v from 0 to 1

(D. Kingma, M. Welling, arXiv:1312.6114; K. Sohn et al., NeurIPS 2015; Y. Lipman et al., arXiv:2210.02747;
flow matching of jets: E. Buhmann et al., arXiv:2310.00049.) A CVAE of single particles cannot correlate them;
the flow sees all of them through attention.

Dimensions: B jets, N particles, D coordinates of a particle, C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hep_shared.ops.linear import Linear
from jet_foundation.models.attention import ParticleAttentionBlock
from jet_foundation.models.packing import Packing

_LOG_VARIANCE_LIMIT = 10.0
_TIME_PERIODS = (0.01, 2.0)


def _mean_over(values: Tensor, valid_mask: Tensor) -> Tensor:
    """Mean over real particles of all jets."""
    return (values * valid_mask).sum() / valid_mask.sum().clamp_min(1)


class ParticleCvae(nn.Module):
    """Conditional variational autoencoder of single particles.

    Args:
        dim: Channels C of the condition.
        num_coordinates: Coordinates D.
        latent_dim: Latent numbers.
        beta: Weight of the Kullback-Leibler term.
    """

    def __init__(self, dim: int, num_coordinates: int, *, latent_dim: int, beta: float) -> None:
        super().__init__()
        self.num_coordinates, self.latent_dim, self.beta = num_coordinates, latent_dim, beta
        wide, narrow = 2 * dim, dim
        self.posterior = nn.Sequential(
            Linear(num_coordinates + dim, wide), nn.GELU(),
            Linear(wide, narrow), nn.GELU(),
            Linear(narrow, 2 * latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            Linear(latent_dim + dim, wide), nn.GELU(),
            Linear(wide, narrow), nn.GELU(),
            Linear(narrow, num_coordinates),
        )  # fmt: skip

    def loss(
        self, x: Tensor, valid_mask: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Negative evidence bound of unit variance.

        Args:
            x: Coordinates of particles, (B, N, D).
            valid_mask: True where a particle is real, (B, N).
            condition: Of the jets, (B, C).
            generator: Source of random numbers; None takes torch's own.

        Returns:
            Scalar, a mean over real particles.
        """
        context = condition[:, None].expand(-1, x.shape[1], -1)
        mean, log_variance = self.posterior(torch.cat([x, context], dim=-1)).chunk(2, dim=-1)
        log_variance = log_variance.clamp(-_LOG_VARIANCE_LIMIT, _LOG_VARIANCE_LIMIT)
        noise = torch.randn(mean.shape, generator=generator, device=x.device, dtype=mean.dtype)
        latent = mean + (log_variance / 2).exp() * noise
        decoded = self.decoder(torch.cat([latent, context], dim=-1))
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=-1)
        return _mean_over(((decoded - x) ** 2).sum(dim=-1) + self.beta * divergence, valid_mask)

    def sample(
        self, valid_mask: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw particles.

        Args:
            valid_mask: True where a particle shall be, (B, N).
            condition: Of the jets, (B, C).
            generator: Source of random numbers; None takes torch's own.

        Returns:
            Coordinates, (B, N, D); those of padded slots are zero.
        """
        context = condition[:, None].expand(-1, valid_mask.shape[1], -1)
        shape = (*valid_mask.shape, self.latent_dim)
        latent = torch.randn(shape, generator=generator, device=condition.device, dtype=condition.dtype)
        drawn: Tensor = self.decoder(torch.cat([latent, context], dim=-1))
        return drawn * valid_mask[..., None]


class CloudFlow(nn.Module):
    """Flow matching on the point cloud of a jet.

    Args:
        dim: Channels C.
        num_coordinates: Coordinates D.
        num_heads: Attention heads.
        num_layers: Layers.
        num_steps: Steps of the integration, by the midpoint rule.
    """

    def __init__(
        self, dim: int, num_coordinates: int, *, num_heads: int, num_layers: int, num_steps: int
    ) -> None:
        super().__init__()
        self.num_coordinates, self.num_steps = num_coordinates, num_steps
        self.embed = Linear(num_coordinates, dim)
        self.condition = nn.Sequential(Linear(2 * dim, 2 * dim), nn.GELU(), Linear(2 * dim, dim))
        self.blocks = nn.ModuleList(ParticleAttentionBlock(dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(dim)
        self.head = Linear(dim, num_coordinates)

    def forward(self, x: Tensor, time: Tensor, valid_mask: Tensor, condition: Tensor) -> Tensor:
        """Velocity of the particles.

        Args:
            x: Coordinates, (B, N, D).
            time: Between 0 and 1, (B,).
            valid_mask: True where a particle is, (B, N).
            condition: Of the jets, (B, C).

        Returns:
            Velocity, (B, N, D); zero in padded slots.
        """
        packing = Packing(valid_mask)
        context = self.condition(torch.cat([time_encoding(time, condition.shape[1]), condition], dim=-1))
        tokens = packing.pack(self.embed(x) + context[:, None])
        bias = None
        if packing.groups is None:
            lowest = torch.finfo(x.dtype).min / 2
            bias = x.new_zeros(valid_mask.shape).masked_fill(~valid_mask, lowest)[:, None, None, :]
            bias = bias.expand(-1, -1, x.shape[1], -1)
        for block in self.blocks:
            tokens = block(tokens, packing, bias)
        velocity: Tensor = packing.unpack(self.head(self.norm(tokens)))
        return velocity * valid_mask[..., None]

    def loss(
        self, x: Tensor, valid_mask: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Squared error of the velocity at random times.

        Args:
            x: Coordinates of particles, (B, N, D).
            valid_mask: True where a particle is real, (B, N).
            condition: Of the jets, (B, C).
            generator: Source of random numbers; None takes torch's own.

        Returns:
            Scalar, a mean over real particles.
        """
        start = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        time = torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)
        between = torch.lerp(start, x, time[:, None, None]) * valid_mask[..., None]
        velocity = self(between, time, valid_mask, condition)
        return _mean_over(((velocity - (x - start)) ** 2).sum(dim=-1), valid_mask)

    def sample(
        self, valid_mask: Tensor, condition: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw jets.

        Args:
            valid_mask: True where a particle shall be, (B, N).
            condition: Of the jets, (B, C).
            generator: Source of random numbers; None takes torch's own.

        Returns:
            Coordinates, (B, N, D); those of padded slots are zero.
        """
        shape = (*valid_mask.shape, self.num_coordinates)
        x = torch.randn(shape, generator=generator, device=condition.device, dtype=condition.dtype)
        x = x * valid_mask[..., None]
        step = 1 / self.num_steps
        for number in range(self.num_steps):
            time = x.new_full((len(x),), number * step)
            middle = x + step / 2 * self(x, time, valid_mask, condition)
            x = x + step * self(middle, time + step / 2, valid_mask, condition)
        return x


def time_encoding(time: Tensor, dim: int) -> Tensor:
    """Sines and cosines of the time.

    Args:
        time: Between 0 and 1, (B,).
        dim: Length of the encoding, even.

    Returns:
        Encoding, (B, dim).
    """
    low, high = _TIME_PERIODS
    exponent = torch.arange(dim // 2, dtype=time.dtype, device=time.device) / max(dim // 2 - 1, 1)
    phase = time[:, None] * (2 * torch.pi / (low * (high / low) ** exponent))
    return F.pad(torch.cat([phase.sin(), phase.cos()], dim=-1), (0, dim % 2))
