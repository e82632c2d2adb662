"""What the networks see: photon counts and times of the sensors as numbers of order one.

With n the photon count (or its fraction of the event's largest count), t the time, s1 and s2 the two scales:

    log1p      x = ln(1 + n / s1) / s2            schemes `legacy` and `new`
    sqrt       x = sqrt(n / s1) / s2
    anscombe   x = (sqrt(n + 3/8) - sqrt(3/8)) / (sqrt(s1) s2)   F. J. Anscombe, Biometrika 35 (1948) 246
    linear     x = n / (s1 s2)
    time       y = t / time_scale_s - time_shift

All four give x(0) = 0. A count that is NaN or above 9e9 is invalid and becomes `sentinel_npho`; a count
below the domain of the formula becomes 0. A time is invalid where the count is, where it is itself NaN or
beyond 9e9, or where the count is below `npho_threshold`; it becomes `sentinel_time`.

Dimensions: B events, S sensors.
"""

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from megii_xec.data.schema import INVALID_ABOVE, MISSING

if TYPE_CHECKING:
    from torch import Tensor

Scheme = Literal["legacy", "new", "sqrt", "anscombe", "linear"]

_COMMON: dict[str, Any] = {
    "npho_input": "npho",
    "npho_scale2": 1.0,
    "time_scale_s": 1.14e-7,
    "time_shift": -0.46,
    "sentinel_time": -1.0,
    "sentinel_npho": -1.0,
    "npho_threshold": 100.0,
    "nonpositive_invalid": False,
}
# The constants of each scheme; a field that is given explicitly wins.
_SCHEMES: dict[Scheme, dict[str, Any]] = {
    "legacy": {
        "npho_input": "relative_npho",
        "npho_scale": 0.58,
        "npho_scale2": 1.0,
        "time_scale_s": 6.5e-8,
        "time_shift": 0.5,
        "sentinel_time": -5.0,
        "sentinel_npho": 0.0,
        "npho_threshold": 0.0,
        "nonpositive_invalid": True,
    },
    "new": {**_COMMON, "npho_scale": 1000.0, "npho_scale2": 4.08},  # 58,000 photons -> 1
    "sqrt": {**_COMMON, "npho_scale": 20000.0},
    "anscombe": {**_COMMON, "npho_scale": 20000.0},
    "linear": {**_COMMON, "npho_scale": 20000.0},
}
_ANSCOMBE = 3 / 8
# 64 events of scratch space are 4 MB: they stay in the processor's cache, and the interpreter lock, which
# every array operation gives back and asks for, changes hands rarely enough.
_BLOCK_ROWS = 64


class Normalization(StrictModel):
    """Scheme and constants of the input normalisation; `Normalization(scheme="legacy")` fills in the rest.

    Networks trained with different constants do not understand each other's inputs: compare `fingerprint()`.
    """

    scheme: Scheme = Field("new", description="formula for the counts, and the default of every other field")
    npho_input: Literal["npho", "relative_npho"] = Field("npho", description="branch of the counts")
    time_input: Literal["time", "relative_time"] = Field("relative_time", description="branch of the times")
    npho_scale: float = Field(1000.0, gt=0, description="s1, in the unit of npho_input")
    npho_scale2: float = Field(4.08, gt=0, description="s2")
    time_scale_s: float = Field(1.14e-7, gt=0, description="time that counts as 1, in seconds")
    time_shift: float = Field(-0.46, description="subtracted from the scaled time")
    sentinel_time: float = Field(-1.0, description="normalised time of a sensor without a time")
    sentinel_npho: float = Field(-1.0, description="normalised count of a sensor without a count")
    npho_threshold: float = Field(100.0, ge=0, description="smallest count whose time is used")
    nonpositive_invalid: bool = Field(False, description="counts <= 0 are invalid too")

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, dict):
            return handler(data)
        model = handler({**_SCHEMES.get(data.get("scheme", "new"), {}), **data})
        model.model_fields_set.intersection_update(data)  # what the scheme filled in was not given
        return model

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.npho_input == "relative_npho":
            if self.npho_threshold >= 1:
                raise ConfigError(
                    f"npho_threshold = {self.npho_threshold:g} with npho_input = 'relative_npho', at most 1, "
                    "would invalidate every time; set npho_threshold below 1, or npho_input to 'npho'."
                )
            if (largest := float(self.normalize_npho(np.float64(1.0)))) < 0.05:
                raise ConfigError(
                    f"npho_input = 'relative_npho' with npho_scale = {self.npho_scale:g} would squeeze every "
                    f"count below {largest:.2g}; set scheme to 'legacy' or npho_input to 'npho'."
                )
        return self

    @property
    def formula(self) -> str:
        """`log1p`, `sqrt`, `anscombe` or `linear`."""
        return "log1p" if self.scheme in ("legacy", "new") else self.scheme

    @property
    def npho_unit(self) -> str:
        """Unit of the counts that `invert` gives: photons, or 1 for fractions of the brightest sensor."""
        return "photons" if self.npho_input == "npho" else "1"

    @property
    def _domain_edge(self) -> float:
        """Largest count that the formula does not accept, or that gives 0 anyhow."""
        return {"log1p": -self.npho_scale, "linear": -INVALID_ABOVE}.get(self.formula, 0.0)

    def fingerprint(self) -> str:
        """Identify what this normalisation does to the inputs.

        Returns:
            The formula and 12 hexadecimal digits; equal exactly when formula, branches and constants are.
        """
        fields = {**self.model_dump(mode="json", exclude={"scheme"}), "formula": self.formula}
        return (
            f"{self.formula}-{hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]}"
        )

    def apply(self, npho: np.ndarray, time: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Normalise a block of events in one pass through memory.

        Args:
            npho: Branch `npho_input`, (B, S), photons or 1; any float type and byte order.
            time: Branch `time_input`, (B, S), seconds.
            out: Where to write, (B, S, 2) float32, C-contiguous; None makes an array.

        Returns:
            Normalised counts and times, (B, S, 2) float32, always finite.

        Raises:
            ValueError: The shapes or the type of `out` do not match.
        """
        if npho.ndim != 2 or npho.shape != time.shape:
            raise ValueError(f"npho {npho.shape} and time {time.shape} must have one shape (B, S)")
        if out is None:
            out = np.empty((*npho.shape, 2), np.float32)
        elif out.shape != (*npho.shape, 2) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"out must be a C-contiguous float32 array of shape {(*npho.shape, 2)}")
        rows = min(_BLOCK_ROWS, len(npho))
        counts, times, magnitude = (np.empty((rows, npho.shape[1]), np.float32) for _ in range(3))
        valid, other = (np.empty(counts.shape, np.bool_) for _ in range(2))
        with np.errstate(all="ignore"):  # invalid values may overflow before the sentinel replaces them
            for start in range(0, len(npho), max(rows, 1)):
                stop = min(start + rows, len(npho))
                n, t, size, ok, tmp = (
                    work[: stop - start] for work in (counts, times, magnitude, valid, other)
                )
                np.copyto(n, npho[start:stop])
                np.copyto(t, time[start:stop])
                np.less_equal(n, np.float32(INVALID_ABOVE), out=ok)  # False for NaN
                if self.nonpositive_invalid:
                    np.logical_and(ok, np.greater(n, 0, out=tmp), out=ok)
                time_ok = np.greater_equal(n, np.float32(self.npho_threshold), out=tmp)
                np.logical_and(time_ok, ok, out=time_ok)
                self._transform_in_place(n)
                _store(n, ok, self.sentinel_npho, size, out[start:stop, :, 0])

                np.less_equal(np.abs(t, out=size), np.float32(INVALID_ABOVE), out=ok)
                np.logical_and(time_ok, ok, out=time_ok)
                np.multiply(t, np.float32(1 / self.time_scale_s), out=t)
                np.subtract(t, np.float32(self.time_shift), out=t)
                _store(t, time_ok, self.sentinel_time, size, out[start:stop, :, 1])
        return out

    def _transform_in_place(self, n: np.ndarray) -> None:
        if self.formula in ("sqrt", "anscombe"):
            np.maximum(n, np.float32(0), out=n)
        elif np.fmin.reduce(n, axis=None) <= self._domain_edge:  # rare, and a masked copy is slow
            np.copyto(n, 0, where=n <= np.float32(self._domain_edge))
        if self.formula == "anscombe":
            np.add(n, np.float32(_ANSCOMBE), out=n)
            np.sqrt(n, out=n)
            np.subtract(n, np.float32(math.sqrt(_ANSCOMBE)), out=n)
            np.multiply(n, np.float32(1 / (math.sqrt(self.npho_scale) * self.npho_scale2)), out=n)
            return
        np.multiply(n, np.float32(1 / self.npho_scale), out=n)
        if self.formula == "log1p":
            np.log1p(n, out=n)
        elif self.formula == "sqrt":
            np.sqrt(n, out=n)
        if self.npho_scale2 != 1:
            np.multiply(n, np.float32(1 / self.npho_scale2), out=n)

    def apply_torch(self, npho: "Tensor", time: "Tensor") -> "Tensor":
        """Do what `apply` does, on tensors of any device; it can be traced and exported.

        Args:
            npho: Branch `npho_input`, (B, S), photons or 1.
            time: Branch `time_input`, (B, S), seconds.

        Returns:
            Normalised counts and times, (B, S, 2).
        """
        import torch

        npho_ok = npho <= INVALID_ABOVE
        if self.nonpositive_invalid:
            npho_ok = npho_ok & (npho > 0)
        time_ok = npho_ok & (npho >= self.npho_threshold) & (time.abs() <= INVALID_ABOVE)
        x = torch.where(npho_ok, self.normalize_npho(npho), self.sentinel_npho)
        y = torch.where(time_ok, time * (1 / self.time_scale_s) - self.time_shift, self.sentinel_time)
        return torch.stack((x, y), dim=-1)

    def invert(self, sensors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Go back to physical units.

        Args:
            sensors: Normalised counts and times, (..., 2).

        Returns:
            Counts (...) in the unit of `npho_input` and times (...) in seconds, float32; 1e10 where a
            sentinel stood. A `sentinel_npho` of 0 cannot be told from no light and comes back as 0.
        """
        x, y = np.asarray(sensors[..., 0], np.float32), np.asarray(sensors[..., 1], np.float32)
        npho_missing = (x == np.float32(self.sentinel_npho)) & (self.sentinel_npho != 0)
        npho = np.where(npho_missing, MISSING, self.denormalize_npho(x))
        time = (y + np.float32(self.time_shift)) * np.float32(self.time_scale_s)
        time = np.where(y == np.float32(self.sentinel_time), MISSING, time)
        return npho.astype(np.float32), time.astype(np.float32)

    def normalize_npho(self, npho: Any) -> Any:
        """Transform valid counts; knows nothing of sentinels.

        Args:
            npho: Counts, any shape, a NumPy array or a tensor.

        Returns:
            Normalised counts of the same shape and kind; 0 below the domain of the formula.
        """
        xp = _namespace(npho)
        if self.formula == "linear":
            return npho * (1 / (self.npho_scale * self.npho_scale2))
        n = xp.where(npho > self._domain_edge, npho, 0.0)
        if self.formula == "anscombe":
            root = math.sqrt(self.npho_scale) * self.npho_scale2
            return (xp.sqrt(n + _ANSCOMBE) - math.sqrt(_ANSCOMBE)) * (1 / root)
        scaled = n * (1 / self.npho_scale)
        return (xp.log1p(scaled) if self.formula == "log1p" else xp.sqrt(scaled)) * (1 / self.npho_scale2)

    def denormalize_npho(self, x: Any) -> Any:
        """Invert `normalize_npho`.

        Args:
            x: Normalised counts, any shape, a NumPy array or a tensor.

        Returns:
            Counts of the same shape and kind, in the unit of `npho_input`.
        """
        scaled = x * self.npho_scale2
        if self.formula == "log1p":
            return _namespace(x).expm1(scaled) * self.npho_scale
        if self.formula == "sqrt":
            return scaled * scaled * self.npho_scale
        if self.formula == "anscombe":
            root = scaled * math.sqrt(self.npho_scale) + math.sqrt(_ANSCOMBE)
            return root * root - _ANSCOMBE
        return scaled * self.npho_scale

    def rescale_npho(self, x: "Tensor", factor: "float | Tensor") -> "Tensor":
        """Multiply the counts behind normalised values, for example by 1 / area: f(factor * f^-1(x)).

        Dividing the normalised value instead would be wrong for every formula but `linear`, and would make a
        dead sensor look alive.

        Args:
            x: Normalised counts, any shape.
            factor: What to multiply the counts with; broadcasts against `x`.

        Returns:
            Normalised counts of the same shape; sentinels stay as they are.
        """
        import torch

        rescaled = self.normalize_npho(self.denormalize_npho(x) * factor)
        return torch.where(x == self.sentinel_npho, x, rescaled)


def _store(values: np.ndarray, ok: np.ndarray, sentinel: float, scratch: np.ndarray, out: np.ndarray) -> None:
    """Write `values` where `ok`, else `sentinel`, into a strided channel; overwrites `values` and `scratch`.

    Selecting by bits, s ^ ((v ^ s) & mask), takes a fifth of the time of a masked copy, whose cost is the
    mispredicted branches.
    """
    mask, bits = scratch.view(np.int32), values.view(np.int32)
    pattern = np.float32(sentinel).view(np.int32)
    np.copyto(mask, ok)
    np.negative(mask, out=mask)  # True -> all bits set
    np.bitwise_xor(bits, pattern, out=bits)
    np.bitwise_and(bits, mask, out=bits)
    np.bitwise_xor(bits, pattern, out=out.view(np.int32))


def _namespace(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    import torch

    return torch
