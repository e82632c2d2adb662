"""What every training loop keeps beside its steps: its place, its run directory, the time data took."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from hep_shared.distributed import World
from hep_shared.run import RunDir

Item = TypeVar("Item")


@dataclass
class Cursor:
    """Where a training stands.

    Attributes:
        epoch: Current epoch, from 0.
        batch: Next global batch of this epoch.
        step: Optimiser steps since the start, skipped ones included.
        loss_sum: Sum of this epoch's batch losses, for their mean.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the fields as plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the fields from `state`."""
        for name, value in state.items():
            setattr(self, name, value)


def open_run(
    config: BaseModel, world: World, *, out: Path, resume: bool, command: str, sinks: Sequence[str]
) -> RunDir:
    """Begin or continue the run on rank 0, then open it on all ranks.

    Args:
        config: The resolved configuration.
        world: This process and its fellows.
        out: Run directory.
        resume: Go on with the run in `out`.
        command: Command line, for the record.
        sinks: Trackers beside the run directory; rank 0 alone feeds them.

    Returns:
        The run directory.

    Raises:
        UserError: `out` cannot be used, see `RunDir.create`.
    """
    if world.is_main:
        run = RunDir.create(out, config, command=command, sinks=sinks, resume=resume)
        world.barrier()
        return run
    world.barrier()
    return RunDir.open(out)


def timed(batches: Iterator[Item]) -> Iterator[tuple[float, Item]]:
    """Yield every batch with the seconds spent waiting for it.

    Args:
        batches: Any iterator.

    Yields:
        Seconds and batch.
    """
    while True:
        started = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield time.perf_counter() - started, batch
