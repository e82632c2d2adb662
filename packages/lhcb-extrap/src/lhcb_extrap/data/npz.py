"""npz files larger than the memory: written piece by piece, read as memory maps.

An npz file is a zip archive of npy files. Stored without compression, an array lies in one piece at a known
place of the file, so it can be mapped, and its header read, without loading it.
"""

import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from hep_shared.files import atomic_path, reader_boundary

_REMEDY = "make the file again, or copy it again in binary mode"
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: lengths of its name and its extra field
_LOCAL_HEADER_SIZE = 30


@dataclass(frozen=True)
class Member:
    """One array of an npz file.

    Attributes:
        shape: Shape.
        dtype: NumPy type.
        offset: Place of its first number in the file, bytes; None where it is compressed.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None


def npz_members(path: Path) -> dict[str, Member]:
    """Read the headers of all arrays.

    Args:
        path: The file.

    Returns:
        Name to header.

    Raises:
        InputFileError: The file is missing, no npz file, cut short, or holds Python objects.
    """
    members = {}
    with reader_boundary(path, remedy=_REMEDY), zipfile.ZipFile(path) as archive, open(path, "rb") as raw:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as stream:
                shape, fortran, dtype = _read_header(stream)
            size = int(np.prod(shape)) * dtype.itemsize
            header = info.file_size - size
            if dtype.hasobject or fortran or header <= 0:
                raise InputFileError(path, "is not a plain array in C order", _REMEDY, branch=name)
            offset = None
            if info.compress_type == zipfile.ZIP_STORED:
                raw.seek(info.header_offset)
                name_size, extra_size = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER_SIZE))
                offset = info.header_offset + _LOCAL_HEADER_SIZE + name_size + extra_size + header
            members[name] = Member(shape, dtype, offset)
    return members


def map_array(path: Path, key: str, member: Member) -> NDArray[Any]:
    """Map an array without loading it.

    Args:
        path: The file.
        key: Name of the array.
        member: Its header from `npz_members`.

    Returns:
        A read-only memory map; a loaded array where the file is compressed or the array empty.

    Raises:
        InputFileError: The array cannot be read.
    """
    with reader_boundary(path, branch=key, remedy=_REMEDY):
        if member.offset is not None and 0 not in member.shape:
            return np.memmap(path, member.dtype, "r", member.offset, member.shape)
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[key]
            return array


def write_npz(path: Path, arrays: Mapping[str, tuple[tuple[int, ...], Any, Iterable[NDArray[Any]]]]) -> None:
    """Write arrays piece by piece, atomically and without compression.

    Args:
        path: The file.
        arrays: Name to shape, dtype and the pieces, which are stacked along the first axis.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
        ValueError: The pieces do not add up to the shape.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for key, (shape, dtype, pieces) in arrays.items():
            # A fixed date: equal numbers give equal files, and so equal sha256 sums.
            info = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w", force_zip64=True) as stream:
                npy.write_array_header_2_0(
                    stream,
                    {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape},
                )
                rows = 0
                for piece in pieces:
                    if piece.shape[1:] != shape[1:]:
                        raise ValueError(f"a piece of {key} has shape {piece.shape}, the array {shape}")
                    stream.write(np.ascontiguousarray(piece, dtype=dtype).data)
                    rows += len(piece)
                if rows != shape[0]:
                    raise ValueError(f"the pieces of {key} have {rows} rows, not {shape[0]}")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    return shape, fortran and len(shape) > 1, dtype
