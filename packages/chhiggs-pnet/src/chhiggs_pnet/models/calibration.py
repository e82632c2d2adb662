r"""Calibration of class probabilities by one temperature.

    p_c(T) = p_c^{1/T} / Σ_c' p_c'^{1/T},      T = argmin Σ_i w_i (−ln p_{y_i}(T))

References:
    C. Guo et al., arXiv:1706.04599.

Dimensions: N events.
"""

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics.events import Array

FloatArray = NDArray[np.float64]


def calibrated(log_probabilities: FloatArray, temperature: float) -> FloatArray:
    """Class probabilities at a temperature, (N, classes)."""
    scaled = log_probabilities / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(log_probabilities: FloatArray, label: Array, weight: Array) -> float:
    """Temperature with the lowest cross-entropy.

    Args:
        log_probabilities: (N, classes).
        label: Index of the class, (N,).
        weight: Non-negative weights, (N,).

    Returns:
        Between 0.2 and 5.
    """
    from scipy.optimize import minimize_scalar  # half a second to import, which no training needs to begin

    def loss(log_temperature: float) -> float:
        found = calibrated(log_probabilities, float(np.exp(log_temperature)))
        return float(-np.sum(weight * np.log(np.maximum(found[np.arange(len(label)), label], 1e-300))))

    result = minimize_scalar(loss, bounds=(np.log(0.2), np.log(5.0)), method="bounded")
    return float(np.exp(result.x))
