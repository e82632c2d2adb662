r"""Normalisation of the features, fitted on training jets only.

    x′ = clip((x − mean) / std, ±limit)          fitted: mean and std over all particles of the training split
    x′ = clip((x − shift) · factor, ±limit)      part: the fixed numbers of arXiv:2202.03772's configurations

Charge and flags stay as they are in both.

Dimensions: K particles, F features.
"""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hep_shared.config import StrictModel
from hep_shared.errors import UserError
from jet_foundation.data.features import FEATURE_NAMES, PID
from jet_foundation.data.schema import FeatureSet

Array = NDArray[Any]

LIMIT = 5.0
_PART = {
    "log_pt": (1.7, 0.7),
    "log_energy": (2.0, 0.7),
    "log_pt_rel": (-4.7, 0.7),
    "log_energy_rel": (-4.7, 0.7),
    "delta_r": (0.2, 4.0),
}  # shift and factor; features not named here are left as they are


class Moments:
    """Running mean and variance of columns, exact for any split into pieces.

    Args:
        num_columns: Number of columns.
    """

    def __init__(self, num_columns: int) -> None:
        self.count = 0
        self.mean = np.zeros(num_columns)
        self.squares = np.zeros(num_columns)

    def add(self, values: Array) -> None:
        """Include rows (T. Chan, G. Golub, R. LeVeque 1979).

        Args:
            values: Rows, (K, columns).
        """
        count = len(values)
        if not count:
            return
        mean = values.mean(axis=0, dtype=np.float64)
        squares = ((values - mean) ** 2).sum(axis=0, dtype=np.float64)
        total = self.count + count
        difference = mean - self.mean
        self.squares += squares + difference**2 * self.count * count / total
        self.mean += difference * count / total
        self.count = total

    @property
    def std(self) -> Array:
        """Standard deviation, (columns,)."""
        deviation: Array = np.sqrt(self.squares / max(self.count, 1))
        return deviation


class Normalization(StrictModel):
    """Shift and factor of each feature.

    Attributes:
        feature_set: The features that it belongs to.
        scheme: `fitted` or `part`.
        shift: Subtracted first, one number per feature.
        factor: Multiplied afterwards.
    """

    feature_set: FeatureSet
    scheme: Literal["fitted", "part"]
    shift: tuple[float, ...]
    factor: tuple[float, ...]

    @classmethod
    def part(cls, feature_set: FeatureSet) -> Self:
        """Take the fixed numbers.

        Args:
            feature_set: `kin`, `kinpid` or `full`.

        Returns:
            The normalisation of the Particle Transformer.
        """
        numbers = [_PART.get(name, (0.0, 1.0)) for name in FEATURE_NAMES[feature_set]]
        shift, factor = zip(*numbers, strict=True)
        return cls(feature_set=feature_set, scheme="part", shift=shift, factor=factor)

    @classmethod
    def fitted(cls, feature_set: FeatureSet, moments: Moments) -> Self:
        """Use means and standard deviations.

        Args:
            feature_set: `kin`, `kinpid` or `full`.
            moments: Of the features of the training particles.

        Returns:
            The normalisation.

        Raises:
            UserError: A feature does not vary in the training jets.
        """
        shift, factor = [], []
        for name, mean, std in zip(FEATURE_NAMES[feature_set], moments.mean, moments.std, strict=True):
            if name in PID:
                shift.append(0.0)
                factor.append(1.0)
                continue
            if not std > 1e-6 * max(abs(mean), 1e-6):
                raise UserError(
                    f"Feature '{name}' has the same value {mean:.6g} for all training particles; "
                    "use more jets or a feature set without it."
                )
            shift.append(float(mean))
            factor.append(float(1 / std))
        return cls(feature_set=feature_set, scheme="fitted", shift=tuple(shift), factor=tuple(factor))

    def apply(self, features: Array) -> Array:
        """Normalise in place.

        Args:
            features: Features as `particle_features` gives them, (K, F) float32.

        Returns:
            The same array.
        """
        features -= np.asarray(self.shift, np.float32)
        features *= np.asarray(self.factor, np.float32)
        np.clip(features, -LIMIT, LIMIT, out=features)
        return features
