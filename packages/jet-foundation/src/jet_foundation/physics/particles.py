"""Flat lists of particles, before and after the detector.

All events of a chunk lie in one array, with the event number beside each particle, so that every step is a
vectorised operation.

Dimensions: K particles of all events together.
"""

from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Kinds of energy-flow objects, in the order of the five flags of JetClass.
CHARGED_HADRON, NEUTRAL_HADRON, PHOTON, ELECTRON, MUON = range(5)


class _Columns:
    """Columns of equal length."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))  # type: ignore[arg-type]

    def __getitem__(self, index: Array) -> Self:
        columns = {field.name: getattr(self, field.name)[index] for field in fields(self)}  # type: ignore[arg-type]
        return type(self)(**columns)


@dataclass(frozen=True)
class Particles(_Columns):
    """Stable particles of a generator.

    Attributes:
        event: Event number, (K,) int64, non-decreasing.
        p4: Four-vectors (E, px, py, pz) at the production vertex, (K, 4) GeV.
        pid: PDG code, (K,) int64.
        charge: Charge, (K,) int64, units of e.
        vertex: Production vertex, (K, 3) mm.
    """

    event: Array
    p4: Array
    pid: Array
    charge: Array
    vertex: Array


@dataclass(frozen=True)
class EnergyFlow(_Columns):
    """What the detector reconstructs.

    Attributes:
        event: Event number, (K,) int64.
        p4: Four-vectors (E, px, py, pz), (K, 4) GeV.
        charge: Charge, (K,) int64.
        kind: `CHARGED_HADRON` to `MUON`, (K,) int64.
        displacement: d0, its error, dz, its error, (K, 4) mm; zero for neutral objects.
    """

    event: Array
    p4: Array
    charge: Array
    kind: Array
    displacement: Array


_C = TypeVar("_C", Particles, EnergyFlow)


def concatenate(parts: list[_C]) -> _C:
    """Join lists of particles, without sorting.

    Args:
        parts: At least one list.

    Returns:
        All of them, one after another.
    """
    names = [field.name for field in fields(parts[0])]
    return type(parts[0])(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})
