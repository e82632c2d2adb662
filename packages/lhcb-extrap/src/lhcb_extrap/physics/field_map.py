r"""Magnetic field on a regular grid, interpolated linearly in each coordinate.

The memory layout is that of the binary maps of the experiment: x runs fastest, then y, then z, and each
node holds four numbers (Bx, By, Bz, 0), so the eight corners of a cell are four runs of eight consecutive
numbers.

Interpolation error. Between two nodes at distance a, linear interpolation misses up to a^2/8 times the second
derivative. The second derivatives of a harmonic field along x, y, z add up to zero, so over a track that
samples cells evenly the error cancels to a large part: a 100 mm grid moves the end of a 4 m track by 0.014
mm on average, and its slope by 8e-6.

Trap. A Runge-Kutta method whose nodes all fall on planes of the grid sees no error along z, and nothing
cancels that along x and y. Over 4 m through a 100 mm map, against steps of 5 mm in the same map, steps of
200 mm (nodes every 100 mm) are off by 0.11 mm, but steps of 100 mm (nodes every 50 mm) by 0.001 mm and even
steps of 500 mm by only 0.03 mm. Take steps whose half is not a multiple of the spacing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from lhcb_extrap.physics.arrays import Components, Field, FloatArray

NUM_COLUMNS = 4  # Bx, By, Bz and a zero that aligns a node to 16 bytes


@dataclass(frozen=True)
class Grid:
    """A regular grid.

    Attributes:
        origin_mm: x, y, z of the first node.
        spacing_mm: Distance of neighbouring nodes along x, y, z.
        shape: Number of nodes along x, y, z, at least 2 each.
    """

    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if min(self.shape) < 2 or not all(s > 0 for s in self.spacing_mm):
            found = f"{self.shape} every {self.spacing_mm} mm"
            raise ValueError(f"a grid needs two nodes and a positive spacing per axis, not {found}")

    @property
    def end_mm(self) -> tuple[float, float, float]:
        """x, y, z of the last node, mm."""
        x, y, z = (
            o + s * (n - 1) for o, s, n in zip(self.origin_mm, self.spacing_mm, self.shape, strict=True)
        )
        return x, y, z

    def axes(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Node coordinates along x, y, z, mm."""
        x, y, z = (
            o + s * np.arange(n) for o, s, n in zip(self.origin_mm, self.spacing_mm, self.shape, strict=True)
        )
        return x, y, z


# The volume and spacing in which the experiment distributes its maps.
DEFAULT_GRID = Grid((-4000.0, -4000.0, -500.0), (100.0, 100.0, 100.0), (81, 81, 146))


@dataclass(frozen=True, eq=False)
class FieldMap:
    """A field on a grid; zero outside.

    Attributes:
        grid: The grid.
        values: Bx, By, Bz, 0 at the nodes, (num_z, num_y, num_x, 4) float32 or float64, T; C-contiguous.
    """

    grid: Grid
    values: NDArray[Any]

    def __post_init__(self) -> None:
        expected = (*reversed(self.grid.shape), NUM_COLUMNS)
        if self.values.shape != expected or not self.values.flags.c_contiguous:
            raise ValueError(
                f"field values need a C-contiguous array of shape {expected}, not {self.values.shape}"
            )

    def __call__(self, x: FloatArray, y: FloatArray, z: FloatArray) -> Components:
        """Interpolate the field.

        Args:
            x: Positions, any shape that broadcasts with y and z, mm.
            y: Positions, mm.
            z: Positions, mm.

        Returns:
            Bx, By, Bz, each of the broadcast shape in the dtype of the positions, T.
        """
        x, y, z = np.broadcast_arrays(x, y, z)
        corners, (wx, wy, wz), inside = self._corners(x.ravel(), y.ravel(), z.ravel())
        along_z = _lerp(corners[0], corners[1], wz), _lerp(corners[2], corners[3], wz)
        along_y = _lerp(*along_z, wy)
        field = _lerp(along_y[:, :NUM_COLUMNS], along_y[:, NUM_COLUMNS:], wx)
        return _split(field, inside, x.shape)

    def gradient(
        self, x: FloatArray, y: FloatArray, z: FloatArray
    ) -> tuple[Components, Components, Components]:
        """Interpolate the field and differentiate the interpolation, which is not continuous at cell borders.

        Args:
            x: Positions, any shape that broadcasts with y and z, mm.
            y: Positions, mm.
            z: Positions, mm.

        Returns:
            B (T), dB/dx and dB/dy (T/mm), each a triple of arrays of the broadcast shape.
        """
        x, y, z = np.broadcast_arrays(x, y, z)
        corners, (wx, wy, wz), inside = self._corners(x.ravel(), y.ravel(), z.ravel())
        low_y, high_y = _lerp(corners[0], corners[1], wz), _lerp(corners[2], corners[3], wz)
        along_y, slope_y = (
            _lerp(low_y, high_y, wy),
            (high_y - low_y) / self._scalar(self.grid.spacing_mm[1], wy),
        )
        low_x, high_x = along_y[:, :NUM_COLUMNS], along_y[:, NUM_COLUMNS:]
        slope_x = (high_x - low_x) / self._scalar(self.grid.spacing_mm[0], wx)
        slope_y = _lerp(slope_y[:, :NUM_COLUMNS], slope_y[:, NUM_COLUMNS:], wx)
        fields = (_lerp(low_x, high_x, wx), slope_x, slope_y)
        value, by_x, by_y = (_split(field, inside, x.shape) for field in fields)
        return value, by_x, by_y

    def contains(self, x: FloatArray, y: FloatArray, z: FloatArray) -> NDArray[np.bool_]:
        """Tell which points lie on the grid.

        Args:
            x: Positions, any shape that broadcasts with y and z, mm.
            y: Positions, mm.
            z: Positions, mm.

        Returns:
            True inside the map, borders included; broadcast shape.
        """
        low, high = self.grid.origin_mm, self.grid.end_mm
        inside: NDArray[np.bool_] = np.logical_and.reduce(
            np.broadcast_arrays(
                *((lo <= c) & (c <= hi) for c, lo, hi in zip((x, y, z), low, high, strict=True))
            )
        )
        return inside

    def astype(self, dtype: DTypeLike) -> "FieldMap":
        """Return the same map with its values in another precision."""
        return FieldMap(self.grid, np.ascontiguousarray(self.values, dtype=dtype))

    @staticmethod
    def _scalar(value: float, like: FloatArray) -> Any:
        return like.dtype.type(value)

    def _corners(
        self, x: FloatArray, y: FloatArray, z: FloatArray
    ) -> tuple[tuple[FloatArray, ...], tuple[FloatArray, ...], NDArray[np.bool_]]:
        """Gather the cells of N points.

        Returns:
            For (y, z) corner (0, 0), (0, 1), (1, 0), (1, 1) the nodes at both x, (N, 8); the position
            within the cell along x, y, z, (N, 1) each; and which points are on the grid, (N,).
        """
        base = np.zeros(x.shape, dtype=np.intp)
        inside = np.ones(x.shape, dtype=bool)
        weights = []
        strides = (1, self.grid.shape[0], self.grid.shape[0] * self.grid.shape[1])
        axes = zip(
            (x, y, z), self.grid.origin_mm, self.grid.spacing_mm, self.grid.shape, strides, strict=True
        )
        for c, origin, spacing, num, stride in axes:
            position = (c - origin) * self._scalar(1.0 / spacing, c)
            inside &= (position >= 0) & (position <= num - 1)
            cell = np.fmin(np.fmax(position, 0), num - 2).astype(np.intp)  # fmax also takes care of NaN
            base += cell * stride
            weights.append((position - cell).astype(c.dtype, copy=False)[:, None])
        node = self.values.strides[2]
        pairs = as_strided(
            self.values, (self.values.size // NUM_COLUMNS - 1, 2 * NUM_COLUMNS), (node, self.values.itemsize)
        )
        offsets = (0, strides[2], strides[1], strides[1] + strides[2])
        # In the precision of the positions from here on: differences of float32 values would round again.
        corners = (pairs[base + offset].astype(x.dtype, copy=False) for offset in offsets)
        return tuple(corners), tuple(weights), inside


def sample_field(
    field: Field,
    grid: Grid = DEFAULT_GRID,
    *,
    dtype: DTypeLike = np.float32,
    progress: Callable[[int], None] | None = None,
) -> FieldMap:
    """Tabulate a field.

    Args:
        field: Any field.
        grid: Where to evaluate it.
        dtype: Precision of the stored values.
        progress: Called with the number of z planes done after each of them.

    Returns:
        The map; 15.3 MB on the default grid in float32.
    """
    x, y, z = grid.axes()
    values = np.zeros((z.size, y.size, x.size, NUM_COLUMNS), dtype=dtype)
    for i, plane in enumerate(z):
        for column, component in enumerate(field(x[None, :], y[:, None], plane)):
            values[i, :, :, column] = component
        if progress is not None:
            progress(i + 1)
    return FieldMap(grid, values)


def _lerp(low: FloatArray, high: FloatArray, weight: FloatArray) -> FloatArray:
    return low + weight * (high - low)


def _split(field: FloatArray, inside: NDArray[np.bool_], shape: tuple[int, ...]) -> Components:
    bx, by, bz = (np.where(inside, field[:, column], 0).reshape(shape) for column in range(3))
    return bx, by, bz
