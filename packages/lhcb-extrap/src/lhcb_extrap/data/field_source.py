"""Which magnetic field a run lives in, and how to get it."""

import functools
import hashlib
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError
from lhcb_extrap.data.field_io import AsciiUnit, read_field_ascii, read_field_binary, read_field_npz
from lhcb_extrap.physics.field_coils import CoilField
from lhcb_extrap.physics.field_map import FieldMap, sample_field


class FieldConfig(StrictModel):
    """The magnetic field: the embedded coil model on a 100 mm grid, or a map from a file."""

    kind: Literal["coils", "ascii", "binary", "npz"] = Field(
        "coils", description="Embedded coil model, or the format of `path`."
    )
    path: Path | None = Field(None, description="File of the map; null for coils.")
    unit: AsciiUnit = Field("tesla", description="Unit of the field in an ascii map.")
    scale: float = Field(1.0, description="Factor on the field of the coils; -1 is the polarity MagUp.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) != (self.kind == "coils"):
            remedy = "give field.path" if self.path is None else "set field.kind to ascii, binary or npz"
            raise ConfigError(f"field.kind is '{self.kind}' and field.path is {self.path}; {remedy}.")
        if self.scale == 0:
            raise ConfigError("field.scale is 0, a magnet that is off; give a factor other than 0.")
        return self


@functools.lru_cache(maxsize=2)
def load_field(config: FieldConfig) -> FieldMap:
    """Make or read the map.

    Args:
        config: Which field.

    Returns:
        The map; treat it as read-only, it is kept for the next call.

    Raises:
        InputFileError: The file is missing or damaged, or in another unit.
    """
    if config.kind == "ascii":
        return read_field_ascii(_path(config), config.unit)
    if config.kind == "binary":
        return read_field_binary(_path(config))
    if config.kind == "npz":
        return read_field_npz(_path(config))
    return sample_field(CoilField(scale=config.scale))


def _path(config: FieldConfig) -> Path:
    assert config.path is not None
    return config.path


def field_fingerprint(field: FieldMap) -> str:
    """Digest of a map that says whether two runs saw the same field.

    Args:
        field: The map.

    Returns:
        16 hexadecimal digits. Values are rounded to 1e-6 T, since the last bits of the coil model may differ
        between machines.
    """
    digest = hashlib.sha256(repr(field.grid).encode())
    digest.update(np.round(field.values * 1e6).astype(np.int32).tobytes())
    return digest.hexdigest()[:16]
