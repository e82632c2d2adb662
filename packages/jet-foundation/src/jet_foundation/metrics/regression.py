r"""Metrics of the mass regression.

    response r = m_pred / m_true;  its median is the scale, IQR(r) / (1.349 median) the resolution

1.349 standard deviations are the interquartile range of a Gaussian.

Dimensions: J jets.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GAUSSIAN_IQR = 1.3489795


def r_squared(predicted: Array, true: Array) -> float:
    """Share of the variance that is explained.

    Args:
        predicted: (J,).
        true: (J,).

    Returns:
        1 − SS_res / SS_tot; NaN when the truth does not vary.
    """
    total = float(((true - true.mean()) ** 2).sum())
    return 1 - float(((predicted - true) ** 2).sum()) / total if total > 0 else float("nan")


def mass_response(predicted_gev: Array, true_gev: Array) -> dict[str, float]:
    """Scale and resolution of a mass.

    Args:
        predicted_gev: (J,) GeV.
        true_gev: (J,) GeV; jets of mass 0 are left out.

    Returns:
        `response_median`, `response_iqr` (divided by the median) and `resolution` (as a Gaussian's σ).
    """
    positive = true_gev > 0
    low, median, high = np.quantile(predicted_gev[positive] / true_gev[positive], [0.25, 0.5, 0.75])
    iqr = (high - low) / median
    return {
        "response_median": float(median),
        "response_iqr": float(iqr),
        "resolution": float(iqr / GAUSSIAN_IQR),
    }


def regression_metrics(predicted_gev: Array, true_gev: Array) -> dict[str, float]:
    """All metrics of a mass regression.

    Args:
        predicted_gev: (J,) GeV.
        true_gev: (J,) GeV.

    Returns:
        Metric by name; `mae_gev` and `rmse_gev` in GeV.
    """
    difference = predicted_gev - true_gev
    return {
        "mae_gev": float(np.abs(difference).mean()),
        "rmse_gev": float(np.sqrt((difference**2).mean())),
        "r2": r_squared(predicted_gev, true_gev),
        **mass_response(predicted_gev, true_gev),
    }
