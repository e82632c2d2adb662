import errno
import json
import math
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

from hep_shared.errors import InputFileError, UserError
from hep_shared.files import (
    atomic_path,
    atomic_write_json,
    atomic_write_text,
    check_root_length,
    json_ready,
    make_directory,
    manifest_path,
    reader_boundary,
    remove_temporaries,
    sha256_of,
    verify_manifest,
    write_boundary,
    write_manifest,
)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def fail_with(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_atomic_path_keeps_the_suffix_and_makes_parents(tmp_path):
    target = tmp_path / "a" / "b.npz"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        np.savez(temporary, x=np.arange(3))  # appends .npz to any other suffix
        assert not target.exists()
    assert names(target.parent) == ["b.npz"]


def test_an_error_inside_leaves_the_former_file(tmp_path):
    target = tmp_path / "a.txt"
    atomic_write_text(target, "former")

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert target.read_text() == "former"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some disk space"), (errno.EDQUOT, "disk quota"), (errno.EIO, "check the disk")],
)
def test_a_full_or_failing_disk_is_a_user_error(tmp_path, monkeypatch, number, remedy):
    target = tmp_path / "a.txt"
    atomic_write_text(target, "former")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    with pytest.raises(UserError, match=f"a.txt cannot be written .*{remedy}"):
        atomic_write_text(target, "latter")
    assert target.read_text() == "former"
    assert names(tmp_path) == ["a.txt"]


def test_a_real_full_device():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(UserError, match=r"/dev/full cannot be written"), write_boundary("/dev/full"):
        Path("/dev/full").write_text("x")


def test_a_library_that_names_the_full_disk_only_in_its_text(tmp_path):
    sentence = r"a.h5 cannot be written \(No space left on device\); free some disk space"
    with pytest.raises(UserError, match=sentence), atomic_path(tmp_path / "a.h5"):
        raise RuntimeError("file write failed: errno = 28, error message = 'No space left on device'")
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"out/a.txt cannot be written"):
        atomic_write_text(tmp_path / "out" / "a.txt", "x")


def test_a_directory_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"out cannot be written"):
        make_directory(tmp_path / "file" / "out")
    monkeypatch.setattr(Path, "mkdir", fail_with(errno.ENOENT))  # as under /proc
    with pytest.raises(UserError, match=r"out cannot be made .* choose another output directory"):
        make_directory(tmp_path / "out")
    with pytest.raises(UserError, match=r"out cannot be made"):
        atomic_write_text(tmp_path / "out" / "a.txt", "x")


def test_an_unrelated_error_is_not_hidden(tmp_path):
    with pytest.raises(ValueError, match=r"shape"), atomic_path(tmp_path / "a"):
        raise ValueError("shape")


def test_remove_temporaries_leaves_the_rest(tmp_path):
    for name in (".a.1234abcd.tmp.npz", ".b.1234abcd.tmp", "a.npz", ".hidden"):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert names(tmp_path) == [".hidden", "a.npz"]


def test_two_writers_of_one_file_never_mix(tmp_path):
    target = tmp_path / "a.txt"
    texts = [letter * 100_000 for letter in "ab"]
    threads = [
        threading.Thread(target=lambda text=text: [atomic_write_text(target, text) for _ in range(10)])
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts
    assert names(tmp_path) == ["a.txt"]


def test_json_is_strict(tmp_path):
    obj = {
        "nan": math.nan,
        "inf": np.float32("inf"),
        "array": np.arange(2),
        "path": Path("a"),
        "tuple": (1, True, None),
        "deep": {"x": [np.float64(0.1)]},
        3: np.int64(4),
    }
    atomic_write_json(tmp_path / "a.json", obj)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse) == {
        "nan": None,
        "inf": None,
        "array": [0, 1],
        "path": "a",
        "tuple": [1, True, None],
        "deep": {"x": [0.1]},
        "3": 4,
    }
    assert json_ready(np.bool_(True)) is True


class TestManifest:
    @pytest.fixture
    def data(self, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(bytes(range(256)))
        return path

    def test_round_trip(self, data):
        assert verify_manifest(data) is None
        assert write_manifest(data, num_events=5) == manifest_path(data)
        assert verify_manifest(data) == {"sha256": sha256_of(data), "size": 256, "num_events": 5}

    def test_every_flipped_bit_is_found(self, data):
        write_manifest(data)
        good = data.read_bytes()
        for position in range(0, 256, 17):
            data.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
            with pytest.raises(
                InputFileError, match=r"a.bin: differs from the sha256 in its manifest; copy it again"
            ):
                verify_manifest(data)

    def test_truncated(self, data):
        write_manifest(data)
        data.write_bytes(b"abc")
        with pytest.raises(InputFileError, match=r"holds 3 bytes but its manifest says 256"):
            verify_manifest(data)

    def test_missing_data(self, data):
        write_manifest(data)
        data.unlink()
        with pytest.raises(InputFileError, match=r"a.bin: does not exist"):
            verify_manifest(data)

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": 1, "size": null}', "\udcff"])
    def test_unreadable_manifest(self, data, text):
        manifest_path(data).write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputFileError, match=r"manifest.json: cannot be read .*make both again"):
            verify_manifest(data)


class TestReaderBoundary:
    class RustPanic(BaseException):
        """Panics that cross from Rust do not derive from Exception."""

    @pytest.mark.parametrize(
        "error",
        [
            AssertionError(),
            zlib.error("Error -3 while decompressing"),
            RecursionError("maximum recursion depth exceeded"),
            MemoryError(),
            OSError("truncated\nfile"),
            StopIteration(),
            RustPanic("index out of bounds"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_anything_becomes_one_sentence(self, error):
        boundary = reader_boundary("a.root", branch="npho", remedy="fetch it again")
        with (
            pytest.raises(InputFileError, match=r"^a\.root, branch 'npho': cannot be read \(") as caught,
            boundary,
        ):
            raise error
        assert type(error).__name__ in str(caught.value)
        assert str(caught.value).endswith("; fetch it again.")
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is error

    def test_a_damaged_compressed_array(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez_compressed(path, x=np.arange(1000))
        content = bytearray(path.read_bytes())
        content[60:100] = bytes(40)
        path.write_bytes(content)
        with (
            pytest.raises(InputFileError, match=r"a.npz: cannot be read"),
            reader_boundary(path),
            np.load(path, allow_pickle=False) as arrays,
        ):
            arrays["x"]

    def test_missing_file(self, tmp_path):
        path = tmp_path / "a.root"
        with (
            pytest.raises(InputFileError, match=r"a.root: does not exist; check the path"),
            reader_boundary(path),
        ):
            path.read_bytes()

    def test_unreadable_file(self):
        sentence = "a.root: is not readable for you; change its permissions"
        with pytest.raises(InputFileError, match=sentence), reader_boundary("a.root"):
            raise PermissionError

    @pytest.mark.parametrize("error", [UserError("a sentence."), KeyboardInterrupt(), SystemExit(3)])
    def test_what_is_no_reading_error_passes(self, error):
        with pytest.raises(type(error)) as caught, reader_boundary("a.root"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("version", "end"), [(62400, struct.pack(">i", 300)), (1062400, struct.pack(">q", 300))]
)
def test_a_root_file_is_as_long_as_its_header_says(tmp_path, version, end):
    path = tmp_path / "a.root"
    content = (b"root" + struct.pack(">ii", version, 100) + end).ljust(300, b"\1")
    path.write_bytes(content)
    check_root_length(path)
    path.write_bytes(content[:-1])
    with pytest.raises(InputFileError, match=r"a\.root: cannot be read: it holds 299 bytes of 300; give"):
        check_root_length(path)
    for other in (b"", b"root", b"no ROOT file".ljust(300)):
        path.write_bytes(other)
        check_root_length(path)
    with pytest.raises(InputFileError, match="does not exist"):
        check_root_length(tmp_path / "b.root")
