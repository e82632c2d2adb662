r"""How far a jet lies from known ones, without labels: the Mahalanobis distance of its embedding.

    d² = (x − μ)ᵀ Σ⁻¹ (x − μ),    Σ = (1 − s) C + s tr(C)/D 1

with mean μ and covariance C of the embeddings of known jets (K. Lee et al., arXiv:1807.03888); the shrinkage
s keeps Σ invertible when there are few of them.

Dimensions: J jets, D numbers of an embedding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SHRINKAGE = 0.01


def fit_known(embeddings: Array, *, shrinkage: float = SHRINKAGE) -> tuple[Array, Array]:
    """Describe known jets.

    Args:
        embeddings: Of the known jets, (J, D), J at least 2.
        shrinkage: Share s of the mean variance in the covariance.

    Returns:
        Mean (D,) and inverse covariance (D, D).
    """
    values = embeddings.astype(np.float64)
    covariance = np.atleast_2d(np.cov(values, rowvar=False))
    variance = max(float(np.trace(covariance)) / len(covariance), 1e-12)
    shrunk = (1 - shrinkage) * covariance + shrinkage * variance * np.eye(len(covariance))
    return values.mean(axis=0), np.linalg.inv(shrunk)


def mahalanobis(embeddings: Array, mean: Array, precision: Array) -> Array:
    """Distance from the known jets.

    Args:
        embeddings: (J, D).
        mean: Of the known jets, (D,).
        precision: Inverse covariance of the known jets, (D, D).

    Returns:
        d, (J,).
    """
    difference = embeddings.astype(np.float64) - mean
    squares = np.einsum("jd,de,je->j", difference, precision, difference)
    distance: Array = np.sqrt(np.maximum(squares, 0.0))
    return distance
