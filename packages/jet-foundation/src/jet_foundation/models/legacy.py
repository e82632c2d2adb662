r"""The encoder of the 2026 progress report, as it was: kept so that its numbers can be reproduced.

    (pT, Δη, Δφ, E) → first four of 16 components → EquiLinear → Linear → 8 pre-norm blocks → LayerNorm
                    → Linear → EquiLinear

The four numbers are normalised: ln(1 + pT), ln(1 + E) and Δη as z-scores of the report's data set, Δφ as it
is. So nothing is equivariant; use `LorentzParTEncoder` for physics. Pair features are Δη, wrapped Δφ, ΔR and
ln(|pTᵢ pTⱼ| + 10⁻⁸) of the normalised numbers. The encoder has 1,599,854 parameters, with the heads of
`legacy_heads` together 2,206,405.

Two defects of the report's program are not reproduced: every hidden particle is predicted by itself here,
told apart by its rank, and its pairs have no bias.

Dimensions: B jets, N particles, C channels, H heads.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jet_foundation.data.normalization import Normalization
from jet_foundation.models.attention import ParticleAttention
from jet_foundation.models.coordinates import Coordinates
from jet_foundation.models.encoder import JetEncoder, rank_encoding
from jet_foundation.models.equilinear import EquiLinear
from jet_foundation.models.packing import Packing
from jet_foundation.physics import fourvectors as fv

_TINY = 1e-8
# Mean and width of ln(1 + pT) and ln(1 + E), GeV, and width of Δη in the report's data set.
PT_MEAN, PT_STD, ETA_STD, ENERGY_MEAN, ENERGY_STD = 2.119, 1.055, 0.214, 2.411, 1.105
# Mean and width of the report's jet mass, GeV: energies of the laboratory, directions relative to the jet.
MASS_MEAN_GEV, MASS_STD_GEV = 593.0, 452.0
REAL_ABOVE = 0.1  # normalised pT above which a slot counts as a particle
_LOG_MAX = 9.0  # of ln(1 + pT) and ln(1 + E): keeps an untrained network from overflowing


class LegacyCoordinates(Coordinates):
    """Moves between four-vectors and the report's normalised numbers.

    Args:
        normalization: Of the features, which the report's networks do not read.
    """

    def features(self, p4: Tensor, features: Tensor, seen_mask: Tensor) -> Tensor:
        """Hand the features on; the encoder does not read them.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            seen_mask: True where a particle is seen, (B, N).

        Returns:
            The same features, zero where nothing is seen.
        """
        return features.masked_fill(~seen_mask[..., None], 0.0)

    def encode(self, p4: Tensor, valid_mask: Tensor, axis_mask: Tensor) -> Tensor:
        """Turn particles into normalised numbers.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            valid_mask: True where a particle is real, (B, N).
            axis_mask: True where a particle counts for the axis, (B, N).

        Returns:
            Normalised ln(1 + pT), Δη, Δφ in rad, normalised ln(1 + E), (B, N, 4), zero in padded slots.
        """
        axis = (p4.double() * axis_mask[..., None]).sum(dim=1, keepdim=True).to(p4.dtype)
        p4 = torch.where(valid_mask[..., None], p4, p4.new_tensor([1.0, 1.0, 0.0, 0.0]))  # has an azimuth
        columns = [
            (fv.pt(p4).log1p() - PT_MEAN) / PT_STD,
            (fv.eta(p4) - fv.eta(axis)) / ETA_STD,
            fv.wrap_phi(fv.phi(p4) - fv.phi(axis)),
            (p4[..., 0].log1p() - ENERGY_MEAN) / ENERGY_STD,
        ]
        return torch.stack(columns, dim=-1).masked_fill(~valid_mask[..., None], 0.0)

    def scales(self) -> Tensor:
        """Factors that normalised ln(1 + pT), Δη and ln(1 + E), (3,)."""
        return 1 / self.factor.new_tensor([PT_STD, ETA_STD, ENERGY_STD])

    def log_pt(self, value: Tensor) -> Tensor:
        """Undo the normalisation of ln(1 + pT).

        Args:
            value: Normalised ln(1 + pT), any shape.

        Returns:
            ln pT with pT in GeV, same shape.
        """
        return _positive(value, PT_MEAN, PT_STD).log()

    def log_energy(self, value: Tensor) -> Tensor:
        """Undo the normalisation of ln(1 + E).

        Args:
            value: Normalised ln(1 + E), any shape.

        Returns:
            ln E with E in GeV, same shape.
        """
        return _positive(value, ENERGY_MEAN, ENERGY_STD).log()

    def eta(self, value: Tensor, axis: Tensor) -> Tensor:
        """Turn the second number into the pseudorapidity.

        Args:
            value: Normalised Δη, (B, N).
            axis: Four-vectors of the axes, (B, 4) GeV.

        Returns:
            η, (B, N).
        """
        found: Tensor = fv.eta(axis)[:, None] + ETA_STD * value
        return found

    def decode(self, coordinates: Tensor, axis: Tensor) -> Tensor:
        """Turn normalised numbers into particles, with their own energy: nothing ties it to the momentum.

        Args:
            coordinates: Normalised ln(1 + pT), Δη, Δφ, normalised ln(1 + E), (B, N, 4).
            axis: Four-vectors of the axes, (B, 4) GeV.

        Returns:
            Four-vectors (E, px, py, pz), (B, N, 4) GeV.
        """
        pt = _positive(coordinates[..., 0], PT_MEAN, PT_STD)
        energy = _positive(coordinates[..., 3], ENERGY_MEAN, ENERGY_STD)
        eta = self.eta(coordinates[..., 1], axis).clamp(-6.0, 6.0)
        phi = coordinates[..., 2] + fv.phi(axis)[:, None]
        return torch.stack([energy, pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()], dim=-1)


def _positive(value: Tensor, mean: float, std: float) -> Tensor:
    """GeV from a z-score of ln(1 + GeV)."""
    return (value * std + mean).clamp(max=_LOG_MAX).expm1().clamp_min(_TINY)


def legacy_mass(p4: Tensor, valid_mask: Tensor) -> Tensor:
    """The report's jet mass: energies of the laboratory with directions relative to the jet.

    Args:
        p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
        valid_mask: True where a particle is real, (B, N).

    Returns:
        "Mass", (B,) GeV; mostly the energy of the jet.
    """
    p4 = (p4 * valid_mask[..., None]).double()
    axis = p4.sum(dim=1, keepdim=True)
    pt, dphi = fv.pt(p4), fv.phi(p4) - fv.phi(axis)
    deta = (fv.eta(p4) - fv.eta(axis)) * valid_mask
    moved = torch.stack([p4[..., 0], pt * dphi.cos(), pt * dphi.sin(), pt * deta.sinh()], dim=-1).sum(dim=1)
    found: Tensor = fv.mass(moved).float()
    return found


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

    def forward(self, x: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Apply the layer.

        Args:
            x: Particles, (T, C).
            packing: How they lie in the jets.
            bias: See `ParticleAttention`.

        Returns:
            Particles, (T, C).
        """
        x = x + self.attention(self.attention_norm(x), packing, bias)
        output: Tensor = x + self.ffn(self.ffn_norm(x))
        return output


class LegacyEncoder(JetEncoder):
    """Encoder on normalised (pT, Δη, Δφ, E).

    Args:
        dim: Channels C.
        num_layers: Layers.
        num_heads: Heads H.
        pair_dims: Hidden widths of the pair network.
        ffn_ratio: Expansion.
        dropout: Dropout.
        hidden_tokens: Whether particles can be hidden; the token stands in the place of the multivector.
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
        hidden_tokens: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # of `JetEncoder` only what it does, none of its parts
        self.dim = dim
        self.coordinates = LegacyCoordinates(Normalization.part("kin"))
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
        self.hidden_token = nn.Parameter(0.02 * torch.randn(16)) if hidden_tokens else None
        self._trained_parts: list[nn.Module] | None = None

    @property
    def is_equivariant(self) -> bool:
        """Whether there are 16 further numbers of each particle; they are not equivariant."""
        return True

    def freeze(self, num_layers: int) -> None:
        """Stop training all but the last layers and what follows them.

        Args:
            num_layers: Layers that are still trained; 0 freezes everything.
        """
        super().freeze(num_layers)
        if self._trained_parts:
            further = [self.project_out, self.out_linear]
            self._trained_parts += further
            for part in further:
                part.requires_grad_(True)

    def forward(
        self, p4: Tensor, features: Tensor | None, valid_mask: Tensor, hidden_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode jets.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Not used.
            valid_mask: True where a particle is real, (B, N).
            hidden_mask: True where a real particle is hidden from the network, (B, N).

        Returns:
            Particles, (B, N, C), and 16 numbers for each, (B, N, 16), both zero in padded slots.
        """
        visible = valid_mask if hidden_mask is None else valid_mask & ~hidden_mask
        numbers = self.coordinates.encode(p4, visible, visible)
        packing = Packing(valid_mask, by_length=False)
        mv = F.pad(numbers, (0, 12))
        marks = None
        if hidden_mask is not None:
            if self.hidden_token is None:
                raise ValueError("this encoder was built without hidden_tokens and cannot hide particles")
            mv = torch.where(visible[..., None], mv, self.hidden_token)
            marks = rank_encoding(mv.shape[1], self.dim, mv) * hidden_mask[..., None]
        x = self.project_in(self.in_linear(mv[..., None, :])[..., 0, :])
        x = packing.pack(x if marks is None else x + marks)
        both = (visible[:, :, None] & visible[:, None, :])[..., None]
        # Some runtimes drop the 10⁻⁸, and the logarithm of padding would be infinite.
        bias = self.pair_network(legacy_pair_features(numbers).masked_fill(~both, 0.0))
        bias = (bias * both).permute(0, 3, 1, 2)
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
    dphi = fv.wrap_phi(phi[:, :, None] - phi[:, None, :])
    log = (pt[:, :, None] * pt[:, None, :]).abs().add(_TINY).log()
    return torch.stack([deta, dphi, torch.sqrt(deta**2 + dphi**2 + _TINY**2), log], dim=-1)
