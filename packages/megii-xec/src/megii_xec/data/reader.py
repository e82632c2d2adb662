"""Reading ranges of entries of a photon file: decompression and normalisation in one pass.

`uproot` finds the baskets; their big-endian content goes straight through the normalisation, in blocks that
fit the cache, without an intermediate array of the whole range.

Dimensions: B events, S sensors, K components.
"""

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from hep_shared.errors import InputFileError
from hep_shared.files import check_root_length, reader_boundary
from megii_xec.data import checks
from megii_xec.data.baskets import Scratch, read_basket
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import BY_NAME, NUM_SENSORS, Branch

DAMAGED = "the file is damaged or incomplete; copy it again or make it again"


class FileSource(uproot.source.chunk.Source):  # type: ignore[misc]
    """Positioned reads from a local file.

    Safe for several threads without a lock, and without a memory map: a map counts as memory of the process,
    and kills it when the file is truncated meanwhile.
    """

    def __init__(self, file_path: str, **options: Any) -> None:
        self._num_requests = self._num_requested_chunks = self._num_requested_bytes = 0
        self._file_path = file_path
        self._descriptor = os.open(file_path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._num_bytes = os.fstat(self._descriptor).st_size

    def chunk(self, start: int, stop: int) -> Any:
        """Read the bytes from `start` to `stop`."""
        # The size is compared first, because a damaged length would allocate that much.
        if not 0 <= start <= stop <= self._num_bytes:
            raise OSError(f"bytes {start} to {stop} are outside the file of {self._num_bytes} bytes")
        parts, position = [], start
        while position < stop:
            part = os.pread(self._descriptor, stop - position, position)
            if not part:
                raise OSError(f"the file was cut off at byte {position} while it was read")
            parts.append(part)
            position += len(part)
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        data = np.frombuffer(content, dtype=np.uint8)
        self._num_requests += 1
        self._num_requested_chunks += 1
        self._num_requested_bytes += stop - start
        return uproot.source.chunk.Chunk(self, start, stop, uproot.source.futures.TrivialFuture(data))

    def chunks(self, ranges: Sequence[tuple[int, int]], notifications: Any) -> list[Any]:
        """Read several ranges and announce each."""
        chunks = [self.chunk(start, stop) for start, stop in ranges]
        for chunk in chunks:
            notifications.put(chunk)
        return chunks

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return self._num_bytes

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed."""
        return not self._close.alive

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()


class PhotonFile:
    """One open photon file whose branches are checked against the schema.

    Attributes:
        num_entries: Number of events.
        missing: Branches of the schema that the file lacks.
        unknown: Branches of the file that the schema lacks.

    Args:
        path: The file.
        branches: Branches that will be read.
        verify: Compare the file with its manifest if it is below 2 GB.
        scratch: Memory to decompress to, shared by the files of a stream.

    Raises:
        InputFileError: The file is damaged, or lacks the tree or one of the branches.
    """

    def __init__(
        self, path: Path, branches: Sequence[Branch], *, verify: bool = True, scratch: Scratch | None = None
    ) -> None:
        self.path = path
        self._scratch = Scratch() if scratch is None else scratch
        with reader_boundary(path, remedy="give a complete ROOT file"):
            if path.is_dir():
                raise InputFileError(path, "is a directory", f"give files, for example '{path}/*.root'")
            if verify:
                checks.verify_once(path)
            check_root_length(path)
            self._file = uproot.open(path, handler=FileSource, object_cache=None, array_cache=None)
        try:
            with reader_boundary(path, remedy=DAMAGED):
                tree = checks.find_tree(path, self._file)
                self.num_entries = int(tree.num_entries)
                self.missing, self.unknown = checks.schema_differences(tree)
                self._branches: dict[str, Any] = {}
                self._offsets: dict[str, np.ndarray] = {}
                for branch in branches:
                    found = checks.find_branch(path, tree, branch)
                    self._branches[branch.name] = found
                    self._offsets[branch.name] = np.asarray(found.entry_offsets, np.int64)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "PhotonFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def chunk_edges(self, branch: Branch, chunk_events: int) -> np.ndarray:
        """Cut the file into ranges of entries that split no basket where that can be avoided.

        Args:
            branch: The branch that costs most to read.
            chunk_events: Wanted number of entries in a chunk.

        Returns:
            Increasing entry numbers from 0 to the number of entries, (chunks + 1,) int64.
        """
        baskets = self._offsets[branch.name]
        wanted = np.arange(chunk_events, self.num_entries, chunk_events)
        below = baskets[np.searchsorted(baskets, wanted, side="right") - 1]
        # A basket much larger than a chunk is split, or the chunk would not fit the memory planned for it.
        edges = np.where(wanted - below < chunk_events // 2, below, wanted)
        return np.unique(np.concatenate(([0], edges, [self.num_entries])))

    def columns(self, branches: Sequence[Branch], start: int, stop: int) -> dict[str, np.ndarray]:
        """Read small branches.

        Args:
            branches: Branches among those opened.
            start: First entry.
            stop: One past the last entry.

        Returns:
            Values by branch name in native byte order, (B, *shape of the branch).

        Raises:
            InputFileError: A basket is damaged, or the energies are not in GeV.
        """
        columns = {}
        for branch in branches:
            native = self._branches[branch.name].interpretation.from_dtype.base.newbyteorder("=")
            pieces = [piece.astype(native) for piece, _ in self.pieces(branch, start, stop)]
            columns[branch.name] = np.concatenate(pieces).reshape(stop - start, *branch.shape)
        checks.check_columns(self.path, columns)
        return columns

    def sensors(
        self, normalization: Normalization, start: int, stop: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Read and normalise the sensors of a range of entries.

        Args:
            normalization: Which branches to read and what to make of them.
            start: First entry.
            stop: One past the last entry.
            out: Where to write; None makes an array.

        Returns:
            Normalised counts and times, (B, S, 2) float32.

        Raises:
            InputFileError: A basket is damaged, an event is all NaN, or the times are not in seconds.
        """
        if out is None:
            out = np.empty((stop - start, NUM_SENSORS, 2), np.float32)
        npho_branch, time_branch = sensor_branches(normalization)
        counts = self.pieces(npho_branch, start, stop)
        times = self.pieces(time_branch, start, stop)
        npho, npho_stop = next(counts)
        time, time_stop = next(times)
        position = start
        while True:
            end = min(npho_stop, time_stop)
            block_npho, block_time = npho[position - npho_stop :], time[position - time_stop :]
            block_npho, block_time = block_npho[: end - position], block_time[: end - position]
            checks.check_sensors(self.path, npho_branch, block_npho, position)
            checks.check_sensors(self.path, time_branch, block_time, position)
            normalization.apply(block_npho, block_time, out[position - start : end - start])
            position = end
            if position == stop:
                return out
            if position == npho_stop:
                npho, npho_stop = next(counts)
            if position == time_stop:
                time, time_stop = next(times)

    def pieces(self, branch: Branch, start: int, stop: int) -> Iterator[tuple[np.ndarray, int]]:
        """Walk through the baskets of a branch, cut at the ends of a range.

        Args:
            branch: A branch among those opened.
            start: First entry.
            stop: One past the last entry.

        Yields:
            Entries as stored, (B, K), and the number of the entry after them. The memory is used again for
            the next piece of this branch.

        Raises:
            InputFileError: A basket is damaged.
        """
        found, offsets = self._branches[branch.name], self._offsets[branch.name]
        dtype = found.interpretation.from_dtype.base
        length = int(np.prod(branch.shape))
        first = int(np.searchsorted(offsets, start, side="right")) - 1
        for number in range(first, len(offsets) - 1):
            low, high = int(offsets[number]), int(offsets[number + 1])
            if low >= stop:
                return
            with reader_boundary(self.path, branch=branch.name, remedy=DAMAGED):
                size = (high - low) * length * dtype.itemsize
                values = (
                    read_basket(found, number, size, self._scratch).view(dtype).reshape(high - low, length)
                )
            yield values[max(start - low, 0) : min(stop, high) - low], min(stop, high)


def sensor_branches(normalization: Normalization) -> tuple[Branch, Branch]:
    """Name the branches that a normalisation reads.

    Args:
        normalization: The normalisation.

    Returns:
        The branches of the counts and of the times.
    """
    return BY_NAME[normalization.npho_input], BY_NAME[normalization.time_input]


class FilePool:
    """Open files shared by threads; the least recently used ones are closed.

    Args:
        open_file: Opens a file by its number.
        max_open: Number of files kept open beyond those in use.
    """

    def __init__(self, open_file: Callable[[int], PhotonFile], max_open: int = 16) -> None:
        self._open_file = open_file
        self._max_open = max_open
        self._lock = threading.Lock()
        self._files: OrderedDict[int, PhotonFile] = OrderedDict()
        self._users: dict[int, int] = {}

    @contextmanager
    def borrow(self, number: int) -> Iterator[PhotonFile]:
        """Lend a file; it stays open inside the block.

        Args:
            number: Number of the file.

        Yields:
            The open file.
        """
        with self._lock:
            if number not in self._files:
                self._files[number] = self._open_file(number)
            file = self._files[number]
            self._files.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
        try:
            yield file
        finally:
            with self._lock:
                self._users[number] -= 1
                for idle in [key for key in self._files if not self._users[key]]:
                    if len(self._files) <= self._max_open:
                        break
                    self._files.pop(idle).close()

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()
