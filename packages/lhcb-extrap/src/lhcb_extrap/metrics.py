r"""Errors of extrapolated states.

    position error = sqrt(dx^2 + dy^2),    slope error = sqrt(dtx^2 + dty^2)

at the end plane. A track that is not finite counts as failed and stays out of the means.

Dimension legend: N tracks, K bins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.sampling import MOMENTUM_STUDIES_GEV

# The targets of the study, over the full range of momenta.
TARGETS = {"pos_mean_mm": 0.1, "pos_95_mm": 0.3, "slope_mean": 1e-5, "x_mean_mm": 0.1, "y_mean_mm": 0.1}
CONVERGED_FRACTION = 0.9


def track_errors(end: FloatArray, truth: FloatArray) -> dict[str, float]:
    """Summarise the errors of some tracks.

    Args:
        end: x, y, tx, ty, (N, 4), mm, 1.
        truth: Likewise.

    Returns:
        Mean, standard deviation, median, 95th percentile and maximum of the position error in mm; mean and
        95th percentile of the slope error; mean absolute errors of x, y (mm), tx, ty; numbers of tracks and
        failures.
        NaN where no track is left.
    """
    difference = np.abs(np.asarray(end, np.float64) - np.asarray(truth, np.float64))
    fine = np.isfinite(difference).all(axis=1)
    num_failed = int((~fine).sum())
    difference = difference[fine] if fine.any() else np.full((1, 4), np.nan)
    position, slope = (
        np.hypot(difference[:, 0], difference[:, 1]),
        np.hypot(difference[:, 2], difference[:, 3]),
    )
    x, y, tx, ty = difference.mean(axis=0)
    return {
        "pos_mean_mm": float(position.mean()),
        "pos_std_mm": float(position.std()),
        "pos_median_mm": float(np.median(position)),
        "pos_95_mm": float(np.percentile(position, 95)),
        "pos_max_mm": float(position.max()),
        "slope_mean": float(slope.mean()),
        "slope_95": float(np.percentile(slope, 95)),
        "x_mean_mm": float(x),
        "y_mean_mm": float(y),
        "tx_mean": float(tx),
        "ty_mean": float(ty),
        "num_tracks": float(fine.sum()),
        "num_failed": float(num_failed),
    }


def errors_by_momentum(
    end: FloatArray, truth: FloatArray, momentum_gev: FloatArray
) -> dict[str, dict[str, float]]:
    """Summarise by momentum range.

    Args:
        end: x, y, tx, ty, (N, 4), mm, 1.
        truth: Likewise.
        momentum_gev: p, (N,), GeV.

    Returns:
        `track_errors` of the tracks of each study that has any.
    """
    found: dict[str, dict[str, float]] = {}
    for study, (low, high) in MOMENTUM_STUDIES_GEV.items():
        rows = (momentum_gev >= low) & (momentum_gev < high)
        if rows.any():
            found[study] = track_errors(end[rows], truth[rows])
    return found


@dataclass(frozen=True)
class Profile:
    """Position error in bins of a variable.

    Attributes:
        edges: Bin edges, (K + 1,).
        mean: Mean position error, (K,), mm; NaN where a bin is empty.
        percentile95: 95th percentile, (K,), mm.
        count: Tracks, (K,).
    """

    edges: FloatArray
    mean: FloatArray
    percentile95: FloatArray
    count: NDArray[np.intp]


def error_profile(error_mm: FloatArray, variable: FloatArray, edges: FloatArray) -> Profile:
    """Bin position errors.

    Args:
        error_mm: Position errors, (N,), mm.
        variable: Where to put each, (N,).
        edges: Bin edges, (K + 1,).

    Returns:
        The profile.
    """
    index = np.digitize(variable, edges) - 1
    parts = [error_mm[(index == k) & np.isfinite(error_mm)] for k in range(len(edges) - 1)]
    return Profile(
        edges,
        np.array([part.mean() if part.size else np.nan for part in parts]),
        np.array([np.percentile(part, 95) if part.size else np.nan for part in parts]),
        np.array([part.size for part in parts]),
    )


def error_map(
    error_mm: FloatArray, x: FloatArray, y: FloatArray, x_edges: FloatArray, y_edges: FloatArray
) -> FloatArray:
    """Mean position error over the start plane.

    Args:
        error_mm: Position errors, (N,), mm.
        x: Positions, (N,), mm.
        y: Positions, (N,), mm.
        x_edges: Bin edges along x.
        y_edges: Bin edges along y.

    Returns:
        Mean error, (bins of x, bins of y), mm; NaN where a bin is empty.
    """
    fine = np.isfinite(error_mm)
    bins = (x_edges, y_edges)
    total, _, _ = np.histogram2d(x[fine], y[fine], bins=bins, weights=error_mm[fine])
    count, _, _ = np.histogram2d(x[fine], y[fine], bins=bins)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def epochs_to_converge(values: Sequence[float], fraction: float = CONVERGED_FRACTION) -> int | None:
    """First epoch with most of the improvement.

    Args:
        values: A quantity that falls, one value an epoch.
        fraction: Share of the way from the first value to the best one.

    Returns:
        The epoch, from 1; None for a quantity that never improved.
    """
    history = np.asarray(values, np.float64)
    if history.size < 2 or not np.isfinite(history).all() or history.min() >= history[0]:
        return None
    threshold = history[0] - fraction * (history[0] - history.min())
    return int(np.argmax(history <= threshold)) + 1


def overfitting_ratio(train: Sequence[float], validation: Sequence[float]) -> float:
    """Validation over training loss, mean of the last tenth of the epochs.

    Args:
        train: Training losses, one an epoch, of the same kind as the validation losses.
        validation: Validation losses.

    Returns:
        The ratio; near 1 there is no overfitting.
    """
    last = max(1, len(train) // 10)
    return float(np.mean(validation[-last:]) / np.mean(train[-last:]))


def targets_met(errors: Mapping[str, float]) -> dict[str, bool]:
    """Compare errors with the targets of the study.

    Args:
        errors: Of `track_errors`.

    Returns:
        Whether each target is met.
    """
    return {name: bool(errors[name] < target) for name, target in TARGETS.items()}
