r"""Conventional guesses for dead sensors: what an inpainter has to beat.

- neighbour mean: the mean of the live ones among the 8 nearest sensors of the same face; among the 24 nearest
  where none of the 8 lives, on the face where none of those does;
- solid angle: a point-like source at the conventionally reconstructed position lights sensor s with the share
  Ω_s, and the neighbours j tell how much light there is locally,  n_s = Ω_s Σ_j n_j / Σ_j Ω_j.

Times are neighbour means in both cases.

Dimensions: B events, S sensors, K neighbours.
"""

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics.geometry import FACES, face_ids
from megii_xec.physics.neighbors import RINGS, nearest_on_face
from megii_xec.physics.optics import diffuse_light, direct_light
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.reconstruction import reconstruct_position

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


def solid_angle_guess(npho: Float32Array, config: SimulationConfig | None = None) -> Float32Array:
    """Guess every sensor by the light of a point-like source.

    Args:
        npho: Photons on each sensor, NaN where there is no measurement, shape (B, S).
        config: Optical constants; the default detector if omitted.

    Returns:
        Expected photons, shape (B, S).
    """
    config = config or SimulationConfig()
    share, _ = direct_light(config, reconstruct_position(npho))
    expected = (share + diffuse_light(config)).astype(np.float32)
    alive = np.isfinite(npho)
    light = local_ratio(
        np.where(alive, npho, np.float32(0)), np.where(alive, expected, np.float32(0)).astype(np.float32)
    )
    return expected * light
