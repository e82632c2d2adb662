"""Batches of jets, in an order that can be continued at any point.

    epoch order   Philox permutation of (seed, epoch), cut into batches

A batch is a function of (seed, epoch, step) alone. The cursor is the pair (epoch, step), so a resumed run, or
one with another number of processes, continues with exactly the jets it has not seen. Jets are not sorted by
length: the batch normalisation of the networks would then see other statistics in each batch than on average,
and what is learned would not hold for jets that come as they lie.

Dimensions: B jets, N particles, F features, S numbers per jet.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hep_shared.errors import CheckpointError, InputFileError, UserError
from hep_shared.files import manifest_path, sha256_of
from hep_shared.seed import epoch_permutation
from jet_foundation.data.features import FEATURE_NAMES, particle_features
from jet_foundation.data.normalization import Normalization
from jet_foundation.data.schema import FEATURE_SETS, FeatureSet
from jet_foundation.data.shards import DatasetInfo, open_shard, read_info
from jet_foundation.physics.jet_table import Jets, concatenate

Array = NDArray[Any]

SCALARS = ("pt", "eta", "phi", "energy", "mass", "sdmass")
_PAD_MULTIPLE = 4


class Batch(NamedTuple):
    """Jets padded to the longest of them.

    Attributes:
        p4: Four-vectors (E, px, py, pz), (B, N, 4) float32 GeV.
        features: Normalised features, (B, N, F) float32.
        valid_mask: True where a particle is real, (B, N) bool.
        labels: Class numbers, (B,) int64.
        scalars: pt, eta, phi, energy, mass, sdmass of the jets, (B, S) float32 GeV and rad.
        jet_index: Numbers of the jets in their split, (B,) int64.
    """

    p4: Tensor
    features: Tensor
    valid_mask: Tensor
    labels: Tensor
    scalars: Tensor
    jet_index: Tensor

    def to(self, device: torch.device | str) -> Self:
        """Move to a device.

        Args:
            device: The device.

        Returns:
            The batch there.
        """
        return type(self)(*(tensor.to(device, non_blocking=True) for tensor in self))

    def split(self, num_parts: int) -> "list[Batch]":
        """Cut into consecutive parts of nearly equal size.

        Args:
            num_parts: Number of parts, at most the number of jets.

        Returns:
            The parts, padded alike.
        """
        columns = [tensor.tensor_split(num_parts) for tensor in self]
        return [type(self)(*part) for part in zip(*columns, strict=True)]

    @property
    def name(self) -> str:
        """What identifies the batch in a message."""
        return f"of {len(self.labels)} jets from number {int(self.jet_index[0])}"


class JetDataset:
    """One split of a data set, mapped from its shards.

    Args:
        directory: The data set.
        split: `train`, `val` or `test`.
        feature_set: Features to compute; None takes the largest on offer.
        max_jets: Use only that many jets, balanced as they lie; None uses all.
        verify: Compare the shards with their manifests.

    Raises:
        InputFileError: The data set is damaged, or lacks the feature set or the split.
    """

    counted = "jets"
    level: Literal["jet", "event"] = "jet"

    def __init__(
        self,
        directory: Path,
        split: str,
        *,
        feature_set: FeatureSet | None = None,
        max_jets: int | None = None,
        verify: bool = True,
    ) -> None:
        directory = Path(directory)
        self.info: DatasetInfo = read_info(directory)
        if self.info.level != self.level:
            raise InputFileError(
                directory,
                f"holds {self.info.level}s, not {self.level}s",
                "simulate events with `jet-foundation simulate-events`"
                if self.level == "event"
                else "give a data set of `jet-foundation preprocess`",
            )
        self.feature_set: FeatureSet = feature_set or self.info.feature_set
        if FEATURE_SETS.index(self.feature_set) > FEATURE_SETS.index(self.info.feature_set):
            raise InputFileError(
                directory,
                f"serves the feature set '{self.info.feature_set}', not '{self.feature_set}'",
                "choose a smaller feature set or preprocess files that hold more",
            )
        names = self.info.shards.get(split, ())
        if not names:
            raise InputFileError(
                directory, f"holds no jets of split '{split}'", "preprocess with a larger share"
            )
        self._shards = [open_shard(directory / name, verify=verify) for name in names]
        self.fingerprint = fingerprint([directory / name for name in names])
        self._starts = np.cumsum([0, *map(len, self._shards)])
        lengths = np.concatenate([shard.num_particles for shard in self._shards])
        self.num_particles: Array = lengths if max_jets is None else lengths[:max_jets]
        self.normalization = narrowed(self.info.normalization, self.feature_set)

    def __len__(self) -> int:
        return len(self.num_particles)

    def jets(self, index: Array) -> Jets:
        """Read jets.

        Args:
            index: Numbers of the jets, (B,) int64.

        Returns:
            The jets in that order.
        """
        shard = np.searchsorted(self._starts, index, side="right") - 1
        if len(self._shards) == 1:
            return self._shards[0].take(index)
        order = np.argsort(shard, kind="stable")
        parts = [
            self._shards[number].take(index[order[shard[order] == number]] - self._starts[number])
            for number in np.unique(shard)
        ]
        return concatenate(parts).take(np.argsort(order, kind="stable"))

    def batch(self, index: Array, *, pad_to: int | None = None) -> Batch:
        """Read, normalise and pad jets.

        Args:
            index: Numbers of the jets, (B,) int64.
            pad_to: Number of slots; None takes the longest jet, rounded up to a multiple of 4.

        Returns:
            The batch.
        """
        return pad_jets(self.jets(index), self.normalization, index=index, pad_to=pad_to)


def fingerprint(shards: Sequence[Path]) -> str:
    """Identify the content of shards by their manifests.

    Args:
        shards: The files.

    Returns:
        Twelve hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in shards:
        manifest = manifest_path(path)
        digest.update(manifest.read_bytes() if manifest.exists() else sha256_of(path).encode())
    return digest.hexdigest()[:12]


def narrowed(normalization: Normalization, feature_set: FeatureSet) -> Normalization:
    """Take the part of a normalisation that belongs to a smaller feature set, a prefix of the larger one.

    Args:
        normalization: Of the larger set.
        feature_set: The smaller set.

    Returns:
        Its normalisation.
    """
    count = len(FEATURE_NAMES[feature_set])
    return Normalization(
        feature_set=feature_set,
        scheme=normalization.scheme,
        shift=normalization.shift[:count],
        factor=normalization.factor[:count],
    )


def pad_jets(
    jets: Jets, normalization: Normalization, *, index: Array | None = None, pad_to: int | None = None
) -> Batch:
    """Compute features and pad.

    Args:
        jets: Jets, whole or truncated.
        normalization: Of the features to compute.
        index: Numbers that the batch should carry; None counts from 0.
        pad_to: Number of slots, at least the longest jet.

    Returns:
        The batch.
    """
    lengths = jets.num_particles
    num = -(-int(lengths.max()) // _PAD_MULTIPLE) * _PAD_MULTIPLE if pad_to is None else pad_to
    features = normalization.apply(particle_features(jets, normalization.feature_set))
    slot = np.arange(len(jets.p4)) + np.repeat(np.arange(len(jets)) * num - jets.offsets[:-1], lengths)
    p4 = np.zeros((len(jets) * num, 4), np.float32)
    padded = np.zeros((len(jets) * num, features.shape[1]), np.float32)
    mask = np.zeros(len(jets) * num, bool)
    p4[slot], padded[slot], mask[slot] = jets.p4, features, True
    unknown = np.full(len(jets), np.nan, np.float32)
    scalars = np.stack([jets.scalars.get(name, unknown) for name in SCALARS], axis=-1)
    return Batch(
        torch.from_numpy(p4).view(len(jets), num, 4),
        torch.from_numpy(padded).view(len(jets), num, -1),
        torch.from_numpy(mask).view(len(jets), num),
        torch.from_numpy(np.array(jets.labels, np.int64)),
        torch.from_numpy(scalars.astype(np.float32)),
        torch.from_numpy(np.arange(len(jets)) if index is None else np.array(index, np.int64)),
    )


BatchType = TypeVar("BatchType", covariant=True)


class Dataset(Protocol[BatchType]):
    """What a loader needs to know of a data set of jets or events.

    Attributes:
        info: What the data set says of itself.
        normalization: Of the features.
        fingerprint: Identifies the content.
        num_particles: Particles of each jet or event, (J,) int64.
        counted: What is counted, `jets` or `events`.
    """

    info: DatasetInfo
    normalization: Normalization
    fingerprint: str
    num_particles: Array
    counted: str

    def __len__(self) -> int: ...

    def batch(self, index: Array) -> BatchType:
        """Read, normalise and pad the jets or events of the numbers `index`, (B,) int64."""
        ...


class Loader(Generic[BatchType]):
    """Iterates over batches, from the cursor to the end of the epoch.

    Args:
        dataset: The jets or events.
        batch_size: Jets or events per batch of this process.
        seed: Seed of the order.
        shuffle: Random order; without it the jets come as they lie, unsorted, the last batch shorter.
        rank: Number of this process.
        world_size: Number of processes; each epoch's batches are dealt to them in turn.

    Raises:
        UserError: With shuffling, there are fewer jets than one batch for each process.
    """

    def __init__(
        self,
        dataset: Dataset[BatchType],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset, self.batch_size, self.seed, self.shuffle = dataset, batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch = self.step = 0
        self._order: tuple[int, list[Array]] | None = None
        if shuffle and len(dataset) < batch_size * world_size:
            raise UserError(
                f"{len(dataset)} {dataset.counted} do not fill a batch of {batch_size} for each of "
                f"{world_size} processes; use more {dataset.counted} or a smaller batch size."
            )

    def __len__(self) -> int:
        """Steps per epoch of one process."""
        if self.shuffle:
            return len(self.dataset) // (self.batch_size * self.world_size)
        return -(-len(self.dataset) // (self.batch_size * self.world_size))

    def batch_indices(self, epoch: int, step: int) -> Array:
        """Jets of one batch of this process.

        Args:
            epoch: Epoch number, from 0.
            step: Step within the epoch, from 0.

        Returns:
            Numbers of the jets, (B,) int64.
        """
        if not self.shuffle:
            start = (step * self.world_size + self.rank) * self.batch_size
            return np.arange(start, min(start + self.batch_size, len(self.dataset)))
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._epoch_batches(epoch))
        return self._order[1][step * self.world_size + self.rank]

    def _epoch_batches(self, epoch: int) -> list[Array]:
        """All batches of an epoch; `world_size` neighbours are one step of all processes."""
        order = epoch_permutation(self.seed, epoch, len(self.dataset))
        return list(order[: len(self) * self.batch_size * self.world_size].reshape(-1, self.batch_size))

    def __iter__(self) -> Iterator[BatchType]:
        """Yield the rest of the epoch and move the cursor; the next iteration starts the next epoch."""
        while self.step < len(self):
            index = self.batch_indices(self.epoch, self.step)
            self.step += 1
            if len(index):
                yield self.dataset.batch(index)
        self.epoch, self.step = self.epoch + 1, 0

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[BatchType]:
        """Yield the batches of an epoch from one of them on.

        Args:
            epoch: Epoch number, from 0.
            start: First step, from 0.

        Yields:
            Batches of this process.
        """
        self.epoch, self.step = epoch, start
        yield from self

    @property
    def signature(self) -> str:
        """What decides the order and the content of the batches, as one word."""
        parts = (self.dataset.fingerprint, len(self.dataset), self.batch_size * self.world_size, self.seed)
        return "-".join(map(str, parts))

    def state_dict(self) -> dict[str, int]:
        """The cursor: what has been yielded, counted for all processes together."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "step": self.step,
            "num_jets": len(self.dataset),
            "group": self.batch_size * self.world_size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a cursor.

        Args:
            state: What `state_dict` gave.

        Raises:
            CheckpointError: The cursor belongs to other data or to another total batch size.
        """
        own = self.state_dict()
        for name, text in (("num_jets", "number of training jets"), ("group", "total batch size")):
            if state[name] != own[name]:
                raise CheckpointError(
                    f"The checkpoint was made with a {text} of {state[name]}, not {own[name]}; "
                    "resume with the same data and batch size."
                )
        self.seed, self.epoch, self.step = state["seed"], state["epoch"], state["step"]
        self._order = None


JetLoader = Loader[Batch]
