r"""How the tokens learn where they are.

    sinusoidal  p[t, 2i] = sin(t / 10000^(2i/d)),  p[t, 2i+1] = cos(t / 10000^(2i/d)), t the token's number
    geometric   sines and cosines of the mean sensor position (x, y, z), with 2^k π / R_outer as frequencies
    face_type   geometric, plus one learned vector for every kind of face (MPPC, outer, ends, hexagons)
    rotary      queries and keys rotated by angles proportional to the position, so that attention sees
                differences of positions only

Dimensions: B events, T tokens, H heads, D length of a head.

References:
    Vaswani et al., Attention is all you need, arXiv:1706.03762.
    Su et al., RoFormer, arXiv:2104.09864.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hep_shared.ops.linear import Linear, linear
from megii_xec.physics.geometry import R_OUTER_CM, sensor_positions

# Faces of one kind share a learned vector.
KIND_OF_FACE = {
    "inner": 0, "us": 1, "ds": 1, "outer": 2, "center": 2, "top": 3, "bottom": 3
}  # fmt: skip


def token_centres(sensors: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """Return where tokens are.

    Args:
        sensors: Identifiers of the sensors behind each token.

    Returns:
        Mean position, shape (T, 3), in units of the outer radius.
    """
    return np.stack([sensor_positions()[ids].mean(axis=0) for ids in sensors]) / R_OUTER_CM


def geometric_positions(centres: NDArray[np.float64], dim: int) -> Tensor:
    """Encode positions by sines and cosines.

    Args:
        centres: Positions of the tokens, shape (T, 3).
        dim: Length of the encoding.

    Returns:
        Encoding, shape (1, T, dim).
    """
    frequencies = np.pi * 2.0 ** np.linspace(0, 6, -(-dim // 6))
    phase = (centres[:, :, None] * frequencies).reshape(len(centres), -1)
    encoding = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)[:, :dim]
    return torch.from_numpy(encoding.astype(np.float32))[None]


def sinusoidal_positions(num_tokens: int, dim: int) -> Tensor:
    """Encode the numbers of the tokens, shape (1, T, dim)."""
    phase = np.arange(num_tokens)[:, None] / 10_000.0 ** (2 * (np.arange(dim) // 2) / dim)
    encoding = np.where(np.arange(dim) % 2 == 0, np.sin(phase), np.cos(phase))
    return torch.from_numpy(encoding.astype(np.float32))[None]


def rotary_angles(centres: NDArray[np.float64], head_dim: int) -> Tensor:
    """Angles by which pairs of a head's components are rotated.

    The pairs take the three coordinates in turn, each with frequencies from π / 2 to 8 π.

    Args:
        centres: Positions of the tokens, shape (T, 3).
        head_dim: Length of a head D, even.

    Returns:
        Angles, shape (T, D / 2), rad.
    """
    pair = np.arange(head_dim // 2)
    frequencies = np.pi * 2.0 ** np.linspace(-1, 3, max(head_dim // 2, 1))
    return torch.from_numpy((centres[:, pair % 3] * frequencies).astype(np.float32))


class EncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer` with GELU, its names and its post-norm, with products of `hep_shared`.

    Args:
        dim: Length of a token.
        num_heads: Heads H.
        ffn_dim: Hidden width.
        dropout: Dropout.
    """

    def __init__(self, dim: int, num_heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, dropout=dropout, batch_first=True)
        self.linear1, self.linear2 = Linear(dim, ffn_dim), Linear(ffn_dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: Tokens, shape (B, T, dim).

        Returns:
            Tokens, shape (B, T, dim).
        """
        attention = self.self_attn
        projected = linear(x, attention.in_proj_weight, attention.in_proj_bias)
        parts = torch.unflatten(projected, -1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        attended = F.scaled_dot_product_attention(
            query, key, value, dropout_p=attention.dropout if self.training else 0.0
        )
        mixed = linear(
            attended.transpose(1, 2).flatten(2), attention.out_proj.weight, attention.out_proj.bias
        )
        x = self.norm1(x + self.drop(mixed))
        hidden = self.drop(F.gelu(self.linear1(x)))
        y: Tensor = self.norm2(x + self.drop(self.linear2(hidden)))
        return y


class RotaryEncoderLayer(nn.Module):
    """Post-norm transformer layer whose attention is rotated by the tokens' positions.

    Args:
        dim: Length of a token.
        num_heads: Heads H.
        ffn_dim: Hidden width.
        dropout: Dropout.
        centres: Positions of the tokens, shape (T, 3).

    Raises:
        ValueError: The length of a head is odd.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(
        self, dim: int, num_heads: int, ffn_dim: int, dropout: float, centres: NDArray[np.float64]
    ) -> None:
        super().__init__()
        if dim // num_heads % 2:
            raise ValueError(f"rotary positions need heads of even length, not {dim} / {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = nn.Sequential(Linear(dim, ffn_dim), nn.GELU(), nn.Dropout(dropout), Linear(ffn_dim, dim))
        self.drop = nn.Dropout(dropout)
        angles = rotary_angles(centres, dim // num_heads)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def _rotate(self, x: Tensor) -> Tensor:
        """Rotate pairs of components, shape (B, H, T, D) to the same."""
        first, second = x.chunk(2, dim=-1)
        return torch.cat(
            [first * self.cosine - second * self.sine, first * self.sine + second * self.cosine], dim=-1
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: Tokens, shape (B, T, dim).

        Returns:
            Tokens, shape (B, T, dim).
        """
        parts = torch.unflatten(self.project_in(x), -1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        attended = F.scaled_dot_product_attention(
            self._rotate(query), self._rotate(key), value, dropout_p=self.dropout if self.training else 0.0
        )
        x = self.norm1(x + self.drop(self.project_out(attended.transpose(1, 2).flatten(2))))
        y: Tensor = self.norm2(x + self.drop(self.ffn(x)))
        return y
