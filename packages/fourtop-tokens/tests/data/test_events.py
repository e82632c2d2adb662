import shutil

import h5py
import numpy as np
import pytest

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import concatenate, read_events
from hep_shared.errors import InputFileError


@pytest.fixture
def broken(sample, tmp_path):
    """A writable copy without manifest."""
    path = tmp_path / "broken.h5"
    shutil.copy(sample[0], path)
    return path


def change(path, key, edit):
    with h5py.File(path, "r+") as file:
        data = file[key][:]
        del file[key]
        file[key] = edit(data)


def edited(column, value, row=3):
    def edit(data):
        data[row, column] = value
        return data

    return edit


FIRST_PT = schema.NUM_OBJECTS + schema.NUM_GLOBALS + schema.PT


def test_what_is_written_is_read(sample):
    path, written = sample
    read = read_events(path)
    for split in schema.SPLITS:
        for name in ("ids", "features", "missing", "labels"):
            np.testing.assert_array_equal(getattr(read[split], name), getattr(written[split], name))
        assert read[split].features.dtype == np.float32
    assert read["train"].valid_mask.sum() == (read["train"].ids > 0).sum()
    assert len(concatenate(read)) == 600


def test_some_splits_and_some_events(sample):
    read = read_events(sample[0], ("test",), num_events=7)
    assert list(read) == ["test"]
    assert len(read["test"]) == 7


def test_integer_and_double_columns_are_as_good(broken):
    change(broken, "X_test", lambda data: data.astype(np.float64))
    change(broken, "y_test", lambda data: data.astype(np.int64))
    assert read_events(broken)["test"].features.dtype == np.float32


@pytest.mark.parametrize(
    ("key", "edit", "message"),
    [
        ("X_train", edited(30, np.nan), "entry 3: nan is not a finite number"),
        ("X_val", edited(18, np.inf), "inf is not a finite number"),
        ("X_test", edited(0, 8), "8 is not an object id; number the objects anew, ids are 0"),
        ("X_test", edited(0, 1.5), "1.5 is not an object id"),
        ("X_train", edited(FIRST_PT, -4), "-4 is a negative pT"),
        ("X_train", edited(18, -1), "-1 is a negative missing momentum"),
        ("X_train", lambda data: data[:, :-1], r"has the shape \(480, 91\) instead of \(N, 92\)"),
        ("X_train", lambda data: data[:0], "holds no events"),
        ("X_train", lambda data: np.full(data.shape, b"x"), "not a data set of numbers"),
        ("y_val", lambda data: data[:-1], "has 59 labels for 60 events"),
        ("y_val", lambda data: data + 1, "6 is not a label; label the events anew, labels are 1"),
        ("y_val", lambda data: data[:, None], r"has the shape \(60, 1\) instead of \(N\)"),
    ],
)
def test_what_the_format_does_not_allow_is_named(broken, key, edit, message):
    change(broken, key, edit)
    with pytest.raises(InputFileError, match=f"branch '{key}'.*{message}"):
        read_events(broken)


@pytest.mark.parametrize("key", ["X_val", "Y_train"])
def test_a_missing_key_is_named(broken, key):
    with h5py.File(broken, "r+") as file:
        del file[key]
    with pytest.raises(InputFileError, match=f"branch '{key}': is missing, the file holds"):
        read_events(broken)


def test_mev_is_refused_unless_said(broken, sample):
    def to_mev(data):
        data[:, 18] *= 1000
        features = data[:, 20:].reshape(len(data), 18, 4)
        features[:, :, :2] *= 1000
        return data

    for key in schema.X_KEYS.values():
        change(broken, key, to_mev)
    with pytest.raises(InputFileError, match=r"median leading pT of .*if it is in MeV, pass --units mev"):
        read_events(broken)
    read = read_events(broken, units="mev")["test"]
    np.testing.assert_allclose(read.features, sample[1]["test"].features, rtol=1e-6)
    np.testing.assert_allclose(read.missing, sample[1]["test"].missing, rtol=1e-6)


def test_gev_taken_for_mev_are_refused(sample):
    with pytest.raises(InputFileError, match=r"median leading pT of 0\.\d+ GeV .*leave --units mev out"):
        read_events(sample[0], units="mev")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputFileError, match="does not exist"):
        read_events(tmp_path / "none.h5")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.95])
def test_a_truncated_file(broken, keep):
    data = broken.read_bytes()
    broken.write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
    with pytest.raises(InputFileError, match="cannot be read"):
        read_events(broken)


def test_damaged_numbers_are_found_with_and_without_manifest(sample, broken):
    with h5py.File(broken, "r") as file:
        chunk = file["X_train"].id.get_chunk_info(0)
    data = bytearray(broken.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    broken.write_bytes(data)
    with pytest.raises(InputFileError, match="cannot be read"):
        read_events(broken)
    shutil.copy(f"{sample[0]}.manifest.json", f"{broken}.manifest.json")
    with pytest.raises(InputFileError, match="sha256"):
        read_events(broken)
