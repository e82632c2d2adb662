"""Tracks for training: read once, then drawn from memory in an order that depends on seed and epoch alone.

A sample of 50 million tracks takes 2.4 GB in float32, so the whole sample stays in memory, and a batch is
one gather. Position in the data is (epoch, batch), which makes a resumed training exact.

Dimension legend: N tracks, B tracks of a batch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hep_shared.errors import ConfigError, InputFileError
from hep_shared.seed import epoch_permutation
from lhcb_extrap.data.schema import PLANES
from lhcb_extrap.data.tracks import TrackBatch, read_tracks
from lhcb_extrap.physics.arrays import FloatArray

Split = Literal["train", "validation", "test", "all"]
NUM_INPUTS = 7  # x, y, tx, ty, q/p, dz, z0


@dataclass(frozen=True)
class Batch:
    """Tracks of one step.

    Attributes:
        tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.
        end: x, y, tx, ty at the end, (B, 4), mm, 1.
        name: For messages.
    """

    tracks: Tensor
    end: Tensor
    name: str

    def __len__(self) -> int:
        return len(self.end)

    def to(self, device: torch.device) -> "Batch":
        """The same tracks on a device."""
        return Batch(self.tracks.to(device), self.end.to(device), self.name)

    def split(self, num_parts: int) -> list["Batch"]:
        """Cut into parts of equal size, for gradient accumulation."""
        pairs = zip(self.tracks.chunk(num_parts), self.end.chunk(num_parts), strict=True)
        return [Batch(tracks, end, self.name) for tracks, end in pairs]


@dataclass(frozen=True)
class Sample:
    """Tracks of one split in memory.

    Attributes:
        batch: x, y, tx, ty, q/p, dz; ends; momenta; planes.
        z0: Where they start, (N,), mm.
        files: Where they were read.
    """

    batch: TrackBatch
    z0: FloatArray
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.batch)

    def tensors(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Tracks (N, 7) and ends (N, 4), mm, 1, 1/MeV."""
        tracks = np.column_stack([self.batch.X, self.z0])
        return torch.from_numpy(tracks).to(dtype), torch.tensor(self.batch.Y, dtype=dtype)


def read_sample(
    files: Sequence[Path],
    split: Split = "all",
    fractions: tuple[float, float] = (0.8, 0.1),
    *,
    z0_mm: float | None = None,
    check: bool = True,
) -> Sample:
    """Read one split of some files.

    Of each file the first part is for training, the next for validation, the rest for the test; tracks of a
    simulation have no order, so this is a random split.

    Args:
        files: Track files.
        split: Which part.
        fractions: Shares of training and validation.
        z0_mm: Start of the tracks of files without planes.
        check: Check every number.

    Returns:
        The tracks, in memory, float64.

    Raises:
        InputFileError: A file cannot be used, or does not say where its tracks start.
        ConfigError: The split holds no track.
    """
    pieces: list[TrackBatch] = []
    starts: list[FloatArray] = []
    for path in files:
        whole = read_tracks(path, check=check, allow_backward=True)
        rows = _rows(len(whole), split, fractions)
        part = whole[rows]
        pieces.append(part)
        if part.Z is not None:
            starts.append(np.asarray(part.Z[:, 0], np.float64))
        elif z0_mm is not None:
            starts.append(np.full(len(part), z0_mm))
        else:
            raise InputFileError(
                path, f"has no array '{PLANES.key}' that says where tracks start", "set data.z0_mm"
            )
    batch = TrackBatch(
        np.concatenate([np.asarray(p.X, np.float64) for p in pieces]),
        np.concatenate([np.asarray(p.Y, np.float64) for p in pieces]),
        np.concatenate([np.asarray(p.P, np.float64) for p in pieces]),
    )
    if not len(batch):
        raise ConfigError(
            f"the {split} part of {files[0]} and {len(files) - 1} more files has no track; give more tracks."
        )
    return Sample(batch, np.concatenate(starts), tuple(files))


def _rows(num: int, split: Split, fractions: tuple[float, float]) -> slice:
    first, second = round(fractions[0] * num), round((fractions[0] + fractions[1]) * num)
    return {
        "train": slice(0, first),
        "validation": slice(first, second),
        "test": slice(second, num),
        "all": slice(0, num),
    }[split]


class TrackStream:
    """Batches of a sample.

    Args:
        sample: The tracks.
        batch_size: Tracks of a global batch B, over all ranks.
        shuffle: New order every epoch and whole batches only, for training.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes; each takes its share of every batch.
        dtype: Precision of the tensors.
    """

    def __init__(
        self,
        sample: Sample,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sample = sample
        self.tracks, self.end = sample.tensors(dtype)
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._rank, self._world_size = rank, world_size
        if shuffle and len(sample) < batch_size:
            raise ConfigError(
                f"the training part holds {len(sample)} tracks, fewer than data.batch_size = {batch_size}; "
                "give more tracks or a smaller batch."
            )

    @property
    def num_tracks(self) -> int:
        """Tracks of all ranks."""
        return len(self.sample)

    @property
    def num_batches(self) -> int:
        """Global batches of an epoch."""
        return (
            self.num_tracks // self._batch_size if self._shuffle else -(-self.num_tracks // self._batch_size)
        )

    @property
    def signature(self) -> str:
        """Digest of tracks and order; a training may only be resumed on the same."""
        digest = hashlib.sha256(self.tracks.numpy().tobytes())
        digest.update(f"{self._batch_size} {self._shuffle} {self._seed}".encode())
        return digest.hexdigest()[:16]

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Give this rank's share of the batches of an epoch.

        Args:
            epoch: Epoch, from 0.
            start: First batch.

        Yields:
            Batches; every rank yields as many, and the last one of an ordered stream may be empty.
        """
        order = (
            epoch_permutation(self._seed, epoch, self.num_tracks)
            if self._shuffle
            else np.arange(self.num_tracks)
        )
        for number in range(start, self.num_batches):
            chosen = order[number * self._batch_size : (number + 1) * self._batch_size]
            rows = torch.from_numpy(chosen[self._rank :: self._world_size])
            yield Batch(self.tracks[rows], self.end[rows], f"batch {number} of epoch {epoch + 1}")
