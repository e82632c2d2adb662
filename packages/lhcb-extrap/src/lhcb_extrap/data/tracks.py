"""Batches of tracks on disk: read, checked, written, merged.

A simulation is a directory of shards, `batch_00000.npz` and so on, each written atomically with a manifest
beside it that carries its sha256 sum, so that an interrupted simulation is continued by making the shards
that are missing. `merge_tracks` streams them into one file; both kinds are read as memory maps, so a sample
of 50 million tracks needs no more memory than the rows in use.
"""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import ConfigError, InputFileError
from hep_shared.files import manifest_path, verify_manifest, write_manifest
from lhcb_extrap.data.npz import map_array, npz_members, write_npz
from lhcb_extrap.data.schema import (
    END,
    MOMENTUM,
    PLANES,
    SHARD_NAME,
    SHARD_PATTERN,
    START,
    TRACK_ARRAYS,
    Array,
)
from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.constants import MEV_PER_GEV

_CHUNK = 262_144  # rows checked or copied at a time: 10 MB of X in float64
_QOP, _DZ = 4, 5  # columns of X
_UNIT_TOLERANCE = 1.0e-3  # between q/p and P, and between dz and Z, relative; float32 rounds to 1e-7


@dataclass(frozen=True)
class TrackBatch:
    """N tracks in the layout of the file.

    Attributes:
        X: x, y, tx, ty, q/p, dz, (N, 6), mm, 1, 1/MeV.
        Y: x, y, tx, ty at the end, (N, 4), mm and 1.
        P: Momentum, (N,), GeV.
        Z: z of start and end, (N, 2), mm; None in files of one pair of planes.
    """

    X: FloatArray
    Y: FloatArray
    P: FloatArray
    Z: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.P)

    def __getitem__(self, rows: slice | NDArray[Any]) -> "TrackBatch":
        z = None if self.Z is None else self.Z[rows]
        return TrackBatch(self.X[rows], self.Y[rows], self.P[rows], z)


def read_tracks(
    path: Path, *, check: bool = True, verify: bool = False, allow_backward: bool = False
) -> TrackBatch:
    """Map a batch of tracks.

    Args:
        path: The npz file.
        check: Check every number; without it only names, shapes and types.
        verify: Compare the file with the sha256 sum in its manifest, where there is one.
        allow_backward: Accept dz < 0.

    Returns:
        The tracks as read-only memory maps.

    Raises:
        InputFileError: The file is missing or damaged, an array is missing or of a wrong shape, or a number
            is impossible; the sentence names row and value.
    """
    path = Path(path)
    if verify:
        verify_manifest(path)
    arrays = _map_arrays(path)
    batch = TrackBatch(arrays[START.key], arrays[END.key], arrays[MOMENTUM.key], arrays.get(PLANES.key))
    if check:
        check_tracks(batch, path, allow_backward=allow_backward)
    return batch


def check_tracks(batch: TrackBatch, path: Path, *, allow_backward: bool = False) -> None:
    """Check every number of a batch, a piece at a time.

    Args:
        batch: The tracks.
        path: Their file, for the message.
        allow_backward: Accept dz < 0.

    Raises:
        InputFileError: A number is not finite, out of range, or at odds with another one.
    """
    for start in range(0, len(batch), _CHUNK):
        part = batch[slice(start, start + _CHUNK)]
        for array, values in zip(TRACK_ARRAYS, (part.X, part.Y, part.P, part.Z), strict=True):
            if values is not None:
                _check_columns(array, values, path, start)
        _check_relations(part, path, start, allow_backward=allow_backward)


def write_tracks(path: Path, batch: TrackBatch, **extra: object) -> Path:
    """Write a batch and its manifest.

    Args:
        path: The npz file.
        batch: The tracks.
        extra: What else the manifest should record, for example seed, field and rejected tracks.

    Returns:
        The path of the manifest.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    values = zip(TRACK_ARRAYS, (batch.X, batch.Y, batch.P, batch.Z), strict=True)
    write_npz(path, {a.key: (v.shape, v.dtype, [v]) for a, v in values if v is not None})
    return write_manifest(path, num_tracks=len(batch), **extra)


def shard_path(directory: Path, index: int) -> Path:
    """Path of one shard of a simulation."""
    return Path(directory) / SHARD_NAME.format(index=index)


def shard_is_done(directory: Path, index: int) -> bool:
    """Whether a shard was finished; its manifest is written last, so no digest is needed."""
    path = shard_path(directory, index)
    return path.exists() and manifest_path(path).exists()


def list_shards(directory: Path) -> list[Path]:
    """List the shards of a simulation in order.

    Args:
        directory: Where they are.

    Returns:
        Their paths.

    Raises:
        InputFileError: There is none.
    """
    shards = sorted(Path(directory).glob(SHARD_PATTERN))
    if not shards:
        raise InputFileError(
            directory, f"holds no file {SHARD_PATTERN}", "check the directory or simulate first"
        )
    return shards


def find_files(patterns: Sequence[str], option: str) -> tuple[Path, ...]:
    """Expand files and globs.

    Args:
        patterns: Files or globs.
        option: Name of the option, for the message.

    Returns:
        The files, sorted within each pattern.

    Raises:
        ConfigError: A pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(str(pattern), recursive=True))
        if not matches:
            raise ConfigError(f"{option} has '{pattern}', which matches no file; check the path.")
        found += [Path(match) for match in matches]
    return tuple(found)


def merge_tracks(
    inputs: Sequence[Path],
    output: Path,
    *,
    verify: bool = True,
    allow_backward: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Stream shards into one file, in the order given, in constant memory.

    Args:
        inputs: The shards.
        output: The merged npz file, written atomically with its manifest.
        verify: Check sha256 sums and every number first.
        allow_backward: Accept dz < 0.
        progress: Called with the number of shards checked after each.

    Returns:
        Number of tracks written.

    Raises:
        InputFileError: A shard is missing or damaged, or differs in its arrays from the first.
        UserError: The disk is full, or the directory cannot be written.
    """
    if not inputs:
        raise InputFileError(output, "would be a merge of no file", "check the input pattern")
    total, layout = 0, None
    for done, path in enumerate(inputs, 1):
        batch = read_tracks(path, check=verify, verify=verify, allow_backward=allow_backward)
        found = {key: value.dtype for key, value in _map_arrays(path).items()}
        layout = layout or found
        if found != layout:
            problem = f"holds {_layout_text(found)} where {inputs[0]} holds {_layout_text(layout)}"
            raise InputFileError(path, problem, "merge files of one kind")
        total += len(batch)
        if progress is not None:
            progress(done)
    assert layout is not None

    def pieces(array: Array) -> Iterator[NDArray[Any]]:
        for path in inputs:
            values = _map_arrays(path)[array.key]
            for start in range(0, len(values), _CHUNK):
                yield values[start : start + _CHUNK]

    present = [array for array in TRACK_ARRAYS if array.key in layout]
    write_npz(output, {a.key: (a.shape(total), layout[a.key], pieces(a)) for a in present})
    write_manifest(output, num_tracks=total, num_shards=len(inputs))
    return total


def _map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    members = npz_members(path)
    arrays: dict[str, NDArray[Any]] = {}
    if MOMENTUM.key in members and not members[MOMENTUM.key].shape:
        raise InputFileError(path, "is a single number", "store one row per track", branch=MOMENTUM.key)
    num = members[MOMENTUM.key].shape[0] if MOMENTUM.key in members else 0
    for array in TRACK_ARRAYS:
        if array.key not in members:
            if array.required:
                names = ", ".join(sorted(members)) or "nothing"
                raise InputFileError(
                    path, f"has no array '{array.key}' but {names}", "give a file of the simulate command"
                )
            continue
        member = members[array.key]
        if member.dtype not in (np.float32, np.float64) or member.shape != array.shape(num):
            raise InputFileError(
                path,
                f"has shape {member.shape} in {member.dtype}, not {array.shape(num)} in float32 or float64",
                "store one row per track, with as many rows in every array",
                branch=array.key,
            )
        arrays[array.key] = map_array(path, array.key, member)
    return arrays


def _layout_text(layout: dict[str, np.dtype[Any]]) -> str:
    return ", ".join(f"{key} ({dtype})" for key, dtype in layout.items())


def _check_columns(array: Array, values: FloatArray, path: Path, start: int) -> None:
    table = values.reshape(len(values), -1)
    limits = np.array([column.max_abs for column in array.columns])
    wrong = ~(np.abs(table) <= limits)  # also true for NaN
    if not wrong.any():
        return
    row, index = (int(i) for i in np.argwhere(wrong)[0])
    column, value = array.columns[index], table[row, index]
    problem = f"has {column.name} = {value:g} {column.unit}".removesuffix(" 1")
    if np.isfinite(value):
        remedy = f"check its unit, {column.name} is in {column.unit} and below {column.max_abs:g} in size"
        if column.name == "q/p":
            remedy = "multiply q/p by 1e-3 if it is in 1/GeV"
    else:
        remedy = "remove rows that are not finite"
    raise InputFileError(path, problem, remedy, branch=array.key, entry=start + row)


def _check_relations(part: TrackBatch, path: Path, start: int, *, allow_backward: bool) -> None:
    qop, dz = part.X[:, _QOP].astype(np.float64), part.X[:, _DZ].astype(np.float64)

    def refuse(wrong: NDArray[np.bool_], array: Array, text: Callable[[int], str], remedy: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputFileError(path, text(row), remedy, branch=array.key, entry=start + row)

    refuse(part.P <= 0, MOMENTUM, lambda i: f"has p = {part.P[i]:g} GeV", "give positive momenta in GeV")
    refuse(dz == 0, START, lambda i: "has dz = 0 mm", "remove tracks without a path")
    if not allow_backward:
        refuse(
            dz < 0,
            START,
            lambda i: f"has dz = {dz[i]:g} mm",
            "give dz > 0, or allow backward tracks",
        )
    product = np.abs(qop) * part.P * MEV_PER_GEV
    refuse(
        np.abs(product - 1) > _UNIT_TOLERANCE,
        START,
        lambda i: f"has q/p = {qop[i]:g} 1/MeV beside P = {part.P[i]:g} GeV, a factor {product[i]:g} apart",
        "give q/p in 1/MeV of particles with charge 1 and P in GeV",
    )
    if part.Z is not None:
        length = np.diff(part.Z.astype(np.float64), axis=1)[:, 0]
        refuse(
            np.abs(length - dz) > _UNIT_TOLERANCE * np.abs(dz),
            PLANES,
            lambda i: f"has z_end - z_start = {length[i]:g} mm beside dz = {dz[i]:g} mm",
            "store start and end of the path of each track in mm",
        )
