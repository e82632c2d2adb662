"""What every propagator takes and returns, and the loop that marches a batch through the field.

A propagator works on a batch of tracks at once. Tracks that end, or that leave the acceptance after a step,
are taken out of the arrays the loop works on, so a batch costs what its living tracks cost. A lost track
comes back as NaN with the reason in `status`: a particle of 0.5 GeV cannot cross the magnet, whose kick is
1.1 GeV, and turns around inside.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcb_extrap.physics.arrays import BoolArray, FloatArray
from lhcb_extrap.physics.equations import kappa_from_qop

CHUNK = 4096  # tracks at a time: their temporaries stay in the second-level cache
_ROUNDING = 1.0e-6  # steps; 4000 mm at 5 mm are 800 steps in float32 too

StatusArray = NDArray[np.int8]


class Status(IntEnum):
    """How the propagation of one track ended."""

    OK = 0
    OUTSIDE = 1  # |x| or |y| beyond the acceptance
    STEEP = 2  # |tx| or |ty| beyond the acceptance: the particle turns around in the magnet
    NOT_FINITE = 3  # a number that is not finite, from the beginning or by overflow
    TOO_MANY_STEPS = 4  # adaptive methods only


@dataclass(frozen=True)
class Acceptance:
    """Where a track may go on its way.

    Attributes:
        half_x_mm: Largest |x|.
        half_y_mm: Largest |y|.
        max_slope: Largest |tx| and |ty|.
    """

    half_x_mm: float = 4000.0
    half_y_mm: float = 4000.0
    max_slope: float = 2.0

    def classify(self, state: FloatArray) -> StatusArray:
        """Check states.

        Args:
            state: x, y, tx, ty of N tracks, (4, N), mm and 1.

        Returns:
            `Status` of each, (N,).
        """
        size = np.abs(state)
        limits = np.array([self.half_x_mm, self.half_y_mm, self.max_slope, self.max_slope], dtype=state.dtype)
        within = size <= limits[:, None]
        status = np.zeros(state.shape[1], dtype=np.int8)
        if not within.all():
            status[~within[:2].all(axis=0)] = Status.OUTSIDE
            status[~within[2:].all(axis=0)] = Status.STEEP
            status[~np.isfinite(size).all(axis=0)] = Status.NOT_FINITE
        return status


DEFAULT_ACCEPTANCE = Acceptance()


@dataclass(frozen=True)
class Propagation:
    """States at the end of the path.

    Attributes:
        state: x, y, tx, ty, (N, 4), mm and 1; NaN for lost tracks.
        status: `Status` of each track, (N,) int8.
        num_lookups: Field evaluations each track needed, (N,) int32.
    """

    state: FloatArray
    status: StatusArray
    num_lookups: NDArray[np.int32]

    @property
    def ok(self) -> BoolArray:
        """True for tracks that arrived, (N,)."""
        arrived: BoolArray = self.status == Status.OK
        return arrived

    @property
    def rejected_fraction(self) -> float:
        """Fraction of tracks that did not arrive, 0 for an empty batch."""
        return 1.0 - float(self.ok.mean()) if self.status.size else 0.0

    def count_by_status(self) -> dict[str, int]:
        """Count the tracks of each status; lower-case names, statuses without a track left out."""
        counts = np.bincount(self.status, minlength=len(Status))
        return {status.name.lower(): int(counts[status]) for status in Status if counts[status]}


@dataclass
class Batch:
    """Tracks on their way.

    Attributes:
        state: x, y, tx, ty, (4, N), mm and 1.
        kappa: Curvature per field, (N,), 1/(mm T).
        z0: Start of the path, (N,), mm.
        dz: Length of the path along z, signed, (N,), mm.
        h: Step, signed, (N,), mm.
        index: Place of each track in the result, (N,).
        memory: What a method carries from step to step, last axis N.
    """

    state: FloatArray
    kappa: FloatArray
    z0: FloatArray
    dz: FloatArray
    h: FloatArray
    index: NDArray[np.intp]
    memory: FloatArray | None = None

    def select(self, keep: NDArray[Any]) -> "Batch":
        """Return some of the tracks, by mask or by index."""
        memory = None if self.memory is None else self.memory[..., keep]
        kappa, z0, dz, h = (column[keep] for column in (self.kappa, self.z0, self.dz, self.h))
        return Batch(self.state[:, keep], kappa, z0, dz, h, self.index[keep], memory)


def as_batch(
    state: FloatArray, qop: FloatArray, z0: FloatArray | float, dz: FloatArray | float
) -> tuple[Batch, Propagation]:
    """Check and transpose the arguments of a propagator.

    Args:
        state: x, y, tx, ty, (N, 4), mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, scalar or (N,), mm.
        dz: How far to go along z, scalar or (N,), mm; negative goes back.

    Returns:
        The tracks with h = dz, in the dtype of `state`, and a result to fill.

    Raises:
        ValueError: A shape or dtype does not fit.
    """
    state, qop = np.asarray(state), np.asarray(qop)
    if state.ndim != 2 or state.shape[1] != 4 or state.dtype not in (np.float32, np.float64):
        raise ValueError(
            f"states need shape (N, 4) in float32 or float64, not {state.shape} in {state.dtype}"
        )
    dtype, num = state.dtype, state.shape[0]
    if qop.shape != (num,):
        raise ValueError(f"q/p needs shape ({num},) like the states, not {qop.shape}")
    start, length = (np.array(np.broadcast_to(a, (num,)), dtype=dtype) for a in (z0, dz))
    kappa = kappa_from_qop(qop.astype(np.float64)).astype(dtype)
    tracks = Batch(np.ascontiguousarray(state.T), kappa, start, length, length, np.arange(num))
    result = Propagation(np.full((num, 4), np.nan, dtype), np.zeros(num, np.int8), np.zeros(num, np.int32))
    return tracks, result


def chunks_in_acceptance(tracks: Batch, acceptance: Acceptance, result: Propagation) -> Iterator[Batch]:
    """Cut a batch into chunks and settle the tracks that may not start.

    Args:
        tracks: All tracks.
        acceptance: Where they may be.
        result: Receives the statuses of tracks outside of it.

    Yields:
        Up to `CHUNK` tracks.
    """
    status = acceptance.classify(tracks.state)
    status[~np.isfinite(tracks.kappa + tracks.z0 + tracks.dz)] = Status.NOT_FINITE
    result.status[:] = status
    alive = np.flatnonzero(status == Status.OK)
    for start in range(0, alive.size, CHUNK):
        yield tracks.select(alive[start : start + CHUNK])


def settle(tracks: Batch, status: StatusArray, done: BoolArray, result: Propagation) -> Batch:
    """Write tracks that need no further step to the result.

    Args:
        tracks: N tracks.
        status: `Status` of each, (N,).
        done: Which ones to write, (N,).
        result: Where to write.

    Returns:
        The other tracks.
    """
    if not done.any():
        return tracks
    result.status[tracks.index[done]] = status[done]
    arrived = done & (status == Status.OK)
    result.state[tracks.index[arrived]] = tracks.state[:, arrived].T
    return tracks.select(~done)


# advance(tracks, z): take one step from z of every track, in place; returns how often it looked the field up.
Advance = Callable[[Batch, FloatArray], int]


def march(
    advance: Advance,
    tracks: Batch,
    result: Propagation,
    *,
    acceptance: Acceptance,
    step_mm: float | None = None,
    num_steps: int | None = None,
) -> Propagation:
    """Take all tracks through equal steps.

    Args:
        advance: Takes one step.
        tracks: The tracks; not changed.
        result: Where to write.
        acceptance: Checked before the first and after every step.
        step_mm: Longest step: each track takes ceil(|dz| / step_mm) equal steps.
        num_steps: Or the number of steps of every track.

    Returns:
        The filled result.

    Raises:
        ValueError: Not exactly one positive `step_mm` or `num_steps` was given.
    """
    if (step_mm is None) == (num_steps is None) or not (step_mm or num_steps or 0) > 0:
        raise ValueError(
            f"give one positive step_mm or num_steps, not step_mm={step_mm}, num_steps={num_steps}"
        )
    for chunk in chunks_in_acceptance(tracks, acceptance, result):
        if step_mm is not None:
            counts = np.fmax(np.ceil(np.abs(chunk.dz) / step_mm - _ROUNDING), 1).astype(np.int64)
        else:
            counts = np.full(chunk.dz.size, num_steps)
        chunk.h = chunk.dz / counts.astype(chunk.dz.dtype)
        step = 0
        while chunk.dz.size:
            # z from the step number: a running sum would drift in float32.
            with np.errstate(
                over="ignore", invalid="ignore"
            ):  # a lost track may overflow before it is removed
                lookups = advance(chunk, chunk.z0 + chunk.h.dtype.type(step) * chunk.h)
            result.num_lookups[chunk.index] += lookups
            step += 1
            status = acceptance.classify(chunk.state)
            done = (status != Status.OK) | (counts <= step)
            chunk, counts = settle(chunk, status, done, result), counts[~done]
    return result
