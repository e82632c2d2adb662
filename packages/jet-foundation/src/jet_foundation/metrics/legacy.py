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
from jet_foundation.metrics.regression import r_squared
from jet_foundation.physics import fourvectors as fv

Array = NDArray[Any]

MMD_SLOTS, MMD_PARTICLES = 30, 5000
KL_BINS, KL_FLOOR = 50, 1e-10
REAL_ABOVE = 0.1  # of the normalised pT
# Mean and width of ln(1 + pT) and ln(1 + E) in GeV and of Δη in the data set of the historical numbers.
PT_MEAN, PT_STD, ETA_STD, ENERGY_MEAN, ENERGY_STD = 2.119, 1.055, 0.214, 2.411, 1.105


def mass_resolution(predicted: Array, true: Array) -> float:
    """Spread of the residual over the mean size of the target, both z-scores.

    Args:
        predicted: (J,).
        true: (J,).

    Returns:
        std(predicted − true) / mean|true|.
    """
    return float((predicted - true).std() / np.abs(true).mean())


def legacy_mass_metrics(predicted_gev: Array, true_gev: Array) -> dict[str, float]:
    """The historical metrics of the mass regression, on z-scores of the true masses.

    Args:
        predicted_gev: (J,) GeV.
        true_gev: (J,) GeV.

    Returns:
        `mse`, `mae`, `r2` and `mass_resolution`.
    """
    mean, std = true_gev.mean(), max(float(true_gev.std()), 1e-12)
    predicted, true = (predicted_gev - mean) / std, (true_gev - mean) / std
    return {
        "mse": float(((predicted - true) ** 2).mean()),
        "mae": float(np.abs(predicted - true).mean()),
        "r2": r_squared(predicted, true),
        "mass_resolution": mass_resolution(predicted, true),
    }


def legacy_columns(p4: Array, valid_mask: Array) -> Array:
    """Normalised slots as the historical metrics read them, zero where padded.

    Args:
        p4: Four-vectors (E, px, py, pz), (J, N, 4) GeV.
        valid_mask: True where a particle is real, (J, N).

    Returns:
        (ln(1 + pT) − 2.119)/1.055, Δη/0.214, Δφ, (ln(1 + E) − 2.411)/1.105, (J, N, 4), by falling pT.
    """
    p4 = np.where(valid_mask[..., None], p4, 0.0).astype(np.float64)
    order = np.argsort(-fv.pt(p4), axis=1, kind="stable")
    p4, valid_mask = np.take_along_axis(p4, order[..., None], 1), np.take_along_axis(valid_mask, order, 1)
    jet = p4.sum(axis=1, keepdims=True)
    columns = np.stack(
        [
            (np.log1p(fv.pt(p4)) - PT_MEAN) / PT_STD,
            (fv.eta(p4) - fv.eta(jet)) / ETA_STD,
            fv.wrap_phi(fv.phi(p4) - fv.phi(jet)),
            (np.log1p(p4[..., 0]) - ENERGY_MEAN) / ENERGY_STD,
        ],
        axis=-1,
    )
    return np.where(valid_mask[..., None], columns, 0.0)


def legacy_generation_metrics(
    true: Array, true_mask: Array, generated: Array, generated_mask: Array, *, seed: int = 0
) -> dict[str, float]:
    """The historical metrics of generated jets.

    Args:
        true: Four-vectors, (J, N, 4) GeV.
        true_mask: True where a particle is real, (J, N).
        generated: Four-vectors, (J, N', 4) GeV.
        generated_mask: True where a particle exists, (J, N').
        seed: Seed of the particles drawn for `mmd`.

    Returns:
        `mmd`, `pt_kl_divergence` and `marginal_histogram_mse`.
    """
    a, b = legacy_columns(true, true_mask), legacy_columns(generated, generated_mask)
    return {
        "mmd": mmd(a, b, np.random.default_rng(seed)),
        "pt_kl_divergence": pt_kl_divergence(a, b),
        "marginal_histogram_mse": marginal_histogram_mse(a, b),
    }


def legacy_resolution_metrics(
    true: Array, true_mask: Array, generated: Array, generated_mask: Array
) -> dict[str, float]:
    """The historical metrics of super-resolved jets.

    Args:
        true: Four-vectors, (J, N, 4) GeV.
        true_mask: True where a particle is real, (J, N).
        generated: Four-vectors, (J, N, 4) GeV.
        generated_mask: True where a particle exists, (J, N).

    Returns:
        `chamfer`, `pt_emd` and `multiplicity_error`.
    """
    a, b = legacy_columns(true, true_mask), legacy_columns(generated, generated_mask)
    return {
        "chamfer": chamfer(a, b),
        "pt_emd": pt_emd(a, b),
        "multiplicity_error": multiplicity_error(a, b),
    }


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
