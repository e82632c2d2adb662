"""Integrals, differential identities and mirror symmetries of a magnetic field."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lhcb_extrap.physics.arrays import ArrayT, Components, Field, FloatArray, array_module
from lhcb_extrap.physics.constants import MM_PER_M

_SYMMETRY_TOLERANCE = 1.0e-5  # of the largest |B| sampled; a map in float32 rounds to 1e-7


@dataclass(frozen=True)
class FieldIntegral:
    r"""F(z), the integral of By along a line parallel to the beam, as a table with cubic interpolation.

    Between two nodes F is the cubic with the right values and slopes By at both, so it is smooth, and exact
    where By is linear in z, as in a map tabulated at its own nodes.

    Attributes:
        z_min_mm: First node.
        step_mm: Distance of the nodes.
        integral: F at the nodes, (n,) float64, T mm; zero at the first.
        by: By at the nodes, (n,) float64, T.
    """

    z_min_mm: float
    step_mm: float
    integral: NDArray[np.float64]
    by: NDArray[np.float64]

    @classmethod
    def along_beam(
        cls,
        field: Field,
        z_min_mm: float = -500.0,
        z_max_mm: float = 14000.0,
        step_mm: float = 20.0,
        x_mm: float = 0.0,
        y_mm: float = 0.0,
    ) -> "FieldIntegral":
        """Tabulate the integral of a field by Simpson's rule between neighbouring nodes.

        Args:
            field: Magnetic field.
            z_min_mm: First node.
            z_max_mm: Last node, rounded up to a whole number of steps.
            step_mm: Distance of the nodes.
            x_mm: x of the line.
            y_mm: y of the line.

        Returns:
            The table.
        """
        num = int(np.ceil((z_max_mm - z_min_mm) / step_mm - 1e-9))
        z = z_min_mm + step_mm / 2 * np.arange(2 * num + 1)
        by = np.asarray(field(np.full_like(z, x_mm), np.full_like(z, y_mm), z)[1], dtype=np.float64)
        pieces = step_mm / 6 * (by[:-2:2] + 4 * by[1::2] + by[2::2])
        return cls(z_min_mm, step_mm, np.concatenate([[0.0], np.cumsum(pieces)]), by[::2].copy())

    def __call__(self, z: ArrayT) -> ArrayT:
        """Evaluate F.

        Args:
            z: Where, any shape, NumPy array or tensor, mm. Beyond the table F continues with By = 0.

        Returns:
            F(z), same shape and dtype, T mm.
        """
        lib = array_module(z)
        integral, by = self.integral, self.by
        if lib is not np:
            integral, by = (lib.as_tensor(t, dtype=z.dtype, device=z.device) for t in (integral, by))
        else:
            integral, by = (t.astype(z.dtype, copy=False) for t in (integral, by))
        position = lib.clip((z - self.z_min_mm) / self.step_mm, 0.0, float(len(self.by) - 1))
        cell = lib.clip(lib.floor(position), 0.0, float(len(self.by) - 2))
        s = position - cell
        cell = cell.astype(np.intp) if lib is np else cell.long()
        low, high = integral[cell], integral[cell + 1]
        slope_low, slope_high = self.step_mm * by[cell], self.step_mm * by[cell + 1]
        change = high - low
        cubic = slope_low + slope_high - 2.0 * change
        return cast(ArrayT, low + s * (slope_low + s * (change - slope_low - cubic + s * cubic)))


def bending_integral_t_m(field: Field, z_from_mm: float, z_to_mm: float) -> float:
    """Integral of By dz on the axis.

    Args:
        field: Magnetic field.
        z_from_mm: Start, mm.
        z_to_mm: End, mm.

    Returns:
        The integral, T m; negative for the polarity "MagDown".
    """
    table = FieldIntegral.along_beam(field, z_from_mm, z_to_mm, step_mm=(z_to_mm - z_from_mm) / 1000)
    return float(table.integral[-1]) / MM_PER_M


def divergence_and_curl(
    field: Field, x: FloatArray, y: FloatArray, z: FloatArray, step_mm: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Differentiate a field by central differences.

    Args:
        field: Magnetic field.
        x: Positions, (N,), mm.
        y: Positions, (N,), mm.
        z: Positions, (N,), mm.
        step_mm: Half the distance of the two points of a difference.

    Returns:
        div B, (N,), and curl B, (3, N), T/mm.
    """

    def difference(dx: float, dy: float, dz: float) -> FloatArray:
        ahead, behind = field(x + dx, y + dy, z + dz), field(x - dx, y - dy, z - dz)
        change: FloatArray = np.stack(ahead) - np.stack(behind)
        return change / (2 * step_mm)

    by_x, by_y, by_z = difference(step_mm, 0, 0), difference(0, step_mm, 0), difference(0, 0, step_mm)
    curl = np.stack([by_y[2] - by_z[1], by_z[0] - by_x[2], by_x[1] - by_y[0]])
    return by_x[0] + by_y[1] + by_z[2], curl


@dataclass(frozen=True)
class MirrorSymmetry:
    """Which reflections leave the motion of particles unchanged.

    Attributes:
        flip_x: (x, tx, q) -> (-x, -tx, -q) is allowed: Bx is odd in x, By and Bz are even.
        flip_y: (y, ty) -> (-y, -ty) is allowed: Bx and Bz are odd in y, By is even.
        residual_x: Largest violation of the first, relative to the largest |B|.
        residual_y: Largest violation of the second.
    """

    flip_x: bool
    flip_y: bool
    residual_x: float
    residual_y: float


def mirror_symmetry(
    field: Field,
    *,
    half_x_mm: float = 2000.0,
    half_y_mm: float = 1500.0,
    z_from_mm: float = 0.0,
    z_to_mm: float = 10000.0,
    num_points: int = 4000,
    tolerance: float = _SYMMETRY_TOLERANCE,
) -> MirrorSymmetry:
    """Test whether a field has the mirror symmetries of an ideal dipole; a measured map has not.

    Args:
        field: Magnetic field.
        half_x_mm: Points have |x| up to this.
        half_y_mm: And |y| up to this.
        z_from_mm: And z from here
        z_to_mm: to here.
        num_points: How many points, from a fixed sequence.
        tolerance: Largest violation, relative to the largest |B|, that still counts as symmetric.

    Returns:
        The allowed reflections and how well they hold.
    """
    rng = np.random.Generator(np.random.Philox(0))
    x, y = rng.uniform(0, half_x_mm, num_points), rng.uniform(0, half_y_mm, num_points)
    z = rng.uniform(z_from_mm, z_to_mm, num_points)
    here, in_x, in_y = field(x, y, z), field(-x, y, z), field(x, -y, z)
    scale = max(float(np.abs(component).max()) for component in here)
    residual_x = _violation(here, in_x, (-1.0, 1.0, 1.0)) / scale
    residual_y = _violation(here, in_y, (-1.0, 1.0, -1.0)) / scale
    return MirrorSymmetry(residual_x <= tolerance, residual_y <= tolerance, residual_x, residual_y)


def _violation(here: Components, mirrored: Components, parity: tuple[float, float, float]) -> float:
    pairs = zip(here, mirrored, parity, strict=True)
    return max(float(np.abs(m - sign * h).max()) for h, m, sign in pairs)
