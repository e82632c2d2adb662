"""Jets with their particles, without padding.

The particles of all jets lie one after another and `offsets` tells where each jet begins: 40 particles per
jet on average need a third of the memory of 128 padded slots, and everything is a view of few arrays.

Dimensions: J jets, K particles of all jets together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from jet_foundation.physics import fourvectors as fv

Array = NDArray[Any]


def ragged_index(offsets: Array, jets: Array) -> tuple[Array, Array]:
    """Positions of the particles of some jets.

    Args:
        offsets: Where each jet begins, (J + 1,) int64.
        jets: Jet numbers in any order, (S,) int64.

    Returns:
        The positions, one jet after another, int64, and the offsets of the result, (S + 1,) int64.
    """
    starts, lengths = offsets[jets], offsets[jets + 1] - offsets[jets]
    new = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(new[-1]) + np.repeat(starts - new[:-1], lengths), new


@dataclass(frozen=True)
class Jets:
    """Ragged jets.

    Attributes:
        offsets: Where each jet begins, (J + 1,) int64.
        p4: Four-vectors (E, px, py, pz) by falling pT, (K, 4) float32 GeV.
        labels: Class numbers, (J,) int64.
        pid: Charge and the five flags of the particle kind, (K, 6) int8; None where unknown.
        displacement: d0, its error, dz, its error, (K, 4) float32 mm; None where unknown.
        scalars: Further numbers per jet, each (J,) float32.
    """

    offsets: Array
    p4: Array
    labels: Array
    pid: Array | None = None
    displacement: Array | None = None
    scalars: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_particles(self) -> Array:
        """Number of particles of each jet, (J,) int64."""
        return np.diff(self.offsets)

    @property
    def jet_of_particle(self) -> Array:
        """Jet number of each particle, (K,) int64."""
        return np.repeat(np.arange(len(self)), self.num_particles)

    def jet_p4(self) -> Array:
        """Sum the four-vectors of each jet.

        Returns:
            Jet four-vectors (E, px, py, pz), (J, 4) float64 GeV.
        """
        edges = np.concatenate([np.zeros((1, 4)), np.cumsum(self.p4, axis=0, dtype=np.float64)])
        sums: Array = np.diff(edges[self.offsets], axis=0)
        return sums

    def take(self, jets: Array) -> Self:
        """Select jets.

        Args:
            jets: Jet numbers in any order, (S,) int64, or a mask of all jets, (J,) bool.

        Returns:
            The jets chosen, copied.
        """
        jets = np.flatnonzero(jets) if jets.dtype == bool else jets
        index, offsets = ragged_index(self.offsets, jets)
        return type(self)(
            offsets=offsets,
            p4=self.p4[index],
            labels=self.labels[jets],
            pid=None if self.pid is None else self.pid[index],
            displacement=None if self.displacement is None else self.displacement[index],
            scalars={name: values[jets] for name, values in self.scalars.items()},
        )

    def truncated(self, max_particles: int) -> Self:
        """Keep the leading particles of each jet.

        Args:
            max_particles: Largest number of particles to keep.

        Returns:
            The same jets with at most that many particles.
        """
        rank = np.arange(len(self.p4)) - np.repeat(self.offsets[:-1], self.num_particles)
        keep = rank < max_particles
        lengths = np.minimum(self.num_particles, max_particles)
        return type(self)(
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            p4=self.p4[keep],
            labels=self.labels,
            pid=None if self.pid is None else self.pid[keep],
            displacement=None if self.displacement is None else self.displacement[keep],
            scalars=self.scalars,
        )


def concatenate(parts: Sequence[Jets]) -> Jets:
    """Join tables of jets.

    Args:
        parts: At least one table; columns that any of them lacks are dropped.

    Returns:
        One table.
    """
    lengths = np.concatenate([part.num_particles for part in parts])
    pids = [part.pid for part in parts if part.pid is not None]
    displacements = [part.displacement for part in parts if part.displacement is not None]
    names = set.intersection(*(set(part.scalars) for part in parts))
    return Jets(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        p4=np.concatenate([part.p4 for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        pid=np.concatenate(pids) if len(pids) == len(parts) else None,
        displacement=np.concatenate(displacements) if len(displacements) == len(parts) else None,
        scalars={
            name: np.concatenate([part.scalars[name] for part in parts])
            for name in parts[0].scalars
            if name in names
        },
    )


def from_padded(p4: Array, valid_mask: Array, labels: Array) -> Jets:
    """Make a table from padded arrays, sorted by falling pT.

    Args:
        p4: Four-vectors (E, px, py, pz), (J, N, 4) GeV.
        valid_mask: True where a particle is real, (J, N).
        labels: Class numbers, (J,).

    Returns:
        The table.
    """
    order = np.argsort(np.where(valid_mask, -fv.pt(p4), np.inf), axis=1, kind="stable")
    p4 = np.take_along_axis(p4, order[..., None], axis=1)
    valid_mask = np.take_along_axis(valid_mask, order, axis=1)
    return Jets(
        offsets=np.concatenate([[0], np.cumsum(valid_mask.sum(axis=1))]),
        p4=p4[valid_mask].astype(np.float32),
        labels=labels.astype(np.int64),
    )
