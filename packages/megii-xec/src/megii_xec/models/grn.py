r"""Global response normalisation (GRN) and the pointwise branch of the ConvNeXt V2 and HexNeXt blocks.

    N_c(h) = ‖h_c‖₂ / (mean_c ‖h_c‖₂ + ε),      GRN(h) = γ h N(h) + β + h
    branch(x) = W₂ GRN(h) + b₂,                 h = GELU(W₁ LayerNorm(x) + b₁)

The norm of a channel runs over all positions of one event, so GRN only rescales channels event by event. It
folds exactly into the second projection, one weight matrix per event, and the tensor of 4C channels is read
once:

    W₂ GRN(h) + b₂ = (W₂ diag(s)) h + (W₂ β + b₂),      s = 1 + γ N(h)

Where one product for many events is much faster than one for each, in chunks on a CPU with wide channels
(`hep_shared.ops.linear`), s multiplies h instead, in the cache: W₂ (s h).

Gradient. With G = Σ_positions g hᵀ, the gradient of the folded weights, s receives ds = Σ_rows G ∘ W₂; the
norm n then receives dn = (dN − mean_c(dN N)) / (mean_c n + ε) with dN = γ ds, and h receives (dn / n) h +
(W₂ diag(s))ᵀ g. At n = 0 the first term is zero, the subgradient of the norm. Without folding ds =
Σ_positions h ∘ (W₂ᵀ g), and W₂ receives Σ_rows g (s h)ᵀ.

Dimensions: B events, N positions (pixels or nodes), C channels.

References:
    Woo et al., ConvNeXt V2, arXiv:2301.00808, section 3.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from hep_shared.ops.linear import Linear, linear, serves
from hep_shared.ops.transposed import transposed_product

LAYER_NORM_EPS = 1e-6  # arXiv:2301.00808, official configuration
GRN_EPS = 1e-6  # same
NARROWEST = 64  # channels C from which one product for many events is faster on a CPU
TINY_SQUARE = 1e-30  # below this a channel counts as silent and its norm passes no gradient
CACHE_ELEMENTS = 2**19  # of the 4C tensor, 2 MB in float32: fits the share one core has of the caches


def channel_scale(hidden: Tensor, gamma: Tensor) -> Tensor:
    """Return the factor 1 + γ N(h) by which GRN scales each channel of each event.

    Args:
        hidden: Features h, shape (B, N, C).
        gamma: γ, shape (C,).

    Returns:
        Factor s, shape (B, C).
    """
    norm = hidden.square().sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    norm = norm.clamp_min(TINY_SQUARE).sqrt()
    return 1 + gamma * (norm / (norm.mean(-1, keepdim=True) + GRN_EPS))


def grn_branch(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    w1: Tensor,
    b1: Tensor,
    gamma: Tensor,
    beta: Tensor,
    w2: Tensor,
    b2: Tensor,
    visible: Tensor | None = None,
    *,
    folds: bool = True,
) -> Tensor:
    """Evaluate the branch LayerNorm → Linear → GELU → GRN → Linear with GRN folded into the last step.

    Args:
        x: Features, shape (B, N, C).
        norm_weight: Scale of the layer norm, shape (C,); None where x is normalised already.
        norm_bias: Offset of the layer norm, shape (C,), or None too.
        w1: First projection, shape (4C, C).
        b1: Its bias, shape (4C,).
        gamma: γ of GRN, shape (4C,).
        beta: β of GRN, shape (4C,).
        w2: Second projection, shape (C, 4C).
        b2: Its bias, shape (C,).
        visible: 1 where a position exists and 0 where it is masked, shape (B, N, 1); masked positions do not
            enter the norms.
        folds: False multiplies s into h in place instead, which leaves no gradient.

    Returns:
        Features, shape (B, N, C).
    """
    if norm_weight is not None:
        x = F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, LAYER_NORM_EPS)
    hidden = F.gelu(linear(x, w1, b1))
    if visible is not None:
        hidden = hidden * visible
    scale, offset = channel_scale(hidden, gamma)[:, None], w2 @ beta + b2
    if not folds:
        return linear(hidden.mul_(scale), w2, offset)
    return torch.baddbmm(offset[None, None], hidden, (scale * w2).transpose(1, 2))


def _folds(x: Tensor, w1: Tensor) -> bool:
    """Whether s is multiplied into W₂, one matrix per event, rather than into h."""
    return w1.shape[1] < NARROWEST or not serves(x, w1)


def _events_per_chunk(x: Tensor, hidden_dim: int) -> int:
    """Number of events whose 4C tensor fits in the cache; all of them where caches are managed by a GPU."""
    return max(1, CACHE_ELEMENTS // (x.shape[1] * hidden_dim)) if x.is_cpu else max(1, x.shape[0])


def _split(tensor: Tensor | None, num_events: int, size: int) -> Sequence[Tensor | None]:
    """Cut a tensor into chunks of events, or None into as many."""
    return [None] * -(-num_events // size) if tensor is None else torch.split(tensor, size)


def _forward_in_chunks(x: Tensor, visible: Tensor | None, *parameters: Any) -> Tensor:
    branch: Callable[..., Tensor] = partial(grn_branch, folds=_folds(x, parameters[2]))
    size = _events_per_chunk(x, parameters[2].shape[0])
    chunks = zip(torch.split(x, size), _split(visible, len(x), size), strict=True)
    return torch.cat([branch(chunk, *parameters, seen) for chunk, seen in chunks])


class _RecomputedBranch(torch.autograd.Function):
    """`grn_branch` that keeps only its input and rebuilds the 4C tensor in the backward pass.

    Both passes work through the batch in chunks that stay in the cache, which pays for the second evaluation
    on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, visible: Tensor | None, *parameters: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, visible, *parameters)
        return _forward_in_chunks(x, visible, *parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, visible, norm_weight, norm_bias, w1, b1, gamma, beta, w2, _ = ctx.saved_tensors
        shape = x.shape[-1:]
        events, folds = _events_per_chunk(x, w1.shape[0]), _folds(x, w1)

        dx = torch.empty_like(x)
        d_norm_weight, d_norm_bias = (
            None if p is None else torch.zeros_like(p) for p in (norm_weight, norm_bias)
        )
        d_w1, d_b1, d_gamma = torch.zeros_like(w1), torch.zeros_like(b1), torch.zeros_like(gamma)
        d_b2 = grad.sum((0, 1))
        d_beta = d_b2 @ w2
        d_w2 = d_b2[:, None] * beta

        chunks = (_split(t, len(x), events) for t in (x, visible, grad, dx))
        for x_i, visible_i, grad_i, dx_i in zip(*chunks, strict=True):
            z = x_i
            if norm_weight is not None:
                z, mean, rstd = torch.native_layer_norm(x_i, shape, norm_weight, norm_bias, LAYER_NORM_EPS)
            a = linear(z, w1, b1)
            h = F.gelu(a)
            if visible_i is not None:
                h *= visible_i
            square = h.square().sum(1)
            n = square.clamp_min(TINY_SQUARE).sqrt()
            average = n.mean(-1, keepdim=True) + GRN_EPS
            response = n / average
            scale = 1 + gamma * response

            if folds:
                d_folded = torch.bmm(grad_i.transpose(1, 2), h)
                d_w2 += (d_folded * scale[:, None]).sum(0)
                d_scale = (d_folded * w2).sum(1)
            else:
                back = linear(grad_i, w2.t())
                d_scale = (back * h).sum(1)
            d_gamma += (d_scale * response).sum(0)
            d_response = d_scale * gamma
            d_n = (d_response - (d_response * response).mean(-1, keepdim=True)) / average
            d_n = d_n.where(square > TINY_SQUARE, 0)

            if folds:
                d_h = h.mul_((d_n / n)[:, None]).baddbmm_(grad_i, scale[:, None] * w2)
            else:
                d_h = back.mul_(scale[:, None]).addcmul_(h, (d_n / n)[:, None])
                d_w2 += transposed_product(grad_i.flatten(0, 1), h.mul_(scale[:, None]).flatten(0, 1))
            if visible_i is not None:
                d_h *= visible_i
            d_a = torch.ops.aten.gelu_backward(d_h, a)
            d_w1 += transposed_product(d_a.flatten(0, 1), z.flatten(0, 1))
            d_b1 += d_a.sum((0, 1))
            d_z = linear(d_a, w1.t())
            if norm_weight is None:
                dx_i.copy_(d_z)
                continue
            d_x, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
                d_z, x_i, shape, mean, rstd, norm_weight, norm_bias, [True, True, True]
            )
            dx_i.copy_(d_x)
            d_norm_weight += d_weight
            d_norm_bias += d_bias
        return dx, None, d_norm_weight, d_norm_bias, d_w1, d_b1, d_gamma, d_beta, d_w2, d_b2


class GrnBranch(nn.Module):
    """Pointwise branch LayerNorm → Linear(4C) → GELU → GRN → Linear(C) → drop path.

    Args:
        dim: Channels C.
        drop_path: Probability of dropping the branch for an event during training.
        recompute: Keep only the input for the backward pass and rebuild the 4C tensor there. On a CPU this
            costs no time; on a GPU it trades time for memory.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0, recompute: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.expand = Linear(dim, 4 * dim)
        self.gamma = nn.Parameter(torch.zeros(4 * dim))
        self.beta = nn.Parameter(torch.zeros(4 * dim))
        self.project = Linear(4 * dim, dim)
        self.drop_path = drop_path
        self.recompute = recompute

    def forward(self, x: Tensor, visible: Tensor | None = None, *, normalized: bool = False) -> Tensor:
        """Apply the branch.

        Args:
            x: Features, shape (B, N, C).
            visible: 1 at positions that exist, 0 at masked ones, shape (B, N, 1); None when all exist.
            normalized: Whether x has passed `norm` already.

        Returns:
            Features to add to the residual, shape (B, N, C).
        """
        weight, bias = (None, None) if normalized else (self.norm.weight, self.norm.bias)
        parameters = (
            weight, bias, self.expand.weight, self.expand.bias,
            self.gamma, self.beta, self.project.weight, self.project.bias,
        )  # fmt: skip
        # The compiler and the exporter see the formula; autocast needs its casts recorded by autograd.
        formula_only = torch.compiler.is_compiling() or not x.shape[0]
        in_chunks = not torch.is_autocast_enabled(x.device.type)
        if formula_only or (torch.is_grad_enabled() and not self.recompute):
            y = grn_branch(x, *parameters, visible)
        elif in_chunks and torch.is_grad_enabled():
            y = _RecomputedBranch.apply(x, visible, *parameters)
        elif in_chunks:
            y = _forward_in_chunks(x, visible, *parameters)
        elif torch.is_grad_enabled():
            y = checkpoint(grn_branch, x, *parameters, visible, use_reentrant=False, preserve_rng_state=False)
        else:
            y = grn_branch(x, *parameters, visible)
        if self.training and self.drop_path:
            keep = 1 - self.drop_path
            y = y * (y.new_empty(y.shape[0], 1, 1).bernoulli_(keep) / keep)
        return y
