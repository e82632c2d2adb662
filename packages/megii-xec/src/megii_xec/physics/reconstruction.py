r"""The conventional reconstruction: what a network has to beat.

Position, two ways, both in a window of the inner face around its brightest spot:

- weighted mean (`uvw_mean`): u and v are charge-weighted means after subtracting the charge at the border of
  the window, and the depth follows from the width of the charge distribution, which grows with it;
- local fit (`uvw_fit`): a point-like light source, n_s = a d_s / r_s^3 + b, is fitted to the charges by
  damped Gauss-Newton steps in (u, v, w, a, b), as MEG II does with its solid-angle fit.

Both find the centre of the light; the first interaction lies upstream. A point is therefore moved back along
the line to the target by the mean length of a shower, and its depth goes through a calibration curve.

Energy: all photons over the share of the light that the working sensors catch from the fitted point (solid
angles, attenuation, diffuse light).

Time: mean of t_s - r_s n / c - tau / N_s over sensors above 50 photoelectrons, weighted by 1 / sigma_s^2.

The calibration constants below were fitted to simulated events of the default configuration, flat in energy.

References:
    MEG II Collaboration, arXiv:2310.12614 (event reconstruction).

Dimensions: B events, S sensors, N sensors of a window.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics.optics import diffuse_light, direct_light
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.shower import SPEED_OF_LIGHT_CM_PER_NS

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

WINDOW_HALF_SIDE = 6  # sensors on each side of the brightest: 19.6 cm square
NUM_FIT_STEPS = 6
MIN_NPE_FOR_TIME = 50.0

SHOWER_SHIFT_CM = 3.0  # from the centre of the light back to the first interaction
DEPTH_OF_WIDTH_CM = (-0.93, 4.11)  # w = c0 + c1 (width / 5 cm)^6: the width saturates in the window
DEPTH_OF_FIT_CM = (-1.33, 0.474, 0.0361)  # w = c0 + c1 x + c2 x^2 with x the fitted depth in cm
ENERGY_SCALE = 1.027  # leakage
TIME_OFFSET_NS = 0.156  # the shower starts before its centre of light


class Reconstruction(NamedTuple):
    """Conventional results. Dimension: B events."""

    uvw_mean: FloatArray  # (B, 3) cm
    uvw_fit: FloatArray  # (B, 3) cm
    energy_mev: FloatArray  # (B,)
    time_ns: FloatArray  # (B,) at the first interaction; NaN without a sensor above 50 p.e.


class _Window(NamedTuple):
    """Charges around the brightest spot of the inner face."""

    sensors: NDArray[np.int64]  # (B, N)
    charge: FloatArray  # (B, N) photons, 0 where not valid
    valid: NDArray[np.bool_]  # (B, N)
    border: NDArray[np.bool_]  # (N,)


def _window(npho: Float32Array) -> _Window:
    index_map = geo.inner_index_map()
    rows, columns = index_map.shape
    face = npho[:, : index_map.size].reshape(-1, rows, columns)
    alive = np.isfinite(face)
    padding = ((0, 0), (1, 1), (1, 1))
    charge = np.pad(np.where(alive, face, 0), padding)
    count = np.pad(alive.astype(np.float32), padding)
    # Mean over 3 x 3 sensors, so that neither a dead sensor nor a fluctuation moves the maximum.
    total, used = np.zeros_like(face), np.zeros_like(face)
    for i, j in np.ndindex(3, 3):
        total += charge[:, i : i + rows, j : j + columns]
        used += count[:, i : i + rows, j : j + columns]
    peak = (total / np.maximum(used, 1)).reshape(len(face), -1).argmax(axis=1)
    row, column = np.divmod(peak, columns)

    step = np.arange(-WINDOW_HALF_SIDE, WINDOW_HALF_SIDE + 1)
    row, column = row[:, None, None] + step[:, None], column[:, None, None] + step
    on_face = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    sensors = index_map[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)].reshape(len(face), -1)
    values = np.take_along_axis(npho, sensors, axis=1).astype(np.float64)
    valid = on_face.reshape(sensors.shape) & np.isfinite(values)
    edge = np.abs(step) == WINDOW_HALF_SIDE
    return _Window(sensors, np.where(valid, values, 0.0), valid, (edge[:, None] | edge).ravel())


def _weighted_mean(window: _Window) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Charge-weighted u and v and the width of the charge distribution, shape (B,) each, cm."""
    at_border = window.valid & window.border
    pedestal = np.sum(window.charge * at_border, axis=1) / np.maximum(at_border.sum(axis=1), 1)
    weight = np.where(window.valid, np.maximum(window.charge - pedestal[:, None], 0), 0)
    weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-9)
    uvw = co.xyz_to_uvw(geo.sensor_positions()[: geo.NUM_MPPC])
    u, v = uvw[window.sensors, 0], uvw[window.sensors, 1]
    mean_u, mean_v = np.sum(weight * u, axis=1), np.sum(weight * v, axis=1)
    variance = np.sum(weight * ((u - mean_u[:, None]) ** 2 + (v - mean_v[:, None]) ** 2), axis=1)
    return mean_u, mean_v, np.sqrt(variance)


def _fit_point(window: _Window, start: FloatArray) -> FloatArray:
    """Fit a point-like source to the window; start and result are u, v, w, shape (B, 3), cm."""
    position = np.moveaxis(geo.sensor_positions()[window.sensors], 2, 0)
    normal = np.moveaxis(geo.sensor_normals()[window.sensors], 2, 0)
    # Photon statistics, a 5 % error of calibration and model, and electronic noise, in photons.
    variance = np.maximum(window.charge, 0) / 0.12 + (0.05 * window.charge) ** 2 + 20.0**2
    weight = window.valid / variance
    uvw, linear = start.copy(), np.zeros((len(start), 2))
    columns = np.empty((*window.charge.shape, 5))  # derivatives of n_s by u, v, w, a, b
    columns[..., 4] = 1.0
    for step in range(NUM_FIT_STEPS + 1):
        sine, cosine = np.sin(uvw[:, 1] / geo.R_INNER_CM), np.cos(uvw[:, 1] / geo.R_INNER_CM)
        point = co.uvw_to_xyz(uvw)
        delta = [point[:, axis, None] - position[axis] for axis in range(3)]
        squared = sum(x * x for x in delta)
        height = sum(x * n for x, n in zip(delta, normal, strict=True))
        cubed = np.where(height > 0, 1 / (squared * np.sqrt(squared)), 0)
        slope = 3 * height / squared
        by_x, by_y, by_z = ((n - slope * x) * cubed for x, n in zip(delta, normal, strict=True))
        stretch = 1 + uvw[:, 2] / geo.R_INNER_CM  # length of a step in v at depth w
        columns[..., 0] = by_z
        columns[..., 1] = stretch[:, None] * (sine[:, None] * by_x + cosine[:, None] * by_y)
        columns[..., 2] = sine[:, None] * by_y - cosine[:, None] * by_x
        columns[..., :3] *= linear[:, 0, None, None]
        columns[..., 3] = height * cubed
        free = slice(3, 5) if step == 0 else slice(0, 5)  # the first step only finds a and b
        model = columns[..., 3] * linear[:, :1] + linear[:, 1:]
        change = _damped_step(columns[..., free], weight, window.charge - model)
        linear += change[:, -2:]
        if step > 0:
            uvw += np.clip(change[:, :3], -2.0, 2.0)
            uvw[:, 2] = np.clip(uvw[:, 2], 0.2, geo.R_OUTER_CM - geo.R_INNER_CM)
    return uvw


def _damped_step(columns: FloatArray, weight: FloatArray, residual: FloatArray) -> FloatArray:
    """Solve the normal equations of each event with 2 % added to the diagonal, shape (B, parameters)."""
    weighted = np.swapaxes(columns * weight[..., None], 1, 2)
    curvature: FloatArray = weighted @ columns
    each = np.arange(curvature.shape[1])
    curvature[:, each, each] = 1.02 * curvature[:, each, each] + 1e-30  # the constant: windows without light
    gradient: FloatArray = weighted @ residual[..., None]
    return np.asarray(np.linalg.solve(curvature, gradient)[..., 0], dtype=np.float64)


def _to_first_interaction(uvw: FloatArray, depth: FloatArray) -> FloatArray:
    """Move centres of light upstream and give them a calibrated depth, shape (B, 3), cm."""
    xyz = co.uvw_to_xyz(uvw)
    shifted: FloatArray = co.xyz_to_uvw(
        xyz * (1 - SHOWER_SHIFT_CM / np.linalg.norm(xyz, axis=1, keepdims=True))
    )
    shifted[:, 2] = np.clip(depth, 0.0, geo.R_OUTER_CM - geo.R_INNER_CM)
    return shifted


def _centre_of_light(npho: Float32Array) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Charge-weighted u, v and depth, shape (B,) each, and the fitted point (B, 3), cm."""
    window = _window(npho)
    mean_u, mean_v, width = _weighted_mean(window)
    depth_of_width = DEPTH_OF_WIDTH_CM[0] + DEPTH_OF_WIDTH_CM[1] * (width / 5.0) ** 6
    start = np.stack([mean_u, mean_v, np.clip(depth_of_width + 2.0, 1.0, 30.0)], axis=1)
    return mean_u, mean_v, depth_of_width, _fit_point(window, start)


def reconstruct_position(npho: Float32Array) -> FloatArray:
    """Locate the centre of the light, where a point-like source would be.

    Args:
        npho: Photons on each sensor, shape (B, 4760), NaN where there is no measurement.

    Returns:
        Position, shape (B, 3), cm.
    """
    return co.uvw_to_xyz(_centre_of_light(npho)[3])


def reconstruct(
    npho: Float32Array, time_ns: Float32Array, config: SimulationConfig | None = None
) -> Reconstruction:
    """Reconstruct events the conventional way.

    Args:
        npho: Photons on each sensor, shape (B, 4760), NaN where there is no measurement.
        time_ns: Pulse times, shape (B, 4760), ns, NaN where there is none.
        config: Optical constants and efficiencies; the default detector if omitted.

    Returns:
        Position, energy and time of each photon.
    """
    config = config or SimulationConfig()
    mean_u, mean_v, depth_of_width, center = _centre_of_light(npho)
    c0, c1, c2 = DEPTH_OF_FIT_CM
    depth_of_fit = c0 + center[:, 2] * (c1 + c2 * center[:, 2])

    share, distance = direct_light(config, co.uvw_to_xyz(center))
    alive = np.isfinite(npho)
    caught = np.sum(np.where(alive, share + diffuse_light(config), 0), axis=1, dtype=np.float64)
    seen: FloatArray = np.where(alive, npho, 0).sum(axis=1, dtype=np.float64)
    energy: FloatArray = seen / (caught * config.photons_per_mev)

    efficiency = np.where(geo.is_mppc(), config.mppc_pde * config.pde_scale, config.pmt_qe)
    npe = npho * efficiency.astype(np.float32)
    used = np.isfinite(time_ns) & (npe > MIN_NPE_FOR_TIME) & (share > 0)
    safe = np.where(used, npe, np.float32(1))
    flight = distance * np.float32(config.refractive_index / SPEED_OF_LIGHT_CM_PER_NS)
    start_ns = time_ns - flight - np.float32(config.first_photon_ns) / safe
    weight = used / (config.sensor_time_ns**2 + config.sensor_time_stochastic_ns**2 / safe)
    norm = weight.sum(axis=1)
    mean_ns = np.sum(np.where(used, start_ns, 0) * weight, axis=1) / np.where(norm > 0, norm, np.nan)

    return Reconstruction(
        uvw_mean=_to_first_interaction(
            np.stack([mean_u, mean_v, depth_of_width + SHOWER_SHIFT_CM], axis=1), depth_of_width
        ),
        uvw_fit=_to_first_interaction(center, depth_of_fit),
        energy_mev=ENERGY_SCALE * energy,
        time_ns=mean_ns - TIME_OFFSET_NS,
    )
