r"""Metrics of generated and super-resolved jets, on real particles only.

    W1    mean |F⁻¹ − G⁻¹|, the area between two cumulative distributions
    FPD   Fréchet distance of Gaussians fitted to jet features, extrapolated to infinitely many jets
    KPD   unbiased MMD² with the kernel (x·y/d + 1)⁴, median over pieces
    (R. Kansal et al., arXiv:2211.10295; features here are standardised jet observables)
    Chamfer  mean distance from each particle to the nearest of the other jet, both ways, in (η, φ)
    EMD      P. Komiske, E. Metodiev, J. Thaler, arXiv:1902.02346, normalised pT as weights, ΔR as distance

Dimensions: J jets, N particles, D features.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jet_foundation.physics import fourvectors as fv

Array = NDArray[Any]


def wasserstein_1d(a: Array, b: Array) -> float:
    """First Wasserstein distance of two samples.

    Args:
        a: First sample, (n,).
        b: Second sample, (m,).

    Returns:
        Distance in the unit of the samples.
    """
    values = np.sort(np.concatenate([a, b]))
    cumulative = [np.searchsorted(np.sort(x), values[:-1], side="right") / len(x) for x in (a, b)]
    return float((np.abs(cumulative[0] - cumulative[1]) * np.diff(values)).sum())


def jet_observables(p4: Array, valid_mask: Array) -> Array:
    """Observables that describe a jet: what FPD, KPD and coverage compare.

    Args:
        p4: Four-vectors (E, px, py, pz), (J, N, 4) GeV.
        valid_mask: True where a particle is real, (J, N).

    Returns:
        ln pT, ln(m + 1 GeV), multiplicity, width Σ z ΔR, ln Σ z², leading z, and Σ z √ΔR, (J, 7).
    """
    p4 = np.where(valid_mask[..., None], p4, 0.0).astype(np.float64)
    jet = p4.sum(axis=1)
    share = fv.pt(p4)
    share = share / np.maximum(share.sum(axis=1, keepdims=True), fv.TINY_GEV)
    distance = fv.delta_r(fv.eta(p4), fv.phi(p4), fv.eta(jet)[:, None], fv.phi(jet)[:, None])
    return np.stack(
        [
            np.log(np.maximum(fv.pt(jet), 1e-3)),
            np.log(fv.mass(jet) + 1.0),
            valid_mask.sum(axis=1),
            (share * distance).sum(axis=1),
            np.log(np.maximum((share**2).sum(axis=1), 1e-6)),
            share.max(axis=1),
            (share * np.sqrt(distance)).sum(axis=1),
        ],
        axis=-1,
    )


def standardise(true: Array, generated: Array) -> tuple[Array, Array]:
    """Bring observables to mean 0 and standard deviation 1 of the true jets.

    Args:
        true: (J, D).
        generated: (J', D).

    Returns:
        Both, transformed alike.
    """
    mean, std = true.mean(axis=0), np.maximum(true.std(axis=0), 1e-12)
    return (true - mean) / std, (generated - mean) / std


def frechet_distance(a: Array, b: Array) -> float:
    """Fréchet distance of the Gaussians fitted to two samples.

    Args:
        a: (n, D).
        b: (m, D).

    Returns:
        |μ_a − μ_b|² + tr(C_a + C_b − 2 √(C_a C_b)).
    """
    covariance = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b)]
    # The eigenvalues of C_a C_b are real and not negative; only rounding makes them otherwise.
    eigenvalues = np.linalg.eigvals(covariance[0] @ covariance[1])
    cross = np.sqrt(np.maximum(eigenvalues.real, 0.0)).sum()
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return float(shift + np.trace(covariance[0]) + np.trace(covariance[1]) - 2 * cross)


def frechet_physics_distance(
    true: Array, generated: Array, rng: np.random.Generator, *, num_sizes: int = 8, min_jets: int = 200
) -> float:
    """Fréchet distance extrapolated linearly in 1/J to infinitely many jets.

    Args:
        true: Standardised observables, (J, D).
        generated: Standardised observables, (J', D).
        rng: Random generator that draws the subsets.
        num_sizes: Subset sizes of the fit.
        min_jets: Smallest subset; with fewer jets the plain distance is returned.

    Returns:
        Distance, slightly negative values are possible for equal distributions.
    """
    largest = min(len(true), len(generated))
    if largest <= min_jets:
        return frechet_distance(true, generated)
    sizes = np.unique(np.geomspace(min_jets, largest, num_sizes).astype(int))
    values = [
        frechet_distance(
            true[rng.choice(len(true), size, replace=False)],
            generated[rng.choice(len(generated), size, replace=False)],
        )
        for size in sizes
    ]
    slope_and_limit = np.polyfit(1 / sizes, values, 1)
    return float(slope_and_limit[1])


def kernel_physics_distance(
    true: Array, generated: Array, rng: np.random.Generator, *, num_batches: int = 10, batch_jets: int = 2000
) -> float:
    """Unbiased MMD² with a polynomial kernel of degree 4, median over random batches.

    Args:
        true: Standardised observables, (J, D).
        generated: Standardised observables, (J', D).
        rng: Random generator that draws the batches.
        num_batches: Number of batches.
        batch_jets: Jets per batch.

    Returns:
        Distance; around 0, also negative, for equal distributions.
    """
    size = min(len(true), len(generated), batch_jets)
    values = []
    for _ in range(num_batches):
        a = true[rng.choice(len(true), size, replace=False)]
        b = generated[rng.choice(len(generated), size, replace=False)]
        aa, bb, ab = ((x @ y.T / a.shape[1] + 1) ** 4 for x, y in ((a, a), (b, b), (a, b)))
        within = (aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)) / (size * (size - 1))
        values.append(within - 2 * ab.mean())
    return float(np.median(values))


def coverage(true: Array, generated: Array) -> float:
    """Share of true jets that are the nearest true jet of at least one generated jet.

    Args:
        true: Standardised observables, (J, D).
        generated: Standardised observables, (J', D).

    Returns:
        Coverage in [0, 1].
    """
    squares = (true**2).sum(axis=1)
    nearest = [
        (squares - 2 * block @ true.T).argmin(axis=1)
        for block in np.array_split(generated, max(len(generated) // 1000, 1))
    ]
    return len(np.unique(np.concatenate(nearest))) / len(true)


def _directions(p4: Array) -> Array:
    return np.stack([fv.eta(p4), fv.phi(p4)], axis=-1)


def _distances(a: Array, b: Array) -> Array:
    """ΔR between particles of two jets, (N, M)."""
    distances: Array = fv.delta_r(a[:, None, 0], a[:, None, 1], b[None, :, 0], b[None, :, 1])
    return distances


def chamfer_distance(true: Array, generated: Array) -> float:
    """Chamfer distance of two jets without padding.

    Args:
        true: Four-vectors, (N, 4) GeV.
        generated: Four-vectors, (M, 4) GeV.

    Returns:
        Half the sum of the mean nearest distances both ways, in ΔR.
    """
    distances = _distances(_directions(true), _directions(generated))
    return float((distances.min(axis=0).mean() + distances.min(axis=1).mean()) / 2)


def energy_movers_distance(true: Array, generated: Array) -> float:
    """Least work to turn one jet into the other, with pT shares as masses.

    Args:
        true: Four-vectors, (N, 4) GeV.
        generated: Four-vectors, (M, 4) GeV.

    Returns:
        Distance in ΔR, exact.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_matrix

    shares = [fv.pt(p4) / fv.pt(p4).sum() for p4 in (true, generated)]
    cost = _distances(_directions(true), _directions(generated))
    rows, columns = np.divmod(np.arange(cost.size), cost.shape[1])
    ones = np.ones(cost.size)
    constraints = coo_matrix(
        (
            np.concatenate([ones, ones]),
            (np.concatenate([rows, columns + len(rows) // cost.shape[1]]), np.tile(np.arange(cost.size), 2)),
        )
    ).tocsr()
    solution = linprog(cost.ravel(), A_eq=constraints[:-1], b_eq=np.concatenate(shares)[:-1], method="highs")
    return float(solution.fun)


def generation_metrics(
    true: Array, true_mask: Array, generated: Array, generated_mask: Array, *, seed: int = 0
) -> dict[str, float]:
    """Metrics of a sample of generated jets.

    Args:
        true: Four-vectors, (J, N, 4) GeV.
        true_mask: True where a particle is real, (J, N).
        generated: Four-vectors, (J', N', 4) GeV.
        generated_mask: True where a particle exists, (J', N').
        seed: Seed of subsets and batches.

    Returns:
        W1 of mass, multiplicity, and constituent pT share, Δη and Δφ; FPD, KPD and coverage.
    """
    rng = np.random.default_rng(seed)
    samples = ((true, true_mask), (generated, generated_mask))
    observables = [jet_observables(p4, mask) for p4, mask in samples]
    masses, relative = [], []
    for p4, mask in samples:
        p4 = np.where(mask[..., None], p4, 0.0).astype(np.float64)
        jet = p4.sum(axis=1)
        masses.append(fv.mass(jet))
        columns = (
            fv.pt(p4) / fv.pt(jet)[:, None],
            fv.eta(p4) - fv.eta(jet)[:, None],
            fv.wrap_phi(fv.phi(p4) - fv.phi(jet)[:, None]),
        )
        relative.append([column[mask] for column in columns])
    scaled = standardise(*observables)
    return {
        "w1_mass_gev": wasserstein_1d(*masses),
        "w1_num_particles": wasserstein_1d(observables[0][:, 2], observables[1][:, 2]),
        "w1_pt_share": wasserstein_1d(relative[0][0], relative[1][0]),
        "w1_deta": wasserstein_1d(relative[0][1], relative[1][1]),
        "w1_dphi": wasserstein_1d(relative[0][2], relative[1][2]),
        "fpd": frechet_physics_distance(*scaled, rng),
        "kpd": kernel_physics_distance(*scaled, rng),
        "coverage": coverage(*scaled),
    }


def resolution_metrics(
    true: Array, true_mask: Array, generated: Array, generated_mask: Array, *, max_emd_jets: int = 200
) -> dict[str, float]:
    """Metrics of jets that answer to one true jet each, on real particles only.

    Args:
        true: Four-vectors, (J, N, 4) GeV.
        true_mask: True where a particle is real, (J, N).
        generated: Four-vectors, (J, N', 4) GeV.
        generated_mask: True where a particle exists, (J, N').
        max_emd_jets: EMD is averaged over that many leading jets.

    Returns:
        Mean Chamfer distance and EMD (ΔR), and mean relative error of the multiplicity.
    """
    pairs = [
        (a[m].astype(np.float64), b[n].astype(np.float64))
        for a, m, b, n in zip(true, true_mask, generated, generated_mask, strict=True)
        if n.any()
    ]
    counts = [mask.sum(axis=1) for mask in (true_mask, generated_mask)]
    return {
        "chamfer": float(np.mean([chamfer_distance(a, b) for a, b in pairs])),
        "emd": float(np.mean([energy_movers_distance(a, b) for a, b in pairs[:max_emd_jets]])),
        "multiplicity_error": float((np.abs(counts[1] - counts[0]) / counts[0]).mean()),
        "empty_share": float((counts[1] == 0).mean()),
    }
