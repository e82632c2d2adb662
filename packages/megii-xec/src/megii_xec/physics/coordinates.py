r"""Detector coordinates u, v, w and the angles of a direction.

The curvilinear coordinates unroll the inner face, R0 = 64.97 cm,

    u = z,    v = -(phi - pi) R0  with phi = atan2(y, x) in [0, 2 pi),    w = R - R0,
    x = -(w + R0) cos(v / R0),    y = (w + R0) sin(v / R0),    z = u,

so u and v are lengths on the inner face (v grows towards positive y) and w is the depth. A direction is given
by

    theta = acos(z),    phi = atan2(y, -x),
    (x, y, z) = (-sin(theta) cos(phi), sin(theta) sin(phi), cos(theta)),

in degrees, which puts the centre of the detector at theta = 90, phi = 0.

Angles between directions use atan2(|a x b|, a . b): the arc cosine of the scalar product loses half of the
digits near zero, where the resolution is measured.

The functions take NumPy arrays or PyTorch tensors and return what they were given.
"""

import math
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from megii_xec.physics.geometry import R_INNER_CM

# numpy.ndarray or torch.Tensor; torch is not imported for the sake of an annotation.
ArrayT = TypeVar("ArrayT", bound=Any)


def _module(array: object) -> ModuleType:
    """Return the library the array belongs to; both spell the functions used here alike."""
    if isinstance(array, np.ndarray | np.generic | float):
        return np
    import torch

    return torch


def xyz_to_uvw(xyz: ArrayT) -> ArrayT:
    """Convert Cartesian positions to u, v, w.

    Args:
        xyz: Positions, shape (..., 3), cm.

    Returns:
        u, v, w, shape (..., 3), cm; v in (-pi R0, pi R0].
    """
    lib = _module(xyz)
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    # pi - phi in one step: exact at the centre of the detector and free of the wrap at phi = 0.
    v = lib.arctan2(y, -x) * R_INNER_CM
    result: ArrayT = lib.stack([z, v, lib.sqrt(x * x + y * y) - R_INNER_CM], -1)
    return result


def uvw_to_xyz(uvw: ArrayT) -> ArrayT:
    """Convert u, v, w to Cartesian positions.

    Args:
        uvw: u, v, w, shape (..., 3), cm.

    Returns:
        Positions, shape (..., 3), cm.
    """
    lib = _module(uvw)
    u, v, w = uvw[..., 0], uvw[..., 1], uvw[..., 2]
    radius, angle = w + R_INNER_CM, v / R_INNER_CM
    result: ArrayT = lib.stack([-radius * lib.cos(angle), radius * lib.sin(angle), u], -1)
    return result


def angles_to_vector(theta_deg: ArrayT, phi_deg: ArrayT) -> ArrayT:
    """Convert emission angles to unit vectors.

    Args:
        theta_deg: Polar angle to the z axis, any shape, degrees.
        phi_deg: Azimuth from the centre of the detector, same shape, degrees.

    Returns:
        Unit vectors, shape (..., 3).
    """
    lib = _module(theta_deg)
    theta, phi = theta_deg * (math.pi / 180), phi_deg * (math.pi / 180)
    sin_theta = lib.sin(theta)
    vector = [-sin_theta * lib.cos(phi), sin_theta * lib.sin(phi), lib.cos(theta)]
    result: ArrayT = lib.stack(vector, -1)
    return result


def vector_to_angles(vector: ArrayT) -> ArrayT:
    """Convert directions to emission angles.

    Args:
        vector: Directions of any length above zero, shape (..., 3).

    Returns:
        theta in [0, 180] and phi in [-180, 180], shape (..., 2), degrees.
    """
    lib = _module(vector)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    theta = lib.arctan2(lib.sqrt(x * x + y * y), z)  # acos(z) for a unit vector, accurate at all angles
    result: ArrayT = lib.stack([theta, lib.arctan2(y, -x)], -1) * (180 / math.pi)
    return result


def opening_angle_deg(a: ArrayT, b: ArrayT) -> ArrayT:
    """Return the angle between two directions.

    Args:
        a: Directions of any length above zero, shape (..., 3).
        b: Directions, same shape.

    Returns:
        Opening angle in [0, 180], shape (...), degrees.
    """
    lib = _module(a)
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    cx, cy, cz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
    cross = lib.hypot(lib.hypot(cx, cy), cz)
    result: ArrayT = lib.arctan2(cross, ax * bx + ay * by + az * bz) * (180 / math.pi)
    return result
