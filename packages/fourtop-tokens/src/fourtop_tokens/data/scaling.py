r"""Constants that bring the features of objects to order one, from the train split alone.

`log`: x = ln E, ln pT, η, φ of the objects that exist; missing momentum as ln(1 + MET). With means μ and
standard deviations σ over the train split, the network sees (x - μ) / σ.

`legacy`: the reference's z-score of E, pT, η, φ themselves over all 18 places, the empty ones included, and
the missing momentum unscaled.

N events.
"""

import hashlib
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet
from hep_shared.config import StrictModel
from hep_shared.errors import UserError

Scheme = Literal["log", "legacy"]
Four = tuple[float, float, float, float]
FLOOR_GEV = 1e-3  # below any object; keeps the logarithm finite in empty places


class EventStatistics(StrictModel):
    """Constants of one train split."""

    scheme: Scheme = Field("log", description="Which quantities are standardised.")
    mean: Four = Field((0.0, 0.0, 0.0, 0.0), description="Of E, pT, eta, phi; ln GeV or GeV, 1, rad.")
    std: Four = Field((1.0, 1.0, 1.0, 1.0), description="Likewise.")
    met_mean: float = Field(0.0, description="Of ln(1 + MET / GeV), or 0 in `legacy`.")
    met_std: float = Field(1.0, gt=0, description="Likewise, or 1 in `legacy`.")
    class_counts: tuple[int, int, int, int, int] = Field(
        (1, 1, 1, 1, 1), description="Train events by label."
    )

    @classmethod
    def fit(cls, train: EventSet, scheme: Scheme) -> Self:
        """Measure the constants.

        Args:
            train: The train split, never another.
            scheme: Which quantities are standardised.

        Returns:
            The constants, exact in float32.

        Raises:
            UserError: A quantity is the same in all events, or there is no object.
        """
        counts = np.bincount(train.labels, minlength=len(schema.LABELS) + 1)[1:]
        if scheme == "log":
            objects = log_momenta(train.features[train.valid_mask])
            met = np.log1p(train.missing[:, 0].astype(np.float64))
            met_mean, met_std = float(np.float32(met.mean())), float(np.float32(met.std()))
        else:
            objects = train.features.reshape(-1, len(schema.FEATURES)).astype(np.float64)
            met_mean, met_std = 0.0, 1.0
        if not len(objects) or (objects.std(axis=0) == 0).any() or met_std == 0:
            raise UserError(
                "The train split has no objects, or a feature that is the same in all of them; "
                "give a file with more train events."
            )
        mean, std = (tuple(float(np.float32(v)) for v in f(objects, axis=0)) for f in (np.mean, np.std))
        return cls(
            scheme=scheme, mean=mean, std=std, met_mean=met_mean, met_std=met_std,
            class_counts=tuple(int(n) for n in counts),
        )  # fmt: skip

    def fingerprint(self) -> str:
        """Short name of these constants, to compare runs by.

        Returns:
            Scheme and a digest.
        """
        return f"{self.scheme}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"


def log_momenta(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Take logarithms of E and pT.

    Args:
        features: E, pT, eta, phi, (..., 4) in GeV and rad.

    Returns:
        ln E, ln pT, eta, phi, (..., 4).
    """
    logs = features.astype(np.float64)
    momenta = logs[..., [schema.ENERGY, schema.PT]]
    logs[..., [schema.ENERGY, schema.PT]] = np.log(np.maximum(momenta, FLOOR_GEV))
    return np.asarray(logs)
