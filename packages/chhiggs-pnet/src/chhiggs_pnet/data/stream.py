"""Batches for training: every class at every mass hypothesis equally often, in an order that can be resumed.

An epoch draws the same number of events of each class. Entry j of a class has hypothesis j mod A of the A
active points, so P(m | class) is the same for all classes, exactly. Signal entries take events of that point;
background entries take any, in a fresh order every epoch, so the hypothesis of a background event is redrawn
from the signal's masses. Entries of one class and point are spread evenly over the epoch.

All of it is a function of seed and epoch: a resumed run sees the batches it would have seen.

B events, P slots, F features, N entries of an epoch, A active mass points.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from chhiggs_pnet.data.schema import CLASSES, FEATURE_SETS
from chhiggs_pnet.data.store import Part, Store, part_name
from chhiggs_pnet.physics.events import Array
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import CHANNELS
from hep_shared.errors import ConfigError, InputFileError
from hep_shared.seed import event_generator

BLOCK = 64  # batches whose small columns are gathered together
_HYPOTHESIS, _ORDER = 1 << 40, 1 << 41  # event numbers no row has: generators of their own
Weighting = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class EventBatch:
    """Events under hypotheses.

    Attributes:
        nodes: Raw features in GeV and rad, (B, P, F) float32; P is the largest number of nodes in the batch.
        valid_mask: Real slots, (B, P) bool.
        masses: Hypotheses (mHc, mA) in GeV, (B, 2) float32.
        label: Index into `CLASSES`, (B,) int64.
        weight: Weight in the loss, (B,) float32.
        channel: Index into `CHANNELS`, (B,) int64.
        era: Index into `ERAS`, (B,) int64.
        pair_masses: (m1, m2) in GeV, −1 where there is none, (B, 2) float32.
        fixed_masses: One hypothesis of the whole batch in GeV, (B, 2) float32.
        name: What identifies the batch.
    """

    nodes: Tensor
    valid_mask: Tensor
    masses: Tensor
    label: Tensor
    weight: Tensor
    channel: Tensor
    era: Tensor
    pair_masses: Tensor
    fixed_masses: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.label)

    def _map(self, change: Callable[[Tensor], Tensor], name: str) -> Self:
        tensors = {f.name: change(getattr(self, f.name)) for f in fields(self) if f.name != "name"}
        return replace(self, **tensors, name=name)

    def to(self, device: torch.device) -> Self:
        """Move to a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True), self.name)

    def split(self, num_parts: int) -> list[Self]:
        """Cut into micro-batches of equal size.

        Args:
            num_parts: How many; it divides the batch.

        Returns:
            The parts in order.
        """
        size = len(self) // num_parts
        pieces = [slice(i * size, (i + 1) * size) for i in range(num_parts)]
        return [self._map(itemgetter(piece), f"{self.name}, part {i}") for i, piece in enumerate(pieces)]


class Plan(NamedTuple):
    """The entries of an epoch in order, (N,) each."""

    part: Array
    """Index into the parts of the stream."""
    row: Array
    """Row of the event in its part."""
    point: Array
    """Index into the mass points: the hypothesis."""
    fixed: Array
    """Hypothesis of each batch for DisCo, one number a batch."""


def usable_rows(part: Part, folds: Sequence[int], channel: str | None) -> Array:
    """Events of a part in some folds and one channel.

    Args:
        part: The part.
        folds: The folds.
        channel: The channel, or None for both.

    Returns:
        Row numbers in order.

    Raises:
        InputFileError: There is none, or a weight is not a number.
    """
    rows = part.in_folds(folds)
    if channel is not None:
        rows = rows[part.columns["channel"][rows] == CHANNELS.index(channel)]
    where = f"{part.name}, folds {', '.join(map(str, folds))}, channel {channel or 'any'}"
    if not rows.size:
        raise InputFileError(where, "holds no events", "simulate more or choose another fold or channel")
    weight = part.columns["weight"][rows]
    if (bad := np.flatnonzero(~np.isfinite(weight))).size:
        raise InputFileError(
            where, f"holds a weight of {weight[bad[0]]}", "make the store again from sound files",
            branch="weight", entry=int(rows[bad[0]]),
        )  # fmt: skip
    return rows


class EventStream:
    """Balanced, shuffled batches of one rank.

    Args:
        store: The store.
        points: Mass points to train on.
        folds: Folds to train on.
        features: `cms9` or `ext14`.
        channel: The channel, or None for both.
        batch_size: Events of a batch over all ranks.
        events_per_point: Events of each class at each point in an epoch; None for the size of the smallest
            signal.
        seed: Seed of the order.
        weighting: Turns weights (B,) and hypotheses (B, 2) of a whole batch into weights in the loss.
        rank: Rank of this process.
        world_size: Number of processes; they share each batch.

    Raises:
        ConfigError: An epoch has no whole batch.
    """

    def __init__(
        self,
        store: Store,
        points: Sequence[MassPoint],
        folds: Sequence[int],
        *,
        features: str,
        channel: str | None,
        batch_size: int,
        events_per_point: int | None,
        seed: int,
        weighting: Weighting,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.points = tuple(points)
        self._store, self._width, self._weighting = store, len(FEATURE_SETS[features]), weighting
        self._batch_size, self._seed, self._rank, self._world_size = batch_size, seed, rank, world_size
        self._masses = np.array([(p.mHc, p.mA) for p in self.points])
        self.names = [part_name("signal", point) for point in self.points] + list(CLASSES[1:])
        self._rows = [usable_rows(store.part(name), folds, channel) for name in self.names]
        self._scale = np.array(
            [
                1.0 / max(float(np.abs(store.part(name).columns["weight"][rows]).mean()), 1e-300)
                for name, rows in zip(self.names, self._rows, strict=True)
            ]
        )
        # Gathering one record an event is several times as fast as gathering seven columns.
        tables = [_small_columns(store.part(name)) for name in self.names]
        self._small = np.concatenate(tables)
        self._offset = np.cumsum([0, *map(len, tables[:-1])])
        smallest = min(len(rows) for rows in self._rows[: len(self.points)])
        self._per_class = (events_per_point or smallest) * len(self.points)
        self.num_batches = self._per_class * len(CLASSES) // batch_size
        if self.num_batches == 0:
            raise ConfigError(
                f"data.batch_size is {batch_size}, but an epoch has only {self._per_class * len(CLASSES)} "
                "events; lower it or simulate more."
            )
        self.active: Callable[[int], Sequence[int]] = lambda epoch: range(len(self.points))
        digests = {name: store.part(name).meta["sha256"]["event"] for name in self.names}
        settings = [seed, batch_size, self._per_class, features, channel, list(folds), digests]
        self.signature = hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def plan(self, epoch: int) -> Plan:
        """Draw the entries of an epoch.

        Args:
            epoch: Its number, from 0.

        Returns:
            The plan, cut to whole batches.
        """
        active = np.asarray(self.active(epoch), np.int64)
        part, row, point, key = [], [], [], []
        hypotheses = active[np.arange(self._per_class) % len(active)]
        for label in range(len(CLASSES)):
            row_of = np.empty(self._per_class, np.int64)
            part_of = hypotheses if label == 0 else np.full(self._per_class, len(self.points) + label - 1)
            for number in np.unique(part_of):
                chosen = part_of == number
                row_of[chosen] = self._draw(int(number), int(chosen.sum()), epoch)
            spread = event_generator(self._seed, epoch, _HYPOTHESIS + label)
            rank = np.arange(self._per_class) // len(active) + spread.random(self._per_class)
            part.append(part_of)
            row.append(row_of)
            point.append(hypotheses)
            key.append(rank)
        order = np.argsort(np.concatenate(key), kind="stable")[: self.num_batches * self._batch_size]
        drawn = event_generator(self._seed, epoch, _ORDER).integers(len(active), size=self.num_batches)
        parts, rows, points = (np.concatenate(column)[order] for column in (part, row, point))
        return Plan(parts, rows, points, active[drawn])

    def _draw(self, number: int, wanted: int, epoch: int) -> Array:
        """Rows of one part: whole permutations, then the beginning of another."""
        rows = self._rows[number]
        generator = event_generator(self._seed, epoch, number)
        rounds = [generator.permutation(rows) for _ in range(-(-wanted // len(rows)))]
        return np.concatenate(rounds)[:wanted]

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[EventBatch]:
        """Yield this rank's share of every batch.

        Args:
            epoch: Number of the epoch, from 0.
            start: First batch.

        Yields:
            Batches of `batch_size` / `world_size` events.
        """
        plan = self.plan(epoch)
        for first in range(start, self.num_batches, BLOCK):
            yield from self._block(plan, epoch, first, min(first + BLOCK, self.num_batches))

    def _block(self, plan: Plan, epoch: int, first: int, last: int) -> Iterator[EventBatch]:
        """Yield some batches; all but their nodes is gathered once for all of them."""
        size, rank, world = self._batch_size, self._rank, self._world_size
        part, row, point = (column[first * size : last * size] for column in plan[:3])
        # Copied as runs of bytes: NumPy copies records field by field.
        small = self._small.view(f"V{self._small.itemsize}")[self._offset[part] + row].view(self._small.dtype)
        masses = self._masses[point]
        # Weights are normalised over the whole batch, so every rank looks at all of them; of the rest this
        # rank takes every world-th entry, which are as many of each batch.
        raw = small["weight"] * self._scale[part]
        share, own = slice(rank, None, world), size // world
        part, row, small = part[share], row[share], small[share]
        counts = small["num_nodes"].reshape(last - first, own)
        num_slots = counts.max(axis=1, initial=1)
        whole = {
            "masses": masses[share].astype(np.float32),
            "pair_masses": np.stack([small["m1"], small["m2"]], axis=1),
            **{name: small[name].astype(np.int64) for name in ("label", "channel", "era")},
        }
        pieces = {
            name: torch.from_numpy(values.reshape(last - first, own, *values.shape[1:]))
            for name, values in whole.items()
        }
        fixed = torch.from_numpy(self._masses[plan.fixed[first:last]].astype(np.float32))
        segments: list[list[tuple[Array, Array]]] = [[] for _ in range(last - first)]
        for chosen, nodes in self._segments(part, own):
            segments[chosen[0] // own].append((chosen, nodes))
        for number in range(last - first):
            begin, slots = number * own, int(num_slots[number])
            whole_batch = slice(number * size, (number + 1) * size)
            weight = self._weighting(raw[whole_batch], masses[whole_batch])[share]
            nodes = np.empty((own, slots, self._width), np.float32)
            for chosen, source in segments[number]:
                _copy_rows(source, row[chosen], nodes, chosen - begin)
            yield EventBatch(
                nodes=torch.from_numpy(nodes),
                valid_mask=torch.from_numpy(np.arange(slots) < counts[number][:, None]),
                weight=torch.from_numpy(weight.astype(np.float32)),
                fixed_masses=fixed[number].expand(own, 2),
                name=f"of {size} events, number {first + number} of epoch {epoch + 1}",
                **{name: piece[number] for name, piece in pieces.items()},
            )

    def _segments(self, part: Array, batch_size: int) -> Iterator[tuple[Array, Array]]:
        """Entries of each batch and part of a selection, and the nodes of that part."""
        key = np.arange(len(part)) // batch_size * len(self.names) + part
        order = np.argsort(key, kind="stable")
        bounds = [*np.flatnonzero(np.diff(key[order], prepend=-1)).tolist(), len(order)]
        for begin, end in pairwise(bounds):
            chosen = order[begin:end]
            yield chosen, self._store.part(self.names[part[chosen[0]]]).columns["nodes"]


def _small_columns(part: Part) -> Array:
    """All that a batch needs of an event but its nodes, as records (N,)."""
    fields = {name: part.columns[name] for name in ("weight", "m1", "m2", "label", "channel", "era")}
    fields["num_nodes"] = part.columns["valid_mask"].sum(axis=1, dtype=np.int8)  # the first ones are real
    out = np.empty(len(part), [(name, column.dtype) for name, column in fields.items()])
    for name, column in fields.items():
        out[name] = column
    return out


def _copy_rows(source: Array, rows: Array, out: Array, places: Array) -> None:
    """Copy the first slots and features of some events.

    Args:
        source: Nodes of a part, (N, P, F) float32, contiguous.
        rows: Events wanted, (M,).
        out: Where they go, (B, slots, features) float32, contiguous.
        places: Rows of `out`, (M,).
    """
    slots, width = out.shape[1:]
    if width < source.shape[2]:
        out[places] = source[rows, :slots, :width]
        return
    # All features: the slots of an event are one run of bytes, and NumPy copies it as one.
    record = np.dtype((np.void, slots * width * out.itemsize))
    runs = source.reshape(len(source), -1)[:, : slots * width].view(record)[:, 0]
    out.reshape(len(out), -1).view(record)[places, 0] = runs[rows]
