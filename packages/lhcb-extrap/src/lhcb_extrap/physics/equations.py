r"""Equations of motion of a charged particle in a magnetic field, with z as the independent variable.

With the slopes tx = dx/dz, ty = dy/dz, N = sqrt(1 + tx^2 + ty^2) and kappa = 0.299792458 (q/p)[1/MeV],

    dtx/dz = kappa N [ tx ty Bx - (1 + tx^2) By + ty Bz ],
    dty/dz = kappa N [ (1 + ty^2) Bx - tx ty By - tx Bz ],

x, y, z in mm, B in T, q/p constant: energy loss and scattering are not part of the extrapolation. They
follow from dp/dt = q v x B divided by dz/dt. In a pure By(z) the direction cosines u = tx/N and v = ty/N
obey

    u(z1) - u(z0) = -kappa (integral of By dz),    v = constant,

exactly and for any momentum, which in everyday units is |change of u| = 0.2998 (integral of B dl)[T m] /
p[GeV].

References:
    LHCb Collaboration, JINST 3 (2008) S08005, section 9, for the track state (x, y, tx, ty, q/p).

The functions take NumPy arrays or PyTorch tensors and return what they were given.
"""

from typing import cast

from lhcb_extrap.physics.arrays import ArrayT
from lhcb_extrap.physics.constants import KAPPA_PER_QOP, MEV_PER_GEV


def kappa_from_qop(qop: ArrayT) -> ArrayT:
    """Curvature per field of a charge over momentum.

    Args:
        qop: q/p, any shape, 1/MeV.

    Returns:
        kappa, same shape, 1/(mm T).
    """
    return cast(ArrayT, KAPPA_PER_QOP * qop)


def qop_from_momentum(charge: ArrayT, momentum_gev: ArrayT) -> ArrayT:
    """Charge over momentum of a particle.

    Args:
        charge: Charge, any shape, e.
        momentum_gev: Momentum, same shape, GeV.

    Returns:
        q/p, same shape, 1/MeV.
    """
    return cast(ArrayT, charge / (MEV_PER_GEV * momentum_gev))


def slope_derivatives(
    tx: ArrayT, ty: ArrayT, kappa: ArrayT, bx: ArrayT, by: ArrayT, bz: ArrayT
) -> tuple[ArrayT, ArrayT]:
    """Right-hand side of the equations of motion.

    Args:
        tx: Slope dx/dz, any shape.
        ty: Slope dy/dz, same shape.
        kappa: Curvature per field, same shape, 1/(mm T).
        bx: Field along x, same shape, T.
        by: Field along y, same shape, T.
        bz: Field along z, same shape, T.

    Returns:
        dtx/dz and dty/dz, same shape, 1/mm.
    """
    tx2, ty2 = 1.0 + tx * tx, ty * ty
    strength = kappa * (tx2 + ty2) ** 0.5
    dtx = strength * (ty * (tx * bx + bz) - tx2 * by)
    dty = strength * ((1.0 + ty2) * bx - tx * (ty * by + bz))
    return dtx, dty


def slope_partials(
    tx: ArrayT, ty: ArrayT, kappa: ArrayT, bx: ArrayT, by: ArrayT, bz: ArrayT
) -> tuple[tuple[ArrayT, ArrayT], tuple[ArrayT, ArrayT]]:
    """Partial derivatives of the right-hand side by the slopes, at fixed field.

    Args:
        tx: Slope dx/dz, any shape.
        ty: Slope dy/dz, same shape.
        kappa: Curvature per field, same shape, 1/(mm T).
        bx: Field along x, same shape, T.
        by: Field along y, same shape, T.
        bz: Field along z, same shape, T.

    Returns:
        ((d(dtx/dz)/dtx, d(dtx/dz)/dty), (d(dty/dz)/dtx, d(dty/dz)/dty)), same shape, 1/mm.
    """
    norm2 = 1.0 + tx * tx + ty * ty
    strength = kappa * norm2**0.5
    dtx, dty = slope_derivatives(tx, ty, kappa, bx, by, bz)
    from_norm_x, from_norm_y = tx / norm2, ty / norm2  # d ln N / dtx, d ln N / dty
    return (
        (
            dtx * from_norm_x + strength * (ty * bx - 2.0 * tx * by),
            dtx * from_norm_y + strength * (tx * bx + bz),
        ),
        (
            dty * from_norm_x - strength * (ty * by + bz),
            dty * from_norm_y + strength * (2.0 * ty * bx - tx * by),
        ),
    )
