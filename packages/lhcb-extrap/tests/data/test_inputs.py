import numpy as np
import pytest

from hep_shared.errors import InputFileError
from lhcb_extrap.data.inputs import check_inputs, invalid_inputs, read_inputs
from lhcb_extrap.physics.propagation import Acceptance


def good(num=6):
    return np.tile([100.0, -50.0, 0.1, -0.02, 2e-4, 4000.0], (num, 1))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, np.nan, "entry 3: has x = nan mm; remove rows that are not finite"),
        (0, 4100.0, r"entry 3: has x = 4100 mm; keep \|x\| within 4000 mm"),
        (1, -4100.0, r"entry 3: has y = -4100 mm; keep \|y\| within 4000 mm"),
        (2, 3.0, r"entry 3: has tx = 3; keep \|tx\| within 2 at"),
        (4, np.inf, "entry 3: has q/p = inf 1/MeV; remove"),
        (4, 0.2, "entry 3: has q/p = 0.2 1/MeV; multiply q/p by 1e-3"),
        (4, -1 / 99, r"entry 3: has q/p = -0.010101 1/MeV; multiply q/p by 1e-3"),
        (5, 0.0, "entry 3: has dz = 0 mm; remove"),
        (5, -10.0, "entry 3: has dz = -10 mm; give dz > 0"),
    ],
)
def test_rows_that_cannot_be_extrapolated(tmp_path, column, value, message):
    inputs = good()
    inputs[3, column] = value
    np.testing.assert_array_equal(invalid_inputs(inputs), np.arange(6) == 3)
    with pytest.raises(InputFileError, match=message):
        check_inputs(inputs, tmp_path / "in.npz")


def test_first_row_is_named_whatever_its_fault(tmp_path):
    inputs = good()
    inputs[4, 0] = np.nan
    inputs[2, 5] = 0.0
    with pytest.raises(InputFileError, match="entry 2: has dz = 0"):
        check_inputs(inputs, tmp_path / "in.npz")
    assert invalid_inputs(inputs).sum() == 2


def test_valid_rows_pass(tmp_path):
    inputs = good()
    inputs[0, 4] = 0.0  # a straight line
    assert not invalid_inputs(inputs).any()
    check_inputs(inputs, tmp_path / "in.npz")
    inputs[:, 5] *= -1
    assert not invalid_inputs(inputs, allow_backward=True).any()
    assert invalid_inputs(inputs, allow_backward=True, acceptance=Acceptance(half_x_mm=50.0)).all()
    assert invalid_inputs(np.zeros((0, 6))).shape == (0,)


def test_files_with_inputs_only(tmp_path):
    path = tmp_path / "in.npz"
    np.savez(path, X=good())
    np.testing.assert_array_equal(read_inputs(path), good())
    np.savez(path, Y=good())
    with pytest.raises(InputFileError, match="has no array 'X' but Y"):
        read_inputs(path)
    for wrong in (good()[:, :5], good().astype(int), good()[0]):
        np.savez(path, X=wrong)
        with pytest.raises(InputFileError, match=r"branch 'X': has shape .*; store x, y, tx, ty, q/p, dz"):
            read_inputs(path)
