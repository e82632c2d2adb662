"""In which order the events of an epoch are read: a pure function of seed, epoch and batch.

The events live in chunks of consecutive entries. An epoch is cut into L lanes of equal length, each a
sequence of chunks in random order with the events of every chunk permuted; batch b takes the next few
events of every lane, so that it mixes L chunks while only L chunks are in memory. Of a batch of size N,
rank r of W owns the slots rN/W to (r+1)N/W: the global batch is the same for every W, and where W divides L
a chunk is read by one rank, or by two where it lies across the ends of lanes. Lanes begin at staggered
places of their chunks, so that new chunks are wanted one at a time.

For evaluation every rank has one lane, a contiguous block of the entries in their order on disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hep_shared.seed import epoch_permutation, shard_seed


@dataclass(frozen=True)
class Piece:
    """Consecutive positions in the (permuted) chunk `chunk` that go into one batch."""

    chunk: int
    start: int
    stop: int


@dataclass(frozen=True)
class Use:
    """A chunk that a rank needs from batch `first` to batch `last`."""

    first: int
    last: int
    chunk: int


class Lane:
    """A sequence of pieces of chunks, dealt out in equal shares to the batches.

    Args:
        pieces: What the lane consists of.
        num_batches: Number of shares.
    """

    def __init__(self, pieces: Sequence[Piece], num_batches: int) -> None:
        self._pieces = pieces
        self._ends = np.cumsum([piece.stop - piece.start for piece in pieces])
        self._bounds = np.arange(num_batches + 1) * int(self._ends[-1]) // num_batches

    def pieces(self, batch: int, start: int = 0, stop: int | None = None) -> list[Piece]:
        """Pieces of one batch, or of the slots `start` to `stop` within its share."""
        low, high = int(self._bounds[batch]), int(self._bounds[batch + 1])
        low, high = low + start, high if stop is None else low + stop
        found = []
        index = int(np.searchsorted(self._ends, low, side="right"))
        while low < high:
            piece, end = self._pieces[index], int(self._ends[index])
            take = min(high, end) - low
            first = piece.stop - (end - low)
            found.append(Piece(piece.chunk, first, first + take))
            low, index = low + take, index + 1
        return found

    def uses(self) -> list[Use]:
        """Chunks of the lane and the batches that need them."""
        starts = np.concatenate(([0], self._ends[:-1]))
        first = np.searchsorted(self._bounds, starts, side="right") - 1
        last = np.searchsorted(self._bounds, self._ends - 1, side="right") - 1
        return [
            Use(int(f), int(b), piece.chunk) for f, b, piece in zip(first, last, self._pieces, strict=True)
        ]


@dataclass(frozen=True)
class EpochOrder:
    """The order of one epoch as one rank sees it.

    Attributes:
        num_batches: Number of batches, the same for every rank.
        lanes: Lanes this rank reads, each with the slots it takes of the lane's share of a batch; `None` for
            all of them.
    """

    num_batches: int
    lanes: tuple[tuple[Lane, int, int | None], ...]

    def batch(self, batch: int) -> list[Piece]:
        """Pieces of one batch, in order."""
        return [piece for lane, start, stop in self.lanes for piece in lane.pieces(batch, start, stop)]

    def uses(self) -> list[Use]:
        """Chunks that this rank needs, by the first batch that needs them."""
        uses = [use for lane, _, _ in self.lanes for use in lane.uses()]
        return sorted(uses, key=lambda use: (use.first, use.last))


def shuffled_order(
    chunk_sizes: np.ndarray,
    *,
    batch_size: int,
    num_lanes: int,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
) -> EpochOrder:
    """Order of a training epoch; the events that fill no batch, fewer than `batch_size`, are left out.

    Args:
        chunk_sizes: Number of selected events in every chunk, (chunks,).
        batch_size: Events in a global batch.
        num_lanes: Number of chunks that a batch mixes.
        seed: Seed of the run.
        epoch: Epoch, from 0.
        rank: This process.
        world_size: Number of processes.

    Returns:
        The order; chunk positions refer to `chunk_permutation`.
    """
    order = epoch_permutation(seed, epoch, len(chunk_sizes))
    ends = np.cumsum(chunk_sizes[order])
    num_batches = int(ends[-1]) // batch_size
    num_lanes = min(num_lanes, batch_size)
    first_slot, end_slot = rank * batch_size // world_size, (rank + 1) * batch_size // world_size
    stagger = int(ends[-1]) // (len(order) * num_lanes)
    lanes = []
    for lane in range(num_lanes):
        low, high = lane * batch_size // num_lanes, (lane + 1) * batch_size // num_lanes
        start, stop = max(low, first_slot), min(high, end_slot)
        if start < stop:
            begin, end = num_batches * low, num_batches * high
            turn = begin + (lane * stagger) % (end - begin)
            pieces = [*_pieces(order, ends, turn, end), *_pieces(order, ends, begin, turn)]
            lanes.append((Lane(pieces, num_batches), start - low, stop - low))
    return EpochOrder(num_batches, tuple(lanes))


def sequential_order(chunk_sizes: np.ndarray, *, batch_size: int, rank: int, world_size: int) -> EpochOrder:
    """Every event once and in order; the ranks' blocks, one after another, make the whole.

    Args:
        chunk_sizes: Number of selected events in every chunk, (chunks,).
        batch_size: Largest number of events in a global batch; the ranks' shares differ by at most one event.
        rank: This process.
        world_size: Number of processes.

    Returns:
        The order; chunk positions count the selected events.
    """
    ends = np.cumsum(chunk_sizes)
    total = int(ends[-1])
    num_batches = min(-(-total // batch_size), total // world_size)  # no rank is left with an empty batch
    begin, end = rank * total // world_size, (rank + 1) * total // world_size
    pieces = list(_pieces(np.arange(len(chunk_sizes)), ends, begin, end))
    return EpochOrder(num_batches, ((Lane(pieces, num_batches), 0, None),))


def chunk_permutation(seed: int, epoch: int, chunk: int, size: int) -> np.ndarray:
    """Order of the events inside a chunk.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        chunk: Number of the chunk.
        size: Number of selected events in it.

    Returns:
        A permutation of 0 … size-1, (size,) int64.
    """
    chunk_seed = int(shard_seed(seed, chunk).generate_state(1, np.uint64)[0])
    return epoch_permutation(chunk_seed, epoch, size)


def _pieces(order: np.ndarray, ends: np.ndarray, start: int, stop: int) -> list[Piece]:
    """Cut the range `start` to `stop` of the concatenated chunks at the chunks' ends."""
    pieces = []
    index = int(np.searchsorted(ends, start, side="right"))
    while start < stop:
        size = int(ends[index]) - (int(ends[index - 1]) if index else 0)
        take = min(stop, int(ends[index])) - start
        first = size - (int(ends[index]) - start)
        if take:
            pieces.append(Piece(int(order[index]), first, first + take))
        start, index = start + take, index + 1
    return pieces
