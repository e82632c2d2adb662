"""The columnar store: one directory per class and mass point, one raw file per column, memory-mapped.

    STORE/store.json                       version, folds, features, mass table
    STORE/signal_MHc130_MA90/part.json     number of events, sha256 of every column, mass point
    STORE/signal_MHc130_MA90/nodes.bin     …

A part is written into a temporary directory and renamed, so it is there completely or not at all. Reading
maps the files; the open parts are kept in order of use and the oldest are closed when their columns
together pass a bound, which limits address space and open files, not memory: the pages belong to the
system's cache.
"""

import json
import os
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chhiggs_pnet.data.schema import COLUMNS, EXT14, FEATURE_SETS, STORE_VERSION, Column
from chhiggs_pnet.physics.events import Array
from chhiggs_pnet.physics.mass_points import MassPoint, MassTable
from hep_shared.config import to_plain
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_write_json, reader_boundary, sha256_of, write_boundary

STORE_FILE, PART_FILE = "store.json", "part.json"
DEFAULT_OPEN_BYTES = 8 << 30
_REMAKE = "make it again with chhiggs-pnet prepare"


def part_name(process: str, point: MassPoint | None = None) -> str:
    """Return the directory of a class: `nonprompt`, or `signal_MHc130_MA90`."""
    return process if point is None else f"{process}_{point.name}"


class PartWriter:
    """Append chunks of columns to a part that does not exist yet.

    Args:
        directory: Temporary directory to write to.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.num_events = 0
        self._files = {column.name: _column_path(directory, column).open("wb") for column in COLUMNS}

    def extend(self, columns: Mapping[str, Array]) -> None:
        """Append events.

        Args:
            columns: One array per column of the schema, first axis the events.

        Raises:
            ValueError: Names or shapes do not match the schema.
        """
        num = len(columns["label"])
        if columns.keys() != self._files.keys():
            raise ValueError(
                f"columns differ from the schema in {sorted(columns.keys() ^ self._files.keys())}"
            )
        for column in COLUMNS:
            values = columns[column.name]
            if values.shape != (num, *column.shape):
                raise ValueError(f"column {column.name} is {values.shape}, expected {(num, *column.shape)}")
            self._files[column.name].write(np.ascontiguousarray(values, column.dtype).data)
        self.num_events += num

    def close(self) -> None:
        """Flush every column to the disk."""
        for file in self._files.values():
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()


@contextmanager
def write_part(store: Path, name: str, **meta: object) -> Iterator[PartWriter]:
    """Write one part; it appears when the block ends well, and not at all otherwise.

    Args:
        store: Directory of the store.
        name: Name of the part.
        meta: What `part.json` should hold besides.

    Yields:
        The writer.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    temporary = store / f".{name}.{secrets.token_hex(4)}.tmp"
    with write_boundary(store / name):
        temporary.mkdir(parents=True)
        writer = None
        try:
            writer = PartWriter(temporary)
            yield writer
            writer.close()
            files = {column.name: sha256_of(_column_path(temporary, column)) for column in COLUMNS}
            record = {"version": STORE_VERSION, "num_events": writer.num_events, "sha256": files, **meta}
            atomic_write_json(temporary / PART_FILE, record)
            shutil.rmtree(store / name, ignore_errors=True)
            temporary.rename(store / name)
        finally:
            if writer is not None:
                writer.close()
            shutil.rmtree(temporary, ignore_errors=True)


def write_store(store: Path, table: MassTable, *, num_folds: int, **meta: object) -> None:
    """Write what all parts share; the last step of making a store.

    Args:
        store: Directory of the store.
        table: Mass points and their roles.
        num_folds: Number of folds.
        meta: What `store.json` should hold besides.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    record = {
        "version": STORE_VERSION,
        "num_folds": num_folds,
        "features": EXT14,
        "mass_table": to_plain(table),
    }
    atomic_write_json(store / STORE_FILE, record | meta)


def _column_path(directory: Path, column: Column) -> Path:
    return directory / f"{column.name}.bin"


@dataclass(frozen=True)
class Part:
    """One open part.

    Attributes:
        name: Its name.
        point: Mass point of a signal.
        columns: Memory-mapped columns of the schema, first axis the events.
        meta: Content of `part.json`.
    """

    name: str
    point: MassPoint | None
    columns: dict[str, Array]
    meta: dict[str, Any]

    def __len__(self) -> int:
        return len(self.columns["label"])

    @property
    def num_bytes(self) -> int:
        """Size of the columns."""
        return sum(column.nbytes for column in self.columns.values())

    def in_folds(self, folds: Sequence[int]) -> Array:
        """Events of some folds.

        Args:
            folds: Numbers of the folds.

        Returns:
            Indices in order, int64.
        """
        return np.flatnonzero(np.isin(self.columns["fold"], np.asarray(folds, np.int8)))

    def take(
        self, index: Array | slice, features: str = "cms9", names: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Copy some events into memory.

        Args:
            index: Indices or a slice.
            features: `cms9` or `ext14`.
            names: Columns wanted; all if None.

        Returns:
            Column name to array; `nodes` has the features asked for in its last axis.
        """
        width = len(FEATURE_SETS[features])
        wanted = self.columns.keys() if names is None else names
        out = {}
        for name in wanted:
            column = self.columns[name]
            rows = np.asarray(column[index])
            out[name] = np.array(rows[..., :width] if name == "nodes" else rows)
        return out


class Store:
    """A store opened for reading.

    Attributes:
        path: Its directory.
        table: Mass points and their roles.
        num_folds: Number of folds.
        names: Names of the parts.

    Args:
        path: Directory of the store.
        max_open_bytes: Bound on the columns of open parts; the part asked for last stays open in any case.

    Raises:
        InputFileError: There is no store, or another version wrote it.
    """

    def __init__(self, path: Path, *, max_open_bytes: int = DEFAULT_OPEN_BYTES) -> None:
        self.path = Path(path)
        self._max_open_bytes = max_open_bytes
        self._open: OrderedDict[str, Part] = OrderedDict()
        file = self.path / STORE_FILE
        with reader_boundary(file, remedy=_REMAKE):
            record = json.loads(file.read_text())
            _check_version(file, record)
            self.table = MassTable.model_validate(record["mass_table"])
            self.num_folds = int(record["num_folds"])
        self.meta: dict[str, Any] = record
        self.names = sorted(path.parent.name for path in self.path.glob(f"[!.]*/{PART_FILE}"))

    @property
    def open_names(self) -> list[str]:
        """Open parts, the least recently used first."""
        return list(self._open)

    @property
    def signal_points(self) -> list[MassPoint]:
        """Mass points that have a signal part."""
        prefix = part_name("signal") + "_"
        return sorted(MassPoint.parse(n.removeprefix(prefix)) for n in self.names if n.startswith(prefix))

    def signal(self, point: MassPoint) -> Part:
        """Open the signal of a mass point.

        Args:
            point: The point.

        Returns:
            The part.

        Raises:
            UserError: The store has no such signal.
        """
        return self.part(part_name("signal", point))

    def part(self, name: str) -> Part:
        """Open a part, or take it from the open ones.

        Args:
            name: Its name.

        Returns:
            The part. It stays valid when the store closes it for others.

        Raises:
            UserError: The store has no such part.
            InputFileError: The part is damaged or of another version.
        """
        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if name not in self.names:
            raise UserError(f"{self.path} has no part '{name}'; choose one of {', '.join(self.names)}.")
        self._open[name] = self._read(name)
        while len(self._open) > 1 and sum(p.num_bytes for p in self._open.values()) > self._max_open_bytes:
            self._open.popitem(last=False)
        return self._open[name]

    def verify(self) -> None:
        """Compare every column with its sha256.

        Raises:
            InputFileError: A column differs.
        """
        for name in self.names:
            expected = self._read(name).meta["sha256"]
            for column in COLUMNS:
                path = _column_path(self.path / name, column)
                if sha256_of(path) != expected[column.name]:
                    raise InputFileError(path, "differs from the sha256 in part.json", _REMAKE)

    def _read(self, name: str) -> Part:
        directory = self.path / name
        file = directory / PART_FILE
        with reader_boundary(file, remedy=_REMAKE):
            meta = json.loads(file.read_text())
            _check_version(file, meta)
            num = int(meta["num_events"])
            point = MassPoint(*meta["point"]) if meta.get("point") else None
        columns: dict[str, Array] = {}
        for column in COLUMNS:
            path = _column_path(directory, column)
            shape = (num, *column.shape)
            expected = int(np.prod(shape)) * np.dtype(column.dtype).itemsize
            with reader_boundary(path, remedy=_REMAKE):
                if (size := path.stat().st_size) != expected:
                    raise InputFileError(path, f"holds {size} bytes instead of {expected}", _REMAKE)
                # Mapped as before, but indexing an array of the subclass costs more than copying the rows.
                columns[column.name] = np.asarray(np.memmap(path, column.dtype, "r", shape=shape))
        return Part(name, point, columns, meta)


def _check_version(file: Path, record: Mapping[str, Any]) -> None:
    if (version := record.get("version")) != STORE_VERSION:
        raise InputFileError(file, f"is of store version {version}, not {STORE_VERSION}", _REMAKE)
