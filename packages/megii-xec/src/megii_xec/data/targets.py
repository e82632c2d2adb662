"""What the networks regress: definition, unit and scale of every target.

A network returns (target - offset) / scale, so that each of its outputs is of order one. The photon time is
regressed relative to the event's earliest sensor time, timing = timeTruth - 1e9 time_min_used, because the
sensor times are given relative to it too and carry no trace of the absolute time; prediction adds it back.

Dimensions: B events, K components of a target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from megii_xec.data.schema import (
    EMI_ANG,
    EMI_VEC,
    ENERGY_TRUTH,
    INVALID_ABOVE,
    NUM_GAMMA,
    TIME_MIN_USED,
    TIME_TRUTH,
    UVW_TRUTH,
    Branch,
)

NS_PER_S = 1.0e9


@dataclass(frozen=True)
class Target:
    """One quantity to regress.

    Attributes:
        name: Name in configs, checkpoints and predictions.
        components: Names of its K components.
        unit: Their physical unit.
        branches: What it is computed from; the first one holds the truth.
    """

    name: str
    components: tuple[str, ...]
    unit: str
    branches: tuple[Branch, ...]

    @property
    def size(self) -> int:
        """Number of components K."""
        return len(self.components)

    def compute(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evaluate the target for events.

        Args:
            columns: Values of the branches by name, (B,) or (B, K); missing times are 1e10.

        Returns:
            The target in physical units, (B, K) float32; NaN where a branch it needs is missing.
        """
        values = columns[self.branches[0].name].astype(np.float64).reshape(-1, self.size)
        values[~(np.abs(values) <= INVALID_ABOVE)] = np.nan
        if self.name == "timing":
            time_min_s = columns[TIME_MIN_USED.name].astype(np.float64).reshape(-1, 1)
            time_min_s[~(np.abs(time_min_s) <= INVALID_ABOVE)] = np.nan
            values -= time_min_s * NS_PER_S
        return values.astype(np.float32)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("angle", ("theta", "phi"), "deg", (EMI_ANG,)),
        Target("energy", ("energy",), "GeV", (ENERGY_TRUTH,)),
        Target("timing", ("timing",), "ns", (TIME_TRUTH, TIME_MIN_USED)),
        Target("uvwFI", ("u", "v", "w"), "cm", (UVW_TRUTH,)),
        Target("angleVec", ("dir_x", "dir_y", "dir_z"), "1", (EMI_VEC,)),
        Target("n_gamma", ("n_gamma",), "1", (NUM_GAMMA,)),
    )
}


class Affine(StrictModel):
    """Offset and scale of a target, one number per component."""

    offset: tuple[float, ...] = Field(description="value that becomes 0, in the unit of the target")
    scale: tuple[float, ...] = Field(description="difference that becomes 1, in the unit of the target")


class TargetScaling(StrictModel):
    """Offsets and scales of all targets; the defaults make each component span about one unit."""

    # Half the angles seen from the detector's centre: atan(32.46 cm / 64.97 cm) and half of 125.52 deg.
    angle: Affine = Affine(offset=(90.0, 0.0), scale=(26.5, 62.8))
    # Photon energy of mu -> e gamma, half the muon mass: R. L. Workman et al. (PDG), PTEP 2022 (2022) 083C01
    energy: Affine = Affine(offset=(0.0,), scale=(0.0528,))
    # The light of a shower a few centimetres deep arrives within about 1 ns.
    timing: Affine = Affine(offset=(0.0,), scale=(1.0,))
    # Fiducial |u| < 23.9 cm and |v| < 67.9 cm; depth of the order of two conversion lengths.
    uvwFI: Affine = Affine(offset=(0.0, 0.0, 0.0), scale=(23.9, 67.9, 10.0))  # noqa: N815  the field's name
    angleVec: Affine = Affine(offset=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0))  # noqa: N815  the field's name
    n_gamma: Affine = Affine(offset=(0.0,), scale=(1.0,))  # a class number, which stays one

    @model_validator(mode="after")
    def _check(self) -> "TargetScaling":
        for name, target in TARGETS.items():
            affine: Affine = getattr(self, name)
            if not len(affine.offset) == len(affine.scale) == target.size:
                raise ConfigError(
                    f"scaling of target '{name}' has {len(affine.offset)} offsets and {len(affine.scale)} "
                    f"scales; give {target.size} of each, for {', '.join(target.components)}."
                )
            if not all(scale > 0 for scale in affine.scale):
                raise ConfigError(
                    f"scaling of target '{name}' has scale {affine.scale}; give positive numbers."
                )
        return self

    def scale(self, name: str, values: Any) -> Any:
        """Turn physical values into what the network regresses.

        Args:
            name: Target.
            values: (..., K) in the unit of the target, a NumPy array or a tensor.

        Returns:
            (values - offset) / scale, of the same kind, (..., K), unit 1.
        """
        affine: Affine = getattr(self, name)
        return (values - _like(values, affine.offset)) / _like(values, affine.scale)

    def unscale(self, name: str, values: Any) -> Any:
        """Turn network outputs into physical values.

        Args:
            name: Target.
            values: (..., K), unit 1, a NumPy array or a tensor.

        Returns:
            values * scale + offset, of the same kind, (..., K), in the unit of the target.
        """
        affine: Affine = getattr(self, name)
        return values * _like(values, affine.scale) + _like(values, affine.offset)


def _like(values: Any, numbers: Sequence[float]) -> Any:
    if isinstance(values, np.ndarray):
        return np.asarray(numbers, values.dtype)
    return values.new_tensor(numbers)
