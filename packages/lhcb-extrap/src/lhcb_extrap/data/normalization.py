r"""What a network has to know besides its weights: scales, planes and field.

    input = (start - mean) / std,    end = mean + std * output,

with means and standard deviations of the training tracks; a quantity that is the same for all tracks, such
as dz between two fixed planes, gets the standard deviation 1. `Normalization` is part of every checkpoint and
lies beside it as `normalization.json`, so that a network cannot be fed as if it were another one.

Dimension legend: N tracks.
"""

import hashlib
import json
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from hep_shared.config import StrictModel
from lhcb_extrap.data.field_source import field_fingerprint
from lhcb_extrap.data.tracks import TrackBatch
from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.field_map import FieldMap
from lhcb_extrap.physics.field_properties import FieldIntegral, mirror_symmetry
from lhcb_extrap.physics.kick_baseline import (
    KickBaseline,
    canonicalize,
    correction_from_states,
    kick_baseline,
    kick_features,
    plane_baseline,
)
from lhcb_extrap.physics.plane_fields import PlaneFields

_CONSTANT = 1.0e-6  # a standard deviation below this fraction of the size is rounding
_MAX_ROWS = 1_000_000
_INTEGRAL_STEP_MM = 20.0
_MIN_KICK = 1.0e-4  # below it (1e4 GeV) the correction is a quotient of roundings
_CLIP_PERCENT = (0.5, 99.5)  # of corrections: the few tracks that almost turn around must not set the scale

Numbers = tuple[float, ...]


class FieldFacts(StrictModel):
    """What a model file keeps of the field: By on the beam axis, its symmetries and a digest of the map."""

    z_min_mm: float
    step_mm: float
    integral_t_mm: Numbers
    by_t: Numbers
    flip_x: bool
    flip_y: bool
    fingerprint: str

    @classmethod
    def of(cls, field: FieldMap) -> Self:
        """Collect the facts of a map.

        Args:
            field: The map.

        Returns:
            The facts.
        """
        low, high = field.grid.origin_mm[2], field.grid.end_mm[2]
        table = FieldIntegral.along_beam(field, low, high, _INTEGRAL_STEP_MM)
        symmetry = mirror_symmetry(field)
        return cls(
            z_min_mm=table.z_min_mm,
            step_mm=table.step_mm,
            integral_t_mm=tuple(table.integral.tolist()),
            by_t=tuple(table.by.tolist()),
            flip_x=symmetry.flip_x,
            flip_y=symmetry.flip_y,
            fingerprint=field_fingerprint(field),
        )

    def table(self) -> FieldIntegral:
        """Integral of By along the beam, T mm."""
        return FieldIntegral(self.z_min_mm, self.step_mm, np.array(self.integral_t_mm), np.array(self.by_t))


class PlaneFacts(StrictModel):
    """The field between two fixed planes, see `physics.plane_fields`."""

    integral_t_mm: Numbers
    half_mm: tuple[Numbers, Numbers]
    coefficients_t: tuple[tuple[Numbers, ...], ...]

    @classmethod
    def of(cls, planes: PlaneFields) -> Self:
        """Turn arrays into numbers."""
        coefficients = tuple(tuple(map(tuple, component)) for component in planes.coefficients.tolist())
        half_x, half_y = map(tuple, planes.half_mm.tolist())
        return cls(
            integral_t_mm=tuple(planes.integral.tolist()),
            half_mm=(half_x, half_y),
            coefficients_t=coefficients,
        )

    def table(self) -> PlaneFields:
        """Turn numbers into arrays."""
        return PlaneFields(
            np.array(self.integral_t_mm), np.array(self.half_mm), np.array(self.coefficients_t)
        )


class Normalization(StrictModel):
    """Scales of the training tracks, the planes they connect and the field they cross.

    Attributes:
        start_mean: Of x, y, tx, ty, q/p, dz, z0; mm, 1, 1/MeV.
        start_std: Likewise.
        end_mean: Of x, y, tx, ty at the end; mm, 1.
        end_std: Likewise.
        rate_mean: Of (end - start)/dz; 1, 1/mm.
        rate_std: Likewise.
        feature_mean: Of `kick_features`.
        feature_std: Likewise.
        correction_mean: Of the corrections to the kick baseline.
        correction_std: Likewise.
        z0_mm: Lowest and highest start.
        dz_mm: Shortest and longest path.
        field: Facts of the field.
        planes: The field between the planes, where they are fixed.
    """

    start_mean: Numbers
    start_std: Numbers
    end_mean: Numbers
    end_std: Numbers
    rate_mean: Numbers
    rate_std: Numbers
    feature_mean: Numbers
    feature_std: Numbers
    correction_mean: Numbers
    correction_std: Numbers
    z0_mm: tuple[float, float]
    dz_mm: tuple[float, float]
    field: FieldFacts
    planes: PlaneFacts | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("start_std", "end_std", "rate_std", "feature_std", "correction_std"):
            if not all(np.isfinite(value) and value > 0 for value in getattr(self, name)):
                raise ValueError(f"{name} holds a number that is not positive")
        return self

    @property
    def fixed_planes(self) -> bool:
        """Whether all tracks connect the same two planes."""
        return self.z0_mm[0] == self.z0_mm[1] and self.dz_mm[0] == self.dz_mm[1]

    def fingerprint(self) -> str:
        """Digest of every number, 16 hexadecimal digits."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def of(cls, tracks: TrackBatch, z0: FloatArray, field: FieldMap) -> Self:
        """Measure training tracks, at most the first million.

        Args:
            tracks: The tracks.
            z0: Where they start, (N,), mm.
            field: The field they crossed.

        Returns:
            The normalisation.
        """
        rows = slice(0, _MAX_ROWS)
        start, end = tracks.X[rows].astype(np.float64), tracks.Y[rows].astype(np.float64)
        z0 = np.asarray(z0[rows], np.float64)
        facts = FieldFacts.of(field)
        state, qop, signs = canonicalize(start[:, :4], start[:, 4], flip_x=facts.flip_x, flip_y=facts.flip_y)
        dz, all_z0 = tracks.X[:, 5], z0
        z0_mm, dz_mm = (float(all_z0.min()), float(all_z0.max())), (float(dz.min()), float(dz.max()))
        planes = None
        if z0_mm[0] == z0_mm[1] and dz_mm[0] == dz_mm[1]:
            planes = PlaneFields.fit(
                field, facts.table(), z0_mm[0], dz_mm[0], flip_x=facts.flip_x, flip_y=facts.flip_y
            )
            baseline: KickBaseline[FloatArray] = plane_baseline(state, qop, start[:, 5], planes)
        else:
            baseline = kick_baseline(state, qop, z0, start[:, 5], facts.table())
        usable = baseline.crosses & (np.abs(baseline.kick) > _MIN_KICK)
        with np.errstate(divide="ignore", invalid="ignore"):
            correction = correction_from_states(baseline, end * signs, start[:, 5])[usable]
        if not len(correction):  # the field is elsewhere: any scale will do
            correction = np.zeros((1, 4))
        low, high = np.percentile(correction, _CLIP_PERCENT, axis=0)
        scales = {
            "start": np.column_stack([start, z0]),
            "end": end,
            "rate": (end - start[:, :4]) / start[:, 5:6],
            "feature": kick_features(state, start[:, 5], z0, baseline),
            "correction": np.clip(correction, low, high),
        }
        numbers = {}
        for name, values in scales.items():
            numbers[f"{name}_mean"], numbers[f"{name}_std"] = _mean_and_std(values)
        return cls(
            **numbers,
            z0_mm=z0_mm,
            dz_mm=dz_mm,
            field=facts,
            planes=None if planes is None else PlaneFacts.of(planes),
        )


def _mean_and_std(values: NDArray[np.float64]) -> tuple[Numbers, Numbers]:
    mean, std = values.mean(axis=0), values.std(axis=0)
    scale = np.abs(values).max(axis=0)
    std = np.where(std > _CONSTANT * scale, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())
