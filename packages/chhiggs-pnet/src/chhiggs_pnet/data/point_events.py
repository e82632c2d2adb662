"""Events of one mass point to be evaluated: its signal and every background, all at that hypothesis.

B events of a batch, N events, P slots, F features.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from chhiggs_pnet.data.schema import CLASSES
from chhiggs_pnet.data.store import Store, part_name
from chhiggs_pnet.data.stream import EventBatch, usable_rows
from chhiggs_pnet.physics.events import Array
from chhiggs_pnet.physics.mass_points import MassPoint

_COLUMNS = (
    *("nodes", "valid_mask", "label", "weight", "channel", "era", "m1", "m2"),
    *("run", "lumi", "event"),
)


class PointEvents(NamedTuple):
    """Signal of a point and all backgrounds, to be evaluated at one hypothesis."""

    columns: dict[str, Array]
    """Columns of the store, (N, ...) each."""

    @property
    def label(self) -> Array:
        """Index into `CLASSES`, (N,) int64."""
        return self.columns["label"].astype(np.int64)

    @property
    def weight(self) -> Array:
        """Rates in fb, (N,)."""
        return self.columns["weight"]


def load_part(
    store: Store, name: str, folds: Sequence[int], *, features: str, channel: str | None, limit: int | None
) -> dict[str, Array]:
    """Copy events of a part, evenly spread over it, into memory.

    Args:
        store: The store.
        name: Name of the part.
        folds: Folds.
        features: `cms9` or `ext14`.
        channel: The channel, or None for both.
        limit: At most so many events; their weights then stand for all.

    Returns:
        Columns of the store.

    Raises:
        UserError: The part is absent, or no event of it is usable.
    """
    part = store.part(name)
    rows = usable_rows(part, folds, channel)
    kept = rows if limit is None or len(rows) <= limit else rows[np.arange(limit) * len(rows) // limit]
    columns = part.take(kept, features, _COLUMNS)
    total = float(part.columns["weight"][rows].sum())
    found = float(columns["weight"].sum())
    if len(kept) < len(rows) and found > 0:
        columns["weight"] = columns["weight"] * (total / found)
    return columns


def load_point(
    store: Store,
    point: MassPoint | None,
    folds: Sequence[int],
    *,
    features: str,
    channel: str | None,
    limit: int | None = None,
) -> PointEvents:
    """Load the signal of a point and every background.

    Args:
        store: The store.
        point: The mass point; None for the backgrounds alone.
        folds: Folds.
        features: `cms9` or `ext14`.
        channel: The channel, or None for both.
        limit: At most so many events of each class.

    Returns:
        The events.
    """
    names = ([] if point is None else [part_name("signal", point)]) + list(CLASSES[1:])
    parts = [load_part(store, name, folds, features=features, channel=channel, limit=limit) for name in names]
    return PointEvents({key: np.concatenate([part[key] for part in parts]) for key in parts[0]})


def point_batches(events: PointEvents, point: MassPoint, batch_size: int) -> Iterator[EventBatch]:
    """Yield events in order, all at one hypothesis.

    Args:
        events: The events.
        point: The hypothesis.
        batch_size: Events at a time.

    Yields:
        Batches whose weights are the rates in fb.
    """
    mass = np.array([point.mHc, point.mA])
    num = len(events.weight)
    for start in range(0, num, batch_size):
        chosen = slice(start, start + batch_size)
        columns: dict[str, Any] = {name: values[chosen] for name, values in events.columns.items()}
        masses = np.tile(mass, (len(columns["label"]), 1))
        yield to_tensors(columns, masses, columns["weight"], mass, f"{point.name} from event {start}")


def to_tensors(
    columns: dict[str, Array], masses: Array, weight: Array, fixed: Array, name: str
) -> EventBatch:
    """Arrange columns of the store as a batch.

    Args:
        columns: `nodes`, `valid_mask`, `label`, `channel`, `era`, `m1`, `m2`.
        masses: Hypotheses in GeV, (B, 2).
        weight: Weights in the loss, (B,).
        fixed: One hypothesis in GeV, (2,).
        name: Name of the batch.

    Returns:
        The batch, cut to its largest number of nodes.
    """
    num_slots = int(columns["valid_mask"].sum(axis=1).max(initial=1))
    integers = {
        name: torch.from_numpy(columns[name].astype(np.int64)) for name in ("label", "channel", "era")
    }
    pair_masses = np.stack([columns["m1"], columns["m2"]], axis=1).astype(np.float32)
    return EventBatch(
        nodes=torch.from_numpy(np.ascontiguousarray(columns["nodes"][:, :num_slots])),
        valid_mask=torch.from_numpy(np.ascontiguousarray(columns["valid_mask"][:, :num_slots])),
        masses=torch.from_numpy(masses.astype(np.float32)),
        weight=torch.from_numpy(weight.astype(np.float32)),
        pair_masses=torch.from_numpy(pair_masses),
        fixed_masses=torch.from_numpy(np.tile(fixed.astype(np.float32), (len(weight), 1))),
        name=name,
        **integers,
    )
