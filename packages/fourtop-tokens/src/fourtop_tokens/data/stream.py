r"""Batches of one split, in an order and with an augmentation that depend on seed, epoch and event alone.

The augmentation uses the symmetries of the detector: a rotation φ → φ + α by a uniform angle, of all objects
and the missing momentum alike, and with probability 1/2 the reflection η → -η.

N events, B events of a batch.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet, Units, read_events
from fourtop_tokens.data.schema import Split
from fourtop_tokens.data.tokenizer import Vocabulary
from fourtop_tokens.data.tokens import read_binned
from fourtop_tokens.physics.kinematics import wrap_phi
from hep_shared.errors import ConfigError
from hep_shared.seed import epoch_permutation, event_generator

_AUGMENTATION = 1  # keeps these numbers apart from others of the same seed and epoch


@dataclass(frozen=True)
class EventBatch:
    """Some events on one device.

    Attributes:
        inputs: ids (B, 18) int64, features (B, 18, 4) and missing (B, 2) in GeV and rad; or tokens (B, 20).
        labels: Class from 0 (tttt) to 4, (B,) int64.
        events: Numbers of the events in their split, (B,) int64.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    events: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """What a message calls this batch."""
        shown = ", ".join(str(int(event)) for event in self.events[:3])
        return f"of {len(self)} events ({shown}, ...)"

    def to(self, device: torch.device) -> "EventBatch":
        """Move inputs and labels.

        Args:
            device: Where to.

        Returns:
            The batch there.
        """
        inputs = tuple(tensor.to(device, non_blocking=True) for tensor in self.inputs)
        return replace(self, inputs=inputs, labels=self.labels.to(device, non_blocking=True))

    def split(self, num_parts: int) -> list["EventBatch"]:
        """Cut into equal pieces.

        Args:
            num_parts: A divisor of the number of events.

        Returns:
            The pieces in order.
        """
        size = len(self) // num_parts
        cuts = [slice(k * size, (k + 1) * size) for k in range(num_parts)]
        return [
            EventBatch(tuple(tensor[cut] for tensor in self.inputs), self.labels[cut], self.events[cut])
            for cut in cuts
        ]


class EventStream:
    """Events of one split in memory.

    Args:
        inputs: Arrays by name: ids, features, missing; or tokens alone. Each (N, ...).
        labels: 1 to 5, (N,).
        batch_size: Events in a batch over all ranks.
        shuffle: Random order and whole batches, for training; otherwise file order and a short last batch.
        augment: Rotate and reflect, differently in every epoch.
        seed: Seed of order and augmentation.
        rank: This process.
        world_size: Number of processes.
        name: What the events are called in messages.

    Raises:
        ConfigError: There are fewer events than a shuffled batch needs.
    """

    def __init__(
        self,
        inputs: Mapping[str, NDArray[Any]],
        labels: NDArray[np.int8],
        *,
        batch_size: int,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        name: str = "the events",
    ) -> None:
        if shuffle and len(labels) < batch_size:
            raise ConfigError(
                f"data.batch_size is {batch_size}, but {name} are only {len(labels)} events; "
                "lower data.batch_size or give more events."
            )
        self.inputs, self.labels = dict(inputs), labels
        self._batch_size, self._shuffle, self._augment, self._seed = batch_size, shuffle, augment, seed
        self._rank, self._world_size = rank, world_size
        self.num_events = len(labels)

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, over all ranks together."""
        whole, rest = divmod(self.num_events, self._batch_size)
        return whole if self._shuffle else whole + bool(rest)

    @property
    def signature(self) -> str:
        """Digest of the events and of everything their order depends on."""
        digest = hashlib.sha256(f"{self._seed} {self._batch_size} {self._augment}".encode())
        for array in (*self.inputs.values(), self.labels):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[EventBatch]:
        """Iterate over this rank's part of every batch.

        Args:
            epoch: Number of the epoch, from 0.
            start: First batch, to resume inside an epoch.

        Yields:
            Batches on the CPU; a shuffled batch holds `batch_size / world_size` events, an ordered one all
            events of every `world_size`-th batch.
        """
        order = epoch_permutation(self._seed, epoch, self.num_events) if self._shuffle else None
        turns = self._turns(epoch) if self._augment else None
        share = self._batch_size // self._world_size
        for number in range(start, self.num_batches):
            first = number * self._batch_size
            if order is not None:
                first += self._rank * share
                yield self._batch(order[first : first + share], turns)
            elif number % self._world_size == self._rank:
                last = min(first + self._batch_size, self.num_events)
                yield self._batch(np.arange(first, last), turns)

    def _turns(self, epoch: int) -> NDArray[np.float64]:
        """Angle and sign of every event; row i belongs to event i whatever the batches are."""
        uniform = event_generator(self._seed, epoch, _AUGMENTATION).random((self.num_events, 2))
        return np.stack([2 * np.pi * uniform[:, 0], np.where(uniform[:, 1] < 0.5, 1.0, -1.0)], axis=1)

    def _batch(self, events: NDArray[np.int64], turns: NDArray[np.float64] | None) -> EventBatch:
        chosen = {name: array[events] for name, array in self.inputs.items()}
        if turns is not None:
            ids, features, missing = augment(
                chosen["ids"], chosen["features"], chosen["missing"], *turns[events].T
            )
            chosen = {"ids": ids, "features": features, "missing": missing}
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in chosen.values()]
        inputs = tuple(t if t.is_floating_point() else t.long() for t in tensors)
        labels = torch.from_numpy(self.labels[events]).long() - 1
        return EventBatch(inputs, labels, torch.from_numpy(events))


def augment(
    ids: NDArray[np.int8],
    features: NDArray[np.float32],
    missing: NDArray[np.float32],
    angle: NDArray[np.float64],
    sign: NDArray[np.float64],
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Rotate and reflect events; empty places stay 0.

    Args:
        ids: Object codes, (B, 18).
        features: E, pT, eta, phi, (B, 18, 4).
        missing: Missing momentum and its azimuth, (B, 2).
        angle: Rotation of each event in rad, (B,).
        sign: 1, or -1 to reflect, (B,).

    Returns:
        The three arrays, changed copies of the last two.
    """
    features, missing = features.copy(), missing.copy()
    present = ids != schema.PAD
    features[..., schema.ETA] *= sign[:, None].astype(np.float32)
    turned = wrap_phi(features[..., schema.PHI] + angle[:, None])
    features[..., schema.PHI] = np.where(present, turned, features[..., schema.PHI])
    missing[:, 1] = wrap_phi(missing[:, 1] + angle)
    return ids, features, missing


def event_inputs(events: EventSet) -> dict[str, NDArray[Any]]:
    """Arrays that a network takes.

    Args:
        events: Any events.

    Returns:
        ids, features, missing.
    """
    return {"ids": events.ids, "features": events.features, "missing": events.missing}


def read_split(
    split: Split,
    *,
    events: Path | None,
    tokens: Path | None,
    vocabulary: Vocabulary | None,
    units: Units,
    num_events: int | None,
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int8]]:
    """Read a split from whichever file there is.

    Args:
        split: Split to read.
        events: File in the public format.
        tokens: Binned file, which is read instead when it is given.
        vocabulary: Numbering of the tokens.
        units: Unit of energies in `events`.
        num_events: Read only the first events.

    Returns:
        Inputs by name and labels.

    Raises:
        InputFileError: The file is not what it should be.
        ConfigError: No file is named.
    """
    if tokens is not None and vocabulary is not None:
        table, labels = read_binned(tokens, vocabulary)[0][split]
        return {"tokens": table[:num_events]}, labels[:num_events]
    if events is None:
        raise ConfigError("data.events names no file; give one, for example --set data.events=events.h5.")
    found = read_events(events, (split,), units=units, num_events=num_events)[split]
    return event_inputs(found), found.labels
