"""Random numbers that depend only on seed, epoch, purpose, event and place, on any device.

A stateful generator would give an event other numbers after a resume, on another number of processes, or in
another batch. Here number k of event i is a hash of (seed, epoch, purpose, i, k) by SplitMix64,

    z <- z + G;  z <- (z ^ (z >>> 30)) A;  z <- (z ^ (z >>> 27)) B;  z ^ (z >>> 31)   modulo 2^64

G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. All of it is
integer arithmetic, so CPU and GPU give the same bits, and a whole batch is drawn by a few tensor operations.

Dimensions: B events, K numbers of an event.
"""

import math
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 2**64 - 1
_G, _A, _B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 23  # of a uniform number: (n + 1/2) / 2^23 is exact in float32 and never 0 or 1


class Purpose(IntEnum):
    """What random numbers are for; each purpose has numbers of its own."""

    MASK = 1
    DEAD = 2
    DROPOUT = 3
    NOISE = 4
    TIME = 5
    ENERGY = 6
    PILEUP = 7


def uniform(seed: int, epoch: int, purpose: Purpose, index: Tensor, count: int) -> Tensor:
    """Draw uniform numbers.

    Args:
        seed: Seed of the run, non-negative.
        epoch: Epoch, from 0.
        purpose: What they are for.
        index: Numbers of the events in the data set, (B,) int64.
        count: Numbers for each event, K.

    Returns:
        Numbers in the open interval (0, 1), (B, K) float32 on the device of `index`.
    """
    key = 0
    for part in (seed, epoch, int(purpose)):
        key = _mix_int(key ^ part)
    place = torch.arange(count, device=index.device, dtype=torch.int64) * _signed(_G)
    bits = _mix(_mix(index.long() + _signed(key))[:, None] + place)
    return (_shift(bits, 64 - _BITS).to(torch.float32) + 0.5) * 2.0**-_BITS


def normal(seed: int, epoch: int, purpose: Purpose, index: Tensor, count: int) -> Tensor:
    """Draw standard normal numbers (Box and Muller); arguments as in `uniform`, (B, K) float32."""
    both = uniform(seed, epoch, purpose, index, 2 * count)
    radius = (-2 * both[:, :count].log()).sqrt()
    return radius * torch.cos(2 * math.pi * both[:, count:])


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = z + _signed(_G)
    z = (z ^ _shift(z, 30)) * _signed(_A)
    z = (z ^ _shift(z, 27)) * _signed(_B)
    return z ^ _shift(z, 31)


def _mix_int(z: int) -> int:
    z = (z + _G) & _MASK
    z = ((z ^ (z >> 30)) * _A) & _MASK
    z = ((z ^ (z >> 27)) * _B) & _MASK
    return z ^ (z >> 31)
