"""Branch maps: which branch of a ROOT file holds which quantity, as TOML.

A condition is the name of a branch, true where it is not zero, or `BRANCH < number` with one of < <= > >= ==.
"""

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from hep_shared.config import StrictModel
from hep_shared.errors import ConfigError, InputFileError
from hep_shared.files import reader_boundary

_CONDITION = re.compile(r"(\w+)(?:\s*(<=|>=|==|<|>)\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))?")
PRESETS = ("flat", "nanoaod")


class Condition(StrictModel):
    """A requirement on one branch.

    Attributes:
        branch: The branch.
        comparison: How it compares; `!=` 0 for a bare branch.
        value: With what.
    """

    branch: str
    comparison: Literal["<", "<=", ">", ">=", "==", "!="] = "!="
    value: float = 0.0


class _Conditions(StrictModel):
    @field_validator("require", "tight", "tagged", mode="before", check_fields=False)
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return tuple(_parse_condition(item) for item in value)


class LeptonBranches(_Conditions):
    """Branches of a lepton collection."""

    pt: str
    eta: str
    phi: str
    mass: str
    charge: str
    tight: tuple[Condition, ...] = Field(description="Conditions of the tight identification.")
    require: tuple[Condition, ...] = Field((), description="Conditions without which an object is dropped.")


class JetBranches(_Conditions):
    """Branches of the jets."""

    pt: str
    eta: str
    phi: str
    mass: str
    charge: str | None = Field(None, description="Jet charge; 0 if the file has none.")
    btag: str
    tagged: tuple[Condition, ...] = Field(description="Conditions of the b-tag working point.")
    require: tuple[Condition, ...] = Field((), description="Conditions without which a jet is dropped.")


class EventBranches(StrictModel):
    """Branches with one number an event."""

    met_pt: str
    met_phi: str
    weights: tuple[str, ...] = Field(description="Factors of the event weight; none means 1.")
    run: str
    lumi: str
    event: str


class BranchMap(StrictModel):
    """Which branch holds what."""

    tree: str
    missing_ids: Literal["error", "entry"] = Field(
        "error",
        description="Without run, lumi and event: `error`, or count the entries of each file by `entry`.",
    )
    muons: LeptonBranches
    electrons: LeptonBranches
    jets: JetBranches
    event: EventBranches


def _parse_condition(item: object) -> Condition:
    match = _CONDITION.fullmatch(item.strip()) if isinstance(item, str) else None
    if match is None:
        raise ValueError(f"{item!r} is not a condition; write 'BRANCH' or 'BRANCH > 0.5'")
    branch, comparison, value = match.groups()
    if comparison is None:
        return Condition(branch=branch)
    return Condition(branch=branch, comparison=comparison, value=float(value))


def load_branch_map(name_or_file: str | Path) -> BranchMap:
    """Read a branch map.

    Args:
        name_or_file: `flat`, `nanoaod`, or a TOML file.

    Returns:
        The map.

    Raises:
        ConfigError: The name is unknown, or the file is not a branch map.
        InputFileError: The file is missing or not readable.
    """
    name = str(name_or_file)
    if name in PRESETS:
        text = resources.files("chhiggs_pnet.data.branch_maps").joinpath(f"{name}.toml").read_text()
    elif not name.endswith(".toml"):
        raise ConfigError(
            f"The branch map '{name}' is unknown; choose {' or '.join(PRESETS)} or a .toml file."
        )
    else:
        with reader_boundary(name, remedy="write it after the branch map nanoaod.toml of the package"):
            text = Path(name).read_text()
    try:
        return BranchMap.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputFileError(name, f"is not TOML ({error})", "correct the line") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{name}, key {key}: {message[:1].lower()}{message[1:]}; correct that key."
        ) from error
