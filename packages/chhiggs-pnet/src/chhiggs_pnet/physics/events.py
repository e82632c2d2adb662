"""Reconstructed events as padded columns: what the generator makes, files hold and the store keeps.

N events, P places; in each event muons come first, then electrons, then jets, each by descending pt, then
empty places.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_OBJECTS = 15  # with the missing momentum 16 nodes; softer jets are left out


class Object(IntEnum):
    """What a place holds."""

    NONE = 0
    MUON = 1
    ELECTRON = 2
    JET = 3


@dataclass(frozen=True)
class Events:
    """N events.

    Attributes:
        kind: `Object`, (N, P) int8.
        pt: In GeV, (N, P) float32.
        eta: Pseudorapidity, (N, P) float32.
        phi: Azimuth in rad in [−π, π), (N, P) float32.
        mass: In GeV, (N, P) float32.
        charge: Charge of a lepton, of a jet what its tracks give or 0, (N, P) int8.
        btag: b-tag discriminant of a jet in [0, 1], (N, P) float32.
        tagged: Jet above the working point, (N, P) bool.
        tight: Lepton passes the tight identification, (N, P) bool.
        met_pt: Missing transverse momentum in GeV, (N,) float32.
        met_phi: Its azimuth in rad, (N,) float32.
        weight: Product of the event weights, (N,) float64.
        run: Run number, (N,) int64.
        lumi: Luminosity block, (N,) int64.
        event: Event number, (N,) int64.
    """

    kind: Array
    pt: Array
    eta: Array
    phi: Array
    mass: Array
    charge: Array
    btag: Array
    tagged: Array
    tight: Array
    met_pt: Array
    met_phi: Array
    weight: Array
    run: Array
    lumi: Array
    event: Array

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, index: Array | slice) -> Self:
        """Keep some events.

        Args:
            index: Mask (N,), indices or slice.

        Returns:
            The events kept.
        """
        return type(self)(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def with_ids(self, run: int, lumi: int, first_event: int) -> Self:
        """Number the events.

        Args:
            run: Run number of all of them.
            lumi: Luminosity block of all of them.
            first_event: Number of the first.

        Returns:
            The same events with other numbers.
        """
        num = len(self)
        event = np.arange(first_event, first_event + num, dtype=np.int64)
        return replace(self, run=np.full(num, run), lumi=np.full(num, lumi), event=event)

    @classmethod
    def concatenate(cls, parts: Iterable[Self]) -> Self:
        """Join lists of events.

        Args:
            parts: At least one list.

        Returns:
            All events in order.
        """
        parts = list(parts)
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)})


OBJECT_COLUMNS: dict[str, type[np.generic]] = {
    "kind": np.int8, "pt": np.float32, "eta": np.float32, "phi": np.float32, "mass": np.float32,
    "charge": np.int8, "btag": np.float32, "tagged": np.bool_, "tight": np.bool_,
}  # fmt: skip
EVENT_COLUMNS: dict[str, type[np.generic]] = {
    "met_pt": np.float32, "met_phi": np.float32, "weight": np.float64,
    "run": np.int64, "lumi": np.int64, "event": np.int64,
}  # fmt: skip


def pack(event_index: Array, objects: dict[str, Array], event_columns: dict[str, Array]) -> Events:
    """Arrange a flat list of objects by event, kind and pt.

    Args:
        event_index: Event that each of M objects belongs to, (M,) in 0 … N − 1.
        objects: The object columns of `Events`, (M,) each.
        event_columns: The event columns of `Events`, (N,) each.

    Returns:
        The events; beyond `MAX_OBJECTS` the softest jets are left out.
    """
    num = len(event_columns["met_pt"])
    order = np.lexsort((-objects["pt"], objects["kind"], event_index))
    event = event_index[order]
    counts = np.bincount(event, minlength=num)
    place = np.arange(len(event)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < MAX_OBJECTS
    target, order = (event[kept], place[kept]), order[kept]
    columns: dict[str, Array] = {}
    for name, dtype in OBJECT_COLUMNS.items():
        column = np.zeros((num, MAX_OBJECTS), dtype)
        column[target] = objects[name][order]
        columns[name] = column
    for name, dtype in EVENT_COLUMNS.items():
        columns[name] = np.asarray(event_columns[name], dtype)
    return Events(**columns)
