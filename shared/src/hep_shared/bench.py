"""Timing of our code against a peer's, and a record of the machine it was measured on.

Ours and the peer run alternately within one process and take turns at going first, so that a machine that
slows down slows both. With t_i and p_i the times of pair i,

    ratio = median(p_i / t_i),    above 1: ours is faster.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from hep_shared.cli import table_console
from hep_shared.run import git_revision


@dataclass(frozen=True)
class BenchRow:
    """One measured quantity; `ratio` above 1 means ours is better, `goal` is the project's own target."""

    what: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    goal: float | None
    max_abs_diff: float | None


class PairTiming(NamedTuple):
    """Medians over the pairs: seconds, seconds, and peer time over ours."""

    ours_s: float
    peer_s: float
    ratio: float


def time_pairs(
    ours: Callable[[], object], peer: Callable[[], object], *, pairs: int = 15, warmup: int = 2
) -> PairTiming:
    """Time two callables alternately.

    Args:
        ours: Our work; on a GPU it ends with `torch.cuda.synchronize()`.
        peer: The same work done by the peer.
        pairs: Number of timed pairs.
        warmup: Number of pairs before them that do not count.

    Returns:
        Median times [s] and the median of the pairs' ratios.
    """
    times: list[tuple[float, float]] = []
    for pair in range(warmup + pairs):
        if pair % 2:
            peer_s, ours_s = _seconds(peer), _seconds(ours)
        else:
            ours_s, peer_s = _seconds(ours), _seconds(peer)
        if pair >= warmup:
            times.append((ours_s, peer_s))
    return PairTiming(
        statistics.median(ours_s for ours_s, _ in times),
        statistics.median(peer_s for _, peer_s in times),
        statistics.median(peer_s / ours_s for ours_s, peer_s in times),
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    work()
    return max(1, time.perf_counter_ns() - start) * 1e-9


def kernel_rows(what: str, work: Callable[[], object], size: int, unit: str) -> list[BenchRow]:
    """What the compiled operators are worth end to end: the same work with them and with their references.

    Args:
        what: Name of the work.
        work: The work; on a GPU it ends with `torch.cuda.synchronize()`.
        size: Items that one call handles.
        unit: Unit of the rate, such as `events/s`.

    Returns:
        One row, or none where the references serve anyway.
    """
    from hep_shared.ops import _backend

    if _backend.backend() == "reference":
        return []

    def plain() -> None:
        with _backend.references():
            work()

    found = time_pairs(work, plain)
    what = f"{what}, compiled operators; peer: their references"
    return [BenchRow(what, size / found.ours_s, size / found.peer_s, unit, found.ratio, None, None)]


def environment() -> dict[str, str | int]:
    """Describe the machine and the software, for the head of a benchmark table.

    Returns:
        Date (UTC), processor, cores this process may use, threads, accelerator, platform, versions, git
        revision.
    """
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "git_revision": git_revision() or "none",
    }


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or an ARM kernel that gives no name
        return platform.processor() or platform.machine()


def print_rows(rows: Iterable[BenchRow], as_json: bool) -> None:
    """Print the results on stdout.

    Args:
        rows: What was measured.
        as_json: One JSON object a line, as `--json` promises, instead of a table.
    """
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row), allow_nan=False))
        return
    from rich.table import Table

    table = Table("what", "unit", *(("ours", "peer", "ratio", "goal", "max_abs_diff")))
    for row in rows:
        numbers = (row.ours, row.peer, row.ratio, row.goal, row.max_abs_diff)
        table.add_row(row.what, row.unit, *map(_short, numbers))
    table_console().print(table)


def _short(number: Any) -> str:
    return "-" if number is None else f"{number:.3g}"
