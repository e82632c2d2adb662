import struct

import numpy as np
import pytest

from hep_shared.errors import InputFileError
from lhcb_extrap.data import field_io
from lhcb_extrap.physics.field_coils import CoilField
from lhcb_extrap.physics.field_map import FieldMap, Grid, sample_field

GRID = Grid((-500.0, -250.0, 3000.0), (250.0, 250.0, 500.0), (5, 3, 9))


@pytest.fixture(scope="module")
def small():
    return sample_field(CoilField(), GRID)


def scaled(field_map, factor):
    return FieldMap(field_map.grid, field_map.values * np.float32(factor))


@pytest.mark.parametrize("unit", ["tesla", "gauss"])
def test_ascii_round_trip(tmp_path, small, unit):
    path = tmp_path / "map.txt"
    field_io.write_field_ascii(path, small, unit)
    again = field_io.read_field_ascii(path, unit)
    assert again.grid == GRID
    np.testing.assert_allclose(again.values, small.values, rtol=1e-6, atol=1e-12)


def test_ascii_in_any_order_with_header_and_rich_text_line_ends(tmp_path, small):
    path = tmp_path / "twodip.rtf"
    field_io.write_field_ascii(path, small)
    lines = path.read_text().splitlines()
    np.random.default_rng(0).shuffle(lines)
    path.write_text(
        "{\\rtf1 dipole map\n\\f0 x y z Bx By Bz\n" + "".join(f"{line}\\\n" for line in lines) + "}\n"
    )
    again = field_io.read_field_ascii(path, "tesla")
    np.testing.assert_allclose(again.values, small.values, rtol=1e-6, atol=1e-12)


def test_binary_round_trip_and_layout(tmp_path, small):
    path = tmp_path / "map.bin"
    field_io.write_field_binary(path, small)
    raw = path.read_bytes()
    assert struct.unpack("<3f", raw[:12]) == pytest.approx((1 / 250, 1 / 250, 1 / 500))
    assert struct.unpack("<3i", raw[16:28]) == (5, 3, 9)
    assert struct.unpack("<3f", raw[32:44]) == (-500.0, -250.0, 3000.0)
    # Second node: one step along x; 1 T is stored as 1e-3.
    expected = np.array(CoilField()(np.array([-250.0]), np.array([-250.0]), np.array([3000.0])))[:, 0] * 1e-3
    assert struct.unpack("<3f", raw[64:76]) == pytest.approx(expected, rel=1e-6)
    again = field_io.read_field_binary(path)
    assert again.grid == GRID
    np.testing.assert_allclose(again.values, small.values, rtol=3e-7)


def test_npz_round_trip_with_manifest(tmp_path, small):
    path = tmp_path / "map.npz"
    field_io.write_field_npz(path, small)
    again = field_io.read_field_npz(path)
    assert again.grid == GRID
    np.testing.assert_array_equal(again.values, small.values)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputFileError, match="sha256"):
        field_io.read_field_npz(path)


@pytest.mark.parametrize(("written", "read"), [("gauss", "tesla"), ("tesla", "gauss")])
def test_ascii_in_the_wrong_unit_is_refused(tmp_path, small, written, read):
    path = tmp_path / "map.txt"
    field_io.write_field_ascii(path, small, written)
    with pytest.raises(InputFileError, match=rf"peak of .* T on the beam axis.*another unit than {read}"):
        field_io.read_field_ascii(path, read)


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (field_io.write_field_binary, field_io.read_field_binary),
        (field_io.write_field_npz, field_io.read_field_npz),
    ],
)
@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_other_formats_in_the_wrong_unit_are_refused(tmp_path, small, write, read, factor):
    path = tmp_path / "map.npz"
    write(path, scaled(small, factor))
    with pytest.raises(InputFileError, match=r"peak of .* T on the beam axis, not about 1 T; store"):
        read(path)


def test_absurd_corner_values_are_limited_and_reported(tmp_path, small, caplog):
    values = small.values.copy()
    values[0, 0, 0, :3] = 33024.0, 0.0, 0.0
    path = tmp_path / "map.bin"
    field_io.write_field_binary(path, FieldMap(GRID, values))
    again = field_io.read_field_binary(path)
    np.testing.assert_allclose(again.values[0, 0, 0], [5.0, 0.0, 0.0, 0.0], rtol=1e-6)
    assert "1 of 135 nodes had more than 5 T" in caplog.text


def damaged(path, small, kind):
    field_io.write_field_ascii(path, small)
    lines = path.read_text().splitlines()
    if kind == "missing":
        del lines[7]
    elif kind == "repeated":
        lines[7] = lines[8]
    elif kind == "irregular":
        lines = [line.replace("-500 ", "-510 ", 1) if line.startswith("-500 ") else line for line in lines]
    elif kind == "nan":
        lines[7] = " ".join([*lines[7].split()[:5], "nan"])
    elif kind == "words":
        lines[7] = "1 2 three 4 5 6"
    elif kind == "empty":
        lines = []
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "134 rows on 5 x 3 x 9"),
        ("repeated", "repeats the node"),
        ("irregular", "steps from x = -510"),
        ("nan", "entry 7: has a field that is not finite"),
        ("words", "three"),
        ("empty", "no line of six numbers"),
    ],
)
def test_damaged_ascii_is_refused(tmp_path, small, kind, message):
    path = tmp_path / "map.txt"
    damaged(path, small, kind)
    with pytest.raises(InputFileError, match=message) as error:
        field_io.read_field_ascii(path, "tesla")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [0, 20, 48, 1000, 48 + 135 * 16 - 1, 48 + 135 * 16 + 1])
def test_binary_of_the_wrong_size_is_refused(tmp_path, small, size):
    path = tmp_path / "map.bin"
    field_io.write_field_binary(path, small)
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(InputFileError, match=f"holds {size} bytes"):
        field_io.read_field_binary(path)


def test_binary_with_a_senseless_header_is_refused(tmp_path, small):
    path = tmp_path / "map.bin"
    field_io.write_field_binary(path, small)
    raw = bytearray(path.read_bytes())
    raw[16:20] = struct.pack("<i", -7)
    path.write_bytes(raw)
    with pytest.raises(InputFileError, match="header of"):
        field_io.read_field_binary(path)


def test_half_maps_and_missing_files_are_refused(tmp_path):
    quadrant = sample_field(CoilField(), Grid((100.0, 0.0, 3000.0), (250.0, 250.0, 500.0), (3, 3, 9)))
    path = tmp_path / "map.npz"
    field_io.write_field_npz(path, quadrant)
    with pytest.raises(InputFileError, match="does not contain the beam axis"):
        field_io.read_field_npz(path)
    with pytest.raises(InputFileError, match="does not exist"):
        field_io.read_field_binary(tmp_path / "absent.bin")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InputFileError, match="has no array 'values_tesla' but a"):
        field_io.read_field_npz(tmp_path / "other.npz")
