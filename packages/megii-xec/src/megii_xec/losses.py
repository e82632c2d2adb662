r"""Losses of the regression tasks and of the reconstruction of hidden sensors, and their weighted sums.

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

Hidden sensors are compared face by face and channel by channel (npho, time), with ℓ one of the first four:

    L_channel^face = Σ_hidden q ℓ / Σ_hidden q,     L = Σ_face (w_npho L_npho^face + w_time L_time^face)

q is 1, or √npho for times, whose variance falls with the number of photons. With learned log-variances s the
sums over the faces enter as Σ_channel w_channel (½ exp(−s) L_channel + ½ s).

Dimensions: B events, K components of a target, P places on a face.
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
    """Cross entropy of a class number; shapes (B, classes), (B,) or (B, 1) to (B,).

    Numbers beyond the last class belong to it: pile-up can add up to more photons than there are classes.
    """
    number = target.reshape(-1).long().clamp(0, prediction.shape[-1] - 1)
    return F.cross_entropy(prediction, number, reduction="none")


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

RECONSTRUCTION_LOSSES = ("smooth_l1", "l1", "mse", "huber")


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


def weighted_mean(per_event: Tensor, weights: Tensor) -> Tensor:
    """Mean with weights, shapes (B,), (B,) to (); 0 when no event counts."""
    return (per_event * weights).sum() / weights.sum().clamp_min(1e-6)


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
            loss = per_event.mean() if weights is None else weighted_mean(per_event, weights)
            parts[name] = loss.detach()
            if self.log_variances is not None:
                s = self.log_variances[name]
                loss = (torch.exp(-s) * loss + s) / 2
            terms.append(task.weight * loss)
        return torch.stack(terms).sum(), parts


CHANNELS = ("npho", "time")


@dataclass(frozen=True)
class HiddenFace:
    """What a network said about one face, and what is true.

    Attributes:
        prediction: Normalised counts and times, shape (B, 2, P).
        target: The same without hidden sensors, shape (B, 2, P).
        weight: q of every place, 0 where there is nothing to compare, shape (B, 2, P).
    """

    prediction: Tensor
    target: Tensor
    weight: Tensor


class ReconstructionLoss(nn.Module):
    """Loss of hidden sensors on all faces.

    Args:
        kind: One of `RECONSTRUCTION_LOSSES`.
        npho_weight: w_npho.
        time_weight: w_time.
        beta: β of smooth_l1 and huber, in normalised units.
        learn_channel_logvars: Learn one uncertainty for each channel; they are parameters of this module.

    Raises:
        ValueError: The loss is unknown.
    """

    channel_weights: Tensor

    def __init__(
        self,
        kind: str = "smooth_l1",
        *,
        npho_weight: float = 1.0,
        time_weight: float = 1.0,
        beta: float = 1.0,
        learn_channel_logvars: bool = False,
    ) -> None:
        super().__init__()
        if kind not in RECONSTRUCTION_LOSSES:
            raise ValueError(f"loss is {kind!r}; the losses are {', '.join(RECONSTRUCTION_LOSSES)}")
        self.kind, self.beta = kind, beta
        self.register_buffer("channel_weights", torch.tensor([npho_weight, time_weight]), persistent=False)
        self.log_variances = nn.Parameter(torch.zeros(2)) if learn_channel_logvars else None

    def forward(self, faces: Mapping[str, HiddenFace]) -> tuple[Tensor, Tensor]:
        """Evaluate the loss.

        Args:
            faces: What to compare, by face.

        Returns:
            The loss, and the sums it is made of, detached: for each face (in order) and channel Σ q ℓ, Σ q,
            Σ |d|, Σ d² and the number of places, shape (faces, 2, 5).
        """
        sums = torch.stack([self._sums(face) for face in faces.values()])
        by_channel = (sums[..., 0] / sums[..., 1].clamp_min(1e-9)).sum(0)
        return self.combine(by_channel), sums.detach()

    def combine(self, by_channel: Tensor) -> Tensor:
        """Weigh the channels: losses summed over the faces, shape (2,), to the total."""
        if self.log_variances is not None:
            s = self.log_variances
            by_channel = (torch.exp(-s) * by_channel + s) / 2
        return (self.channel_weights * by_channel).sum()

    def _sums(self, face: HiddenFace) -> Tensor:
        prediction, target, weight = (t.float() for t in (face.prediction, face.target, face.weight))
        # Sentinels stand where the weight is 0; without them nothing there can overflow.
        difference = (prediction - target) * (weight > 0)
        # The losses average over the last axis; here every place is wanted by itself.
        loss = LOSSES[self.kind](difference[..., None], torch.zeros_like(difference)[..., None], self.beta)
        scored = (weight > 0).to(loss.dtype)
        terms = (weight * loss, weight, difference.abs(), difference.square(), scored)
        return torch.stack([term.sum((0, 2)) for term in terms], dim=-1)
