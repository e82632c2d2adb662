"""Inverse-transform sampling from tabulated densities.

The quantile function is tabulated on a uniform grid of u, so a draw is one look-up and one linear
interpolation, without a search. A family of densities that depends on one parameter is a table with a row per
parameter value; between two rows the draw takes either one at random with the weights of a linear
interpolation, which interpolates the densities themselves.
"""

import numpy as np
from numpy.typing import ArrayLike

from chhiggs_pnet.physics.kinematics import Array

NUM_QUANTILES = 2048


class InverseCdf:
    """Quantile table of one density, or of one density per row.

    Args:
        values: Increasing grid of the variable, (G,) or (R, G).
        density: Density on the grid up to a constant, same shape, non-negative.
        parameter: Parameter value of each row, (R,) uniformly spaced; None for a single density.
    """

    def __init__(self, values: Array, density: Array, parameter: Array | None = None) -> None:
        values, density = np.atleast_2d(values), np.atleast_2d(density)
        steps = np.diff(values, axis=1) * (density[:, 1:] + density[:, :-1]) / 2
        area = np.cumsum(np.concatenate([np.zeros((len(steps), 1)), steps], axis=1), axis=1)
        self.integral = area[:, -1]
        u = np.linspace(0.0, 1.0, NUM_QUANTILES + 1)
        rows = [np.interp(u, a / a[-1], v) for a, v in zip(area, values, strict=True)]
        self._table = np.stack(rows)
        self._first = 0.0 if parameter is None else float(parameter[0])
        self._step = 1.0 if parameter is None else float(parameter[1] - parameter[0])
        self._single = parameter is None

    def draw(self, rng: np.random.Generator, shape: int | tuple[int, ...], at: ArrayLike = 0.0) -> Array:
        """Draw random values.

        Args:
            rng: Generator.
            shape: Shape of the result.
            at: Parameter, broadcastable to `shape`; values outside the rows use the nearest row.

        Returns:
            Values of the given shape, in the unit of the grid.
        """
        position = rng.random(shape) * NUM_QUANTILES
        cell = position.astype(np.int64)
        if self._single:
            row: Array | int = 0
        else:
            place = (np.asarray(at) - self._first) / self._step + rng.random(shape)
            row = np.clip(place, 0, len(self._table) - 1).astype(np.int64)
        low, high = self._table[row, cell], self._table[row, cell + 1]
        return np.asarray(low + (position - cell) * (high - low))
