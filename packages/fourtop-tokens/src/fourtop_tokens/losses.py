r"""Losses of the two trainings.

    classification   L = Σ_i w_{y_i} CE(logits_i, y_i) / Σ_i w_{y_i}
    VQ-VAE           L = |x̂ - x|² + λ_id CE(îd, id) + β |z - sg[e_k]|² + λ_MET |MÊT - MET|²

The means of the VQ-VAE are over the objects that exist and their components; the codebook has no loss of its
own, it follows by averaging.

N objects, B events, F features, D latent dimensions, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def class_weights(counts: tuple[int, ...], num_classes: int) -> Tensor:
    """Weights inverse to the number of train events of a class, with mean 1 over the events.

    Args:
        counts: Train events by label, tttt first.
        num_classes: 2 sums all others up.

    Returns:
        (K,).
    """
    numbers = [counts[0], sum(counts[1:])] if num_classes == 2 else [*counts]
    events = torch.tensor(numbers, dtype=torch.float32).clamp(min=1)
    return events.sum() / (num_classes * events)


def classification_loss(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted cross-entropy.

    Args:
        logits: (B, K).
        labels: Class from 0 to 4, (B,); for K = 2 all but tttt are background.
        weights: Weight of each class, (K,), or None.

    Returns:
        Scalar. Each event is divided by the number of events, not by their weights, so that pieces of a
        batch add up.
    """
    classes = labels.clamp(max=1) if logits.shape[1] == 2 else labels
    return F.cross_entropy(logits.float(), classes, weight=weights, reduction="sum") / len(labels)


def vqvae_losses(
    *,
    features: Tensor,
    found_features: Tensor,
    ids: Tensor,
    id_logits: Tensor,
    latent: Tensor,
    codes: Tensor,
    missing: Tensor,
    found_missing: Tensor,
) -> dict[str, Tensor]:
    """Parts of the VQ-VAE loss, without their weights.

    Args:
        features: Scaled features of objects, (N, F).
        found_features: Their reconstruction.
        ids: Object codes 1 to 7, (N,).
        id_logits: Logits of these, (N, 7).
        latent: Encoder output, (N, D).
        codes: Nearest codes, (N, D).
        missing: Scaled missing momentum, cosine and sine, (B, 3).
        found_missing: Their reconstruction.

    Returns:
        `features`, `ids`, `commitment`, `missing`: scalars.
    """
    return {
        "features": F.mse_loss(found_features.float(), features),
        "ids": F.cross_entropy(id_logits.float(), ids - 1),
        "commitment": F.mse_loss(latent.float(), codes),
        "missing": F.mse_loss(found_missing.float(), missing),
    }
