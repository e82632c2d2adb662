r"""Field of the dipole magnet as closed current loops, exact in free space.

The magnet is modelled by three pairs of trapezoidal loops, mirrored at the plane y = 0: 24 straight
filaments, 21 numbers. A filament from P1 to P2 carrying the current I gives at P, with r1 = P - P1 and r2 =
P - P2,

    B = mu0 I / (4 pi)  (|r1| + |r2|) / (|r1| |r2| (|r1| |r2| + r1.r2))  r1 x r2.

Because every loop is closed, the sum obeys div B = 0 and curl B = 0 everywhere off the filaments; a field
parametrised in By alone, a Gaussian in z for instance, does not, and a track in it feels no force from Bx
and Bz.

On the axis |By| peaks at 1.038 T near z = 4.8 m, is above half of that from 3.2 to 7.0 m and integrates to
4.285 T m, 3.775 T m of it between the Upstream Tracker and the tracking stations. By is negative, the
polarity "MagDown". The measured map of the experiment has 1.048 T at 4.7 m, 4.24 T m and 3.75 T m;
`scale=0.975` brings the bend of tracks to within 1 % of it.

References:
    J. D. Jackson, Classical Electrodynamics, 3rd ed., section 5.2, for the Biot-Savart law.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lhcb_extrap.physics.arrays import Components, FloatArray
from lhcb_extrap.physics.constants import MU0_OVER_4PI_T_MM_PER_A

_CHUNK = 4096  # points at a time: the temporaries of one filament stay in the second-level cache
_COMPLEX_STEP_MM = 1.0e-20  # no subtraction follows, so the step may be this small


@dataclass(frozen=True)
class CoilPair:
    """Two trapezoidal loops, one at y > 0 and its mirror image at y < 0.

    Attributes:
        z_front_mm: z of the edge that faces the collision point.
        z_back_mm: z of the far edge.
        half_x_front_mm: Half the length of the front edge, which lies along x.
        half_x_back_mm: Half the length of the back edge.
        abs_y_front_mm: Distance of the front edge from the plane y = 0.
        abs_y_back_mm: Distance of the back edge from the plane y = 0.
        current_a: Current in ampere turns.
    """

    z_front_mm: float
    z_back_mm: float
    half_x_front_mm: float
    half_x_back_mm: float
    abs_y_front_mm: float
    abs_y_back_mm: float
    current_a: float

    def loops(self) -> NDArray[np.float64]:
        """Vertices in the order of the current, (2, 4, 3) mm."""
        xf, xb = self.half_x_front_mm, self.half_x_back_mm
        zf, zb = self.z_front_mm, self.z_back_mm
        return np.array(
            [
                [(-xf, s * yf, zf), (xf, s * yf, zf), (xb, s * yb, zb), (-xb, s * yb, zb)]
                for s, yf, yb in ((s, self.abs_y_front_mm, self.abs_y_back_mm) for s in (1.0, -1.0))
            ]
        )


# Fitted to published properties of the LHCb dipole field; a stand-in for the measured map, not a copy of it.
DEFAULT_COILS = (
    CoilPair(2681.3701, 6063.0591, 3129.1773, 2784.3525, 2354.8614, 3599.9845, 3958029.0849),
    CoilPair(3772.4724, 7047.5018, 3395.1472, 3929.3915, 1450.9154, 2414.2474, 1762495.6934),
    CoilPair(-1999.2279, 9532.9122, 2035.9875, 2334.2349, 3290.9575, 3626.0023, 917276.0147),
)


@dataclass(frozen=True)
class CoilField:
    """The exact field of a set of coil pairs.

    Attributes:
        coils: The coil pairs.
        scale: Factor on all currents; 1 is the polarity "MagDown" (By < 0), -1 "MagUp".
        max_tesla: |B| is limited to this near the filaments, where a real conductor has an extension. Points
            inside the aperture are far from it.
    """

    coils: tuple[CoilPair, ...] = DEFAULT_COILS
    scale: float = 1.0
    max_tesla: float = 3.0

    def __call__(self, x: FloatArray, y: FloatArray, z: FloatArray) -> Components:
        """Evaluate the field in double precision.

        Args:
            x: Positions, any shape that broadcasts with y and z, mm.
            y: Positions, mm.
            z: Positions, mm.

        Returns:
            Bx, By, Bz, each of the broadcast shape, T.
        """
        bx, by, bz = self._evaluate(*(a.astype(np.float64) for a in np.broadcast_arrays(x, y, z)))
        return bx, by, bz

    def gradient(
        self, x: FloatArray, y: FloatArray, z: FloatArray
    ) -> tuple[Components, Components, Components]:
        """Evaluate the field and its transverse derivatives by the complex step, exact to rounding.

        Args:
            x: Positions, any shape that broadcasts with y and z, mm.
            y: Positions, mm.
            z: Positions, mm.

        Returns:
            B (T), dB/dx and dB/dy (T/mm), each a triple of arrays of the broadcast shape.
        """
        xc, yc, zc = (a.astype(np.complex128) for a in np.broadcast_arrays(x, y, z))
        shifted_x = self._evaluate(xc + 1j * _COMPLEX_STEP_MM, yc, zc)
        shifted_y = self._evaluate(xc, yc + 1j * _COMPLEX_STEP_MM, zc)
        bx, by, bz = shifted_x
        return (
            (bx.real, by.real, bz.real),
            _imaginary(shifted_x),
            _imaginary(shifted_y),
        )

    def _evaluate(self, x: NDArray[Any], y: NDArray[Any], z: NDArray[Any]) -> Any:
        flat = [a.ravel() for a in (x, y, z)]
        total = np.zeros((3, x.size), dtype=x.dtype)
        for start in range(0, x.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            for pair in self.coils:
                current = self.scale * pair.current_a * MU0_OVER_4PI_T_MM_PER_A
                for loop in pair.loops():
                    _add_loop(total[:, part], loop, current, *(a[part] for a in flat))
        magnitude = np.sqrt((total.real**2).sum(axis=0))
        # On a filament the quotient is 0/0; the centre of a round conductor has no field of its own.
        total[:, ~np.isfinite(magnitude)] = 0.0
        near = magnitude > self.max_tesla
        total[:, near] *= self.max_tesla / magnitude[near]
        return tuple(component.reshape(x.shape) for component in total)


def _add_loop(
    total: NDArray[Any],
    loop: NDArray[np.float64],
    current: float,
    x: NDArray[Any],
    y: NDArray[Any],
    z: NDArray[Any],
) -> None:
    """Add the field of one closed loop to `total` (3, N); `current` includes mu0 / (4 pi)."""
    legs = []
    for vx, vy, vz in loop:
        dx, dy, dz = x - vx, y - vy, z - vz
        legs.append((dx, dy, dz, np.sqrt(dx * dx + dy * dy + dz * dz)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for (ax, ay, az, a), (bx, by, bz, b) in zip(legs, legs[1:] + legs[:1], strict=True):
            ab = a * b
            weight = current * (a + b) / (ab * (ab + ax * bx + ay * by + az * bz))
            total[0] += weight * (ay * bz - az * by)
            total[1] += weight * (az * bx - ax * bz)
            total[2] += weight * (ax * by - ay * bx)


def _imaginary(components: Any) -> Components:
    bx, by, bz = (component.imag / _COMPLEX_STEP_MM for component in components)
    return bx, by, bz
