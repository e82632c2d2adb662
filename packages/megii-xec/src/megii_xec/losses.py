r"""Losses of the regression tasks and their weighted sum.

Every loss returns one number per event, so events can carry weights. With r = |prediction − target|, the mean
running over the components of the target:

    smooth_l1  r²/(2β) for r < β, r − β/2 above       huber   r²/2 for r < β, β (r − β/2) above
    relative_* the same loss with prediction and target divided by |target|
    angular    opening angle ψ between two directions (theta, phi) in degrees,  ψ = 2 asin(|a − b| / 2)
    cosine     1 − a·b / (|a| |b|): of (theta, phi) in degrees, or of direction vectors
    beta_nll   ½ [(r²/σ²) + ln σ²] · sg(σ²)^β with outputs (mean, ln σ²), arXiv:2203.09168
    quantile   pinball loss at the levels 0.1587, 0.5, 0.8413, outputs in blocks of K

Weights of the tasks are fixed, or learned from the homoscedastic uncertainty of each task, arXiv:1705.07115:

    L = Σ_task w (½ exp(−s) L_task + ½ s),   s = ln σ² trainable

Dimensions: B events, K components of a target.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LossFunction = Callable[[Tensor, Tensor, float], Tensor]  # prediction, target, β -> loss of each event (B,)
Weighting = Literal["fixed", "learned"]

QUANTILES = (
    0.1587,
    0.5,
    0.8413,
)  # median and the interval of one standard deviation of a normal distribution
MIN_TARGET = 1e-6  # |target| below this counts as this in the relative losses


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Quadratic below β, linear above; shapes (B, K), (B, K) to (B,)."""
    return F.smooth_l1_loss(prediction, target, reduction="none", beta=beta).mean(-1)


def huber(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Huber loss, smooth_l1 times β; shapes (B, K), (B, K) to (B,)."""
    return F.huber_loss(prediction, target, reduction="none", delta=beta).mean(-1)


def l1(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Absolute difference; shapes (B, K), (B, K) to (B,)."""
    return (prediction - target).abs().mean(-1)


def mse(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Squared difference; shapes (B, K), (B, K) to (B,)."""
    return (prediction - target).square().mean(-1)


def relative(loss: LossFunction) -> LossFunction:
    """Return the loss of prediction / |target| against target / |target|."""

    def relative_loss(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
        size = target.abs().clamp_min(MIN_TARGET)
        return loss(prediction / size, target / size, beta)

    return relative_loss


def _direction(angles_or_vector: Tensor) -> Tensor:
    """Unit vector of (theta, phi) in degrees, with phi = atan2(y, −x), or of a vector of any length."""
    if angles_or_vector.shape[-1] == 3:
        return F.normalize(angles_or_vector, dim=-1)
    theta, phi = torch.deg2rad(angles_or_vector).unbind(-1)
    return torch.stack([-theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def angular(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Opening angle, degrees; shapes (B, 2) in degrees or (B, 3) vectors, to (B,)."""
    # The chord keeps full precision at small angles, where acos(a·b) has none and an infinite slope.
    square = (_direction(prediction) - _direction(target)).square().sum(-1)
    half_chord = square.clamp(1e-12, 4 - 1e-6).sqrt() / 2
    return torch.rad2deg(2 * half_chord.asin())


def cosine(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """1 − cos of the opening angle; shapes (B, 2) in degrees or (B, 3) vectors, to (B,)."""
    return (_direction(prediction) - _direction(target)).square().sum(-1) / 2


def beta_nll(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Gaussian negative log-likelihood weighted by σ^(2β); shapes (B, 2K), (B, K) to (B,)."""
    mean, log_variance = prediction.chunk(2, dim=-1)
    log_variance = log_variance.clamp(-15, 15)
    loss = ((mean - target).square() * torch.exp(-log_variance) + log_variance) / 2
    return (loss * torch.exp(beta * log_variance.detach())).mean(-1)


def quantile(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Pinball loss at `QUANTILES`; shapes (B, 3K), (B, K) to (B,)."""
    levels = prediction.new_tensor(QUANTILES)[:, None]
    excess = target[:, None] - torch.unflatten(prediction, -1, (len(QUANTILES), -1))
    return torch.maximum(levels * excess, (levels - 1) * excess).mean((-2, -1))


def cross_entropy(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Cross entropy of a class number; shapes (B, classes), (B,) or (B, 1) to (B,)."""
    return F.cross_entropy(prediction, target.reshape(-1).long(), reduction="none")


LOSSES: dict[str, LossFunction] = {
    "smooth_l1": smooth_l1,
    "l1": l1,
    "mse": mse,
    "huber": huber,
    "relative_smooth_l1": relative(smooth_l1),
    "relative_l1": relative(l1),
    "relative_mse": relative(mse),
    "angular": angular,
    "cosine": cosine,
    "beta_nll": beta_nll,
    "quantile": quantile,
    "cross_entropy": cross_entropy,
}

OUTPUTS_PER_TARGET: dict[str, int] = {"beta_nll": 2, "quantile": len(QUANTILES)}  # 1 for all others


@dataclass(frozen=True)
class TaskLoss:
    """Loss of one task.

    Attributes:
        kind: Key of `LOSSES`.
        weight: Factor of the task in the sum.
        beta: β of the losses that have one.
    """

    kind: str = "smooth_l1"
    weight: float = 1.0
    beta: float = 1.0


class MultiTaskLoss(nn.Module):
    """Weighted sum of the losses of several tasks.

    Args:
        tasks: Loss of each task, by the name of its head.
        weighting: `fixed` weights, or `learned` ones; the latter are parameters of this module and belong
            in the optimiser.

    Raises:
        ValueError: A loss or the weighting is unknown.
    """

    def __init__(self, tasks: Mapping[str, TaskLoss], *, weighting: Weighting = "fixed") -> None:
        super().__init__()
        for name, task in tasks.items():
            if task.kind not in LOSSES:
                raise ValueError(f"task {name} has loss {task.kind!r}; the losses are {', '.join(LOSSES)}")
        if weighting not in ("fixed", "learned"):
            raise ValueError(f"weighting is {weighting!r}; use fixed or learned")
        self.tasks = dict(tasks)
        self.log_variances = (
            nn.ParameterDict({name: nn.Parameter(torch.zeros(())) for name in tasks})
            if weighting == "learned"
            else None
        )

    def forward(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate the loss.

        Args:
            outputs: Output of each head, shape (B, K).
            targets: Target of each task, shape (B, K).
            weights: Weight of each event, shape (B,).

        Returns:
            Sum over the tasks, and the mean loss of each task without its weight, detached.
        """
        terms, parts = [], {}
        for name, task in self.tasks.items():
            per_event = LOSSES[task.kind](outputs[name].float(), targets[name].float(), task.beta)
            loss = per_event.mean() if weights is None else (per_event * weights).sum() / weights.sum()
            parts[name] = loss.detach()
            if self.log_variances is not None:
                s = self.log_variances[name]
                loss = (torch.exp(-s) * loss + s) / 2
            terms.append(task.weight * loss)
        return torch.stack(terms).sum(), parts
