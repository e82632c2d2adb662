r"""The conventional reconstruction as part of a network: what its heads correct.

    output = conventional(sensors) + head(tokens, conventional(sensors))

A sum of 4760 charges over a solid angle is exact physics and hard to learn from a few thousand events, so the
network starts from it and learns what it misses. The formulas and constants are those of
`megii_xec.physics.reconstruction` (window, weighted mean, local fit of a point-like source, energy, time);
here they are written for tensors, in single precision and without branches, so that they run on any device
and export to ONNX. A test compares the two.

Dimensions: B events, S sensors (4760), N sensors of the window (169), P photomultipliers (668),
K components of a target.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from megii_xec.data.normalization import Normalization
from megii_xec.data.targets import NS_PER_S, TargetScaling
from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics import reconstruction as reco
from megii_xec.physics import solid_angle
from megii_xec.physics.optics import diffuse_light
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.shower import SPEED_OF_LIGHT_CM_PER_NS

NUM_FEATURES = 10
# Components of the four targets that have a conventional estimate.
CONVENTIONAL_SIZES: dict[str, int] = {"angle": 2, "energy": 1, "timing": 1, "uvwFI": 3}
_NUM_NEAR_PMTS = 32  # at most 23 lie within `NEAR_PMT_CM` of any point
_MPPC_AREA_CM2 = float(geo.sensor_area()[0])
_EDGES: list[float] = solid_angle.EDGES_CM.tolist()
_SIGNS: list[list[float]] = np.outer(solid_angle.EDGE_SIGNS, solid_angle.EDGE_SIGNS).tolist()
_FEATURE_SCALING = TargetScaling()
_MAX_DEPTH_CM = geo.R_OUTER_CM - geo.R_INNER_CM


def _buffer(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class Light(NamedTuple):
    """A point-like source that explains an event, and what it does to every sensor."""

    charge: Tensor  # (B, S) photons measured, 0 where there is no measurement
    alive: Tensor  # (B, S) where there is a count
    time_ns: Tensor  # (B, S) measured
    timed: Tensor  # (B, S) where there is a time
    center: Tensor  # (B, 3) u, v, w of the source, cm
    amplitude: Tensor  # (B,) a of the local fit
    emitted: Tensor  # (B,) photons of the source, from the sum of all charges
    direct: Tensor  # (B, S) share of them that reaches a sensor unscattered
    share: Tensor  # (B, S) share of them that reaches a sensor at all
    distance: Tensor  # (B, S) cm


class ConventionalEstimate(nn.Module):
    """Angle, energy, time and first interaction point from charges and times; nothing to train.

    Args:
        normalization: What the sensors went through; counts must be absolute and times relative.
        scaling: Offsets and scales of the targets.
        detector: Optical constants and efficiencies.
    """

    index_map: Tensor
    position: Tensor
    normal: Tensor
    area: Tensor
    extent: Tensor
    diffuse: Tensor
    efficiency: Tensor
    border: Tensor
    face_u: Tensor
    face_v: Tensor

    def __init__(
        self, normalization: Normalization, scaling: TargetScaling, detector: SimulationConfig
    ) -> None:
        super().__init__()
        self.normalization, self.scaling, self.detector = normalization, scaling, detector
        mppc = geo.is_mppc()
        step = np.abs(np.arange(-reco.WINDOW_HALF_SIDE, reco.WINDOW_HALF_SIDE + 1)) == reco.WINDOW_HALF_SIDE
        uvw = co.xyz_to_uvw(geo.sensor_positions()[: geo.NUM_MPPC])
        efficiency = np.where(mppc, detector.mppc_pde * detector.pde_scale, detector.pmt_qe)
        buffers = {
            "index_map": geo.inner_index_map().astype(np.int64),
            "position": geo.sensor_positions().astype(np.float32),
            "normal": geo.sensor_normals().astype(np.float32),
            "area": geo.sensor_area().astype(np.float32),
            "extent": np.where(mppc, solid_angle.MPPC_EXTENT_CM2 / 2, solid_angle.PMT_EXTENT_CM2 / 2).astype(
                np.float32
            ),
            "diffuse": diffuse_light(detector),
            "efficiency": efficiency.astype(np.float32),
            "border": (step[:, None] | step).ravel(),
            "face_u": uvw[:, 0].astype(np.float32),
            "face_v": uvw[:, 1].astype(np.float32),
        }
        for name, array in buffers.items():
            self.register_buffer(name, _buffer(array), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Reconstruct events.

        Args:
            x: Normalised counts and times, shape (B, S, 2).
            mask: True where a sensor is hidden, shape (B, S).

        Returns:
            Targets `angle`, `energy`, `timing` and `uvwFI` in the units of `scaling`, shape (B, K) each, and
            what the heads look at, shape (B, 10), order one: the same in default scaling, where the point
            lies between four sensors, and the logarithm of the energy from the fitted amplitude over that
            from the sum of all charges, which tells how the shower developed. float32.
        """
        physical, features = self.describe(self.light(x, mask))
        return {name: self.scaling.scale(name, physical[name]) for name in CONVENTIONAL_SIZES}, features

    def describe(self, light: Light) -> tuple[dict[str, Tensor], Tensor]:
        """Say what the photon was like that made this light.

        Args:
            light: What `light` found.

        Returns:
            Targets in physical units, shape (B, K) each, and features, see `forward`, shape (B, 10).
        """
        center = light.center
        energy_mev = reco.ENERGY_SCALE * light.emitted / self.detector.photons_per_mev
        physical = {
            "energy": energy_mev[:, None] / 1000.0,
            "timing": self._time(light)[:, None],
            "uvwFI": _to_first_interaction(center),
        }
        physical["angle"] = co.vector_to_angles(co.uvw_to_xyz(physical["uvwFI"]))
        features = [_FEATURE_SCALING.scale(name, physical[name]) for name in CONVENTIONAL_SIZES]
        between = center[:, :2] / center.new_tensor(geo.MPPC_PITCH_CM)
        features.append(2 * (between - between.round()))
        emitted_mev = light.amplitude * (4 * math.pi / (_MPPC_AREA_CM2 * self.detector.photons_per_mev))
        development = (emitted_mev.clamp(min=1e-3) / energy_mev.clamp(min=1e-3)).log()
        features.append(3 * development.clamp(-3.0, 3.0)[:, None])
        return physical, torch.cat(features, dim=1)

    def light(self, x: Tensor, mask: Tensor | None = None) -> Light:
        """Find the point-like source that explains the sensors which are seen.

        Args:
            x: Normalised counts and times, shape (B, S, 2).
            mask: True where a sensor is hidden, shape (B, S).

        Returns:
            The source and its light on all sensors, hidden ones too. float32.
        """
        x = x.float()
        alive = x[..., 0] != self.normalization.sentinel_npho
        if mask is not None:
            alive = alive & ~mask
        charge = torch.where(alive, self.normalization.denormalize_npho(x[..., 0]), 0.0)
        timed = alive & (x[..., 1] != self.normalization.sentinel_time)
        time_ns = (x[..., 1] + self.normalization.time_shift) * (self.normalization.time_scale_s * NS_PER_S)

        sensors, valid = self._window(charge, alive)
        in_window = torch.where(valid, charge.gather(1, sensors), 0.0)
        u, v, width = self._weighted_mean(sensors, valid, in_window)
        c0, c1 = reco.DEPTH_OF_WIDTH_CM
        depth = (c0 + c1 * (width / 5.0) ** 6 + 2.0).clamp(1.0, 30.0)
        center, amplitude = self._fit_point(sensors, valid, in_window, torch.stack([u, v, depth], dim=1))
        direct, distance = self._direct_light(center, sensors)
        share = direct + self.diffuse
        caught = torch.where(alive, share, 0.0).sum(1)
        emitted = charge.sum(1) / caught.clamp(min=1e-6)
        return Light(charge, alive, time_ns, timed, center, amplitude, emitted, direct, share, distance)

    def _window(self, charge: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Sensors (B, N) around the brightest spot of the inner face, and which of them count."""
        rows, columns = self.index_map.shape
        shape = (-1, 1, rows, columns)
        total, used = (
            functional.avg_pool2d(image[:, : rows * columns].reshape(shape), 3, stride=1, padding=1)
            for image in (charge, alive.float())
        )
        peak = (total / used.clamp(min=1 / 9)).flatten(1).argmax(1)
        row = torch.div(peak, columns, rounding_mode="floor")
        column = peak - row * columns
        step = torch.arange(-reco.WINDOW_HALF_SIDE, reco.WINDOW_HALF_SIDE + 1, device=charge.device)
        near_rows = (row[:, None] + step)[:, :, None]
        near_columns = (column[:, None] + step)[:, None, :]
        on_face = (near_rows >= 0) & (near_rows < rows) & (near_columns >= 0) & (near_columns < columns)
        flat = near_rows.clamp(0, rows - 1) * columns + near_columns.clamp(0, columns - 1)
        sensors = self.index_map.flatten()[flat.flatten(1)]
        return sensors, on_face.flatten(1) & alive.gather(1, sensors)

    def _weighted_mean(self, sensors: Tensor, valid: Tensor, charge: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Charge-weighted u, v and width of the charge distribution, shape (B,) each, cm."""
        at_border = (valid & self.border).float()
        pedestal = (charge * at_border).sum(1) / at_border.sum(1).clamp(min=1.0)
        weight = torch.where(valid, (charge - pedestal[:, None]).clamp(min=0.0), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-9)
        u, v = self.face_u[sensors], self.face_v[sensors]
        mean_u, mean_v = (weight * u).sum(1), (weight * v).sum(1)
        variance = (weight * ((u - mean_u[:, None]) ** 2 + (v - mean_v[:, None]) ** 2)).sum(1)
        return mean_u, mean_v, variance.clamp(min=1e-12).sqrt()

    def _fit_point(
        self, sensors: Tensor, valid: Tensor, charge: Tensor, start: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Fit n_s = a d_s / r_s^3 + b to the window from `start`: (u, v, w), shape (B, 3), cm; a, (B,)."""
        position, normal = self.position[sensors], self.normal[sensors]
        variance = charge.clamp(min=0.0) / 0.12 + (0.05 * charge) ** 2 + 20.0**2
        weight = valid.float() / variance
        uvw, linear = start, torch.zeros_like(start[:, :2])  # a and b
        for step in range(reco.NUM_FIT_STEPS + 1):
            delta = co.uvw_to_xyz(uvw)[:, None] - position
            squared, height = (delta * delta).sum(-1), (delta * normal).sum(-1)
            cubed = torch.where(height > 0, squared**-1.5, 0.0)
            by_linear = torch.stack([height * cubed, torch.ones_like(charge)], dim=-1)
            residual = charge - (by_linear * linear[:, None]).sum(-1)
            if step == 0:  # only a and b
                linear = damped_step(by_linear, weight, residual)
                continue
            by_xyz = (normal - (3 * height / squared)[..., None] * delta) * cubed[..., None]
            by_uvw = (by_xyz[:, :, None] * _directions(uvw)[:, None]).sum(-1) * linear[:, :1, None]
            change = damped_step(torch.cat([by_uvw, by_linear], dim=-1), weight, residual)
            linear = linear + change[:, 3:]
            moved = uvw + change[:, :3].clamp(-2.0, 2.0)
            uvw = torch.cat([moved[:, :2], moved[:, 2:].clamp(0.2, _MAX_DEPTH_CM)], dim=1)
        return uvw, linear[:, 0]

    def _direct_light(self, center: Tensor, sensors: Tensor) -> tuple[Tensor, Tensor]:
        """Share of the light of a point that reaches each sensor unscattered, and distances (B, S), cm."""
        point = co.uvw_to_xyz(center)
        squared = height = torch.zeros_like(self.diffuse)
        for p, q, n in zip(point.unbind(-1), self.position.unbind(-1), self.normal.unbind(-1), strict=True):
            delta = p[:, None] - q
            squared = squared + delta**2
            height = height + delta * n
        height = height.clamp(min=0.0)
        distance = squared.sqrt()
        # The expansion in the distance serves most sensors; those close to the point get their exact form.
        inverse = 1 / squared
        correction = 1 + self.extent * inverse * (9 - 15 * height**2 * inverse)
        omega = self.area * height * inverse / distance * correction
        close = squared.gather(1, sensors) < solid_angle.NEAR_MPPC_CM**2
        exact = torch.where(close, self._mppc_solid_angle(point, sensors), omega.gather(1, sensors))
        omega = omega.scatter(1, sensors, exact)
        tubes = squared[:, geo.NUM_MPPC :].topk(_NUM_NEAR_PMTS, dim=1, largest=False).indices + geo.NUM_MPPC
        squared_near, height_near = squared.gather(1, tubes), height.gather(1, tubes)
        close = squared_near < solid_angle.NEAR_PMT_CM**2
        exact = torch.where(close, _disc_solid_angle(squared_near, height_near), omega.gather(1, tubes))
        omega = omega.scatter(1, tubes, exact)
        lit = torch.cat(
            [omega[:, : geo.NUM_MPPC], self._without_shadow(point, omega[:, geo.NUM_MPPC :])], dim=1
        )
        factor = (1 - self.detector.diffuse_fraction) / (4 * math.pi)
        return lit * factor * (distance * (-1 / self.detector.absorption_length_cm)).exp(), distance

    def _mppc_solid_angle(self, point: Tensor, sensors: Tensor) -> Tensor:
        """Exact solid angles of the window, shape (B, N), sr."""
        offset = point[:, None, :] - self.position[sensors]
        normal = self.normal[sensors]
        height = (offset * normal).sum(-1)
        along_phi = normal[..., 0] * offset[..., 1] - normal[..., 1] * offset[..., 0]
        edges, signs = height.new_tensor(_EDGES), height.new_tensor(_SIGNS)
        x = (edges - offset[..., 2, None])[..., :, None]
        y = (edges - along_phi[..., None])[..., None, :]
        d = height.clamp(min=1e-3)[..., None, None]
        corners = torch.atan(x * y / (d * (x * x + y * y + d * d).sqrt()))
        return torch.where(height > 0, (corners * signs).flatten(2).sum(-1), 0.0)

    def _without_shadow(self, point: Tensor, omega: Tensor) -> Tensor:
        """Solid angles of the photomultipliers (B, P), 0 where the bore of the barrel hides them."""
        tube_x, tube_y = self.position[geo.NUM_MPPC :, :2].unbind(-1)
        x, y = point[:, 0, None], point[:, 1, None]
        step_x, step_y = tube_x - x, tube_y - y
        length = step_x**2 + step_y**2
        along = -(x * step_x + y * step_y)
        moment = x * step_y - y * step_x
        hidden = (along > 0) & (along < length) & (moment**2 < geo.R_LXE_MIN_CM**2 * length)
        return torch.where(hidden, 0.0, omega)

    def time_of_flight(self, distance: Tensor, npho: Tensor) -> Tensor:
        """Time from the source to the pulse of a sensor: straight flight and wait for the first photon.

        Args:
            distance: From the source, shape (B, S), cm.
            npho: Photons on the sensor, shape (B, S).

        Returns:
            Delay, shape (B, S), ns.
        """
        flight = distance * (self.detector.refractive_index / SPEED_OF_LIGHT_CM_PER_NS)
        return flight + self.detector.first_photon_ns / (npho * self.efficiency).clamp(min=1.0)

    def time_variance(self, npho: Tensor) -> Tensor:
        """Variance of the time of sensors with that many photons, shape (B, S), ns2."""
        npe = (npho * self.efficiency).clamp(min=1.0)
        return self.detector.sensor_time_ns**2 + self.detector.sensor_time_stochastic_ns**2 / npe

    def _time(self, light: Light) -> Tensor:
        """Time at the first interaction after the earliest sensor, shape (B,), ns; 0 where none is known."""
        npe = light.charge * self.efficiency
        used = light.timed & (npe > reco.MIN_NPE_FOR_TIME) & (light.direct > 0)
        npho = torch.where(used, light.charge, 1.0 / self.efficiency)
        start = torch.where(used, light.time_ns - self.time_of_flight(light.distance, npho), 0.0)
        weight = used.float() / self.time_variance(npho)
        norm = weight.sum(1)
        mean = (start * weight).sum(1) / torch.where(norm > 0, norm, 1.0)
        return torch.where(norm > 0, mean - reco.TIME_OFFSET_NS, 0.0)


def _disc_solid_angle(squared: Tensor, height: Tensor) -> Tensor:
    """Solid angle of a photomultiplier from squared distance (cm2) and height (cm) of a point, sr."""
    radius = geo.PMT_RADIUS_CM
    rho = (squared - height**2).clamp(min=0.0).sqrt()[..., None]
    cosine = rho.new_tensor(solid_angle.CONTOUR_COS.tolist())
    q = (squared[..., None] + radius**2 + 2 * radius * rho * cosine).sqrt()
    mean = ((radius + rho * cosine) / (q * (q + height[..., None]))).mean(-1)
    return torch.where(height > 0, 2 * math.pi * radius * mean, 0.0)


def _to_first_interaction(center: Tensor) -> Tensor:
    """Move centres of light upstream and give them a calibrated depth, shape (B, 3), cm."""
    xyz = co.uvw_to_xyz(center)
    shifted = co.xyz_to_uvw(xyz * (1 - reco.SHOWER_SHIFT_CM / (xyz**2).sum(-1, keepdim=True).sqrt()))
    c0, c1, c2 = reco.DEPTH_OF_FIT_CM
    fitted = center[:, 2]
    depth = (c0 + fitted * (c1 + c2 * fitted)).clamp(0.0, _MAX_DEPTH_CM)
    return torch.stack([shifted[:, 0], shifted[:, 1], depth], dim=1)


def _directions(uvw: Tensor) -> Tensor:
    """Steps in x, y, z for steps in u, v, w, shape (B, 3, 3)."""
    angle = uvw[:, 1] / geo.R_INNER_CM
    stretch = 1 + uvw[:, 2] / geo.R_INNER_CM  # length of a step in v at depth w
    sine, cosine = angle.sin(), angle.cos()
    zero, one = torch.zeros_like(sine), torch.ones_like(sine)
    flat = [zero, zero, one, stretch * sine, stretch * cosine, zero, -cosine, sine, zero]
    return torch.stack(flat, dim=1).reshape(-1, 3, 3)


def damped_step(columns: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """Solve weighted normal equations with 2 % added to the diagonal, by Gauss-Jordan elimination.

    A batched solver does not export to ONNX, a matrix product would run in half precision under autocast, and
    a damped positive definite matrix needs no pivoting.

    Args:
        columns: Derivatives of the model by its M parameters, shape (B, N, M).
        weight: Inverse variances, shape (B, N).
        residual: Measurement minus model, shape (B, N).

    Returns:
        Changes of the parameters, shape (B, M).
    """
    num = columns.shape[-1]
    weighted = columns * weight[..., None]
    curvature = (weighted[..., :, None] * columns[..., None, :]).sum(1)
    gradient = (weighted * residual[..., None]).sum(1)
    unit = torch.eye(num, dtype=columns.dtype, device=columns.device)
    curvature = curvature * (1 + 0.02 * unit) + 1e-30 * unit  # the constant: windows without light
    system = torch.cat([curvature, gradient[..., None]], dim=-1)
    for i in range(num):
        row = system[:, i : i + 1] / system[:, i : i + 1, i : i + 1]
        is_row = unit[i, :, None] > 0
        system = torch.where(is_row, row, system - system[:, :, i : i + 1] * row)
    return system[..., -1]
