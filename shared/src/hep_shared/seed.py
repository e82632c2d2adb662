"""Random numbers that depend only on what they are for, never on what was drawn before.

The counter-based generator Philox4x64-10 (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC'11) maps (key, counter) to random bits. With key = (seed, purpose) and counter = (0, 0, epoch, event) every
event of every epoch owns 2^128 blocks of its own, so a resumed run, or one with another number of workers,
sees the same numbers.
"""

import random

import numpy as np

_PERMUTATION, _EVENT, _STEP = 1, 2, 3  # purposes: second half of the key


def _philox(seed: int, purpose: int, epoch: int, event: int) -> np.random.Philox:
    key = np.array([seed, purpose], dtype=np.uint64)
    # Philox counts up from the first word: epoch and event stay fixed unless 2^128 blocks are drawn.
    return np.random.Philox(key=key, counter=np.array([0, 0, epoch, event], dtype=np.uint64))


def epoch_permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Order of the events in one epoch.

    Sorted raw bits instead of ``Generator.permutation``: NumPy keeps the bit streams of its bit generators
    over versions, but not the algorithms on top of them.

    Args:
        seed: Seed of the run, non-negative.
        epoch: Epoch number, from 0.
        n: Number of events.

    Returns:
        A permutation of 0 … n-1, (n,) int64.
    """
    return np.argsort(_philox(seed, _PERMUTATION, epoch, 0).random_raw(n), kind="stable")


def event_generator(seed: int, epoch: int, event_id: int) -> np.random.Generator:
    """Generator for the augmentation of one event in one epoch.

    Args:
        seed: Seed of the run, non-negative.
        epoch: Epoch number, from 0.
        event_id: Number of the event in the data set, from 0.

    Returns:
        A generator independent of every other (seed, epoch, event_id).
    """
    return np.random.Generator(_philox(seed, _EVENT, epoch, event_id))


def shard_seed(seed: int, index: int) -> np.random.SeedSequence:
    """Seed of one shard of a simulation, the same whichever machine makes it.

    Args:
        seed: Seed of the whole simulation, non-negative.
        index: Number of the shard, from 0.

    Returns:
        The child ``index`` of SeedSequence(seed).
    """
    return np.random.SeedSequence(seed, spawn_key=(index,))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (every device).

    Args:
        seed: Seed of the run, non-negative.
    """
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that draw from the legacy generator
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed torch for one optimiser step, so that dropout after a resume is what it would have been.

    The state of a generator would do for one process; with the step in the seed every rank of a resumed
    distributed training draws its own former numbers too.

    Args:
        seed: Seed of the run, non-negative.
        step: Optimiser steps taken before.
        rank: Rank of this process.
    """
    import torch

    torch.manual_seed(int(_philox(seed, _STEP, step, rank).random_raw()))
