r"""Attention among the particles of each jet, jets of one length at a time, that keeps no attention weights.

    S = q kᵀ / √d + b        P = softmax S        O = (M ⊙ P) v

with M zero where dropout takes a weight away and 1 / (1 − p) elsewhere. The backward pass computes P again
from q, k and b, which are small beside it, and takes the sum in the derivative of the softmax from O (T. Dao
et al., "FlashAttention", arXiv:2205.14135, Appendix B.2):

    dS = P ⊙ (M ⊙ (dO vᵀ) − Σ_d dO ⊙ O)
    dq = dS k / √d,    dk = dSᵀ q / √d,    dv = (M ⊙ P)ᵀ dO,    db = dS

Dimensions: T particles of all jets, G jets of one length n, H heads, C channels, d = C / H.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jet_foundation.models.dropout import draw_kept
from jet_foundation.models.packing import Group

Groups = tuple[Group, ...]


def attend_in_groups(
    projected: Tensor, bias: Tensor | None, groups: Groups, num_heads: int, *, drop: float = 0.0
) -> Tensor:
    """Let the particles of each jet attend to each other; differentiable once.

    Args:
        projected: Queries, keys and values of the listed particles, (T, 3 C).
        bias: Added before the softmax, a list of pairs as `Packing` orders it, (H Σ n²); None adds nothing.
        groups: Jets of each length.
        num_heads: Heads H.
        drop: Probability p of dropping an attention weight.

    Returns:
        Weighted values, (T, C).
    """
    bias = None if bias is None else bias.to(projected.dtype)
    with torch.autocast(projected.device.type, enabled=False):
        return cast(Tensor, _AttendInGroups.apply(projected, bias, groups, num_heads, drop))


def group_weights(projected: Tensor, bias: Tensor | None, group: Group, num_heads: int) -> Tensor:
    """Attention weights of the jets of one length.

    Args:
        projected: See `attend_in_groups`.
        bias: See `attend_in_groups`.
        group: The jets.
        num_heads: Heads H.

    Returns:
        Weights P of query and key, (G H, n, n).
    """
    q, k, _ = _heads(projected, group, num_heads, 3)
    return _weights(q, k, bias, group)


class _AttendInGroups(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, bias: Tensor | None, groups: Groups, num_heads: int, drop: float
    ) -> Tensor:
        output = projected.new_empty(len(projected), projected.shape[1] // 3)
        num_pairs = groups[-1].pairs.stop * num_heads if groups else 0
        kept, scale = draw_kept(num_pairs, drop) if drop else (None, 1.0)
        for group in groups:
            q, k, v = _heads(projected, group, num_heads, 3)
            weights = _weights(q, k, bias, group)
            if kept is not None:
                weights.mul_(_pairs(kept, group, weights))
            _set_heads(output, group, num_heads, torch.bmm(weights, v))
        if kept is not None:
            output *= scale
        ctx.save_for_backward(projected, bias, kept, output)
        ctx.options = groups, num_heads, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        projected, bias, kept, output = ctx.saved_tensors
        groups, num_heads, scale = ctx.options
        grad_projected, grad_bias = (
            torch.empty_like(projected),
            None if bias is None else torch.empty_like(bias),
        )
        sums = (grad * output).unflatten(1, (num_heads, -1)).sum(dim=-1)
        grad = grad * scale
        for group in groups:
            q, k, v = _heads(projected, group, num_heads, 3)
            (g,) = _heads(grad, group, num_heads, 1)
            weights = _weights(q, k, bias, group)
            change = torch.bmm(g, v.transpose(1, 2))
            if kept is not None:
                change.mul_(_pairs(kept, group, change))
            change.sub_(_heads(sums, group, num_heads, 1)[0]).mul_(weights)
            if kept is not None:
                weights.mul_(_pairs(kept, group, weights))
            if grad_bias is not None:
                _pairs(grad_bias, group, change).copy_(change)
            parts = q.new_empty(3, *q.shape)
            torch.bmm(change, k, out=parts[0])
            torch.bmm(change.transpose(1, 2), q, out=parts[1])
            torch.bmm(weights.transpose(1, 2), g, out=parts[2])
            parts[:2] *= q.shape[-1] ** -0.5
            _set_heads(grad_projected, group, num_heads, parts)
        return grad_projected, grad_bias, None, None, None


def _heads(x: Tensor, group: Group, num_heads: int, num_parts: int) -> tuple[Tensor, ...]:
    """Particles of a group in (T, parts H d), as a matrix for each jet and head, parts times (G H, n, d)."""
    parts = x[group.particles].view(group.num_jets, group.length, num_parts, num_heads, -1)
    return parts.permute(2, 0, 3, 1, 4).reshape(num_parts, -1, group.length, parts.shape[-1]).unbind()


def _set_heads(x: Tensor, group: Group, num_heads: int, parts: Tensor) -> None:
    """The opposite of `_heads`, in place; parts (..., G H, n, d)."""
    into = x[group.particles].view(group.num_jets, group.length, -1, num_heads, parts.shape[-1])
    into.copy_(
        parts.view(-1, group.num_jets, num_heads, group.length, parts.shape[-1]).permute(1, 3, 0, 2, 4)
    )


def _pairs(x: Tensor, group: Group, like: Tensor) -> Tensor:
    """Pairs of a group, as a matrix for each jet and head, (G H, n, n)."""
    num_heads = len(like) // group.num_jets
    return x[group.pairs.start * num_heads : group.pairs.stop * num_heads].view_as(like)


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, group: Group) -> Tensor:
    """Softmax of the scores, (G H, n, n)."""
    keys, scale = k.transpose(1, 2), q.shape[-1] ** -0.5
    if bias is None:
        return torch.bmm(q * scale, keys).softmax(dim=-1)
    scores = bias.new_empty(len(q), group.length, group.length)
    return torch.baddbmm(_pairs(bias, group, scores), q, keys, alpha=scale).softmax(dim=-1)
