r"""Solid angles of the sensors seen from a point in the xenon.

A rectangle with corners (X_i, Y_j) relative to the foot of a point at height d above its plane covers

    Omega = sum_ij (-1)^(i+j) atan( X_i Y_j / (d sqrt(X_i^2 + Y_j^2 + d^2)) ),

and an MPPC is four such squares. A disc of radius R whose axis passes the point at distance rho is the
contour integral (Stokes' theorem; the elliptic integrals of Paxton give the same)

    Omega = int_0^2pi  R (R + rho cos t) / (q (q + d)) dt,    q^2 = rho^2 + R^2 + 2 rho R cos t + d^2.

Far away, d / r^3 is expanded over the sensor; it is a harmonic function, so for a shape with the symmetry of
a square the second order needs only the mean square extent m = <x^2> = <y^2>,

    Omega = A d / r^3 [ 1 + m / (2 r^2) (9 - 15 d^2 / r^2) ] + O(m^2 / r^4).

`sensor_view` uses the expansion where it is good to 1e-3 and the exact forms closer by. Light cannot cross
the bore of the barrel, so a sensor whose line of sight enters the inner cylinder is not seen.

References:
    F. Paxton, Solid angle calculation for a circular disk, Rev. Sci. Instrum. 30 (1959) 254.

Dimensions: P points, S sensors.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics import geometry as geo

Float32Array = NDArray[np.float32]
FloatArray = NDArray[np.float64]

# Beyond these distances the expansion is better than 1e-3 at any angle of incidence.
NEAR_MPPC_CM = 5.5
NEAR_PMT_CM = 16.0

_CHIP_CENTER_CM = (geo.MPPC_CHIP_CM + geo.MPPC_GAP_CM) / 2
MPPC_EXTENT_CM2 = _CHIP_CENTER_CM**2 + geo.MPPC_CHIP_CM**2 / 12
PMT_EXTENT_CM2 = geo.PMT_RADIUS_CM**2 / 4

# Edges of the two chips along one side and the sign each edge carries in the sum over corners.
EDGES_CM = np.array([-1.0, 0.0, 0.0, 1.0]) * geo.MPPC_CHIP_CM + np.array([-1, -1, 1, 1]) * geo.MPPC_GAP_CM / 2
EDGE_SIGNS = np.array([-1.0, 1.0, -1.0, 1.0])
CONTOUR_COS = np.cos((np.arange(24) + 0.5) * np.pi / 24)  # midpoint rule on half of the symmetric contour


def mppc_solid_angle(x: FloatArray, y: FloatArray, d: FloatArray) -> FloatArray:
    """Return the exact solid angle of an MPPC (four chips).

    Args:
        x: Offset of the point from the sensor centre along one side, any shape, cm.
        y: Offset along the other side, same shape, cm.
        d: Height above the sensor plane, same shape, cm.

    Returns:
        Solid angle, same shape, sr; 0 for points behind the sensor.
    """
    corner_x = (EDGES_CM - x[..., None])[..., :, None]
    corner_y = (EDGES_CM - y[..., None])[..., None, :]
    height = np.maximum(d, 0.0)[..., None, None]
    root = np.sqrt(corner_x**2 + corner_y**2 + height**2)
    corners = np.arctan2(corner_x * corner_y, height * root)
    omega = np.einsum("...ij,i,j->...", corners, EDGE_SIGNS, EDGE_SIGNS)
    return np.where(d > 0, omega, 0.0)


def disc_solid_angle(rho: FloatArray, d: FloatArray, radius: float = geo.PMT_RADIUS_CM) -> FloatArray:
    """Return the solid angle of a disc.

    The midpoint rule converges exponentially: better than 1e-6 for d above a fifth of the radius.

    Args:
        rho: Distance of the point from the axis of the disc, any shape, cm.
        d: Height above the plane of the disc, same shape, cm.
        radius: Radius of the disc, cm.

    Returns:
        Solid angle, same shape, sr; 0 for points behind the disc.
    """
    offset, height = rho[..., None], np.maximum(d, 0.0)[..., None]
    q = np.sqrt(offset**2 + radius**2 + 2 * radius * offset * CONTOUR_COS + height**2)
    omega = 2 * np.pi * np.mean(radius * (radius + offset * CONTOUR_COS) / (q * (q + height)), axis=-1)
    return np.where(d > 0, omega, 0.0)


class _Sensors(NamedTuple):
    """Float32 copies of the geometry, one contiguous row per coordinate."""

    position: Float32Array  # (3, S) cm
    normal: Float32Array  # (3, S)
    area: Float32Array  # (S,) cm2
    extent: Float32Array  # (S,) cm2, mean square extent m divided by 2
    near_squared: Float32Array  # (S,) cm2


@cache
def _sensors() -> _Sensors:
    mppc = geo.is_mppc()
    return _Sensors(
        position=geo.sensor_positions().T.astype(np.float32, order="C"),
        normal=geo.sensor_normals().T.astype(np.float32, order="C"),
        area=geo.sensor_area().astype(np.float32),
        extent=np.where(mppc, MPPC_EXTENT_CM2 / 2, PMT_EXTENT_CM2 / 2).astype(np.float32),
        near_squared=np.where(mppc, NEAR_MPPC_CM**2, NEAR_PMT_CM**2).astype(np.float32),
    )


def exact_solid_angle(points: FloatArray, sensors: NDArray[np.int64]) -> FloatArray:
    """Return exact solid angles for pairs of a point and a sensor, without the shadow of the bore.

    Args:
        points: Positions, shape (N, 3), cm.
        sensors: Sensor identifier for each point, shape (N,).

    Returns:
        Solid angles, shape (N,), sr.
    """
    offset = points - geo.sensor_positions()[sensors]
    normal = geo.sensor_normals()[sensors]
    height = np.einsum("nc,nc->n", offset, normal)
    omega = np.empty(len(sensors))
    mppc = sensors < geo.NUM_MPPC
    # On the inner face one side runs along z and the other along phi: the normal turned by 90 degrees.
    along_phi = normal[mppc, 0] * offset[mppc, 1] - normal[mppc, 1] * offset[mppc, 0]
    omega[mppc] = mppc_solid_angle(offset[mppc, 2], along_phi, height[mppc])
    lateral = offset[~mppc] - height[~mppc, None] * normal[~mppc]
    omega[~mppc] = disc_solid_angle(np.sqrt(np.einsum("nc,nc->n", lateral, lateral)), height[~mppc])
    return omega


def in_shadow(points: FloatArray) -> NDArray[np.bool_]:
    """Tell which photomultipliers are hidden from a point by the bore of the barrel.

    An inner-face MPPC needs no test: a point in front of its tangent plane sees it.

    Args:
        points: Positions, shape (P, 3), cm.

    Returns:
        True where the straight line to the tube enters the inner cylinder, shape (P, 668).
    """
    tube_x, tube_y = _sensors().position[:2, geo.NUM_MPPC :]
    p = points.astype(np.float32)
    x, y = p[:, 0, None], p[:, 1, None]
    step_x, step_y = tube_x - x, tube_y - y
    length_squared = step_x * step_x + step_y * step_y
    # Both ends lie outside of the bore, so the line enters it only if its point of closest approach to the
    # beam axis, at start + t step, is between the ends and inside.
    t = -(x * step_x + y * step_y)
    moment = x * step_y - y * step_x
    hidden: NDArray[np.bool_] = (
        (t > 0) & (t < length_squared) & (moment * moment < geo.R_LXE_MIN_CM**2 * length_squared)
    )
    return hidden


def sensor_view(points: FloatArray) -> tuple[Float32Array, Float32Array]:
    """Return distance and solid angle of every sensor from each point.

    Args:
        points: Positions in the xenon, shape (P, 3), cm.

    Returns:
        Distances, shape (P, 4760), cm, and solid angles, shape (P, 4760), sr; 0 where a sensor faces away or
        lies in the shadow of the bore.
    """
    sensors = _sensors()
    p = points.astype(np.float32)
    delta = p[:, 0, None] - sensors.position[0]
    squared = delta * delta
    height = delta * sensors.normal[0]
    for axis in (1, 2):
        delta = p[:, axis, None] - sensors.position[axis]
        height += delta * sensors.normal[axis]
        delta *= delta
        squared += delta
    np.maximum(height, 0, out=height)

    inverse = np.float32(1) / squared
    distance = np.sqrt(squared)
    # A d / r^3 [1 + m/2 (9 - 15 d^2/r^2) / r^2], with as few passes over the array as it takes
    correction = height * height
    correction *= inverse
    correction *= -15
    correction += 9
    correction *= inverse
    correction *= sensors.extent
    correction += 1
    omega = height
    omega *= inverse
    omega /= distance
    omega *= sensors.area
    omega *= correction

    # The expansion may even be negative close by, where only sensors that face away have exactly 0.
    point, sensor = np.nonzero((squared < sensors.near_squared) & (omega != 0))
    omega[point, sensor] = exact_solid_angle(points[point], sensor)
    omega[:, geo.NUM_MPPC :][in_shadow(points)] = 0
    return distance, omega
