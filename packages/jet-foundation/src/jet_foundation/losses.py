r"""Losses of the tasks, in single precision whatever the network computes in.

Classification, with the label smoothing ε of C. Szegedy et al., arXiv:1512.00567:

    L = −Σ_c y_c log softmax(z)_c,    y = (1 − ε) one-hot + ε / C

Masked particles, the conservation loss, on ln pT and ln E normalised, Δη normalised, and Δφ in rad:

    L = c_pT RMSE(pT) + γ ⟨pT̂ − pT⟩² + c_η ⟨|η̂ − η|⟩ + c_φ ⟨1 − cos(φ̂ − φ)⟩
      + c_E RMSE(E) + γ ⟨Ê − E⟩² + c_m ⟨(r̂ − r)²⟩,    r = ln(|p|/E),   m² = E² (1 − e^{2r})

The last term ties the four numbers of a particle to its mass; γ penalises a prediction that is shifted as a
whole. Completion of a jet, with the permutation σ of least cost (H. Kuhn 1955; N. Carion et al.,
arXiv:2005.12872), so that the order of the particles does not matter:

    L = ⟨|x̂_σ(i) − x_i|⟩ + BCE(existence)

Dimensions: B jets, C classes, M hidden particles, Q slots, N particles.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-8  # keeps the gradient of a root finite at 0


class ConservationWeights(NamedTuple):
    """Weights c_pT, c_η, c_φ, c_E, γ and c_m of the conservation loss."""

    pt: float
    eta: float
    phi: float
    energy: float
    bias: float
    mass: float


def classification_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy.

    Args:
        logits: Scores z of the classes, (B, C).
        labels: Class numbers, (B,) int64.
        label_smoothing: Share ε of a label that all classes divide.

    Returns:
        Mean over the jets, scalar, nats.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def root_mean_square(difference: Tensor) -> Tensor:
    """Root of the mean square.

    Args:
        difference: Errors, (M,).

    Returns:
        Scalar in the unit of the errors.
    """
    return (difference.square().mean() + _TINY).sqrt()


def conservation_loss(
    predicted: Tensor,
    true: Tensor,
    weights: ConservationWeights,
    *,
    log_ratio: Tensor | None = None,
    true_log_ratio: Tensor | None = None,
) -> Tensor:
    """Loss of hidden particles.

    Args:
        predicted: ln pT, Δη, Δφ, ln E, the third in rad, the others normalised, (M, 4).
        true: The same of the particles that were hidden, (M, 4).
        weights: Of the terms.
        log_ratio: r = ln(|p|/E) of the prediction, (M,); needed when its weight is not zero.
        true_log_ratio: The same of the truth, (M,).

    Returns:
        Scalar; 0 with a gradient of 0 when nothing was hidden.
    """
    if len(true) == 0:
        return predicted.float().sum()
    difference = predicted.float() - true.float()
    pt, eta, phi, energy = difference.unbind(-1)
    loss = weights.pt * root_mean_square(pt) + weights.energy * root_mean_square(energy)
    loss = loss + weights.bias * (pt.mean() ** 2 + energy.mean() ** 2)
    loss = loss + weights.eta * eta.abs().mean() + weights.phi * (1 - phi.cos()).mean()
    if weights.mass:
        assert log_ratio is not None
        assert true_log_ratio is not None
        loss = loss + weights.mass * (log_ratio.float() - true_log_ratio.float()).square().mean()
    return loss


def mass_loss(predicted: Tensor, true: Tensor, *, delta: float) -> Tensor:
    """Huber loss of logarithms of the mass.

    Args:
        predicted: (B,).
        true: (B,).
        delta: Where the loss turns from square to linear.

    Returns:
        Mean over the jets, scalar.
    """
    return F.huber_loss(predicted.float(), true.float(), delta=delta)


def match(cost: Tensor, num_true: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Assign true particles to slots at the least total cost, jet by jet.

    Args:
        cost: Cost of particle n in slot q, (B, Q, N); only the first `num_true` particles of a jet count.
        num_true: Particles of each jet, (B,).

    Returns:
        Jet, slot and particle of every assignment, each (P,) int64; at most Q of a jet.
    """
    from scipy.optimize import linear_sum_assignment  # a second to import, for one task

    jets, slots, particles = [], [], []
    values = cost.detach().cpu().double().numpy()
    for jet, num in enumerate(num_true.tolist()):
        rows, columns = linear_sum_assignment(values[jet, :, :num])
        jets += [jet] * len(rows)
        slots += rows.tolist()
        particles += columns.tolist()
    jet_index, slot_index, particle_index = torch.tensor([jets, slots, particles], dtype=torch.int64).to(
        cost.device
    )
    return jet_index, slot_index, particle_index


def set_loss(predicted: Tensor, logits: Tensor, true: Tensor, num_true: Tensor) -> Tensor:
    """Loss of a set of proposed particles against a set of true ones.

    Args:
        predicted: Coordinates, (B, Q, D).
        logits: Of existence, (B, Q).
        true: Coordinates, (B, N, D), the particles of a jet in any order in its first slots.
        num_true: Particles of each jet, (B,).

    Returns:
        Scalar.
    """
    predicted, logits, true = predicted.float(), logits.float(), true.float()
    with torch.no_grad():
        cost = torch.cdist(predicted, true, p=1) - logits.sigmoid()[..., None]
    jet, slot, particle = match(cost, num_true)
    exists = torch.zeros_like(logits)
    exists[jet, slot] = 1.0
    loss = F.binary_cross_entropy_with_logits(logits, exists)
    distance = (predicted[jet, slot] - true[jet, particle]).abs().sum(dim=-1)
    return loss + distance.sum() / max(len(jet), 1)
