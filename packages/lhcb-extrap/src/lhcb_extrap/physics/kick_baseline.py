r"""The magnet as a kick: closed-form extrapolation in a field By(z), and corrections relative to it.

With u = tx/N, v = ty/N, w = 1/N = sqrt(1 - u^2 - v^2) and F(z) the integral of By along the beam, a field
that is By(z) alone gives

    u(z) = u0 - kappa [F(z) - F(z0)],    v = v0,
    x(z1) = x0 + integral of u/w dz,     y(z1) = y0 + integral of v/w dz,

without any approximation but the quadrature. Two Gauss-Legendre rules of three points, one for each half of
the path, give the middle and the end. What the real field adds is small and vanishes with q/p, so a network
predicts

    c = ( (x1 - x_b)/(K dz), (y1 - y_b)/(K dz), (u1 - u_b)/K, (v1 - v0)/K ),    K = kappa [F(z1) - F(z0)],

and the extrapolation is exact for straight tracks whatever the network says.

Reflections. Where the field has the symmetries of an ideal dipole (`field_properties.mirror_symmetry`), a
track may be reflected to q > 0 and y > 0 first, which halves the domain twice; `canonicalize` does it.

Between two fixed planes the field can be known much better than By(z), as polynomials on the planes of a
quadrature (`plane_fields`). With it the equations of motion in these variables,

    du/dz = kappa (ty Bz - By),    dv/dz = kappa (Bx - tx Bz),

are integrated along the path found so far, which gives a better path: `plane_baseline` does so twice (Picard
iterations), which leaves a fortieth of what the kick in By(z) leaves.

The functions take NumPy arrays or PyTorch tensors and return what they were given.
"""

from dataclasses import dataclass
from typing import Any, Generic, cast

import numpy as np

from lhcb_extrap.physics.arrays import ArrayT, FloatArray, array_module
from lhcb_extrap.physics.equations import kappa_from_qop
from lhcb_extrap.physics.field_properties import FieldIntegral
from lhcb_extrap.physics.plane_fields import INTEGRALS, NUM_NODES, WEIGHTS, PlaneFields

# Gauss-Legendre rule of three points on [0, 1].
GAUSS_NODES = (0.5 - 0.5 * 0.6**0.5, 0.5, 0.5 + 0.5 * 0.6**0.5)
GAUSS_WEIGHTS = (5 / 18, 8 / 18, 5 / 18)

NUM_ITERATIONS = 2
MIN_COSINE_SQUARED = 0.1  # w^2 where both slopes are 2 is 0.11; below it the baseline turns around


@dataclass(frozen=True)
class KickBaseline(Generic[ArrayT]):
    """Baseline of N tracks, every array (N,).

    Attributes:
        kick: K, 1.
        x_mid: x at z0 + dz/2, mm.
        y_mid: y at z0 + dz/2, mm.
        x_end: x at z0 + dz, mm.
        y_end: y at z0 + dz, mm.
        u_end: tx/N at z0 + dz, 1.
        v_end: ty/N at z0 + dz, the same as at z0, 1.
        w_end: 1/N at z0 + dz, 1.
        crosses: False where the particle turns around in the baseline field; its numbers are then finite but
            meaningless.
    """

    kick: ArrayT
    x_mid: ArrayT
    y_mid: ArrayT
    x_end: ArrayT
    y_end: ArrayT
    u_end: ArrayT
    v_end: ArrayT
    w_end: ArrayT
    crosses: Any


def kick_baseline(
    state: ArrayT, qop: ArrayT, z0: ArrayT, dz: ArrayT, integral: FieldIntegral
) -> KickBaseline[ArrayT]:
    """Extrapolate in the field By(z) of the beam axis.

    Args:
        state: x, y, tx, ty, (N, 4), mm and 1.
        qop: q/p, (N,), 1/MeV.
        z0: Where the states are, (N,), mm.
        dz: How far to go along z, (N,), mm.
        integral: Table of the integral of By.

    Returns:
        The baseline; exact in a pure By(z) up to quadrature and in any field at q/p = 0.
    """
    x, y, tx, ty = state[..., 0], state[..., 1], state[..., 2], state[..., 3]
    kappa = kappa_from_qop(qop)
    cosine = (1.0 + tx * tx + ty * ty) ** -0.5
    u0, v0 = tx * cosine, ty * cosine
    start = integral(z0)
    crosses: Any = True

    def u_and_w(z: ArrayT) -> tuple[ArrayT, ArrayT]:
        nonlocal crosses
        u = u0 - kappa * (integral(z) - start)
        w2 = 1.0 - u * u - v0 * v0
        crosses = (w2 > MIN_COSINE_SQUARED) & crosses
        return u, cast(ArrayT, array_module(w2).clip(w2, MIN_COSINE_SQUARED, None) ** 0.5)

    half = 0.5 * dz
    positions = []
    for first in (z0, z0 + half):
        steps = [
            (weight * half, *u_and_w(first + node * half))
            for node, weight in zip(GAUSS_NODES, GAUSS_WEIGHTS, strict=True)
        ]
        x = x + sum(step * u / w for step, u, w in steps)
        y = y + sum(step * v0 / w for step, _, w in steps)
        positions.append((x, y))
    u_end, w_end = u_and_w(z0 + dz)
    (x_mid, y_mid), (x_end, y_end) = positions
    kick = kappa * (integral(z0 + dz) - start)
    return KickBaseline(kick, x_mid, y_mid, x_end, y_end, u_end, v0, w_end, crosses)


def plane_baseline(
    state: ArrayT, qop: ArrayT, dz: ArrayT, planes: PlaneFields, *, num_iterations: int = NUM_ITERATIONS
) -> KickBaseline[ArrayT]:
    """Extrapolate between two fixed planes, with the whole field as far as polynomials have it.

    Args:
        state: x, y, tx, ty, (N, 4), mm and 1.
        qop: q/p, (N,), 1/MeV.
        dz: Distance of the planes, (N,), mm.
        planes: The field between them.
        num_iterations: Picard iterations; 0 leaves what By on the axis does.

    Returns:
        The baseline, `x_mid` and `y_mid` between the two middle nodes; exact in any field at q/p = 0.
    """
    lib = array_module(state)

    def constant(values: FloatArray) -> Any:
        if lib is np:
            return values.astype(state.dtype)
        return lib.as_tensor(values, dtype=state.dtype, device=state.device)

    weights, integrals, axis = constant(WEIGHTS), constant(INTEGRALS.T), constant(planes.integral)
    x, y, tx, ty = (state[..., i : i + 1] for i in range(4))
    kappa, length = kappa_from_qop(qop)[..., None], dz[..., None]
    cosine = (1.0 + tx * tx + ty * ty) ** -0.5
    u0, v0 = tx * cosine, ty * cosine
    u_axis = u0 - kappa * axis
    u, v = u_axis[..., :-1], v0 + 0.0 * u_axis[..., :-1]
    u_end, v_end = u_axis[..., -1], v0[..., 0]

    def slopes(u: ArrayT, v: ArrayT) -> tuple[ArrayT, ArrayT, Any]:
        w2 = 1.0 - u * u - v * v
        scale = lib.clip(w2, MIN_COSINE_SQUARED, None) ** -0.5
        return cast(ArrayT, u * scale), cast(ArrayT, v * scale), w2 > MIN_COSINE_SQUARED

    rise_x, rise_y, crosses = slopes(u, v)
    for _ in range(num_iterations):
        bx, by, bz = planes.off_axis(x + length * (rise_x @ integrals), y + length * (rise_y @ integrals))
        du, dv = kappa * length * (rise_y * bz - by), kappa * length * (bx - rise_x * bz)
        u, v = u_axis[..., :-1] + du @ integrals, v0 + dv @ integrals
        u_end, v_end = u_axis[..., -1] + du @ weights, v0[..., 0] + dv @ weights
        rise_x, rise_y, crosses = slopes(u, v)
    middle = slice(NUM_NODES // 2 - 1, NUM_NODES // 2 + 1)
    x_way, y_way = x + length * (rise_x @ integrals), y + length * (rise_y @ integrals)
    w2 = 1.0 - u_end * u_end - v_end * v_end
    return KickBaseline(
        kick=kappa[..., 0] * axis[-1],
        x_mid=x_way[..., middle].mean(-1),
        y_mid=y_way[..., middle].mean(-1),
        x_end=x[..., 0] + dz * (rise_x @ weights),
        y_end=y[..., 0] + dz * (rise_y @ weights),
        u_end=u_end,
        v_end=v_end,
        w_end=cast(ArrayT, lib.clip(w2, MIN_COSINE_SQUARED, None) ** 0.5),
        crosses=crosses.all(-1) & (w2 > MIN_COSINE_SQUARED),
    )


def kick_features(state: ArrayT, dz: ArrayT, z0: ArrayT, baseline: KickBaseline[ArrayT]) -> ArrayT:
    """What a network that predicts corrections looks at.

    Args:
        state: x, y, tx, ty at the start, (N, 4), mm and 1.
        dz: Length of the path along z, (N,), mm.
        z0: Where the states are, (N,), mm.
        baseline: Their baseline.

    Returns:
        x, y, u, v at the start, K, x at the middle, x, y, u, w at the end, dz, z0, (N, 12), mm and 1; the
        first ten are all there is between two fixed planes.
    """
    lib = array_module(state)
    x, y, tx, ty = state[..., 0], state[..., 1], state[..., 2], state[..., 3]
    cosine = (1.0 + tx * tx + ty * ty) ** -0.5
    b = baseline
    columns = [x, y, tx * cosine, ty * cosine, b.kick, b.x_mid, b.x_end, b.y_end, b.u_end, b.w_end, dz, z0]
    return cast(ArrayT, lib.stack(columns, -1))


def apply_correction(baseline: KickBaseline[ArrayT], correction: ArrayT, dz: ArrayT) -> ArrayT:
    """Final states from corrections to the baseline.

    Args:
        baseline: Baseline of N tracks.
        correction: c of the module's formula, (N, 4), 1.
        dz: Length of the path along z, (N,), mm.

    Returns:
        x, y, tx, ty, (N, 4), mm and 1.
    """
    lib = array_module(correction)
    u = baseline.u_end + baseline.kick * correction[..., 2]
    v = baseline.v_end + baseline.kick * correction[..., 3]
    w = lib.clip(1.0 - u * u - v * v, MIN_COSINE_SQUARED, None) ** 0.5
    arm = baseline.kick * dz
    x, y = baseline.x_end + arm * correction[..., 0], baseline.y_end + arm * correction[..., 1]
    return cast(ArrayT, lib.stack([x, y, u / w, v / w], -1))


def correction_from_states(baseline: KickBaseline[ArrayT], end: ArrayT, dz: ArrayT) -> ArrayT:
    """Corrections that lead to given final states; inverse of `apply_correction`.

    Args:
        baseline: Baseline of N tracks, with kicks other than zero.
        end: x, y, tx, ty at z0 + dz, (N, 4), mm and 1.
        dz: Length of the path along z, (N,), mm.

    Returns:
        c of the module's formula, (N, 4), 1.
    """
    lib = array_module(end)
    x, y, tx, ty = end[..., 0], end[..., 1], end[..., 2], end[..., 3]
    cosine = (1.0 + tx * tx + ty * ty) ** -0.5
    arm = baseline.kick * dz
    slopes = (tx * cosine - baseline.u_end) / baseline.kick, (ty * cosine - baseline.v_end) / baseline.kick
    return cast(ArrayT, lib.stack([(x - baseline.x_end) / arm, (y - baseline.y_end) / arm, *slopes], -1))


def canonicalize(state: ArrayT, qop: ArrayT, *, flip_x: bool, flip_y: bool) -> tuple[ArrayT, ArrayT, ArrayT]:
    """Reflect tracks to q/p >= 0 and y >= 0, as far as the field allows.

    Args:
        state: x, y, tx, ty, (N, 4), mm and 1.
        qop: q/p, (N,), 1/MeV.
        flip_x: Reflect x together with the charge.
        flip_y: Reflect y.

    Returns:
        The reflected states (N, 4) and q/p (N,), and the signs (N, 4) that were applied to the states:
        multiply final states by them to undo the reflection.
    """
    lib = array_module(state)
    ones = lib.ones_like(qop)
    sign_x = lib.where(qop < 0, -ones, ones) if flip_x else ones
    sign_y = lib.where(state[..., 1] < 0, -ones, ones) if flip_y else ones
    signs = lib.stack([sign_x, sign_y, sign_x, sign_y], -1)
    return cast(ArrayT, state * signs), cast(ArrayT, qop * sign_x), cast(ArrayT, signs)
