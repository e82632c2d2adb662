r"""Particle attention: pre-norm transformer blocks whose attention takes a pairwise bias.

    attention = softmax(q kᵀ / √d + bias) v
    block     = x + scaled attention(norm x),  then  w ⊙ x + FFN(norm x)

with the extra norms and scales of the Particle Transformer (arXiv:2202.03772, Fig. 3b; S. Shleifer et al.,
"NormFormer", arXiv:2110.09456).

Dimensions: B jets, N particles, T real particles of all jets, C channels, H heads, D = C / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hep_shared.ops.linear import Linear, linear
from jet_foundation.models.dropout import Dropout, dropout
from jet_foundation.models.jet_attention import attend_in_groups, group_weights
from jet_foundation.models.packing import Packing


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, drop: float = 0.0) -> Tensor:
    """Attention with an additive mask.

    Args:
        q: Queries, (B, H, M, D).
        k: Keys, (B, H, N, D).
        v: Values, (B, H, N, D).
        bias: Added before the softmax, broadcastable to (B, H, M, N).
        drop: Probability of dropping an attention weight.

    Returns:
        Weighted values, (B, H, M, D).
    """
    bias = bias.to(q.dtype)
    if torch.compiler.is_exporting():  # plain operators, which every runtime knows
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias, dim=-1) @ v
    if q.device.type == "cpu" and bias.requires_grad and not torch.compiler.is_compiling():
        # The fused kernel has no gradient for the mask; this form adds it inside the matrix product.
        batch, heads, queries, _ = q.shape
        flat = bias.expand(batch, heads, queries, -1).reshape(-1, queries, bias.shape[-1])
        keys = k.flatten(0, 1).transpose(1, 2)
        scores = torch.baddbmm(flat, q.flatten(0, 1), keys, alpha=q.shape[-1] ** -0.5)
        weights = dropout(torch.softmax(scores, dim=-1), drop, training=True)
        return torch.unflatten(weights @ v.flatten(0, 1), 0, (batch, heads))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)


class ParticleAttention(nn.Module):
    """Multi-head self-attention with a pairwise bias.

    Args:
        dim: Channels C.
        num_heads: Heads H.
        dropout: Dropout of the attention weights.

    Raises:
        ValueError: dim is not a multiple of num_heads.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim = {dim} must be a multiple of num_heads = {num_heads}")
        self.num_heads, self.dropout = num_heads, dropout
        self.in_proj = Linear(dim, 3 * dim)
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def _heads(self, x: Tensor, packing: Packing) -> tuple[Tensor, Tensor, Tensor]:
        projected = torch.unflatten(packing.unpack(self.in_proj(x)), -1, (3, self.num_heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Let the particles of each jet attend to each other.

        Args:
            x: Particles, (T, C).
            packing: How they lie in the jets.
            bias: Additive mask, (B, H, N, N), or (H Σ n²) where the packing has groups of jets, whose lists
                have no padding to mask, so that None stands for no bias.

        Returns:
            Particles, (T, C).
        """
        drop = self.dropout if self.training else 0.0
        if packing.groups is not None:
            mixed = attend_in_groups(self.in_proj(x), bias, packing.groups, self.num_heads, drop=drop)
        else:
            assert bias is not None
            mixed = packing.pack(attend(*self._heads(x, packing), bias, drop).transpose(1, 2).flatten(2))
        output: Tensor = self.out_proj(mixed)
        return output

    def attention_map(self, x: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Attention weights, for pictures.

        Args:
            x: Particles, (T, C).
            packing: How they lie in the jets, which have one length if it has groups of them.
            bias: As in `forward`.

        Returns:
            Weights of query and key, (B, H, N, N); rows of padded queries are meaningless.
        """
        if packing.groups is not None:
            (group,) = packing.groups
            weights = group_weights(self.in_proj(x), bias, group, self.num_heads)
            return torch.unflatten(weights, 0, (-1, self.num_heads))
        assert bias is not None
        q, k, _ = self._heads(x, packing)
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias, dim=-1)


class FeedForward(nn.Module):
    """Norm, expansion, GELU, norm, contraction.

    Args:
        dim: Channels C.
        ratio: Expansion.
        dropout: Dropout after the activation and at the end.
    """

    def __init__(self, dim: int, *, ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(dim)
        self.expand = Linear(dim, ratio * dim)
        self.act_dropout = Dropout(dropout)
        self.post_norm = nn.LayerNorm(ratio * dim)
        self.contract = Linear(ratio * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform particles one by one.

        Args:
            x: Particles, (..., C).

        Returns:
            Particles, (..., C).
        """
        hidden = self.act_dropout(F.gelu(self.expand(self.pre_norm(x))))
        output: Tensor = self.dropout(self.contract(self.post_norm(hidden)))
        return output


class HeadScale(nn.Module):
    """One learned factor per head, and the order (D, H) of channels that the Particle Transformer ends with.

    Args:
        num_heads: Heads H.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the heads.

        Args:
            x: Attention output, (..., C), channels ordered (H, D).

        Returns:
            Scaled, (..., C), channels ordered (D, H).
        """
        heads = torch.unflatten(x, -1, (len(self.weight), -1)) * self.weight[:, None]
        return heads.transpose(-1, -2).flatten(-2)


class ParticleAttentionBlock(nn.Module):
    """One layer of the encoder.

    Args:
        dim: Channels C.
        num_heads: Heads H.
        ffn_ratio: Expansion of the feed-forward part.
        dropout: Dropout of attention weights, activations and both branches.
    """

    def __init__(self, dim: int, num_heads: int, *, ffn_ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(dim)
        self.attention = ParticleAttention(dim, num_heads, dropout=dropout)
        self.head_scale = HeadScale(num_heads)
        self.post_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.residual_scale = nn.Parameter(torch.ones(dim))
        self.feed_forward = FeedForward(dim, ratio=ffn_ratio, dropout=dropout)

    def forward(self, x: Tensor, packing: Packing, bias: Tensor | None) -> Tensor:
        """Apply the layer.

        Args:
            x: Particles, (T, C).
            packing: How they lie in the jets.
            bias: See `ParticleAttention`.

        Returns:
            Particles, (T, C).
        """
        mixed = self.head_scale(self.attention(self.pre_norm(x), packing, bias))
        x = x + self.dropout(self.post_norm(mixed))
        output: Tensor = self.residual_scale * x + self.feed_forward(x)
        return output


class ClassAttentionBlock(nn.Module):
    """One layer that lets a class token read the particles (H. Touvron et al., arXiv:2103.17239).

    Args:
        dim: Channels C.
        num_heads: Heads H.
        ffn_ratio: Expansion of the feed-forward part.
        dropout: As in `ParticleAttentionBlock`; the Particle Transformer uses none here.
    """

    def __init__(self, dim: int, num_heads: int, *, ffn_ratio: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(dim)
        self.attention = ParticleAttention(dim, num_heads, dropout=dropout)
        self.head_scale = HeadScale(num_heads)
        self.post_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.residual_scale = nn.Parameter(torch.ones(dim))
        self.feed_forward = FeedForward(dim, ratio=ffn_ratio, dropout=dropout)

    def forward(self, token: Tensor, x: Tensor, key_bias: Tensor) -> Tensor:
        """Update the class token.

        Args:
            token: Class token, (B, 1, C).
            x: Particles, (B, N, C).
            key_bias: Added to the scores of the token and the particles, (B, 1, 1, 1 + N).

        Returns:
            Class token, (B, 1, C).
        """
        everything = self.pre_norm(torch.cat([token, x], dim=1))
        project, heads, dim = self.attention.in_proj, self.attention.num_heads, x.shape[-1]
        q = linear(token, project.weight[:dim], project.bias[:dim])
        k, v = linear(everything, project.weight[dim:], project.bias[dim:]).chunk(2, dim=-1)
        q, k, v = (torch.unflatten(part, -1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = attend(q, k, v, key_bias, self.attention.dropout if self.training else 0.0)
        mixed = self.head_scale(self.attention.out_proj(mixed.transpose(1, 2).flatten(2)))
        token = token + self.dropout(self.post_norm(mixed))
        output: Tensor = self.residual_scale * token + self.feed_forward(token)
        return output


class ClassAttention(nn.Module):
    """Summary of a jet by a learned token.

    Args:
        dim: Channels C.
        num_heads: Heads H.
        num_layers: Layers; the Particle Transformer has 2.
        dropout: See `ClassAttentionBlock`.
    """

    def __init__(self, dim: int, num_heads: int, *, num_layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        nn.init.trunc_normal_(self.token, std=0.02)
        self.blocks = nn.ModuleList(
            ClassAttentionBlock(dim, num_heads, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, valid_mask: Tensor) -> Tensor:
        """Summarise jets.

        Args:
            x: Particles, (B, N, C).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            One vector per jet, (B, C).
        """
        token = self.token.expand(x.shape[0], -1, -1)
        key_bias = x.new_zeros(valid_mask.shape).masked_fill(~valid_mask, torch.finfo(x.dtype).min / 2)
        key_bias = F.pad(key_bias, (1, 0))[:, None, None, :]
        for block in self.blocks:
            token = block(token, x, key_bias)
        output: Tensor = self.norm(token[:, 0])
        return output
