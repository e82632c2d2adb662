r"""The historical metrics, by their definitions: on normalised slots, padding included.

They are kept to compare with numbers published under these names, not because they measure well: `mmd`
compares single particles of the first 30 slots, `chamfer` counts padding as particles at the origin, and
`mass_resolution` divides z-scores by their mean.

Dimensions: J jets, N slots, columns (pT, Δη, Δφ, E), normalised.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jet_foundation.metrics.generation import wasserstein_1d

Array = NDArray[Any]

MMD_SLOTS, MMD_PARTICLES = 30, 5000
KL_BINS, KL_FLOOR = 50, 1e-10
REAL_ABOVE = 0.1  # of the normalised pT


def mass_resolution(predicted: Array, true: Array) -> float:
    """Spread of the residual over the mean size of the target, both z-scores.

    Args:
        predicted: (J,).
        true: (J,).

    Returns:
        std(predicted − true) / mean|true|.
    """
    return float((predicted - true).std() / np.abs(true).mean())


def mmd(true: Array, generated: Array, rng: np.random.Generator) -> float:
    """Biased MMD² of single particles with a Gaussian kernel of width 1.

    Args:
        true: (J, N, 4).
        generated: (J, N, 4).
        rng: Random generator that draws 5,000 particles of each.

    Returns:
        Mean k(x, x') + mean k(y, y') − 2 mean k(x, y).
    """
    chosen = []
    for jets in (true, generated):
        particles = jets[:, :MMD_SLOTS].reshape(-1, jets.shape[-1]).astype(np.float64)
        size = min(MMD_PARTICLES, len(particles))
        chosen.append(particles[rng.choice(len(particles), size, replace=False)])

    def mean_kernel(a: Array, b: Array) -> float:
        squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
        return float(np.exp(-np.maximum(squares, 0.0) / 2).mean())

    x, y = chosen
    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def _histograms(true: Array, generated: Array) -> tuple[Array, Array]:
    low = min(true.min(), generated.min())
    high = max(true.max(), generated.max())
    edges = np.linspace(low, high if high > low else low + 1, KL_BINS + 1)
    return np.histogram(true, edges, density=True)[0], np.histogram(generated, edges, density=True)[0]


def pt_kl_divergence(true: Array, generated: Array) -> float:
    """Kullback-Leibler divergence of the pT histograms, 50 bins over the common range.

    Args:
        true: (J, N, 4).
        generated: (J, N, 4).

    Returns:
        Σ p ln(p/q) with 10⁻¹⁰ added to both before they are normalised.
    """
    p, q = (h + KL_FLOOR for h in _histograms(true[..., 0].ravel(), generated[..., 0].ravel()))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def marginal_histogram_mse(true: Array, generated: Array) -> float:
    """Mean squared difference of the four marginal histograms.

    Args:
        true: (J, N, 4).
        generated: (J, N, 4).

    Returns:
        Mean over the columns and 50 bins of squared differences of densities.
    """
    pairs = [_histograms(true[..., n].ravel(), generated[..., n].ravel()) for n in range(true.shape[-1])]
    return float(np.mean([((p - q) ** 2).mean() for p, q in pairs]))


def chamfer(true: Array, generated: Array) -> float:
    """Squared Chamfer distance in (Δη, Δφ) over all slots.

    Args:
        true: (J, N, 4).
        generated: (J, N, 4).

    Returns:
        Mean over jets of the two mean squared nearest distances, added.
    """
    values = []
    for a, b in zip(true[..., 1:3], generated[..., 1:3], strict=True):
        squares = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
        values.append(squares.min(axis=0).mean() + squares.min(axis=1).mean())
    return float(np.mean(values))


def pt_emd(true: Array, generated: Array) -> float:
    """Mean over jets of the Wasserstein distance of the pT slots.

    Args:
        true: (J, N, 4).
        generated: (J, N, 4).

    Returns:
        Distance in units of the normalised pT.
    """
    return float(
        np.mean([wasserstein_1d(a, b) for a, b in zip(true[..., 0], generated[..., 0], strict=True)])
    )


def multiplicity_error(true: Array, generated: Array) -> float:
    """Mean relative error of the number of slots with normalised pT above 0.1.

    Args:
        true: (J, N, 4).
        generated: (J, N, 4).

    Returns:
        Mean |n' − n| / max(n, 1).
    """
    counts = [(jets[..., 0] > REAL_ABOVE).sum(axis=1) for jets in (true, generated)]
    return float((np.abs(counts[1] - counts[0]) / np.maximum(counts[0], 1)).mean())
