"""The unit test the physics of everything else rests on: particles bend as much as they should."""

import numpy as np
import pytest
import torch

from lhcb_extrap.physics.constants import KAPPA_PER_QOP, T_STATION_Z_MM, UT_Z_MM
from lhcb_extrap.physics.equations import (
    kappa_from_qop,
    qop_from_momentum,
    slope_derivatives,
    slope_partials,
)
from lhcb_extrap.physics.field_properties import bending_integral_t_m
from lhcb_extrap.physics.runge_kutta import rk4


@pytest.mark.parametrize("momentum_gev", [3.0, 10.0, 80.0])
@pytest.mark.parametrize("charge", [-1.0, 1.0])
def test_bend_is_0_2998_times_the_integral_over_p(coils, momentum_gev, charge):
    """On the axis at high momentum the change of tx/N is -0.2998 q (integral of By dz)[T m] / p[GeV]."""
    qop = qop_from_momentum(np.array([charge]), np.array([momentum_gev]))
    assert qop[0] == pytest.approx(charge / (momentum_gev * 1000))
    end = rk4(coils, np.zeros((1, 4)), qop, UT_Z_MM, T_STATION_Z_MM - UT_Z_MM, step_mm=100.0)
    tx, ty = end.state[0, 2:]
    bend = tx / np.sqrt(1 + tx**2 + ty**2)
    expected = -charge * 0.2998 * bending_integral_t_m(coils, UT_Z_MM, T_STATION_Z_MM) / momentum_gev
    # A particle of 3 GeV leaves the axis by 0.9 m and sees a slightly different field.
    assert bend == pytest.approx(expected, rel=0.03 * (3.0 / momentum_gev) ** 2 + 1e-4)
    assert abs(expected) * momentum_gev == pytest.approx(1.13, abs=0.01)  # the kick of the magnet, GeV


def test_circle_in_a_uniform_field():
    """p[GeV] = 0.2998 B[T] R[m] as geometry: 1 T and 3 GeV give a circle of R = 10.007 m."""

    def uniform(x, y, z):
        return np.zeros_like(z), np.ones_like(z), np.zeros_like(z)

    radius_mm = 3.0 / 0.299792458 * 1000
    qop = qop_from_momentum(np.array([-1.0]), np.array([3.0]))
    end = rk4(uniform, np.zeros((1, 4)), qop, 0.0, 4000.0, step_mm=20.0).state[0]
    assert end[0] == pytest.approx(radius_mm - np.sqrt(radius_mm**2 - 4000**2), rel=1e-9)
    assert end[2] == pytest.approx(4000 / np.sqrt(radius_mm**2 - 4000**2), rel=1e-9)
    assert end[1] == end[3] == 0.0


def test_momentum_is_conserved_and_force_is_perpendicular():
    """The right-hand side equals q v x B resolved along z, computed here with vectors."""
    rng = np.random.default_rng(0)
    tx, ty = rng.uniform(-2, 2, (2, 100))
    field = rng.normal(0, 1, (3, 100))
    kappa = kappa_from_qop(rng.uniform(-1e-3, 1e-3, 100))
    norm = np.sqrt(1 + tx**2 + ty**2)
    direction = np.stack([tx, ty, np.ones_like(tx)]) / norm
    # d(direction)/ds = kappa (direction x B), ds = norm dz
    turn = kappa * np.cross(direction, field, axis=0) * norm
    dtx = (turn[0] - tx * turn[2]) * norm
    dty = (turn[1] - ty * turn[2]) * norm
    found = slope_derivatives(tx, ty, kappa, *field)
    np.testing.assert_allclose(found, [dtx, dty], rtol=1e-12, atol=1e-18)
    assert np.abs((turn * direction).sum(axis=0)).max() < 1e-18


def test_partials_agree_with_automatic_differentiation():
    tx, ty, kappa, bx, by, bz = torch.tensor(np.random.default_rng(1).normal(0, 1, (6, 30)))
    tx.requires_grad_()
    ty.requires_grad_()
    found = slope_partials(tx, ty, kappa, bx, by, bz)
    for row, derivative in zip(found, slope_derivatives(tx, ty, kappa, bx, by, bz), strict=True):
        expected = torch.autograd.grad(derivative.sum(), (tx, ty), retain_graph=True)
        torch.testing.assert_close(row, expected)


def test_kappa_is_for_q_over_p_in_1_per_mev():
    assert KAPPA_PER_QOP == 0.299792458
    assert kappa_from_qop(1e-3) == pytest.approx(2.99792458e-4)  # 1 GeV, in 1/(mm T)
