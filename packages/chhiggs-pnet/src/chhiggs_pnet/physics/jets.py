"""Jets from partons: the Cambridge/Aachen algorithm with four-momentum recombination.

The two hadronic objects nearest in ΔR merge until none are nearer than R (Y. Dokshitzer et al., JHEP 08
(1997) 001). A jet carries the heaviest flavour it holds.

P slots, N events; momenta are (4, P, N) in GeV.
"""

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics.kinematics import Array, delta_r2, eta, phi
from chhiggs_pnet.physics.particles import Kind

RADIUS = 0.4


def hadronic(momenta: Array, kinds: NDArray[np.int8]) -> tuple[Array, NDArray[np.int8]]:
    """Leave out leptons and neutrinos.

    Args:
        momenta: In GeV, (4, P, N).
        kinds: `Kind`, (P, N).

    Returns:
        Momenta and kinds in the same slots, 0 and NONE where nothing hadronic is.
    """
    kinds = np.where(kinds >= Kind.TAU_JET, kinds, Kind.NONE).astype(np.int8)
    return np.where(kinds != Kind.NONE, momenta, 0.0), kinds


def cluster(
    momenta: Array, kinds: NDArray[np.int8], radius: float = RADIUS
) -> tuple[Array, NDArray[np.int8]]:
    """Merge hadronic objects closer than the radius.

    Args:
        momenta: In GeV, (4, P, N).
        kinds: `Kind`, (P, N); leptons and neutrinos take no part and are left out of the result.
        radius: Distance R in ΔR.

    Returns:
        Momenta and kinds in the same slots; of a merged pair the lower slot holds the jet.
    """
    momenta, kinds = hadronic(momenta, kinds)
    first, second = np.triu_indices(len(kinds), 1)
    events = np.arange(kinds.shape[1])
    while events.size:
        part = momenta[:, :, events]
        etas, phis = eta(part), phi(part)
        # An empty slot gets a place of its own, far from every jet and from the other empty ones.
        etas = np.where(kinds[:, events] != Kind.NONE, etas, 100.0 * np.arange(1, len(kinds) + 1)[:, None])
        distance = delta_r2(etas[first], phis[first], etas[second], phis[second])
        nearest = distance.argmin(axis=0)
        merges = distance[nearest, np.arange(events.size)] < radius**2
        events, keep, drop = events[merges], first[nearest[merges]], second[nearest[merges]]
        momenta[:, keep, events] += momenta[:, drop, events]
        momenta[:, drop, events] = 0.0
        kinds[keep, events] = np.maximum(kinds[keep, events], kinds[drop, events])
        kinds[drop, events] = Kind.NONE
    return momenta, kinds
