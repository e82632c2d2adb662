"""Two ways to do the same work, timed in turn."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch


class Times(NamedTuple):
    """Medians over the pairs, in seconds, and their ratio."""

    ours: float
    peer: float
    ratio: float
    """Of the peer over ours."""
    again: float
    """Ours right after itself: with the data in the cache, as in a loop."""


def time_pairs(ours: Callable[[], object], peer: Callable[[], object], device: str, pairs: int) -> Times:
    """Time ours, ours again and the peer, pair by pair."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def seconds(work: Callable[[], object]) -> float:
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    times = [(seconds(ours), seconds(ours), seconds(peer)) for _ in range(pairs + 2)][2:]
    ours_s, again_s, peer_s = (statistics.median(column) for column in zip(*times, strict=True))
    return Times(ours_s, peer_s, statistics.median(peer / ours for ours, _, peer in times), again_s)
