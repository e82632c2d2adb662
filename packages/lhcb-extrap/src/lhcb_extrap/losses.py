r"""Losses of extrapolators: distance to the true end, equations of motion, initial condition.

    data, mse           mean of ((end - truth) / std)^2                            over tracks and components
    data, pseudo_huber  mean of sum of delta^2 (sqrt(1 + (d / delta)^2) - 1)     d = (dx, dy, L dtx, L dty) mm
    pde                 mean of ((ds/dz - f(s, B)) L / std)^2                      L = |dz|
    ic                  mean of ((s(0) - start) / std)^2

`std` are the standard deviations of x, y, tx, ty at the end and L the length of the path, so all of them are
without unit and of like size: a residual of 1 that lasted over the whole path would move the end by one
standard deviation. Without it the residuals of x (1) and tx (1/mm) differ by four orders of magnitude.

References:
    M. Raissi, P. Perdikaris, G. E. Karniadakis, J. Comput. Phys. 378 (2019) 686 (pde and ic).

Dimension legend: B tracks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lhcb_extrap.physics.constants import SLOPE_ARM_MM
from lhcb_extrap.physics.equations import kappa_from_qop, slope_derivatives
from lhcb_extrap.physics.field_map import FieldMap, Grid
from lhcb_extrap.physics.field_torch import map_values, trilinear


@dataclass(frozen=True)
class FieldTable:
    """A field map on a device.

    Attributes:
        values: Table of `field_torch.map_values`.
        grid: Its grid.
    """

    values: Tensor
    grid: Grid

    @classmethod
    def of(cls, field: FieldMap, device: torch.device) -> "FieldTable":
        """Put a map on a device, float32."""
        return cls(map_values(field, device=device), field.grid)


def mse(end: Tensor, truth: Tensor, end_std: Tensor) -> Tensor:
    """Mean squared distance in standard deviations.

    Args:
        end: x, y, tx, ty, (B, 4), mm, 1.
        truth: Likewise.
        end_std: Standard deviations, (4,).

    Returns:
        Scalar, 1.
    """
    return ((end - truth) / end_std).square().mean()


def weighted_difference(end: Tensor, truth: Tensor, slope_arm_mm: float = SLOPE_ARM_MM) -> Tensor:
    """Distance with slopes turned into lengths.

    Args:
        end: x, y, tx, ty, (B, 4), mm, 1.
        truth: Likewise.
        slope_arm_mm: Length that a slope error is multiplied with.

    Returns:
        dx, dy, L dtx, L dty, (B, 4), mm.
    """
    return (end - truth) * end.new_tensor([1.0, 1.0, slope_arm_mm, slope_arm_mm])


def pseudo_huber(difference: Tensor, delta_mm: float) -> Tensor:
    """Quadratic for small, linear for large differences.

    Args:
        difference: Of `weighted_difference`, (B, 4), mm.
        delta_mm: Where it turns.

    Returns:
        Scalar, mm^2.
    """
    scaled = (difference / delta_mm).square()
    # scaled / (sqrt(1 + scaled) + 1) is sqrt(1 + scaled) - 1 without the cancellation at small differences.
    return delta_mm**2 * (scaled / (torch.sqrt(1.0 + scaled) + 1.0)).sum(dim=1).mean()


def lorentz_rate(state: Tensor, qop: Tensor, z: Tensor, field: FieldTable) -> Tensor:
    """Right-hand side of the equations of motion.

    Args:
        state: x, y, tx, ty, (B, 4), mm, 1.
        qop: q/p, (B,), 1/MeV.
        z: Where, (B,), mm.
        field: The field.

    Returns:
        ds/dz, (B, 4), 1, 1/mm.
    """
    x, y, tx, ty = state.unbind(1)
    slopes = slope_derivatives(tx, ty, kappa_from_qop(qop), *trilinear(field.values, field.grid, x, y, z))
    return torch.stack([tx, ty, *slopes], dim=1)


def pde_residual(rate: Tensor, expected: Tensor, length: Tensor, end_std: Tensor) -> Tensor:
    """Violation of the equations of motion, in standard deviations of the end.

    Args:
        rate: ds/dz of a network, (B, 4), 1, 1/mm.
        expected: ds/dz of `lorentz_rate`, (B, 4).
        length: Length of the whole path, (B,), mm.
        end_std: Standard deviations, (4,).

    Returns:
        Residuals, (B, 4), 1.
    """
    return (rate - expected) * length.abs()[:, None] / end_std
