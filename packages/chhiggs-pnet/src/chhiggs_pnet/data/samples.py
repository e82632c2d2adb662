"""The list of samples: which files hold which process, channel and mass point.

`simulate` writes one; for real files it is written by hand, as JSON or TOML:

    [[samples]]
    process = "signal"
    point = "130,90"
    channel = "Run1E2Mu"
    era = "2018"
    files = ["signal_*.root"]       # relative to the list
    cross_section_fb = 12.0         # optional, together with sum_weights
    sum_weights = 1.0e6             # of all generated events
"""

import json
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, field_validator, model_validator

from chhiggs_pnet.data.schema import ERAS
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import CHANNELS, Channel, Process
from hep_shared.config import StrictModel
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import reader_boundary

SAMPLES_FILE = "samples.json"


class SampleEntry(StrictModel):
    """Files of one process, channel and mass point."""

    process: Process
    point: MassPoint | None = Field(None, description="Masses of the signal.")
    channel: Channel
    era: str = "2018"
    files: tuple[str, ...] = Field(min_length=1, description="Paths or patterns, relative to the list.")
    cross_section_fb: float | None = Field(None, gt=0, description="Of the generated events.")
    sum_weights: float | None = Field(None, description="Sum of the weights of all generated events.")

    @field_validator("point", mode="before")
    @classmethod
    def _parse_point(cls, value: object) -> object:
        return MassPoint.parse(value) if isinstance(value, str) else value

    @field_validator("channel", mode="before")
    @classmethod
    def _check_channel(cls, value: object) -> object:
        if value not in CHANNELS:
            raise ValueError(f"channel '{value}' is unknown; choose {' or '.join(CHANNELS)}")
        return value

    @field_validator("era")
    @classmethod
    def _check_era(cls, value: str) -> str:
        if value not in ERAS:
            raise ValueError(f"era '{value}' is unknown; choose one of {', '.join(ERAS)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.point is None) == (self.process == "signal"):
            raise ValueError("a signal needs a mass point and a background has none")
        if (self.cross_section_fb is None) != (self.sum_weights is None):
            raise ValueError("cross_section_fb and sum_weights come together")
        return self


class _SampleList(StrictModel):
    samples: tuple[SampleEntry, ...] = Field(min_length=1)


def read_samples(path: Path) -> list[tuple[SampleEntry, list[Path]]]:
    """Read a list of samples and find their files.

    Args:
        path: A JSON or TOML file, or a directory that holds `samples.json`.

    Returns:
        Every entry with its files, sorted.

    Raises:
        InputFileError: The list is missing, malformed, or names a file that does not exist.
    """
    path = Path(path)
    path = path / SAMPLES_FILE if path.is_dir() else path
    remedy = "write it as documented in chhiggs_pnet.data.samples"
    with reader_boundary(path, remedy=remedy):
        text = path.read_text()
        record = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    record = {"samples": record.get("samples", ())} if isinstance(record, dict) else record
    try:
        entries = _SampleList.model_validate(record).samples
    except ValidationError as error:
        # A misspelt key is both unknown and missing; the unknown one says more.
        first = max(error.errors(), key=lambda found: found["type"] == "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        is_unknown = first["type"] == "extra_forbidden"
        problem = "is no key of a sample" if is_unknown else first["msg"].removeprefix("Value error, ")
        if is_unknown and (near := get_close_matches(str(first["loc"][-1]), SampleEntry.model_fields, 1)):
            problem += f", the nearest is '{near[0]}'"
        problem = f"{key}: {problem}"
        raise InputFileError(path, problem, "correct that key") from error
    except UserError as error:  # a mass point out of reach
        raise InputFileError(path, str(error).removesuffix("."), "correct the point") from error
    return [(entry, _find(path, entry)) for entry in entries]


def _find(path: Path, entry: SampleEntry) -> list[Path]:
    found: list[Path] = []
    for pattern in entry.files:
        if not Path(pattern).is_absolute() and any(mark in pattern for mark in "*?["):
            matches = sorted(path.parent.glob(pattern))
        else:
            matches = [path.parent / pattern]
        if not matches:
            raise InputFileError(path, f"no file matches '{pattern}'", "correct the pattern")
        found += matches
    return found
