"""What `bench.py` times: the work of an operator in naive PyTorch, in the best PyTorch, and compiled."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Case(NamedTuple):
    """One row: three ways to do the same work."""

    what: str
    naive: Callable[[], Tensor]
    best: Callable[[], Tensor]
    native: Callable[[], Tensor]
    num_lookups: int
    goal: str
    floor_s: float = 0.0  # where the work is no look-ups
    difference: Callable[[], float] | None = None  # where results are no numbers to subtract
