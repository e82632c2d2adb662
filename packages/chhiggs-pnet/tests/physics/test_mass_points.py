"""Mass points and their roles."""

import pytest
from pydantic import ValidationError

from chhiggs_pnet.physics.mass_points import MassPoint, MassTable
from hep_shared.errors import UserError


def test_names_and_texts() -> None:
    assert MassPoint.parse("130, 90") == MassPoint(130, 90) == MassPoint.parse("MHc130_MA90")
    point = MassPoint(162.5, 87.25)
    assert point.name == "MHc162p5_MA87p25"
    assert MassPoint.parse(point.name) == point
    with pytest.raises(UserError, match="'130' is not a mass point; write it as 130,90"):
        MassPoint.parse("130")


@pytest.mark.parametrize(
    ("masses", "problem"),
    [((90, 90), "has mA >= mHc"), ((168, 90), "out of reach"), ((100, 5), "out of reach")],
)
def test_unphysical_points_are_refused(masses: tuple[float, float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        MassPoint(*masses)


def test_default_roles_are_disjoint_and_in_place() -> None:
    table = MassTable()
    assert len(set(table.all_points)) == len(table.all_points) == 19
    assert table.role(MassPoint(160, 85)) == "train"
    assert table.role(MassPoint(100, 95)) == "extrapolation"
    assert all(table.in_hull(point) for point in table.interpolation + table.validation)
    with pytest.raises(UserError, match="MHc150_MA90 is not in the mass table"):
        table.role(MassPoint(150, 90))


def test_a_point_in_two_roles_is_refused() -> None:
    with pytest.raises(ValidationError, match="MHc130_MA90 is in both train and validation"):
        MassTable(validation=[[130, 90]])
    with pytest.raises(ValidationError, match="train holds a point twice"):
        MassTable(train=["130,90", "130,90"])


def test_test_points_must_be_on_their_side_of_the_hull() -> None:
    with pytest.raises(ValidationError, match="MHc100_MA95 is outside the hull"):
        MassTable(interpolation=["100,95"], extrapolation=())
    with pytest.raises(ValidationError, match="MHc125_MA88 is inside the hull"):
        MassTable(interpolation=(), extrapolation=["125,88"])


def test_table_survives_json() -> None:
    table = MassTable()
    assert MassTable.model_validate_json(table.model_dump_json()) == table
