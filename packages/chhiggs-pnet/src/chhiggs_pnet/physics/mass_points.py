"""The (mHc, mA) plane: points, their roles, the hull of the training points.

A point trains the network, or selects its checkpoint, or tests it inside (`interpolation`) or outside
(`extrapolation`) the convex hull of the training points; never two of these. The decay chain
t → H⁺ b, H⁺ → W* A needs mA < mHc < m_t − m_b.
"""

import re
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

import numpy as np
from pydantic import Field, field_validator, model_validator

from chhiggs_pnet.physics import constants as c
from hep_shared.config import StrictModel
from hep_shared.errors import UserError

Role = Literal["train", "validation", "interpolation", "extrapolation"]
ROLES: tuple[Role, ...] = ("train", "validation", "interpolation", "extrapolation")
MAX_CHARGED_HIGGS_MASS = c.TOP_MASS - c.BOTTOM_MASS
# A -> mu mu has to fall into the pair-mass window of the selection.
MIN_PSEUDOSCALAR_MASS = 12.0
_NAME = re.compile(r"MHc(\d+(?:p\d+)?)_MA(\d+(?:p\d+)?)")


@dataclass(frozen=True, order=True)
class MassPoint:
    """One hypothesis.

    Attributes:
        mHc: Mass of the charged Higgs boson in GeV.
        mA: Mass of the pseudoscalar in GeV.
    """

    mHc: float
    mA: float

    def __post_init__(self) -> None:
        if not self.mA < self.mHc:
            raise UserError(
                f"The mass point mHc = {self.mHc:g}, mA = {self.mA:g} GeV has mA >= mHc; "
                "choose mA below mHc, since the decay needs a W* of positive mass."
            )
        if not (self.mHc < MAX_CHARGED_HIGGS_MASS and self.mA > MIN_PSEUDOSCALAR_MASS):
            raise UserError(
                f"The mass point mHc = {self.mHc:g}, mA = {self.mA:g} GeV is out of reach; choose "
                f"{MIN_PSEUDOSCALAR_MASS:g} < mA < mHc < {MAX_CHARGED_HIGGS_MASS:.1f} GeV (m_t - m_b)."
            )

    @property
    def name(self) -> str:
        """Name in files, for example `MHc130_MA90`; a decimal point becomes `p`."""
        return f"MHc{self.mHc:g}_MA{self.mA:g}".replace(".", "p")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `MHc130_MA90` or `130,90`.

        Args:
            text: The point.

        Returns:
            The point.

        Raises:
            UserError: The text is neither, or the masses are out of reach.
        """
        match = _NAME.fullmatch(text.strip())
        numbers = [part.replace("p", ".") for part in match.groups()] if match else text.split(",")
        try:
            mHc, mA = (float(number) for number in numbers)
        except ValueError:
            raise UserError(
                f"'{text}' is not a mass point; write it as 130,90 or MHc130_MA90 (mHc, mA in GeV)."
            ) from None
        return cls(mHc, mA)


def _points(*pairs: tuple[float, float]) -> tuple[MassPoint, ...]:
    return tuple(MassPoint(*pair) for pair in pairs)


def parse_points(text: str | None) -> list[MassPoint]:
    """Read several points.

    Args:
        text: Points separated by semicolons, such as `130,90;160,95`; None for none.

    Returns:
        The points.

    Raises:
        UserError: One is not a mass point.
    """
    return [MassPoint.parse(part) for part in (text or "").split(";") if part.strip()]


class MassTable(StrictModel):
    """Mass points by role; written as pairs (mHc, mA) in GeV."""

    train: tuple[MassPoint, ...] = Field(
        _points((100, 85), (115, 90), (130, 85), (130, 90), (130, 95), (145, 90), (160, 85), (160, 95)),
        min_length=1,
        description="Points whose signal trains the network.",
    )
    validation: tuple[MassPoint, ...] = Field(
        _points((115, 85), (145, 95), (160, 90)), description="Points that select the checkpoint."
    )
    interpolation: tuple[MassPoint, ...] = Field(
        _points((110, 87), (125, 88), (125, 91), (135, 92), (140, 93)),
        description="Test points inside the hull of the training points.",
    )
    extrapolation: tuple[MassPoint, ...] = Field(
        _points((95, 80), (100, 95), (165, 97)), description="Test points outside the hull."
    )

    @field_validator(*ROLES, mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(_read_point(item) for item in value)

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        for first, second in combinations(ROLES, 2):
            if shared := sorted(set(getattr(self, first)) & set(getattr(self, second))):
                raise ValueError(f"{shared[0].name} is in both {first} and {second}; give it one role")
        for role in ROLES:
            points = getattr(self, role)
            if len(set(points)) < len(points):
                raise ValueError(f"{role} holds a point twice; name each point once")
        for role, inside in (("interpolation", True), ("extrapolation", False)):
            for point in getattr(self, role):
                if self.in_hull(point) != inside:
                    place = "outside" if inside else "inside"
                    raise ValueError(f"{point.name} is {place} the hull of the training points, not {role}")
        return self

    @property
    def all_points(self) -> tuple[MassPoint, ...]:
        """Every point, in the order of the roles."""
        return tuple(point for role in ROLES for point in getattr(self, role))

    def role(self, point: MassPoint) -> Role:
        """Return the role of a point.

        Args:
            point: The point.

        Returns:
            Its role.

        Raises:
            UserError: The table does not hold the point.
        """
        for role in ROLES:
            if point in getattr(self, role):
                return role
        known = ", ".join(known.name for known in sorted(self.all_points))
        raise UserError(f"{point.name} is not in the mass table; choose one of {known}, or add it to a role.")

    def in_hull(self, point: MassPoint) -> bool:
        """Tell whether a point lies in the convex hull of the training points, border included.

        Args:
            point: The point.

        Returns:
            True inside.
        """
        corners = np.array([(p.mHc, p.mA) for p in self.train])
        away = np.array([point.mHc, point.mA]) - corners
        away = away[np.any(away != 0, axis=1)]
        if len(away) < len(corners):
            return True  # the point is a corner
        # Seen from inside or from the border, the corners span at least half a turn.
        angles = np.sort(np.arctan2(away[:, 1], away[:, 0]))
        gaps = np.diff(angles, append=angles[0] + 2 * np.pi)
        return bool(gaps.max() <= np.pi + 1e-9)


def _read_point(item: object) -> MassPoint:
    if isinstance(item, MassPoint):
        return item
    if isinstance(item, str):
        return MassPoint.parse(item)
    if isinstance(item, dict) and item.keys() == {"mHc", "mA"}:
        return MassPoint(float(item["mHc"]), float(item["mA"]))
    if isinstance(item, (list, tuple)) and len(item) == 2:
        return MassPoint(float(item[0]), float(item[1]))
    raise ValueError(f"{item!r} is not a pair (mHc, mA)")
