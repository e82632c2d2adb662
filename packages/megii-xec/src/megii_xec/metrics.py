r"""Resolution of the reconstructed photon.

With the residuals d_i = pred_i - true_i of N events,

    bias     mu = mean(d)
    rms      sigma = sqrt(mean((d - mu)^2))
    skew     mean((d - mu)^3) / sigma^3
    width68  half of the central 68.27 % interval, (Q(0.8413) - Q(0.1587)) / 2; sigma for a Gaussian
    energy   sigma_E / E = sqrt(a^2 / E + b^2 + c^2 / E^2): photon statistics, constant term, noise

Quantities that cannot be negative (opening angle, distance) are given by their 68th percentile. Intervals
come from the bootstrap and hold 68.27 %, an error bar of one standard deviation.

An event whose prediction or truth is not finite, or is the missing value of the data files, has the residual
NaN. It is left out of the statistics and counted beside them; nothing disappears without a number.

References:
    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, Chapman & Hall, 1993, chapters 13 and 16.

Legend: B events, R bootstrap resamples, K bins.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from megii_xec.data.schema import INVALID_ABOVE
from megii_xec.physics.coordinates import angles_to_vector, opening_angle_deg, uvw_to_xyz, vector_to_angles

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]  # (..., B) -> (...)

ONE_SIGMA = 0.6826894921370859  # content of one standard deviation of a Gaussian
_TAIL = (1 - ONE_SIGMA) / 2
_QUANTILES = {"width68": (_TAIL, 1 - _TAIL), "percentile68": (0.68,)}
_MAX_ELEMENTS = 2**22  # values of one block of bootstrap resamples: 32 MB


@dataclass(frozen=True)
class Quantity:
    """One reconstructed number.

    Attributes:
        task: Key of the prediction it belongs to.
        column: Column of that prediction.
        unit: Unit of its residual.
        scale: Factor from the unit of the prediction to `unit`.
    """

    task: str
    column: int
    unit: str
    scale: float


# Predictions carry the units of the data files: degrees, GeV, ns, cm.
QUANTITIES: dict[str, Quantity] = {
    "theta": Quantity("angle", 0, "deg", 1.0),
    "phi": Quantity("angle", 1, "deg", 1.0),
    "energy": Quantity("energy", 0, "MeV", 1e3),
    "timing": Quantity("timing", 0, "ps", 1e3),
    "u": Quantity("uvwFI", 0, "mm", 10.0),
    "v": Quantity("uvwFI", 1, "mm", 10.0),
    "w": Quantity("uvwFI", 2, "mm", 10.0),
}
# Derived from a whole prediction; the metric carries its unit in the name.
DERIVED_METRICS: dict[str, str] = {
    "opening_angle": "val_resolution_deg",
    "energy_relative": "energy_resolution_percent",
    "distance": "uvw_distance68_mm",
    "opening_angle_vec": "angleVec_resolution_deg",
}
NUM_COLUMNS = {"angle": 2, "energy": 1, "timing": 1, "uvwFI": 3, "angleVec": 3, "n_gamma": 1}


def bias(residual: FloatArray) -> FloatArray:
    """Return the mean over the last axis, shape (..., B) to (...), unit of the residual."""
    return np.asarray(np.mean(residual, axis=-1))


def rms(residual: FloatArray) -> FloatArray:
    """Return the standard deviation about the mean, shape (..., B) to (...), unit of the residual."""
    return np.asarray(np.std(residual, axis=-1))


def skewness(residual: FloatArray) -> FloatArray:
    """Return the third standardised moment, shape (..., B) to (...), dimensionless; NaN for equal values."""
    centered = residual - np.mean(residual, axis=-1, keepdims=True)
    variance = np.mean(centered**2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.mean(centered**3, axis=-1) / variance**1.5)


def width68(residual: FloatArray) -> FloatArray:
    """Return half of the central 68.27 % interval, shape (..., B) to (...), unit of the residual."""
    low, high = np.quantile(residual, _QUANTILES["width68"], axis=-1)
    return np.asarray((high - low) / 2)


def percentile68(distance: FloatArray) -> FloatArray:
    """Return the 68th percentile, shape (..., B) to (...), unit of the distance."""
    return np.asarray(np.quantile(distance, 0.68, axis=-1))


STATISTICS: dict[str, Statistic] = {"bias": bias, "rms": rms, "skew": skewness, "width68": width68}


def bootstrap_interval(
    statistic: Callable[..., FloatArray],
    *samples: FloatArray,
    num_resamples: int = 200,
    seed: int = 0,
    level: float = ONE_SIGMA,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic.

    Several samples are resampled together, event by event, so that what they share cancels in the statistic.

    Args:
        statistic: Takes one array of shape (R, B) per sample and returns shape (R,).
        samples: Finite values of the same events, each of shape (B,) with B at least 1.
        num_resamples: Number of resamples.
        seed: Seed of the random numbers.
        level: Content of the interval.

    Returns:
        Lower and upper end, unit of the statistic.
    """
    num_events = len(samples[0])
    rng = np.random.default_rng(seed)
    values = np.empty(num_resamples)
    block = max(1, _MAX_ELEMENTS // num_events)
    for start in range(0, num_resamples, block):
        stop = min(start + block, num_resamples)
        index = rng.integers(num_events, size=(stop - start, num_events))
        values[start:stop] = statistic(*(sample[index] for sample in samples))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_quantiles(
    sample: FloatArray, probabilities: Sequence[float], num_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Quantiles of bootstrap resamples without resampling, shape (R, len(probabilities)).

    A resample of the sorted sample x is x[floor(B U)] with B uniform numbers U, and sorts as U does. The
    order statistics of U that a quantile needs have Dirichlet distributed spacings, so R resamples cost O(R)
    and not O(R B).
    """
    ordered = np.sort(sample)
    num_events = len(ordered)
    position = (num_events - 1) * np.asarray(probabilities)
    lower = np.floor(position).astype(np.int64)
    upper = np.minimum(lower + 1, num_events - 1)
    ranks = np.unique(np.concatenate([lower, upper]))  # counted from 0; rank r has r + 1 spacings below it
    spacings = np.diff(ranks, prepend=-1, append=num_events)
    cumulative = np.cumsum(rng.standard_gamma(spacings, size=(num_resamples, len(spacings))), axis=1)
    uniform = cumulative[:, :-1] / cumulative[:, -1:]
    values = ordered[np.minimum((uniform * num_events).astype(np.int64), num_events - 1)]
    below, above = (values[:, np.searchsorted(ranks, rank)] for rank in (lower, upper))
    return np.asarray(below + (position - lower) * (above - below))


def _columns(values: ArrayLike, task: str) -> FloatArray:
    """Values as float64, shape (B, k); a row with anything but measurements is NaN throughout."""
    array = np.array(values, dtype=np.float64)
    array = array.reshape(len(array), -1)
    if array.shape[1] != NUM_COLUMNS[task]:
        raise ValueError(f"{task} has {NUM_COLUMNS[task]} columns, got {array.shape[1]}")
    array[~(np.abs(array) < INVALID_ABOVE).all(axis=1)] = np.nan
    return array


def with_angles(values: Mapping[str, ArrayLike]) -> dict[str, ArrayLike]:
    """Add the angles of a direction that is given as a vector only; arguments as in `residuals`."""
    if "angleVec" not in values or "angle" in values:
        return dict(values)
    return {"angle": vector_to_angles(_columns(values["angleVec"], "angleVec")), **values}


def residuals(pred: Mapping[str, ArrayLike], truth: Mapping[str, ArrayLike]) -> dict[str, FloatArray]:
    """Return what is to be histogrammed for every quantity of the predicted tasks.

    Args:
        pred: Prediction of each task, shape (B, k) or (B,): `angle` (theta, phi; degrees), `energy` (GeV),
            `timing` (ns), `uvwFI` (cm), `angleVec` (any length), `n_gamma` (has no residual).
        truth: Truth of at least these tasks, same shapes.

    Returns:
        Arrays of shape (B,), NaN where prediction or truth is missing. Pred - true: `theta`, `phi` (deg, phi
        along the shorter way round), `energy` (MeV), `energy_relative` (%), `timing` (ps), `u`, `v`, `w`
        (mm). Distances in space: `opening_angle`, `opening_angle_vec` (deg), `distance` (mm).

    Raises:
        KeyError: A task is unknown or has no truth.
        ValueError: Prediction and truth differ in length, or the number of columns is wrong.
    """
    result: dict[str, FloatArray] = {}
    pred, truth = with_angles(pred), with_angles(truth)
    for task, values in pred.items():
        p, t = _columns(values, task), _columns(truth[task], task)
        if len(p) != len(t):
            raise ValueError(f"{task} has {len(p)} predictions for {len(t)} true values")
        for name, quantity in QUANTITIES.items():
            if quantity.task == task:
                result[name] = (p - t)[:, quantity.column] * quantity.scale
        if task == "angle":
            result["phi"] = (result["phi"] + 180) % 360 - 180
            vectors = (angles_to_vector(x[:, 0], x[:, 1]) for x in (p, t))
            result["opening_angle"] = opening_angle_deg(*vectors)
        elif task == "energy":
            result["energy_relative"] = 100 * (p / np.where(t > 0, t, np.nan) - 1)[:, 0]
        elif task == "angleVec":
            result["opening_angle_vec"] = opening_angle_deg(p, t)
        elif task == "uvwFI":
            result["distance"] = 10 * np.linalg.norm(uvw_to_xyz(p) - uvw_to_xyz(t), axis=1)
    return result


def metric_unit(metric: str) -> str:
    """Return the unit of a number from `regression_summary`: "deg" for `theta_bias`, "1" for pure numbers."""
    stem = metric.removesuffix("_low").removesuffix("_high")
    if stem in DERIVED_METRICS.values():
        return stem.rpartition("_")[2].replace("percent", "%")
    name, _, statistic = stem.rpartition("_")
    return QUANTITIES[name].unit if name in QUANTITIES and statistic in ("bias", "rms", "width68") else "1"


def regression_summary(
    pred: Mapping[str, ArrayLike], truth: Mapping[str, ArrayLike], *, num_resamples: int = 0, seed: int = 0
) -> dict[str, float]:
    """Summarise predictions in the numbers a training run reports.

    Args:
        pred: Prediction of each task, see `residuals`.
        truth: Truth of each task.
        num_resamples: Bootstrap resamples; 0 leaves the intervals out.
        seed: Seed of the bootstrap.

    Returns:
        `{theta,phi}_{bias,rms,width68}` in degrees, `energy_*` in MeV, `timing_*` in ps, `{u,v,w}_*` in mm,
        `*_skew` as a pure number; `val_resolution_deg`, the 68th percentile of the opening angle;
        `energy_resolution_percent`, the width of (pred - true) / true; `uvw_distance68_mm`, the 68th
        percentile of the distance in space. With resamples, `<metric>_low` and `<metric>_high` follow each of
        them. `num_events` counts all events and `num_missing_<task>` those left out of the numbers of a task.
        A metric without events is NaN. `n_gamma_accuracy` is the share of events with the right number.
    """
    summary: dict[str, float] = {"num_events": 0.0}
    if "n_gamma" in pred:
        p, t = (_columns(x["n_gamma"], "n_gamma") for x in (pred, truth))
        summary["n_gamma_accuracy"] = float((p == t).mean()) if len(p) else np.nan
    for name, values in residuals(pred, truth).items():
        summary["num_events"] = float(len(values))
        finite = values[np.isfinite(values)]
        if name in QUANTITIES:
            summary[f"num_missing_{QUANTITIES[name].task}"] = float(len(values) - len(finite))
            metrics = {f"{name}_{statistic}": function for statistic, function in STATISTICS.items()}
        else:
            metrics = {DERIVED_METRICS[name]: width68 if name == "energy_relative" else percentile68}
        for metric, function in metrics.items():
            summary[metric] = float(function(finite)) if len(finite) else np.nan
            if num_resamples:
                interval = (np.nan, np.nan)
                if len(finite):
                    interval = bootstrap_interval(function, finite, num_resamples=num_resamples, seed=seed)
                summary[f"{metric}_low"], summary[f"{metric}_high"] = interval
    return summary


@dataclass
class Profile:
    """Bias and resolution in bins of a variable.

    Attributes:
        edges: Bin edges, shape (K + 1,), unit of the variable.
        num_events: Events in each bin, shape (K,).
        num_missing: Events of the bin that have no residual, not contained in `num_events`, shape (K,).
        num_outside: Events outside of the edges or without the variable.
        bias: Mean residual, NaN in bins with too few events, shape (K,), unit of the residual.
        bias_error: Standard error of the mean, shape (K,).
        width: Resolution, shape (K,), unit of the residual.
        width_low: Lower end of its interval, shape (K,).
        width_high: Upper end, shape (K,).
    """

    edges: FloatArray
    num_events: NDArray[np.int64]
    num_missing: NDArray[np.int64]
    num_outside: int
    bias: FloatArray
    bias_error: FloatArray
    width: FloatArray
    width_low: FloatArray
    width_high: FloatArray

    @property
    def centers(self) -> FloatArray:
        """Bin centres, shape (K,)."""
        return np.asarray((self.edges[1:] + self.edges[:-1]) / 2)


def profile(
    variable: ArrayLike,
    residual: ArrayLike,
    edges: ArrayLike,
    *,
    statistic: Literal["width68", "percentile68"] = "width68",
    min_events: int = 20,
    num_resamples: int = 400,
    seed: int = 0,
) -> Profile:
    """Compute the resolution in bins of a variable.

    Args:
        variable: Value that chooses the bin, shape (B,).
        residual: Residual or distance, NaN where missing, shape (B,).
        edges: Increasing bin edges, shape (K + 1,); the last bin contains its upper edge.
        statistic: `width68` for residuals, `percentile68` for distances.
        min_events: Bins with fewer events show no number.
        num_resamples: Bootstrap resamples per bin.
        seed: Seed of the bootstrap.

    Returns:
        Profile with K bins.
    """
    x, d, bins = (np.asarray(a, dtype=np.float64) for a in (variable, residual, edges))
    num_bins = len(bins) - 1
    index = np.searchsorted(bins, x, side="right") - 1
    index[x == bins[-1]] = num_bins - 1
    inside = (index >= 0) & (index < num_bins)  # NaN sorts behind the last edge
    measured = np.isfinite(d)
    num_events = np.bincount(index[inside & measured], minlength=num_bins)
    num_missing = np.bincount(index[inside & ~measured], minlength=num_bins)

    bias_, bias_error, width, low, high = (np.full(num_bins, np.nan) for _ in range(5))
    rng = np.random.default_rng(seed)
    order = np.argsort(np.where(inside & measured, index, num_bins), kind="stable")
    for k, sample in enumerate(np.split(d[order], np.cumsum(num_events))[:num_bins]):
        if len(sample) < max(min_events, 1):
            continue
        bias_[k], bias_error[k] = bias(sample), rms(sample) / np.sqrt(len(sample))
        probabilities = _QUANTILES[statistic]
        resampled = _resampled_quantiles(sample, probabilities, num_resamples, rng)
        if statistic == "width68":
            width[k], resampled_widths = width68(sample), (resampled[:, 1] - resampled[:, 0]) / 2
        else:
            width[k], resampled_widths = percentile68(sample), resampled[:, 0]
        low[k], high[k] = np.quantile(resampled_widths, [_TAIL, 1 - _TAIL])
    num_outside = int(len(x) - inside.sum())
    return Profile(bins, num_events, num_missing, num_outside, bias_, bias_error, width, low, high)


@dataclass(frozen=True)
class Comparison:
    """Ratio of two resolutions on the same events.

    Attributes:
        ratio: Width of the network over width of the baseline; below 1 the network is better.
        low: Lower end of the 68.27 % interval of the ratio.
        high: Upper end.
        num_events: Events that both have reconstructed.
        num_missing_network: Events without a prediction of the network.
        num_missing_baseline: Events without a value of the baseline.
    """

    ratio: float
    low: float
    high: float
    num_events: int
    num_missing_network: int
    num_missing_baseline: int


def compare_widths(
    network: FloatArray,
    baseline: FloatArray,
    *,
    statistic: Statistic = width68,
    num_resamples: int = 200,
    seed: int = 0,
) -> Comparison:
    """Compare the network with the conventional reconstruction event by event.

    Both are resampled together, so fluctuations that they share (the same showers) cancel in the ratio.

    Args:
        network: Residuals or distances of the network, NaN where missing, shape (B,).
        baseline: The same for the baseline, same events in the same order, shape (B,).
        statistic: Resolution of one sample, `width68` or `percentile68`.
        num_resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        Ratio with its interval; NaN when no event has both.
    """
    has_network, has_baseline = np.isfinite(network), np.isfinite(baseline)
    both = has_network & has_baseline
    counts = (int(both.sum()), int((~has_network).sum()), int((~has_baseline).sum()))
    if not counts[0]:
        return Comparison(np.nan, np.nan, np.nan, *counts)

    def ratio(a: FloatArray, b: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(statistic(a) / statistic(b))

    a, b = np.asarray(network)[both], np.asarray(baseline)[both]
    low, high = bootstrap_interval(ratio, a, b, num_resamples=num_resamples, seed=seed)
    return Comparison(float(ratio(a, b)), low, high, *counts)


@dataclass
class EnergyFit:
    """Fit of sigma_E / E = sqrt(a^2 / E + b^2 + c^2 / E^2), E in GeV.

    Attributes:
        a: Photon statistics, sqrt(GeV).
        b: Constant term, dimensionless.
        c: Noise, GeV.
        a_error: Its standard error; for a term at zero, the value it could have at one standard deviation.
        b_error: The same for b.
        c_error: The same for c.
        chi2: Sum of the squared pulls of (sigma_E / E)^2.
        num_points: Points used.
    """

    a: float
    b: float
    c: float
    a_error: float
    b_error: float
    c_error: float
    chi2: float
    num_points: int

    def __call__(self, energy_gev: ArrayLike) -> FloatArray:
        """Return sigma_E / E at the given energies (GeV), same shape, dimensionless."""
        energy = np.asarray(energy_gev, dtype=np.float64)
        return np.asarray(np.sqrt(self.a**2 / energy + self.b**2 + self.c**2 / energy**2))


def fit_energy_resolution(energy_gev: ArrayLike, resolution: ArrayLike, error: ArrayLike) -> EnergyFit:
    """Fit the energy dependence of the energy resolution.

    The square of the resolution is linear in a^2, b^2 and c^2, none of which may be negative. With three
    unknowns the constrained minimum is found by trying every subset of terms that may be positive.

    Args:
        energy_gev: Energies, shape (K,), GeV.
        resolution: sigma_E / E, NaN where not measured, shape (K,), dimensionless.
        error: Standard errors of `resolution`, shape (K,).

    Returns:
        Coefficients and their errors.

    Raises:
        ValueError: Fewer than three measured points with a positive error.
    """
    energy, sigma, delta = (np.asarray(a, dtype=np.float64) for a in (energy_gev, resolution, error))
    usable = np.isfinite(sigma) & np.isfinite(delta) & (sigma > 0) & (delta > 0)
    energy, sigma, delta = energy[usable], sigma[usable], delta[usable]
    if len(energy) < 3:
        raise ValueError(f"the energy fit needs three measured points, got {len(energy)}")

    reference = energy.mean()  # in units of a typical energy all three columns are of order one
    x = energy / reference
    weight = 1 / (2 * sigma * delta)  # error of the square
    design = np.stack([1 / x, np.ones_like(x), 1 / x**2], axis=1) * weight[:, None]
    target = sigma**2 * weight

    best, best_chi2 = np.zeros(3), np.inf
    for size in (1, 2, 3):
        for terms in combinations(range(3), size):
            solution = np.zeros(3)
            solution[list(terms)] = np.linalg.lstsq(design[:, list(terms)], target, rcond=None)[0]
            chi2 = float(np.sum((design @ solution - target) ** 2))
            if solution.min() >= 0 and chi2 < best_chi2:
                best, best_chi2 = solution, chi2

    variance = np.diag(np.linalg.pinv(design.T @ design))
    square_error = np.sqrt(variance)
    coefficient = np.sqrt(best)
    # d(sqrt(s)) = ds / (2 sqrt(s)) as long as s is well above its error.
    limit = np.sqrt(square_error)
    coefficient_error = square_error / np.maximum(2 * coefficient, limit)
    unit = np.sqrt(np.array([reference, 1.0, reference**2]))
    a, b, c = (coefficient * unit).tolist()
    a_error, b_error, c_error = (coefficient_error * unit).tolist()
    return EnergyFit(a, b, c, a_error, b_error, c_error, best_chi2, len(energy))
