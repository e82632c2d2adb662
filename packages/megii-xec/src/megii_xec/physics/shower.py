r"""The electromagnetic shower as a handful of point-like energy deposits.

Six to eight clumps share the photon energy (Dirichlet with concentration 2). A clump lies at a path s behind
the conversion point, drawn from the profile s exp(-s / L) of scale L = 2.5 cm, and off axis by a Gaussian
whose width grows with s, because the spread comes from scattering on the way: 1.6 cm at the mean path 2 L.
This gives a core at the conversion point and the transverse size of a shower with Moliere radius near 5 cm.
Clumps outside of the xenon make no light: leakage.

Dimensions: C clumps of all events one after another.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics import geometry as geo
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.source import Photons

FloatArray = NDArray[np.float64]

SPEED_OF_LIGHT_CM_PER_NS = 29.9792458
ENERGY_SHARE_CONCENTRATION = 2.0


class Clumps(NamedTuple):
    """Energy deposits of many photons; those of photon i are at `start[i]` to `start[i + 1]`."""

    position: FloatArray  # (C, 3) cm
    energy_mev: FloatArray  # (C,) 0 outside of the xenon
    time_ns: FloatArray  # (C,) after the first interaction
    start: NDArray[np.int64]  # (B + 1,)


def sample_showers(config: SimulationConfig, photons: Photons, rng: np.random.Generator) -> Clumps:
    """Draw the energy deposits of each photon.

    Args:
        config: Shower parameters.
        photons: Photons with their conversion points.
        rng: Source of random numbers.

    Returns:
        The clumps of all photons.
    """
    num_photons = len(photons.energy_mev)
    counts = rng.integers(config.min_clumps, config.max_clumps, num_photons, endpoint=True)
    start = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(num_photons), counts)

    share = rng.gamma(ENERGY_SHARE_CONCENTRATION, 1.0, start[-1])
    share /= np.add.reduceat(share, start[:-1])[owner]

    path = rng.gamma(2.0, config.shower_length_cm, start[-1])
    width = config.shower_width_cm * path / (2 * config.shower_length_cm)
    first, second = _transverse_axes(photons.direction)
    position = photons.conversion[owner] + path[:, None] * photons.direction[owner]
    for axis in (first, second):
        position += (width * rng.standard_normal(start[-1]))[:, None] * axis[owner]

    energy = np.where(geo.inside_xenon(position), share * photons.energy_mev[owner], 0.0)
    travelled = np.linalg.norm(position - photons.conversion[owner], axis=1)
    return Clumps(position, energy, travelled / SPEED_OF_LIGHT_CM_PER_NS, start)


def _transverse_axes(direction: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Two unit vectors at right angles to each direction and to each other."""
    # Photons that reach the barrel are never along z, so the product does not vanish.
    first = np.cross(direction, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    return first, np.cross(direction, first)
