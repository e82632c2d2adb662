r"""NormFormer: a pre-norm transformer with extra normalisations and a learnt gain per head.

    x ← x + LN(W_o concat_h(γ_h softmax(q_h k_hᵀ / √d_h + b_h) v_h)),     q, k, v = W LN(x)
    x ← x + W_2 GELU(LN(W_1 LN(x)))

S. Shleifer et al., arXiv:2110.09456, with the second normalisation in front of the GELU, where the reference
implementation of this study has it. b_h is 0, or a bias computed from pairs of objects; keys that are padding
get no weight. Positions are those of A. Vaswani et al., arXiv:1706.03762, section 3.5.

B events, T tokens, C channels, H heads.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hep_shared.ops.linear import Linear

Pooling = Literal["cls", "mean", "max"]


def sinusoidal_positions(num_tokens: int, dim: int) -> Tensor:
    """Table of positions.

    Args:
        num_tokens: Number of positions T.
        dim: Number of channels C, even.

    Returns:
        sin in the even, cos in the odd channels, (T, C).
    """
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = torch.arange(num_tokens)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(num_tokens, dim)


def pool(tokens: Tensor, valid_mask: Tensor, how: Pooling) -> Tensor:
    """Reduce the tokens of an event to one vector; padding does not count.

    Args:
        tokens: (B, T, C).
        valid_mask: True where there is a token, (B, T).
        how: `cls` takes the first token.

    Returns:
        (B, C).
    """
    if how == "cls":
        return tokens[:, 0]
    mask = valid_mask[..., None]
    if how == "mean":
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
    return tokens.masked_fill(~mask, torch.finfo(tokens.dtype).min).amax(1)


class NormFormerBlock(nn.Module):
    """Attention and feed-forward network with their residuals.

    Args:
        dim: Channels C.
        num_heads: Heads H, a divisor of C.
        mlp_dim: Hidden width of the feed-forward network.
        dropout: Probability of dropping attention weights, hidden units and branch outputs.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm_attention = nn.LayerNorm(dim)
        # A bias of the keys cancels in the softmax, and one of the values is already in `out`.
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(num_heads, 1, dim // num_heads))
        self.head_scale = nn.Parameter(torch.ones(num_heads))
        self.out = Linear(dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        self.norm_mlp = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, mlp_dim)
        self.norm_hidden = nn.LayerNorm(mlp_dim)
        self.fc2 = Linear(mlp_dim, dim)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, T, C).
            bias: What is added to the attention logits, (B, 1 or H, 1 or T, T).

        Returns:
            (B, T, C).
        """
        num_events, num_tokens, dim = x.shape
        qkv = self.qkv(self.norm_attention(x)).reshape(num_events, num_tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        # For T near 20 the products are small: written out they are faster than the fused attention.
        logits = ((query + self.query_bias) * (dim // self.num_heads) ** -0.5) @ key.transpose(-2, -1) + bias
        weights = F.dropout(logits.softmax(-1), self.dropout, self.training)
        heads = (weights @ value) * self.head_scale[:, None, None]
        mixed = self.norm_out(self.out(heads.transpose(1, 2).reshape(num_events, num_tokens, dim)))
        x = x + F.dropout(mixed, self.dropout, self.training)
        hidden = F.gelu(self.norm_hidden(self.fc1(self.norm_mlp(x))))
        hidden = F.dropout(hidden, self.dropout, self.training)
        return x + F.dropout(self.fc2(hidden), self.dropout, self.training)


class NormFormer(nn.Module):
    """A stack of blocks with a final normalisation.

    Args:
        dim: Channels C.
        depth: Number of blocks.
        num_heads: Heads H.
        mlp_dim: Hidden width of the feed-forward networks.
        dropout: Dropout of the blocks.
    """

    def __init__(self, *, dim: int, depth: int, num_heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(NormFormerBlock(dim, num_heads, mlp_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, valid_mask: Tensor, pair_bias: Tensor | None = None) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, T, C).
            valid_mask: True where there is a token, (B, T).
            pair_bias: Bias of each head and pair, (B, H, T, T), or None.

        Returns:
            (B, T, C).
        """
        # A finite number instead of -inf: an event without any token must not become NaN.
        lowest = torch.finfo(x.dtype).min / 2
        bias = torch.zeros_like(valid_mask, dtype=x.dtype).masked_fill(~valid_mask, lowest)[:, None, None]
        if pair_bias is not None:
            bias = bias + pair_bias
        for block in self.blocks:
            x = block(x, bias)
        out: Tensor = self.norm(x)
        return out
