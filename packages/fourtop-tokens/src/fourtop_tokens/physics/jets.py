"""Jets from partons: the Cambridge/Aachen algorithm with four-momentum recombination.

The two hadronic objects nearest in ΔR merge until none are nearer than R (Y. Dokshitzer et al., JHEP 08
(1997) 001). A jet carries the heaviest flavour it holds.

P slots, N events; momenta are (4, P, N) in GeV.
"""

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics.decay_modes import HADRONIC, Kind
from fourtop_tokens.physics.decays import Particles
from fourtop_tokens.physics.kinematics import delta_r2, eta, phi

RADIUS = 0.4


def cluster(particles: Particles, radius: float = RADIUS) -> Particles:
    """Merge hadronic objects that are closer than the radius.

    Args:
        particles: Partons, hadronic taus and anything else; only the hadronic ones take part.
        radius: Distance R in ΔR.

    Returns:
        The same slots; a merged pair sits in the lower one and leaves the other empty.
    """
    momenta, kinds = particles.momenta.copy(), particles.kinds.copy()
    first, second = np.triu_indices(kinds.shape[0], 1)
    events = np.arange(kinds.shape[1])
    while events.size:
        hadronic = np.isin(kinds[:, events], HADRONIC)
        etas, phis = eta(momenta[:, :, events]), phi(momenta[:, :, events])
        distance = delta_r2(etas[first], phis[first], etas[second], phis[second])
        distance[~(hadronic[first] & hadronic[second])] = np.inf
        nearest = distance.argmin(axis=0)
        merges = distance[nearest, np.arange(events.size)] < radius**2
        events, keep, drop = events[merges], first[nearest[merges]], second[nearest[merges]]
        momenta[:, keep, events] += momenta[:, drop, events]
        momenta[:, drop, events] = 0.0
        kinds[keep, events] = _flavour(kinds[keep, events], kinds[drop, events])
        kinds[drop, events] = Kind.NONE
    return Particles(momenta, kinds, particles.charges)


def _flavour(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.int8]:
    heavy = np.maximum(np.where(a == Kind.TAU_JET, Kind.LIGHT, a), np.where(b == Kind.TAU_JET, Kind.LIGHT, b))
    return heavy.astype(np.int8)
