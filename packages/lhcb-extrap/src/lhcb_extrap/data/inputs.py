"""Rows that a network or propagator cannot extrapolate, for input that carries no truth.

`check_inputs` stops at the first such row; `invalid_inputs` marks them, so that a prediction can go on with
NaN in their place and report how many there were.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from lhcb_extrap.data.npz import map_array, npz_members
from lhcb_extrap.data.schema import START
from lhcb_extrap.physics.arrays import BoolArray, FloatArray
from lhcb_extrap.physics.propagation import DEFAULT_ACCEPTANCE, Acceptance

# Slower particles circle in the magnet, and up to 100 GeV a q/p in 1/GeV is beyond this.
_MIN_MOMENTUM_MEV = 100.0
_QOP, _DZ = 4, 5  # columns of X


@dataclass(frozen=True)
class _Rule:
    wrong: BoolArray
    column: int
    remedy: str


def read_inputs(path: Path) -> NDArray[np.floating]:
    """Map the array X of a file.

    Args:
        path: An npz file with at least X.

    Returns:
        x, y, tx, ty, q/p, dz, (N, 6) float32 or float64, mm, 1, 1/MeV; a read-only memory map.

    Raises:
        InputFileError: The file is missing or damaged, or X is missing or of a wrong shape.
    """
    path = Path(path)
    members = npz_members(path)
    remedy = "store x, y, tx, ty, q/p, dz of one track per row"
    if START.key not in members:
        found = ", ".join(sorted(members)) or "nothing"
        raise InputFileError(path, f"has no array '{START.key}' but {found}", remedy)
    member = members[START.key]
    if (
        len(member.shape) != 2
        or member.shape[1] != len(START.columns)
        or member.dtype not in (np.float32, np.float64)
    ):
        raise InputFileError(path, f"has shape {member.shape} in {member.dtype}", remedy, branch=START.key)
    return map_array(path, START.key, member)


def invalid_inputs(
    inputs: FloatArray, *, acceptance: Acceptance = DEFAULT_ACCEPTANCE, allow_backward: bool = False
) -> BoolArray:
    """Mark the rows that cannot be extrapolated.

    Args:
        inputs: X, (N, 6), mm, 1, 1/MeV.
        acceptance: Where tracks may start; the extent of the field map.
        allow_backward: Accept dz < 0.

    Returns:
        True where a number is not finite, the start is outside the acceptance, dz is zero or of the wrong
        sign, or q/p is beyond any particle's, (N,). q/p = 0 is a straight line and valid.
    """
    wrong: BoolArray = np.logical_or.reduce(
        [rule.wrong for rule in _rules(inputs, acceptance, allow_backward)]
    )
    return wrong


def check_inputs(
    inputs: FloatArray,
    path: Path,
    *,
    acceptance: Acceptance = DEFAULT_ACCEPTANCE,
    allow_backward: bool = False,
) -> None:
    """Refuse input with a row that cannot be extrapolated.

    Args:
        inputs: X, (N, 6), mm, 1, 1/MeV.
        path: Its file, for the message.
        acceptance: Where tracks may start; the extent of the field map.
        allow_backward: Accept dz < 0.

    Raises:
        InputFileError: There is such a row; the sentence names the first, its value and a remedy.
    """
    rules = _rules(inputs, acceptance, allow_backward)
    broken = [(int(np.argmax(rule.wrong)), number) for number, rule in enumerate(rules) if rule.wrong.any()]
    if not broken:
        return
    row, number = min(broken)
    rule, column = rules[number], START.columns[rules[number].column]
    problem = f"has {column.name} = {inputs[row, rule.column]:g} {column.unit}".removesuffix(" 1")
    raise InputFileError(path, problem, rule.remedy, branch=START.key, entry=row)


def _rules(inputs: FloatArray, acceptance: Acceptance, allow_backward: bool) -> list[_Rule]:
    finite = np.isfinite(inputs)
    rules = [_Rule(~finite[:, i], i, "remove rows that are not finite") for i in range(len(START.columns))]
    rules.insert(0, _Rule(np.isinf(inputs[:, _QOP]), _QOP, "remove particles at rest, p = 0"))
    limits = (acceptance.half_x_mm, acceptance.half_y_mm, acceptance.max_slope, acceptance.max_slope)
    for i, (limit, unit) in enumerate(zip(limits, (" mm", " mm", "", ""), strict=True)):
        name = START.columns[i].name
        rules.append(
            _Rule(np.abs(inputs[:, i]) > limit, i, f"keep |{name}| within {limit:g}{unit} at the start")
        )
    unit = "multiply q/p by 1e-3 if it is in 1/GeV"
    rules.append(_Rule(np.abs(inputs[:, _QOP]) > 1 / _MIN_MOMENTUM_MEV, _QOP, unit))
    rules.append(_Rule(inputs[:, _DZ] == 0, _DZ, "remove tracks without a path"))
    if not allow_backward:
        rules.append(_Rule(inputs[:, _DZ] < 0, _DZ, "give dz > 0, or use a model trained on backward tracks"))
    return rules
