r"""Where photons start, where they go and where they first interact.

Muons stop on a thin target whose plane makes an angle s with the beam,

    z ~ N(0, sigma_z),  x = z tan(s),  y ~ N(0, sigma_y).

A photon aims at a point of the inner face that is uniform in u and v, and converts after an exponential path
in the xenon; only photons that convert inside are kept, which is what the trigger does.

The calorimeter sees the conversion point but not the vertex. Its best direction is the one from the mean
vertex, and the spread of the vertices along the beam, 3 cm at 65 cm, limits the opening angle
(`angle_bayes_floor_deg`).

References:
    MEG II Collaboration, The design of the MEG II experiment, arXiv:1801.04688.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics.parameters import SimulationConfig

FloatArray = NDArray[np.float64]


class Photons(NamedTuple):
    """Photons that convert in the xenon. Dimension: B photons."""

    energy_mev: FloatArray  # (B,)
    vertex: FloatArray  # (B, 3) cm
    direction: FloatArray  # (B, 3) unit vectors
    conversion: FloatArray  # (B, 3) cm, first interaction


def entry_distance(vertex: FloatArray, direction: FloatArray) -> FloatArray:
    """Return the path from the vertex to the xenon, the cylinder of radius 64.84 cm.

    Args:
        vertex: Start inside the bore, shape (B, 3), cm.
        direction: Unit vectors, shape (B, 3).

    Returns:
        Path length, shape (B,), cm.
    """
    a = np.sum(direction[:, :2] ** 2, axis=1)
    b = np.sum(vertex[:, :2] * direction[:, :2], axis=1)
    c = np.sum(vertex[:, :2] ** 2, axis=1) - geo.R_LXE_MIN_CM**2
    distance: FloatArray = (np.sqrt(b * b - a * c) - b) / a
    return distance


def _propose(config: SimulationConfig, num: int, rng: np.random.Generator) -> Photons:
    z = rng.normal(0.0, config.vertex_sigma_z_cm, num)
    y = rng.normal(0.0, config.vertex_sigma_y_cm, num)
    vertex = np.stack([z * np.tan(np.deg2rad(config.target_slant_deg)), y, z], axis=1)

    u = rng.uniform(-config.acceptance_u_cm, config.acceptance_u_cm, num)
    v = rng.uniform(-config.acceptance_v_cm, config.acceptance_v_cm, num)
    aim = co.uvw_to_xyz(np.stack([u, v, np.zeros(num)], axis=1)) - vertex
    direction = aim / np.linalg.norm(aim, axis=1, keepdims=True)

    depth = rng.exponential(config.conversion_depth_cm, num)
    conversion = vertex + (entry_distance(vertex, direction) + depth)[:, None] * direction
    if config.energy_spectrum == "signal":
        energy = np.full(num, config.signal_energy_mev)
    else:
        energy = rng.uniform(config.min_energy_mev, config.max_energy_mev, num)
    return Photons(energy, vertex, direction, conversion)


def sample_photons(config: SimulationConfig, num: int, rng: np.random.Generator) -> Photons:
    """Draw photons that convert in the xenon.

    Args:
        config: Source and conversion parameters.
        num: How many.
        rng: Source of random numbers.

    Returns:
        `num` photons.
    """
    parts: list[Photons] = []
    missing = num
    while missing > 0:
        proposed = _propose(config, missing + missing // 8 + 8, rng)
        converted = geo.inside_xenon(proposed.conversion)
        parts.append(Photons(*(field[converted][:missing] for field in proposed)))
        missing -= len(parts[-1].energy_mev)
    return Photons(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))


def angle_bayes_floor_deg(config: SimulationConfig, *, num: int = 20_000, seed: int = 0) -> float:
    """Return the opening angle that 68 % of the photons stay below when only the conversion point is known.

    The best direction without the vertex is the one from the mean vertex to the conversion point. A network
    that knows the conversion point exactly reaches this value; a smaller one on independent data points to a
    mistake.

    Args:
        config: Source parameters.
        num: Photons to draw; 20 000 give a statistical error of about 1 %.
        seed: Seed of the draw.

    Returns:
        68th percentile of the opening angle, degrees.
    """
    photons = sample_photons(config, num, np.random.default_rng(seed))
    best = photons.conversion - photons.vertex.mean(axis=0)
    return float(np.quantile(co.opening_angle_deg(best, photons.direction), 0.68))
