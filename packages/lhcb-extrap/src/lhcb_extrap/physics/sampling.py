r"""Random tracks for training and testing extrapolators.

A track starts at z0 with x, y flat in a rectangle, momentum flat in log p, charge +1 or -1 with equal odds,
and slopes either flat, or near pointing to the collision point:

    tx = x/z0 + normal(0, spread),    ty = y/z0 + normal(0, spread),

where `spread` stands for displaced decays, scattering and the fringe field. Tracks that leave the
acceptance on their way are rejected and replaced; their number is kept, because a rejected fraction that is
not reported makes a hard sample look easy. Particles below about 1 GeV cannot cross the whole magnet, so
the lowest momentum in a sample over the full path is higher than the lowest momentum asked for.

Every shard is made from its own `numpy.random.SeedSequence(seed, spawn_key=(shard,))`, so its content does
not depend on which machine makes it, or when.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.equations import qop_from_momentum
from lhcb_extrap.physics.propagation import Propagation, Status

Study = Literal["low_p", "mid_p", "high_p", "full_range"]
MOMENTUM_STUDIES_GEV: dict[Study, tuple[float, float]] = {
    "low_p": (0.5, 5.0),
    "mid_p": (5.0, 20.0),
    "high_p": (20.0, 100.0),
    "full_range": (0.5, 100.0),
}

_BLOCK = 8192  # tracks drawn at a time; part of the definition of a sample, since the stream is cut by it
_MIN_ACCEPTED_FRACTION = 1.0e-3


@dataclass(frozen=True)
class TrackSampler:
    """Distribution of the first states of tracks.

    Attributes:
        momentum_gev: Lowest and highest momentum, flat in the logarithm.
        z0_mm: Lowest and highest start; equal for a fixed plane, which a network without z0 as an input
            needs.
        dz_mm: Shortest and longest path along z; negative goes back.
        half_x_mm: |x| at the start is below this.
        half_y_mm: |y| at the start is below this.
        slopes: `pointing` to the collision point, or `flat`.
        slope_spread: Of pointing tracks, standard deviation around the direction from the collision point.
        half_tx: Of flat slopes, |tx| is below this.
        half_ty: Of flat slopes, |ty| is below this.
    """

    momentum_gev: tuple[float, float] = MOMENTUM_STUDIES_GEV["full_range"]
    z0_mm: tuple[float, float] = (3000.0, 3000.0)
    dz_mm: tuple[float, float] = (4000.0, 4000.0)
    half_x_mm: float = 900.0
    half_y_mm: float = 750.0
    slopes: Literal["pointing", "flat"] = "pointing"
    slope_spread: float = 0.02
    half_tx: float = 0.15
    half_ty: float = 0.15

    def __post_init__(self) -> None:
        low, high = self.momentum_gev
        if not 0 < low <= high:
            raise ValueError(f"momenta run from a positive number upwards, not from {low} to {high} GeV")
        if not self.dz_mm[0] <= self.dz_mm[1] or self.dz_mm[0] * self.dz_mm[1] <= 0:
            raise ValueError(
                f"dz runs upwards without passing zero, not from {self.dz_mm[0]} to {self.dz_mm[1]} mm"
            )
        if not self.z0_mm[0] <= self.z0_mm[1]:
            raise ValueError(f"z0 runs upwards, not from {self.z0_mm[0]} to {self.z0_mm[1]} mm")
        if self.slopes == "pointing" and self.z0_mm[0] <= 0:
            raise ValueError(
                f"pointing slopes need a start behind the collision point, not z0 = {self.z0_mm[0]} mm"
            )

    def draw(self, rng: np.random.Generator, num: int) -> "Tracks":
        """Draw first states.

        Args:
            rng: Source of randomness.
            num: How many tracks.

        Returns:
            N tracks without an end.
        """
        # The same columns for every choice of options, so tracks differ only in what an option changes.
        flat = rng.random((8, num))
        x, y = (2 * flat[0] - 1) * self.half_x_mm, (2 * flat[1] - 1) * self.half_y_mm
        log_low, log_high = np.log(self.momentum_gev)
        momentum = np.exp(log_low + flat[2] * (log_high - log_low))
        z0 = self.z0_mm[0] + flat[3] * (self.z0_mm[1] - self.z0_mm[0])
        dz = self.dz_mm[0] + flat[4] * (self.dz_mm[1] - self.dz_mm[0])
        if self.slopes == "pointing":
            # Box-Muller: NumPy keeps the uniform numbers of a generator over versions, not the normal ones.
            radius, angle = np.sqrt(-2 * np.log1p(-flat[6])), 2 * np.pi * flat[7]
            tx = x / z0 + self.slope_spread * radius * np.cos(angle)
            ty = y / z0 + self.slope_spread * radius * np.sin(angle)
        else:
            tx, ty = (2 * flat[6] - 1) * self.half_tx, (2 * flat[7] - 1) * self.half_ty
        qop = qop_from_momentum(np.where(flat[5] < 0.5, -1.0, 1.0), momentum)
        return Tracks(np.stack([x, y, tx, ty], axis=1), qop, momentum, z0, dz)


@dataclass(frozen=True)
class Tracks:
    """Tracks with both ends.

    Attributes:
        start: x, y, tx, ty at z0, (N, 4) float64, mm and 1.
        qop: q/p, (N,), 1/MeV.
        momentum_gev: p, (N,), GeV.
        z0: (N,), mm.
        dz: (N,), mm.
        end: x, y, tx, ty at z0 + dz, (N, 4), mm and 1; empty (0, 4) before propagation.
        num_tried: How many tracks were drawn for these.
        num_rejected: How many of those were lost, by name of `Status`.
    """

    start: FloatArray
    qop: FloatArray
    momentum_gev: FloatArray
    z0: FloatArray
    dz: FloatArray
    end: FloatArray = field(default_factory=lambda: np.zeros((0, 4)))
    num_tried: int = 0
    num_rejected: dict[str, int] = field(default_factory=dict)

    @property
    def rejected_fraction(self) -> float:
        """Fraction of the drawn tracks that was lost, 0 before propagation."""
        return sum(self.num_rejected.values()) / self.num_tried if self.num_tried else 0.0


# propagate(state, qop, z0, dz), a propagator with field, steps and acceptance bound.
Propagator = Callable[[FloatArray, FloatArray, FloatArray, FloatArray], Propagation]


def shard_generator(seed: np.random.SeedSequence) -> np.random.Generator:
    """Generator of one shard; Philox counts, so its stream is the same on every machine."""
    return np.random.Generator(np.random.Philox(seed))


def generate_tracks(
    sampler: TrackSampler, propagate: Propagator, num_tracks: int, seed: np.random.SeedSequence
) -> Tracks:
    """Draw and propagate tracks until enough of them have arrived.

    Args:
        sampler: Distribution of the first states.
        propagate: Propagator with field, steps and acceptance bound, e.g. by `functools.partial`.
        num_tracks: How many tracks to return.
        seed: Seed of this shard.

    Returns:
        Exactly `num_tracks` tracks that arrived, and how many were lost on the way to the last of them.

    Raises:
        ValueError: `num_tracks` is not positive, or fewer than one track in a thousand arrives.
    """
    if num_tracks < 1:
        raise ValueError(f"a sample needs at least one track, not {num_tracks}")
    rng = shard_generator(seed)
    blocks: list[tuple[Tracks, FloatArray, NDArray[np.intp]]] = []
    tried, lost, missing = 0, Counter[str](), num_tracks
    while missing > 0:
        drawn = sampler.draw(rng, _BLOCK)
        result = propagate(drawn.start, drawn.qop, drawn.z0, drawn.dz)
        keep = np.flatnonzero(result.ok)[:missing]
        used = _BLOCK if keep.size < missing else int(keep[-1]) + 1
        lost.update(Status(s).name.lower() for s in result.status[:used] if s != Status.OK)
        tried, missing = tried + used, missing - keep.size
        blocks.append((drawn, result.state, keep))
        if num_tracks - missing < _MIN_ACCEPTED_FRACTION * tried:
            raise ValueError(
                f"only {num_tracks - missing} of {tried} tracks crossed ({dict(lost)}): raise the momentum, "
                f"shorten dz or widen the acceptance"
            )

    def gather(name: str) -> FloatArray:
        return np.concatenate([getattr(drawn, name)[keep] for drawn, _, keep in blocks])

    end = np.concatenate([state[keep] for _, state, keep in blocks])
    start, qop, momentum, z0, dz = map(gather, ("start", "qop", "momentum_gev", "z0", "dz"))
    return Tracks(start, qop, momentum, z0, dz, end, tried, dict(lost))
