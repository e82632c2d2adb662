r"""The encoder of the 2026 progress report, as it was: kept so that its numbers can be reproduced.

    (pT, Δη, Δφ, E) → first four of 16 components → EquiLinear → Linear → 8 pre-norm blocks → LayerNorm
                    → Linear → EquiLinear

It works on normalised features, so it is not equivariant; use `LorentzParTEncoder` for physics. Pair features
are Δη, wrapped Δφ, ΔR and ln(|pTᵢ pTⱼ| + 10⁻⁸) of the normalised features. 1,599,854 parameters.

Dimensions: B jets, N particles, C channels, H heads.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jet_foundation.models.attention import ParticleAttention
from jet_foundation.models.equilinear import EquiLinear
from jet_foundation.models.packing import Packing
from jet_foundation.physics.fourvectors import wrap_phi

_TINY = 1e-8


class LegacyBlock(nn.Module):
    """Pre-norm block without the extra norms and scales.

    Args:
        dim: Channels C.
        num_heads: Heads H.
        ffn_ratio: Expansion of the feed-forward part.
        dropout: Dropout.
    """

    def __init__(self, dim: int, num_heads: int, *, ffn_ratio: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = ParticleAttention(dim, num_heads, dropout=dropout)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_ratio * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(ffn_ratio * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, packing: Packing, bias: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: Particles, (T, C).
            packing: How they lie in the jets.
            bias: Additive mask, (B, H, N, N).

        Returns:
            Particles, (T, C).
        """
        x = x + self.attention(self.attention_norm(x), packing, bias)
        output: Tensor = x + self.ffn(self.ffn_norm(x))
        return output


class LegacyEncoder(nn.Module):
    """Encoder on normalised (pT, Δη, Δφ, E).

    Args:
        dim: Channels C.
        num_layers: Layers.
        num_heads: Heads H.
        pair_dims: Hidden widths of the pair network.
        ffn_ratio: Expansion.
        dropout: Dropout.
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        num_layers: int = 8,
        num_heads: int = 8,
        pair_dims: Sequence[int] = (64, 64, 64),
        ffn_ratio: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.in_linear, self.out_linear = EquiLinear(1, 1), EquiLinear(1, 1)
        self.project_in, self.project_out = nn.Linear(16, dim), nn.Linear(dim, 16)
        layers: list[nn.Module] = []
        for a, b in pairwise((4, *pair_dims, num_heads)):
            layers += [nn.Linear(a, b), nn.ReLU()]
        self.pair_network = nn.Sequential(*layers[:-1])
        self.blocks = nn.ModuleList(
            LegacyBlock(dim, num_heads, ffn_ratio=ffn_ratio, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, valid_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Encode jets.

        Args:
            features: Normalised (pT, Δη, Δφ, E), (B, N, 4).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Particles, (B, N, C), and 16 numbers for each, (B, N, 16), both zero in padded slots.
        """
        packing = Packing(valid_mask)
        mv = self.in_linear(F.pad(features, (0, 12))[..., None, :])[..., 0, :]
        x = packing.pack(self.project_in(mv))
        bias = self.pair_network(legacy_pair_features(features)).permute(0, 3, 1, 2)
        lowest = torch.finfo(bias.dtype).min / 2
        bias = bias.masked_fill(~valid_mask[:, None, None, :], lowest)
        for block in self.blocks:
            x = block(x, packing, bias)
        tokens = packing.unpack(self.norm(x)) * valid_mask[..., None]
        out = self.out_linear(self.project_out(tokens)[..., None, :])[..., 0, :]
        return tokens, out * valid_mask[..., None]


def legacy_pair_features(features: Tensor) -> Tensor:
    """Pair features of normalised particles.

    Args:
        features: Normalised (pT, Δη, Δφ, E), (B, N, 4).

    Returns:
        Δη, Δφ, ΔR, ln(|pTᵢ pTⱼ| + 10⁻⁸), (B, N, N, 4).
    """
    pt, eta, phi, _ = features.unbind(-1)
    deta = eta[:, :, None] - eta[:, None, :]
    dphi = wrap_phi(phi[:, :, None] - phi[:, None, :])
    log = (pt[:, :, None] * pt[:, None, :]).abs().add(_TINY).log()
    return torch.stack([deta, dphi, torch.sqrt(deta**2 + dphi**2 + _TINY**2), log], dim=-1)
