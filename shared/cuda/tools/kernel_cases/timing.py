"""Two ways to do the same work, timed in turn."""

import statistics
import time
from collections.abc import Callable

import torch


def time_pairs(
    ours: Callable[[], object], peer: Callable[[], object], device: str, pairs: int
) -> tuple[float, float, float]:
    """Median times in seconds, and the median of peer over ours."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def seconds(work: Callable[[], object]) -> float:
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    times = [(seconds(ours), seconds(peer)) for _ in range(pairs + 2)][2:]
    ratio = statistics.median(b / a for a, b in times)
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio
