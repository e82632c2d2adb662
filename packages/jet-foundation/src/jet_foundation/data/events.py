"""Events on disk and in batches: jets with their particles, leptons, missing momentum.

A data set of events is a data set of jets, one shard a split, with one more file a split beside it:
`events_<split>.npz` with `jet_offsets`, `leptons`, `lepton_offsets`, `met` and `labels` as in
`physics/toy_events.py`. Its classes are those of the events.

Dimensions: B events, J jets of an event, N particles of a jet, L leptons of an event, S = J + L + 1 objects,
F features of a particle, D numbers of an object.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_path, make_directory, remove_temporaries, write_manifest
from hep_shared.seed import shard_seed
from jet_foundation.data.checks import DAMAGED
from jet_foundation.data.features import FEATURE_NAMES, particle_features
from jet_foundation.data.foreign import open_npz
from jet_foundation.data.loader import JetDataset, Loader, pad_jets
from jet_foundation.data.normalization import Moments, Normalization
from jet_foundation.data.preprocess import with_scalars
from jet_foundation.data.schema import MAX_PARTICLES, FeatureSet
from jet_foundation.data.shards import INDEX_FILE, SPLITS, DatasetInfo, write_info, write_shard
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import ragged_index
from jet_foundation.physics.toy_events import EVENT_CLASSES, Events, join

Array = NDArray[Any]

MEMBERS = ("jet_offsets", "leptons", "lepton_offsets", "met", "labels")
KINDS = ("jet", "electron", "muon", "missing")
NUM_NUMBERS = len(KINDS) + 4  # flags of the kind, ln pT, η, ln(1 + m), charge
FEATURE_SET: FeatureSet = "full"


def events_file(directory: Path, split: str) -> Path:
    """Name of the file with what is not in the jets.

    Args:
        directory: The data set.
        split: `train`, `val` or `test`.

    Returns:
        Its path.
    """
    return Path(directory) / f"events_{split}.npz"


def write_events(out: Path, parts: Sequence[Events], *, seed: int, source: str) -> DatasetInfo:
    """Write a data set of events: 80 % training, 10 % validation, 10 % test of every part.

    Args:
        out: Directory, which must not hold a data set.
        parts: Events of one class each.
        seed: Decides the order within a split.
        source: What made the events.

    Returns:
        What was made.

    Raises:
        UserError: `out` holds a data set.
    """
    out = Path(out)
    if (out / INDEX_FILE).exists():
        raise UserError(f"{out} already holds a data set; choose another --out or remove it first.")
    make_directory(out)
    remove_temporaries(out)
    moments, particles, counts = Moments(len(FEATURE_NAMES[FEATURE_SET])), 0, {}
    num_train_jets = 0
    for number, split in enumerate(SPLITS):
        events = join([part.take(_share(len(part), split)) for part in parts])
        rng = np.random.default_rng(shard_seed(seed, number))
        events = events.take(rng.permutation(len(events)))
        jets = with_scalars(events.jets).truncated(MAX_PARTICLES)
        if split == "train":
            moments.add(particle_features(jets, FEATURE_SET))
            particles, num_train_jets = len(jets.p4), len(jets)
        write_shard(out / f"{split}_00000.npz", jets)
        path = events_file(out, split)
        with atomic_path(path) as temporary:
            np.savez(temporary, allow_pickle=False, **{name: getattr(events, name) for name in MEMBERS})
        write_manifest(path, num_events=len(events))
        counts[split] = len(events)
    info = DatasetInfo(
        classes=EVENT_CLASSES,
        feature_set=FEATURE_SET,
        normalization=Normalization.fitted(FEATURE_SET, moments),
        num_jets=counts,
        shards={split: (f"{split}_00000.npz",) for split in SPLITS},
        mean_num_particles=particles / num_train_jets,
        sources=(source,),
        level="event",
    )
    write_info(out, info)
    return info


def _share(num: int, split: str) -> Array:
    """Numbers of the events of one class that go into a split."""
    held_out = num // 10
    bounds = {"train": (0, num - 2 * held_out), "val": (num - 2 * held_out, num - held_out)}
    return np.arange(*bounds.get(split, (num - held_out, num)))


class EventBatch(NamedTuple):
    """Events padded to the one with the most jets, particles and leptons.

    Attributes:
        p4: Particles of the jets, (B, J, N, 4) GeV.
        features: Their normalised features, (B, J, N, F).
        valid_mask: True where a particle is real, (B, J, N).
        object_p4: Four-vectors of jets, leptons and missing momentum, in this order, (B, S, 4) GeV.
        objects: Numbers of the objects, (B, S, D).
        object_mask: True where an object is real, (B, S).
        labels: Class numbers, (B,) int64.
        event_index: Numbers of the events in their split, (B,) int64.
    """

    p4: Tensor
    features: Tensor
    valid_mask: Tensor
    object_p4: Tensor
    objects: Tensor
    object_mask: Tensor
    labels: Tensor
    event_index: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Move to a device.

        Args:
            device: The device.

        Returns:
            The batch there.
        """
        return type(self)(*(tensor.to(device, non_blocking=True) for tensor in self))

    def split(self, num_parts: int) -> "list[EventBatch]":
        """Cut into consecutive parts of nearly equal size.

        Args:
            num_parts: Number of parts, at most the number of events.

        Returns:
            The parts, padded alike.
        """
        columns = [tensor.tensor_split(num_parts) for tensor in self]
        return [type(self)(*part) for part in zip(*columns, strict=True)]

    @property
    def name(self) -> str:
        """What identifies the batch in a message."""
        return f"of {len(self.labels)} events from number {int(self.event_index[0])}"


class EventDataset:
    """One split of a data set of events.

    Args:
        directory: The data set.
        split: `train`, `val` or `test`.
        feature_set: Features of a particle; None takes the largest on offer.
        max_jets: Use only that many events; None uses all.

    Raises:
        InputFileError: The data set is damaged, holds no events, or lacks the feature set or the split.
    """

    counted = "events"

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        feature_set: FeatureSet | None = None,
        max_jets: int | None = None,
    ) -> None:
        self._jets = _JetsOfEvents(directory, split, feature_set=feature_set)
        self.info, self.normalization = self._jets.info, self._jets.normalization
        path = events_file(directory, split)
        self._arrays = open_npz(path, MEMBERS)
        check_events(path, self._arrays, len(self._jets), len(self.info.classes))
        self.fingerprint = self._jets.fingerprint
        jets = self._jets.num_particles
        edges = np.concatenate([[0], np.cumsum(jets)])[self._arrays["jet_offsets"]]
        self.num_particles: Array = np.diff(edges)[:max_jets]

    def __len__(self) -> int:
        return len(self.num_particles)

    def batch(self, index: Array) -> EventBatch:
        """Read, normalise and pad events.

        Args:
            index: Numbers of the events, (B,) int64.

        Returns:
            The batch.
        """
        arrays = self._arrays
        picked, offsets = ragged_index(arrays["jet_offsets"], index)
        jets = self._jets.jets(picked)
        rows, lepton_offsets = ragged_index(arrays["lepton_offsets"], index)
        events = Events(
            jets,
            offsets,
            arrays["leptons"][rows],
            lepton_offsets,
            arrays["met"][index],
            arrays["labels"][index],
        )
        return pad_events(events, self.normalization, index=index)


class _JetsOfEvents(JetDataset):
    """The jets of all events of a split."""

    level: Literal["jet", "event"] = "event"


EventLoader = Loader[EventBatch]


def check_events(path: Path, arrays: dict[str, Array], num_jets: int, num_classes: int) -> None:
    """Refuse numbers that do not describe events of these jets.

    Args:
        path: The file they come from.
        arrays: Array by name.
        num_jets: Jets in the shards.
        num_classes: Number of classes.

    Raises:
        InputFileError: Shapes or offsets do not match, a number is not finite, or a label is unknown.
    """
    num_events, num_leptons = len(arrays["labels"]), len(arrays["leptons"])
    shapes = {
        "jet_offsets": (num_events + 1,),
        "leptons": (num_leptons, 6),
        "lepton_offsets": (num_events + 1,),
        "met": (num_events, 2),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            problem = f"has shape {arrays[name].shape}, expected {shape}"
            raise InputFileError(path, problem, DAMAGED, branch=name)
    for name, total, what in (
        ("jet_offsets", num_jets, "jets"),
        ("lepton_offsets", num_leptons, "leptons"),
    ):
        offsets = arrays[name]
        if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
            raise InputFileError(path, f"does not match the {total} {what}", DAMAGED, branch=name)
    empty = np.flatnonzero(np.diff(arrays["jet_offsets"]) == 0)
    if len(empty):
        raise InputFileError(
            path, "the event holds no jet", "remove such events", branch="jet_offsets", entry=int(empty[0])
        )

    def owner(row: int) -> int:
        """Event of a lepton."""
        return int(np.searchsorted(arrays["lepton_offsets"], row, "right")) - 1

    for name in ("met", "leptons"):
        odd = ~np.isfinite(arrays[name]).all(axis=1)
        if odd.any():
            row = int(np.argmax(odd))
            problem = f"a value is not finite ({arrays[name][row].tolist()})"
            entry = owner(row) if name == "leptons" else row
            raise InputFileError(path, problem, "remove such events", branch=name, entry=entry)
    energy = arrays["leptons"][:, 0]
    if (energy <= 0).any():
        row = int(np.argmax(energy <= 0))
        problem = f"the energy of a lepton is {energy[row]:.6g} GeV, not positive"
        raise InputFileError(path, problem, "remove such events", branch="leptons", entry=owner(row))
    unknown = ~np.isin(arrays["labels"], np.arange(num_classes))
    if unknown.any():
        entry = int(np.argmax(unknown))
        problem = f"the label is {arrays['labels'][entry]}, expected 0 to {num_classes - 1}"
        raise InputFileError(path, problem, "remove such events", branch="labels", entry=entry)


def pad_events(events: Events, normalization: Normalization, *, index: Array | None = None) -> EventBatch:
    """Compute features and pad.

    Args:
        events: Events whose jets are truncated.
        normalization: Of the features of the particles.
        index: Numbers that the batch should carry; None counts from 0.

    Returns:
        The batch.
    """
    num_events = len(events)
    counts = {"jet": np.diff(events.jet_offsets), "lepton": np.diff(events.lepton_offsets)}
    width, num_leptons = (int(counts[name].max(initial=0)) for name in ("jet", "lepton"))
    batch = pad_jets(events.jets, normalization)
    slot = _slots(events.jet_offsets, width)

    def scattered(values: Tensor) -> Tensor:
        padded = values.new_zeros(num_events * width, *values.shape[1:])
        padded[torch.from_numpy(slot)] = values
        return padded.view(num_events, width, *values.shape[1:])

    total = width + num_leptons + 1
    p4, numbers = np.zeros((num_events, total, 4)), np.zeros((num_events, total, NUM_NUMBERS))
    mask = np.zeros((num_events, total), bool)
    jet_event, jet_place = np.divmod(slot, max(width, 1))
    p4[jet_event, jet_place], mask[jet_event, jet_place] = events.jets.jet_p4(), True
    numbers[jet_event, jet_place, KINDS.index("jet")] = 1
    if len(events.leptons):
        event, place = np.divmod(_slots(events.lepton_offsets, num_leptons), num_leptons)
        place = place + width
        p4[event, place], mask[event, place] = events.leptons[:, :4], True
        kind = np.where(events.leptons[:, 5] > 0, KINDS.index("muon"), KINDS.index("electron"))
        numbers[event, place, kind] = 1
        numbers[event, place, -1] = events.leptons[:, 4]
    met = events.met.astype(np.float64)
    p4[:, -1] = np.column_stack([np.hypot(*met.T), met, np.zeros(num_events)])
    mask[:, -1] = True
    numbers[:, -1, KINDS.index("missing")] = 1
    first = len(KINDS)
    numbers[..., first] = np.log(np.maximum(fv.pt(p4), 1.0)) / 5
    numbers[..., first + 1] = fv.eta(p4)
    numbers[..., first + 2] = np.log1p(fv.mass(p4)) / 5
    numbers[~mask] = 0.0
    return EventBatch(
        scattered(batch.p4),
        scattered(batch.features),
        scattered(batch.valid_mask),
        torch.from_numpy(p4.astype(np.float32)),
        torch.from_numpy(numbers.astype(np.float32)),
        torch.from_numpy(mask),
        torch.from_numpy(np.array(events.labels, np.int64)),
        torch.from_numpy(np.arange(num_events) if index is None else np.array(index, np.int64)),
    )


def _slots(offsets: Array, width: int) -> Array:
    """Place of every row in a rectangle of `width` columns, flattened."""
    counts = np.diff(offsets)
    return np.arange(offsets[-1]) + np.repeat(np.arange(len(counts)) * width - offsets[:-1], counts)
