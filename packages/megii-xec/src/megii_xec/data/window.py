"""The few chunks of an epoch that are in memory."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from megii_xec.data.order import EpochOrder, Use

ChunkT = TypeVar("ChunkT")


class ChunkWindow(Generic[ChunkT]):
    """The chunks in memory: those of the current batch and one ahead for every thread.

    Args:
        order: Order of the epoch.
        start: First batch that will be asked for.
        ahead: Number of chunks to decode beyond those in use.
        load: Starts decoding a chunk.
    """

    def __init__(
        self, order: EpochOrder, start: int, ahead: int, load: Callable[[int], Future[ChunkT]]
    ) -> None:
        self._waiting = [use for use in reversed(order.uses()) if use.last >= start]
        self._ahead, self._load = ahead, load
        self._chunks: dict[int, Future[ChunkT]] = {}
        self._uses: dict[int, Use] = {}

    def advance(self, batch: int) -> None:
        """Forget the chunks that are used up, start decoding those that are wanted next."""
        for chunk in [chunk for chunk, use in self._uses.items() if use.last < batch]:
            del self._chunks[chunk], self._uses[chunk]
        early = sum(use.first > batch for use in self._uses.values())
        while self._waiting and (self._waiting[-1].first <= batch or early < self._ahead):
            use = self._waiting.pop()
            if (known := self._uses.get(use.chunk)) is not None:
                use = Use(known.first, max(known.last, use.last), use.chunk)
            else:
                self._chunks[use.chunk] = self._load(use.chunk)
                early += use.first > batch
            self._uses[use.chunk] = use

    def get(self, chunk: int) -> ChunkT:
        """Wait for a chunk of the current batch."""
        return self._chunks[chunk].result()
