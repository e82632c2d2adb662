r"""Conventional guesses for dead sensors: what an inpainter has to beat.

- neighbour mean: the mean of the live ones among the 8 nearest sensors of the same face; among the 24 nearest
  where none of the 8 lives, on the face where none of those does;
- solid angle: a point-like source at the conventionally reconstructed position lights sensor s with the share
  Ω_s, and the neighbours j tell how much light there is locally,  n_s = Ω_s Σ_j n_j / Σ_j Ω_j; they also tell
  when it started, once the flight r_j n / c and the wait for the first photon tau / N_j are subtracted from
  their times: the mean of these starts, weighted by 1 / sigma_j^2, plus flight and wait of s is its time.

Dimensions: B events, S sensors, K neighbours.
"""

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics.geometry import FACES, face_ids, is_mppc
from megii_xec.physics.neighbors import RINGS, nearest_on_face
from megii_xec.physics.optics import diffuse_light, direct_light
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.reconstruction import reconstruct_position
from megii_xec.physics.shower import SPEED_OF_LIGHT_CM_PER_NS

Float32Array = NDArray[np.float32]


def _local_sum(values: Float32Array, rings: int) -> Float32Array:
    """Sum over the nearest sensors, the sensor itself excluded, shape (B, S)."""
    table = nearest_on_face(rings + 1)[:, 1:]
    total = np.zeros_like(values)
    for column in table.T:
        total += values[:, column]
    return total


def local_ratio(values: Float32Array, weights: Float32Array) -> Float32Array:
    """Divide sums over neighbours, in the smallest neighbourhood that has any weight.

    Args:
        values: What is summed in the numerator, 0 where there is nothing, shape (B, S).
        weights: The denominator, shape (B, S).

    Returns:
        Ratio, NaN where a whole face has no weight, shape (B, S).
    """
    result = np.full_like(values, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        for face in FACES:
            ids = face_ids(face)
            norm = weights[:, ids].sum(1, keepdims=True)
            result[:, ids] = np.where(norm > 0, values[:, ids].sum(1, keepdims=True) / norm, np.nan)
        for rings in reversed(RINGS):
            norm = _local_sum(weights, rings)
            result = np.where(norm > 0, _local_sum(values, rings) / norm, result)
    return result


def neighbor_mean(values: Float32Array) -> Float32Array:
    """Guess every sensor by its neighbours.

    Args:
        values: Counts or times, NaN where there is none, shape (B, S).

    Returns:
        Means of the live neighbours, shape (B, S), unit of the values.
    """
    alive = np.isfinite(values)
    return local_ratio(np.where(alive, values, np.float32(0)), alive.astype(np.float32))


def solid_angle_guess(
    npho: Float32Array, time_ns: Float32Array, config: SimulationConfig | None = None
) -> tuple[Float32Array, Float32Array]:
    """Guess every sensor by the light of a point-like source.

    Args:
        npho: Photons on each sensor, NaN where there is no measurement, shape (B, S).
        time_ns: Times, NaN where there is none, shape (B, S), ns.
        config: Optical constants; the default detector if omitted.

    Returns:
        Expected photons and expected times (ns), shape (B, S) each; NaN where a whole face has none.
    """
    config = config or SimulationConfig()
    share, distance = direct_light(config, reconstruct_position(npho))
    expected = (share + diffuse_light(config)).astype(np.float32)
    alive = np.isfinite(npho)
    measured = np.where(alive, npho, np.float32(0))
    guess = expected * local_ratio(measured, np.where(alive, expected, np.float32(0)))

    efficiency = np.where(is_mppc(), config.mppc_pde * config.pde_scale, config.pmt_qe).astype(np.float32)
    flight = distance * np.float32(config.refractive_index / SPEED_OF_LIGHT_CM_PER_NS)
    timed = alive & np.isfinite(time_ns)
    npe = np.maximum(measured * efficiency, np.float32(1))
    variance = config.sensor_time_ns**2 + config.sensor_time_stochastic_ns**2 / npe
    weight = np.where(timed, 1 / variance, 0).astype(np.float32)
    start = np.where(timed, time_ns - flight - np.float32(config.first_photon_ns) / npe, np.float32(0))
    wait = np.float32(config.first_photon_ns) / np.maximum(guess * efficiency, np.float32(1))
    return guess, local_ratio(start * weight, weight) + flight + wait
