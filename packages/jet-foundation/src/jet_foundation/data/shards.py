"""Shards of jets on disk, mapped into memory.

A shard is an uncompressed npz file, so that `numpy.load` opens it anywhere, and its arrays are mapped
straight from the file: a loader touches only the jets it needs. Members: `offsets`, `p4`, `labels`, and where
known `pid`, `displacement` and one `scalar_<name>` per number of the jet. A directory holds the shards of the
three splits and `dataset.json`, which tells everything else.

Dimensions: J jets, K particles of all jets.
"""

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hep_shared.config import StrictModel, to_plain
from hep_shared.errors import InputFileError
from hep_shared.files import atomic_path, atomic_write_json, reader_boundary, verify_manifest, write_manifest
from jet_foundation.data.checks import DAMAGED, missing_branch
from jet_foundation.data.normalization import Normalization
from jet_foundation.data.schema import FeatureSet
from jet_foundation.physics.jet_table import Jets

Array = NDArray[Any]

INDEX_FILE = "dataset.json"
SPLITS = ("train", "val", "test")
FORMAT = 1
_SCALAR = "scalar_"
_LOCAL_HEADER = 30  # fixed part of a zip member's own header, before name and extra field


class DatasetInfo(StrictModel):
    """What `dataset.json` says.

    Attributes:
        format: Version of the layout.
        classes: Class names in the order of the labels.
        feature_set: Largest feature set that the shards serve.
        normalization: Fitted on the training split.
        num_jets: Jets per split.
        shards: File names per split.
        mean_num_particles: Of the training split.
        sources: Files that the jets come from.
        level: `event` where the jets belong to events, whose numbers lie beside the shards.
    """

    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    classes: tuple[str, ...]
    feature_set: FeatureSet
    normalization: Normalization
    num_jets: dict[str, int]
    shards: dict[str, tuple[str, ...]]
    mean_num_particles: float
    sources: tuple[str, ...]
    level: Literal["jet", "event"] = "jet"


def write_info(directory: Path, info: DatasetInfo) -> None:
    """Write `dataset.json`.

    Args:
        directory: The data set.
        info: Its content.
    """
    atomic_write_json(directory / INDEX_FILE, to_plain(info))


def read_info(directory: Path) -> DatasetInfo:
    """Read `dataset.json`.

    Args:
        directory: The data set.

    Returns:
        Its content.

    Raises:
        InputFileError: The directory is no data set, or the file is damaged.
    """
    path = Path(directory) / INDEX_FILE
    if not path.exists():
        raise InputFileError(directory, f"holds no {INDEX_FILE}", "make it with `jet-foundation preprocess`")
    with reader_boundary(path, remedy="make the data set again"):
        return DatasetInfo.model_validate_json(path.read_text())


def write_shard(path: Path, jets: Jets) -> None:
    """Write a shard and its manifest.

    Args:
        path: The file.
        jets: Jets.
    """
    arrays: dict[str, Array] = {
        "offsets": jets.offsets.astype(np.int64),
        "p4": jets.p4,
        "labels": jets.labels,
    }
    if jets.pid is not None:
        arrays["pid"] = jets.pid
    if jets.displacement is not None:
        arrays["displacement"] = jets.displacement
    arrays |= {_SCALAR + name: values for name, values in jets.scalars.items()}
    with atomic_path(path) as temporary:
        np.savez(temporary, allow_pickle=False, **arrays)
    write_manifest(path, num_jets=len(jets))


def map_npz(path: Path) -> dict[str, Array]:
    """Map the arrays of an uncompressed npz file into memory.

    Args:
        path: The file.

    Returns:
        Read-only array by name.

    Raises:
        InputFileError: The file is damaged or compressed.
    """
    arrays = {}
    with reader_boundary(path, remedy=DAMAGED), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise InputFileError(path, "is compressed", "make the data set again", branch=member.filename)
            file.seek(member.header_offset)
            header = file.read(_LOCAL_HEADER)
            name_and_extra = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            file.seek(name_and_extra, 1)
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
            if dtype.hasobject or fortran:
                raise InputFileError(path, "holds Python objects", "make it again", branch=member.filename)
            name = member.filename.removesuffix(".npy")
            if 0 in shape:
                arrays[name] = np.zeros(shape, dtype)
            else:
                arrays[name] = np.memmap(path, dtype, mode="r", offset=file.tell(), shape=shape).view(
                    np.ndarray
                )
    return arrays


def open_shard(path: Path, *, verify: bool = True) -> Jets:
    """Open a shard.

    Args:
        path: The file.
        verify: Compare it with its manifest, which reads it once.

    Returns:
        Jets whose arrays are mapped from the file.

    Raises:
        InputFileError: The file is missing, damaged, or lacks an array.
    """
    if verify:
        verify_manifest(path)
    arrays = map_npz(path)
    for name in ("offsets", "p4", "labels"):
        if name not in arrays:
            raise missing_branch(path, name, arrays)
    offsets, num = arrays["offsets"], len(arrays["p4"])
    if offsets[0] != 0 or offsets[-1] != num or (np.diff(offsets) < 0).any():
        raise InputFileError(path, f"does not match its {num} particles", DAMAGED, branch="offsets")
    return Jets(
        offsets=offsets,
        p4=arrays["p4"],
        labels=arrays["labels"],
        pid=arrays.get("pid"),
        displacement=arrays.get("displacement"),
        scalars={
            name.removeprefix(_SCALAR): values for name, values in arrays.items() if name.startswith(_SCALAR)
        },
    )
