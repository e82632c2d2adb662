"""Metrics of masked-particle training: errors of hidden particles in physical units.

Dimensions: M hidden particles.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jet_foundation.metrics.regression import r_squared
from jet_foundation.physics import fourvectors as fv

Array = NDArray[Any]


def masked_particle_metrics(predicted: Array, true: Array, factors: Array) -> dict[str, float]:
    """Errors of predicted particles.

    Args:
        predicted: Normalised ln pT, Δη, then Δφ in rad, normalised ln E, (M, 4).
        true: The same of the particles that were hidden, (M, 4).
        factors: Factors that normalised ln pT, Δη and ln E, (3,).

    Returns:
        RMSE, bias and R² of ln pT and ln E, mean absolute error of Δη and of Δφ (rad), and the mean of
        1 − cos Δφ. NaN when nothing was hidden.
    """
    if len(true) == 0:
        names = ("log_pt_rmse", "log_energy_rmse", "deta_mae", "dphi_mae")
        return dict.fromkeys(names, float("nan"))
    difference = predicted.astype(np.float64) - true
    difference[:, 2] = fv.wrap_phi(difference[:, 2])
    result: dict[str, float] = {}
    for name, column, factor in (("log_pt", 0, factors[0]), ("log_energy", 3, factors[2])):
        error = difference[:, column] / factor
        result[f"{name}_rmse"] = float(np.sqrt((error**2).mean()))
        result[f"{name}_bias"] = float(error.mean())
        result[f"{name}_r2"] = r_squared(predicted[:, column], true[:, column])
    result["deta_mae"] = float(np.abs(difference[:, 1] / factors[1]).mean())
    result["dphi_mae"] = float(np.abs(difference[:, 2]).mean())
    result["one_minus_cos_dphi"] = float((1 - np.cos(difference[:, 2])).mean())
    return result
