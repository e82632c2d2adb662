"""Final states in fixed slots, the form in which generation and detector hand events to each other."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics.kinematics import Array

Mask = NDArray[np.bool_]


class Kind(IntEnum):
    """What a slot holds; quarks and gluons are jets in the making, ordered by flavour weight."""

    NONE = 0
    MUON = 1
    ELECTRON = 2
    NEUTRINO = 3
    TAU_JET = 4
    LIGHT = 5
    CHARM = 6
    BOTTOM = 7


@dataclass(frozen=True)
class Particles:
    """Final states of N events in P slots; the leptons, if any, sit in the first `num_lepton_slots`.

    Attributes:
        momenta: (4, P, N) in GeV; 0 in empty slots.
        kinds: `Kind`, (P, N) int8.
        charges: Charges of electrons and muons, (P, N) int8.
        activity: Hadronic momentum around a lepton relative to its pt, 0 for a prompt one, (L, N).
        num_lepton_slots: L, how many slots may hold leptons.
    """

    momenta: Array
    kinds: NDArray[np.int8]
    charges: NDArray[np.int8]
    activity: Array
    num_lepton_slots: int

    def __len__(self) -> int:
        return int(self.kinds.shape[1])

    def take(self, events: Mask | NDArray[np.intp]) -> "Particles":
        """Keep some events.

        Args:
            events: Mask (N,) or indices.

        Returns:
            The events kept, in the order given.
        """
        index = np.flatnonzero(events) if events.dtype == np.bool_ else events
        return Particles(
            self.momenta[:, :, index],
            self.kinds[:, index],
            self.charges[:, index],
            self.activity[:, index],
            self.num_lepton_slots,
        )
