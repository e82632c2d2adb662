"""Whether two weighted samples have the same distribution.

    KS = sup_v |F(v) − G(v)|, with N = (Σ w)² / Σ w² events each

Reference:
    N. Smirnov, Ann. Math. Statist. 19, 279 (1948); the probability is that of the exact distribution of one
    sample of N M / (N + M) events.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import kstwo


def kolmogorov_smirnov(
    x: ArrayLike, y: ArrayLike, x_weights: ArrayLike | None = None, y_weights: ArrayLike | None = None
) -> tuple[float, float]:
    """Compare the distributions of two weighted samples.

    Args:
        x: First sample, (N,).
        y: Second sample, (M,).
        x_weights: Non-negative weights, (N,); equal if None.
        y_weights: Non-negative weights, (M,); equal if None.

    Returns:
        Largest distance of the distribution functions, and the probability of a larger one for samples of
        one distribution; too large a probability where values repeat.

    Raises:
        ValueError: A sample is empty, has no positive weight, or holds a value that is not finite.
    """
    values = [np.asarray(sample, np.float64) for sample in (x, y)]
    weights = [
        np.ones(len(v)) if w is None else np.asarray(w, np.float64)
        for v, w in zip(values, (x_weights, y_weights), strict=True)
    ]
    if any(
        not np.isfinite(v).all() or (w < 0).any() or not w.sum() > 0
        for v, w in zip(values, weights, strict=True)
    ):
        raise ValueError("samples need finite values and non-negative weights with a positive sum")
    grid = np.sort(np.concatenate(values))
    reached = []
    for v, w in zip(values, weights, strict=True):
        order = np.argsort(v, kind="stable")
        steps = np.concatenate([[0.0], np.cumsum(w[order]) / w.sum()])
        reached.append(steps[np.searchsorted(v[order], grid, side="right")])
    distance = float(np.abs(reached[0] - reached[1]).max())
    first, second = (float(w.sum() ** 2 / (w**2).sum()) for w in weights)
    return distance, float(kstwo.sf(distance, max(round(first * second / (first + second)), 1)))
