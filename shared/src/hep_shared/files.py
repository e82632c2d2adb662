"""Files that are whole or absent, and readers that fail in one way.

A write goes to a temporary file in the same directory, is flushed to the disk and renamed: a kill at any
moment leaves either the former file or the complete one. ROOT baskets, HDF5 chunks and torch archives can
carry damaged numbers without any error, so what we write gets a sha256 manifest, and readers check it.
"""

import errno
import hashlib
import json
import math
import os
import secrets
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hep_shared.errors import InputFileError, UserError

StrPath = str | os.PathLike[str]
_BIG = 1_000_000  # added to the version of a ROOT file with eight-byte offsets

_WRITE_REMEDIES = {
    errno.ENOSPC: "free some disk space or choose another output directory",
    errno.EDQUOT: "free some of your disk quota or choose another output directory",
    errno.EFBIG: "raise the file size limit (ulimit -f) or write smaller files",
    errno.EACCES: "make the directory writable or choose another output directory",
    errno.EPERM: "make the directory writable or choose another output directory",
    errno.EROFS: "choose an output directory on a writable file system",
    errno.ENOTDIR: "choose an output directory whose parents are directories",
    errno.EISDIR: "choose a file name that is not a directory",
    errno.EEXIST: "choose an output directory that is not a file",
    errno.ENAMETOOLONG: "choose a shorter file name",
    errno.EIO: "check the disk or choose another output directory",
}


@contextmanager
def write_boundary(path: StrPath) -> Iterator[None]:
    """Turn what a full, read-only or failing disk raises inside the block into one sentence.

    Args:
        path: The file being written, for the message.

    Yields:
        Nothing.

    Raises:
        UserError: A write failed for a reason outside the program.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and os.strerror(errno.ENOSPC) in str(error):  # HDF5 and torch: only in the text
            number = errno.ENOSPC
        if number not in _WRITE_REMEDIES:
            raise
        raise UserError(
            f"{path} cannot be written ({os.strerror(number)}); {_WRITE_REMEDIES[number]}."
        ) from error


def make_directory(path: StrPath) -> Path:
    """Make a directory and its parents where they are missing.

    Args:
        path: The directory.

    Returns:
        The same.

    Raises:
        UserError: It cannot be made.
    """
    path = Path(path)
    with write_boundary(path):
        _make(path)
    return path


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # not in the table above: elsewhere a missing file is a defect of ours
        raise UserError(
            f"{directory} cannot be made ({os.strerror(errno.ENOENT)}); choose another output directory."
        ) from error


@contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Write a file that appears complete or not at all.

    Args:
        path: The final file; missing parent directories are made.

    Yields:
        A temporary path in the same directory with the same suffix. It is renamed when the block ends well
        and removed otherwise.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    with write_boundary(path):
        try:
            _make(path.parent)
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)  # the rename itself must survive a power cut
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporaries(directory: StrPath) -> None:
    """Remove what a killed process left behind; only the one writer of a directory may call it.

    Args:
        directory: Directory to clean, not recursive.
    """
    for leftover in Path(directory).glob(".*.tmp*"):
        leftover.unlink(missing_ok=True)


def atomic_write_bytes(path: StrPath, data: bytes | memoryview) -> None:
    """Write bytes atomically.

    Args:
        path: The file.
        data: Its content.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)


def atomic_write_text(path: StrPath, text: str) -> None:
    """Write text atomically as UTF-8.

    Args:
        path: The file.
        text: Its content.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    atomic_write_bytes(path, text.encode())


def atomic_write_json(path: StrPath, obj: object) -> None:
    """Write strict, indented JSON atomically.

    Args:
        path: The file.
        obj: Anything that `json_ready` accepts.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    atomic_write_text(path, json.dumps(json_ready(obj), indent=2, allow_nan=False) + "\n")


def json_ready(obj: Any) -> Any:
    """Reduce an object to what strict JSON holds.

    Args:
        obj: Nested mappings and sequences of numbers, strings, paths, NumPy arrays, tensors.

    Returns:
        The same in dict, list, str, int, float, bool and None; a NaN or infinity becomes None.
    """
    if obj is None or isinstance(obj, (str, bool)):
        return obj
    if isinstance(obj, Mapping):
        return {str(key): json_ready(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple, set, frozenset)):
        return [json_ready(value) for value in obj]
    if hasattr(obj, "tolist"):  # NumPy scalars and arrays, tensors
        return json_ready(obj.tolist())
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    return obj if isinstance(obj, int) else str(obj)


def sha256_of(path: StrPath) -> str:
    """Digest of a file, read in pieces.

    Args:
        path: The file.

    Returns:
        sha256 in hexadecimal digits.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_path(path: StrPath) -> Path:
    """Where the manifest of a file lies.

    Args:
        path: The file.

    Returns:
        ``<path>.manifest.json``.
    """
    return Path(f"{os.fspath(path)}.manifest.json")


def write_manifest(path: StrPath, **extra: object) -> Path:
    """Record digest and size of a finished file beside it.

    Args:
        path: The file.
        extra: What else readers should know, for example the number of events and the seed.

    Returns:
        The manifest's path.
    """
    manifest = manifest_path(path)
    record = {"sha256": sha256_of(path), "size": Path(path).stat().st_size, **extra}
    atomic_write_json(manifest, record)
    return manifest


def verify_manifest(path: StrPath) -> dict[str, Any] | None:
    """Compare a file with its manifest.

    Args:
        path: The file.

    Returns:
        The manifest's content, or None when the file has no manifest.

    Raises:
        InputFileError: The file is missing or differs from its manifest, or the manifest is unreadable.
    """
    manifest = manifest_path(path)
    if not manifest.exists():
        return None
    with reader_boundary(manifest, remedy="remove it to read the data file unchecked, or make both again"):
        record: dict[str, Any] = json.loads(manifest.read_text())
        digest, size = str(record["sha256"]), int(record["size"])
    remedy = "copy it again or make it again"
    with reader_boundary(path, remedy=remedy):
        found = Path(path).stat().st_size
        if found != size:
            raise InputFileError(path, f"holds {found} bytes but its manifest says {size}", remedy)
        if sha256_of(path) != digest:
            raise InputFileError(path, "differs from the sha256 in its manifest", remedy)
    return record


def check_root_length(path: StrPath, *, remedy: str = "give a complete ROOT file") -> None:
    """Refuse a ROOT file that is shorter than its own header says, such as half a copy.

    Readers look at the end of a file only when they need what lies there. The header holds "root", a version,
    the offset of the first record and the end of the last one, big-endian; from version 1,000,000 on the end
    has eight bytes (ROOT reference guide, TFile). What does not begin like a ROOT file is left to the reader.

    Args:
        path: The file.
        remedy: What the user should do, an imperative clause.

    Raises:
        InputFileError: The file is missing, unreadable or too short.
    """
    with reader_boundary(path, remedy=remedy):
        with open(path, "rb") as file:
            head = file.read(20)
            size = file.seek(0, os.SEEK_END)
        if len(head) < 20 or not head.startswith(b"root"):
            return
        (version,) = struct.unpack(">i", head[4:8])
        (end,) = struct.unpack(">q", head[12:20]) if version >= _BIG else struct.unpack(">i", head[12:16])
        if size < end:
            raise InputFileError(path, f"cannot be read: it holds {size} bytes of {end}", remedy)


@contextmanager
def reader_boundary(
    path: StrPath,
    *,
    branch: str | None = None,
    remedy: str = "check that the file is complete and of this kind",
) -> Iterator[None]:
    """Turn whatever a reader raises inside the block into one InputFileError.

    Damaged files make ROOT, HDF5, NumPy and ONNX readers raise anything: zlib.error, AssertionError,
    RecursionError, MemoryError from a damaged size field, panics of Rust code that derive from BaseException.

    Args:
        path: The file being read.
        branch: Branch, data set or array being read.
        remedy: What the user should do, an imperative clause.

    Yields:
        Nothing.

    Raises:
        InputFileError: Anything but a UserError, KeyboardInterrupt, SystemExit or GeneratorExit was raised.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise InputFileError(path, "does not exist", "check the path", branch=branch) from error
    except PermissionError as error:
        raise InputFileError(
            path, "is not readable for you", "change its permissions", branch=branch
        ) from error
    except BaseException as error:
        reason = " ".join(str(error).split())[:160]
        problem = f"cannot be read ({type(error).__name__}{': ' if reason else ''}{reason})"
        raise InputFileError(path, problem, remedy, branch=branch) from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
