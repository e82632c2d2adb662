r"""From scintillation light to the mean number of photons on each sensor and their mean arrival.

A clump of energy E_k at position p_k makes Y E_k photons. A share f is scattered on the way (Rayleigh length
30 to 45 cm in xenon) and ends up everywhere; the rest goes straight:

    n_s = sum_k Y E_k [ (1 - f) Omega_s(p_k) / (4 pi) exp(-r_sk / lambda) + f A_s / A_surface ]

with r_sk the distance, Omega_s the solid angle, A_s the sensitive area and A_surface the area of the walls.
The arrival time is the mean of t_k + r_sk n / c over the clumps, weighted by their direct light.

References:
    Absorption longer than 1 m: A. Baldini et al., physics/0407033. Scattering: G. Seidel et al.,
    hep-ex/0111054.

Dimensions: K clumps of one event, S sensors.
"""

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics import geometry as geo
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.shower import SPEED_OF_LIGHT_CM_PER_NS
from megii_xec.physics.solid_angle import sensor_view

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]


def surface_area() -> float:
    """Return the area of the walls around the xenon, cm2."""
    opening = np.deg2rad(geo.PHI_MAX_DEG - geo.PHI_MIN_DEG)
    inner, outer = geo.R_LXE_MIN_CM, geo.R_OUTER_CM
    depth, mean_radius = outer - inner, (outer + inner) / 2
    barrel = 2 * opening * (inner * geo.HALF_LENGTH_INNER_CM + outer * geo.HALF_LENGTH_OUTER_CM)
    ends = 2 * opening * mean_radius * depth * np.hypot(1.0, geo.END_SLOPE)
    top_and_bottom = 2 * depth * (geo.HALF_LENGTH_INNER_CM + geo.HALF_LENGTH_OUTER_CM)
    return float(barrel + ends + top_and_bottom)


def diffuse_light(config: SimulationConfig) -> Float32Array:
    """Return the share of the emitted light that reaches each sensor scattered, shape (4760,)."""
    return (config.diffuse_fraction * geo.sensor_area() / surface_area()).astype(np.float32)


def direct_light(config: SimulationConfig, points: FloatArray) -> tuple[Float32Array, Float32Array]:
    """Return the share of the light of each point that reaches each sensor on a straight line.

    Args:
        config: Optical parameters.
        points: Positions in the xenon, shape (K, 3), cm.

    Returns:
        Shares, shape (K, 4760), and distances, shape (K, 4760), cm.
    """
    distance, share = sensor_view(points)
    attenuation = distance * np.float32(-1 / config.absorption_length_cm)
    np.exp(attenuation, out=attenuation)
    share *= attenuation
    share *= np.float32((1 - config.diffuse_fraction) / (4 * np.pi))
    return share, distance


def light_on_sensors(
    config: SimulationConfig, position: FloatArray, energy_mev: FloatArray, time_ns: FloatArray
) -> tuple[Float32Array, Float32Array]:
    """Return the light of one event on every sensor.

    Args:
        config: Optical parameters.
        position: Clumps, shape (K, 3), cm.
        energy_mev: Energy of each clump, shape (K,), MeV.
        time_ns: Time of each clump, shape (K,), ns.

    Returns:
        Mean number of photons, shape (4760,), and their mean arrival time, shape (4760,), ns. A sensor
        without direct light gets the straight-line time.
    """
    share, distance = direct_light(config, position)
    photons = (config.photons_per_mev * energy_mev).astype(np.float32)
    # The small constant only decides where there is no direct light at all.
    share += np.float32(1e-12)
    share *= photons[:, None]
    direct = share.sum(axis=0)
    distance *= np.float32(config.refractive_index / SPEED_OF_LIGHT_CM_PER_NS)
    distance += time_ns.astype(np.float32)[:, None]
    distance *= share
    arrival = distance.sum(axis=0) / np.maximum(direct, np.float32(1e-30))
    return direct + photons.sum() * diffuse_light(config), arrival
