r"""Encoders of jets: the Particle Transformer and LorentzParT, equal but for how a particle is embedded.

    ParT         features → embedding                                  ┐  8 × particle attention
    LorentzParT  p4 → multivectors → EquiLinear → invariants, features ┘  with pairwise bias → LayerNorm

LorentzParT places the true (E, px, py, pz), divided by one global scale, in the vector components of a
multivector. A reference multivector per jet holds the sum of the visible particles, the direction of time and
the two beams (spurions, which break the symmetry exactly as a collider does). The network reads the invariant
products of particle and reference, so without spurions, without features and with pairs of kind `mass` its
output does not change under any Lorentz transformation of the jet; with the spurions it does not change when
they are transformed along.

Dimensions: B jets, N particles, T real particles of all jets, C channels, K multivector channels, F features.
"""

from collections.abc import Sequence
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from hep_shared.ops.linear import Linear
from jet_foundation.models.attention import ParticleAttentionBlock
from jet_foundation.models.equilinear import EquiLinear, embed_vector, inner_product
from jet_foundation.models.packing import Packing
from jet_foundation.models.pair_bias import Norm, PairBias, PairKind

Spurions = Literal["none", "time", "time_and_beam"]
SCALE_GEV = 20.0  # typical energy of a constituent; one scale for all components keeps the symmetry
# (E, px, py, pz) of the time direction and of the two beams.
_TIME, _BEAMS = (1.0, 0.0, 0.0, 0.0), ((1.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, -1.0))
_SMALLEST = 1e-3  # products below this are rounding noise of float32 four-vectors
_RANK_PERIODS = (2.0, 512.0)  # of the sinusoids that tell hidden particles apart


def signed_log(x: Tensor) -> Tensor:
    """Compress many orders of magnitude, keeping the sign.

    Args:
        x: Any tensor.

    Returns:
        asinh(x / 10⁻³): linear below, logarithmic above, same shape.
    """
    return torch.asinh(x / _SMALLEST)


def rank_encoding(num_particles: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of the place in the order of falling pT.

    Args:
        num_particles: Number of places N.
        dim: Length of the encoding, even.
        like: Tensor whose type and device are taken.

    Returns:
        Encoding, (N, dim).
    """
    low, high = _RANK_PERIODS
    exponent = torch.arange(dim // 2, dtype=like.dtype, device=like.device) / max(dim // 2 - 1, 1)
    rank = torch.arange(num_particles, dtype=like.dtype, device=like.device)
    phase = rank[:, None] * (2 * torch.pi / (low * (high / low) ** exponent))
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


class Embedding(nn.Module):
    """Batch normalisation over real particles, then layers of norm, linear and GELU.

    Args:
        num_inputs: Numbers per particle.
        dims: Widths of the layers.
    """

    def __init__(self, num_inputs: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.input_norm = nn.BatchNorm1d(num_inputs)
        layers: list[nn.Module] = []
        for width in dims:
            layers += [nn.LayerNorm(num_inputs), Linear(num_inputs, width), nn.GELU()]
            num_inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Embed particles.

        Args:
            x: Numbers of the particles, (T, F).

        Returns:
            Embeddings, (T, dims[-1]).
        """
        output: Tensor = self.layers(self.input_norm(x))
        return output


class JetEncoder(nn.Module):
    """What both encoders share; use `ParTEncoder` or `LorentzParTEncoder`.

    Args:
        num_inputs: Numbers per particle that the embedding reads.
        dim: Channels C of a particle.
        num_layers: Layers of particle attention.
        num_heads: Heads.
        embed_dims: Hidden widths of the embedding, whose last width is dim.
        pair_dims: Hidden widths of the pair network.
        pair_norm: See `PairBias`.
        pair_kind: See `PairBias`.
        ffn_ratio: Expansion of the feed-forward parts.
        dropout: Dropout of the layers.
        hidden_tokens: Whether particles can be hidden, for masked-particle training.
    """

    def __init__(
        self,
        num_inputs: int,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        embed_dims: Sequence[int],
        pair_dims: Sequence[int],
        pair_norm: Norm,
        pair_kind: PairKind,
        ffn_ratio: int,
        dropout: float,
        hidden_tokens: bool,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = Embedding(num_inputs, (*embed_dims, dim))
        self.pair_bias = PairBias(num_heads, dims=pair_dims, norm=pair_norm, kind=pair_kind)
        self.blocks = nn.ModuleList(
            ParticleAttentionBlock(dim, num_heads, ffn_ratio=ffn_ratio, dropout=dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.hidden_token = nn.Parameter(0.02 * torch.randn(dim)) if hidden_tokens else None
        self._trained_parts: list[nn.Module] | None = None  # None trains everything

    @property
    def is_equivariant(self) -> bool:
        """Whether the encoder also gives a multivector per particle."""
        return False

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the encoder is trained."""
        return self._trained_parts == []

    def freeze(self, num_layers: int) -> None:
        """Stop training all but the last layers and the norm behind them.

        What is frozen stays in evaluation mode: no dropout, and running statistics that do not move.

        Args:
            num_layers: Layers that are still trained; 0 freezes the norm too.
        """
        self.requires_grad_(False)
        first = max(len(self.blocks) - num_layers, 0)
        self._trained_parts = [*self.blocks[first:], self.norm] if num_layers else []
        for part in self._trained_parts:
            part.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what is trained.

        Args:
            mode: Training or evaluation.

        Returns:
            The encoder.
        """
        super().train(mode and self._trained_parts is None)
        for part in self._trained_parts or []:
            part.train(mode)
        self.training = mode
        return self

    def tokens(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Encode jets, without gradients when nothing of the encoder is trained.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Particles, (B, N, C); zero in padded slots.
        """
        if self.is_frozen and torch.is_grad_enabled():
            with torch.no_grad():
                encoded = self(p4, features, valid_mask)
        else:
            encoded = self(p4, features, valid_mask)
        tokens: Tensor = encoded[0] if isinstance(encoded, tuple) else encoded
        return tokens

    def _encode(self, inputs: Tensor, p4: Tensor, valid_mask: Tensor, visible: Tensor) -> Tensor:
        """Embed the visible particles, mark the hidden ones, and let all attend to each other."""
        packing = Packing(visible)
        tokens = packing.unpack(self.embedding(packing.pack(inputs)))
        if visible is not valid_mask:
            if self.hidden_token is None:
                raise ValueError("this encoder was built without hidden_tokens and cannot hide particles")
            marks = self.hidden_token + rank_encoding(tokens.shape[1], self.dim, tokens)
            tokens = torch.where(visible[..., None], tokens, marks)
            packing = Packing(valid_mask)
        bias = self.pair_bias(p4, valid_mask, visible, packing)
        x = packing.pack(tokens)
        for block in self.blocks:
            x = block(x, packing, bias)
        return packing.unpack(self.norm(x)) * valid_mask[..., None]


def _visible(valid_mask: Tensor, hidden_mask: Tensor | None) -> Tensor:
    return valid_mask if hidden_mask is None else valid_mask & ~hidden_mask


class ParTEncoder(JetEncoder):
    """Encoder of the Particle Transformer.

    Args:
        num_features: Features F per particle.
        dim: See `JetEncoder`, as all that follow.
        num_layers: Layers.
        num_heads: Heads.
        embed_dims: Hidden widths of the embedding.
        pair_dims: Hidden widths of the pair network.
        pair_norm: See `PairBias`.
        pair_kind: See `PairBias`.
        ffn_ratio: Expansion.
        dropout: Dropout.
        hidden_tokens: Whether particles can be hidden.
    """

    def __init__(
        self,
        num_features: int,
        *,
        dim: int = 128,
        num_layers: int = 8,
        num_heads: int = 8,
        embed_dims: Sequence[int] = (128, 512),
        pair_dims: Sequence[int] = (64, 64, 64),
        pair_norm: Norm = "batch",
        pair_kind: PairKind = "exact",
        ffn_ratio: int = 4,
        dropout: float = 0.1,
        hidden_tokens: bool = False,
    ) -> None:
        super().__init__(
            num_features,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            embed_dims=embed_dims,
            pair_dims=pair_dims,
            pair_norm=pair_norm,
            pair_kind=pair_kind,
            ffn_ratio=ffn_ratio,
            dropout=dropout,
            hidden_tokens=hidden_tokens,
        )

    def forward(
        self, p4: Tensor, features: Tensor, valid_mask: Tensor, hidden_mask: Tensor | None = None
    ) -> Tensor:
        """Encode jets.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            hidden_mask: True where a real particle is hidden from the network, (B, N).

        Returns:
            Particles, (B, N, C); zero in padded slots.
        """
        return self._encode(features, p4, valid_mask, _visible(valid_mask, hidden_mask))


class LorentzParTEncoder(JetEncoder):
    """Particle Transformer on Lorentz-equivariant multivectors.

    Args:
        num_features: Features F per particle besides the four-vector; 0 for none.
        mv_channels: Multivector channels K.
        spurions: Directions given to the network beside the jet: `none`, `time`, or `time_and_beam`.
        scale_gev: Global scale of the four-vectors.
        dim: See `JetEncoder`, as all that follow.
        num_layers: Layers.
        num_heads: Heads.
        embed_dims: Hidden widths of the embedding.
        pair_dims: Hidden widths of the pair network.
        pair_norm: See `PairBias`.
        pair_kind: See `PairBias`.
        ffn_ratio: Expansion.
        dropout: Dropout.
        hidden_tokens: Whether particles can be hidden.

    Raises:
        ValueError: `spurions` has an unknown value.
    """

    spurions: Tensor

    def __init__(
        self,
        num_features: int = 0,
        *,
        mv_channels: int = 16,
        spurions: Spurions = "time_and_beam",
        scale_gev: float = SCALE_GEV,
        dim: int = 128,
        num_layers: int = 8,
        num_heads: int = 8,
        embed_dims: Sequence[int] = (128, 512),
        pair_dims: Sequence[int] = (64, 64, 64),
        pair_norm: Norm = "batch",
        pair_kind: PairKind = "exact",
        ffn_ratio: int = 4,
        dropout: float = 0.1,
        hidden_tokens: bool = False,
    ) -> None:
        if spurions not in get_args(Spurions):
            raise ValueError(f"spurions is {spurions!r}; use one of {', '.join(get_args(Spurions))}")
        vectors = {"none": (), "time": (_TIME,), "time_and_beam": (_TIME, *_BEAMS)}[spurions]
        super().__init__(
            mv_channels + 1 + len(vectors) + num_features,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            embed_dims=embed_dims,
            pair_dims=pair_dims,
            pair_norm=pair_norm,
            pair_kind=pair_kind,
            ffn_ratio=ffn_ratio,
            dropout=dropout,
            hidden_tokens=hidden_tokens,
        )
        self.num_features, self.scale_gev = num_features, scale_gev
        self.register_buffer("spurions", torch.tensor(vectors).reshape(-1, 4), persistent=False)
        self.particle_linear = EquiLinear(1, mv_channels)
        self.reference_linear = EquiLinear(1 + len(vectors), mv_channels)
        self.gate = Linear(dim, 2 * mv_channels)
        self.out_linear = EquiLinear(2 * mv_channels, 1)

    @property
    def is_equivariant(self) -> bool:
        """Whether the encoder also gives a multivector per particle."""
        return True

    def forward(
        self,
        p4: Tensor,
        features: Tensor | None,
        valid_mask: Tensor,
        hidden_mask: Tensor | None = None,
        spurions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode jets.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F); None for F = 0.
            valid_mask: True where a particle is real, (B, N).
            hidden_mask: True where a real particle is hidden from the network, (B, N).
            spurions: Replaces the spurion four-vectors, (S, 4), to transform them along with the jet.

        Returns:
            Particles, (B, N, C), invariant, zero in padded slots; and one equivariant multivector per
            particle, (B, N, 16), in units of `scale_gev`, zero in padded slots.
        """
        visible = _visible(valid_mask, hidden_mask)
        spurions = self.spurions if spurions is None else spurions
        # Products of almost parallel momenta cancel to a part in 10⁵: double precision keeps them exact, and
        # the sum over a jet independent of the order of its particles.
        vectors = p4.masked_fill(~visible[..., None], 0.0).double() / self.scale_gev
        jet = vectors.sum(dim=1, keepdim=True)  # (B, 1, 4)
        reference = torch.cat([jet, spurions.to(jet.dtype).expand(jet.shape[0], -1, -1)], dim=1)

        particles = self.particle_linear(embed_vector(vectors)[..., None, :])  # (B, N, K, 16)
        references = self.reference_linear(embed_vector(reference))[:, None]  # (B, 1, K, 16)
        learned = inner_product(particles, references)
        plain = inner_product(embed_vector(vectors)[:, :, None], embed_vector(reference)[:, None])
        inputs = signed_log(torch.cat([learned, plain], dim=-1).to(p4.dtype))
        if self.num_features:
            assert features is not None
            inputs = torch.cat([inputs, features], dim=-1)
        tokens = self._encode(inputs, p4, valid_mask, visible)

        gates = self.gate(tokens)[..., None]
        channels = torch.cat([particles, references.expand_as(particles)], dim=2).to(gates.dtype)
        vectors_out = self.out_linear(gates * channels)[:, :, 0]
        return tokens, vectors_out * valid_mask[..., None]


def num_parameters(model: nn.Module) -> int:
    """Count what is trained.

    Args:
        model: Any module.

    Returns:
        Number of parameters.
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
