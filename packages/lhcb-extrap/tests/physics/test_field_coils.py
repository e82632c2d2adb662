import numpy as np
import pytest
from scipy.integrate import trapezoid

from lhcb_extrap.physics.constants import T_STATION_Z_MM, UT_Z_MM
from lhcb_extrap.physics.field_coils import DEFAULT_COILS, CoilField
from lhcb_extrap.physics.field_properties import (
    FieldIntegral,
    bending_integral_t_m,
    divergence_and_curl,
    mirror_symmetry,
)


def test_field_on_the_axis_has_the_published_shape(coils):
    z = np.arange(-500.0, 14000.0, 10.0)
    bx, by, bz = coils(np.zeros_like(z), np.zeros_like(z), z)
    size = np.abs(by)
    assert (by[(z > 1500) & (z < 11000)] < 0).all()  # polarity "MagDown"; the return flux is positive
    assert size.max() == pytest.approx(1.038, abs=1e-3)
    assert z[size.argmax()] == pytest.approx(4800, abs=50)
    above_half = z[size > size.max() / 2]
    assert above_half[0] == pytest.approx(3200, abs=50)
    # The field falls to half once: the far tail does not come back.
    assert np.diff(above_half).max() == pytest.approx(10.0)
    assert above_half[-1] == pytest.approx(7000, abs=50)
    assert np.abs(bx).max() < 1e-15
    assert np.abs(bz).max() < 1e-15


def test_bending_integrals(coils):
    assert bending_integral_t_m(coils, -500.0, 14000.0) == pytest.approx(-4.285, abs=1e-3)
    assert bending_integral_t_m(coils, UT_Z_MM, T_STATION_Z_MM) == pytest.approx(-3.775, abs=1e-3)
    assert bending_integral_t_m(CoilField(scale=-0.975), UT_Z_MM, T_STATION_Z_MM) == pytest.approx(
        3.6806, abs=1e-3
    )


def test_field_obeys_maxwell_inside_the_aperture(coils):
    rng = np.random.default_rng(1)
    x, y, z = rng.uniform([[-1500], [-1200], [0]], [[1500], [1200], [10000]], (3, 500))
    divergence, curl = divergence_and_curl(coils, x, y, z, step_mm=0.25)
    _, by_x, by_y = coils.gradient(x, y, z)
    assert max(np.abs(by_x).max(), np.abs(by_y).max()) > 1e-4  # T/mm; to compare the zeros below with
    assert np.abs(divergence).max() < 1e-8
    assert np.abs(curl).max() < 1e-8


def test_a_field_of_by_alone_fails_the_maxwell_test():
    def gaussian(x, y, z):
        by = -1.0182 * np.exp(-(((z - 5007.0) / 1744.0) ** 2) / 2) + 0 * x
        return 0 * by, by, 0 * by

    _, curl = divergence_and_curl(gaussian, np.zeros(3), np.zeros(3), np.array([3000.0, 4000.0, 6000.0]))
    assert np.abs(curl).max() > 1e-4


def test_long_wire_gives_the_textbook_field():
    """A loop of 2 km around, seen from 1 m beside one edge, is a straight wire: B = mu0 I / (2 pi r)."""
    from lhcb_extrap.physics.field_coils import CoilPair

    far = 1.0e6
    field = CoilField((CoilPair(0.0, far, far, far, far, far, 1.0e6),), max_tesla=10.0)
    bx, by, bz = field(np.array([0.0]), np.array([far]), np.array([-1000.0]))
    assert np.hypot(by, bz) == pytest.approx(2e-7 * 1e6 / 1.0, rel=3e-3)
    assert abs(bx[0]) < 1e-9


def test_gradient_agrees_with_differences(coils):
    rng = np.random.default_rng(2)
    x, y, z = rng.uniform([[-1500], [-1200], [0]], [[1500], [1200], [10000]], (3, 50))
    value, by_x, by_y = coils.gradient(x, y, z)
    np.testing.assert_allclose(np.stack(value), np.stack(coils(x, y, z)), atol=1e-14)
    for found, shift in ((by_x, (0.5, 0.0)), (by_y, (0.0, 0.5))):
        ahead, behind = coils(x + shift[0], y + shift[1], z), coils(x - shift[0], y - shift[1], z)
        np.testing.assert_allclose(np.stack(found), np.stack(ahead) - np.stack(behind), atol=2e-9)


def test_field_on_and_beside_a_filament_is_finite(coils):
    pair = DEFAULT_COILS[0]
    y = np.array([pair.abs_y_front_mm, pair.abs_y_front_mm + 1.0, pair.abs_y_front_mm])
    x = np.array([0.0, 0.0, pair.half_x_front_mm])  # on an edge, 1 mm beside it, on a corner
    size = np.linalg.norm(coils(x, y, np.full(3, pair.z_front_mm)), axis=0)
    assert size == pytest.approx([0.0, coils.max_tesla, 0.0])


def test_shapes_broadcast(coils):
    bx, by, bz = coils(np.zeros((1, 3)), np.zeros((2, 1)), np.float64(5000.0))
    assert bx.shape == by.shape == bz.shape == (2, 3)
    assert coils(np.zeros(0), np.zeros(0), np.zeros(0))[1].shape == (0,)


def test_mirror_symmetries_are_found_and_refused(coils, field_map):
    exact = mirror_symmetry(coils)
    assert exact.flip_x
    assert exact.flip_y
    assert max(exact.residual_x, exact.residual_y) < 1e-12
    gridded = mirror_symmetry(field_map, z_from_mm=2900.0, z_to_mm=7000.0)
    assert gridded.flip_x
    assert gridded.flip_y

    def displaced(x, y, z):
        return coils(x - 5.0, y, z)

    shifted = mirror_symmetry(displaced)
    assert not shifted.flip_x
    assert shifted.flip_y
    assert shifted.residual_x > 1e-4


def test_integral_table_is_the_integral(coils):
    table = FieldIntegral.along_beam(coils, 2000.0, 8000.0, 20.0)
    z = np.random.default_rng(3).uniform(2000, 8000, 20)
    for stop in z:
        nodes = np.linspace(2000, stop, 2001)
        by = coils(0 * nodes, 0 * nodes, nodes)[1]
        assert table(np.array([stop]))[0] == pytest.approx(trapezoid(by, nodes), abs=1e-3)
    # The slope of the table is the field.
    slope = (table(z + 0.01) - table(z - 0.01)) / 0.02
    np.testing.assert_allclose(slope, coils(0 * z, 0 * z, z)[1], atol=2e-6)
    assert table(np.array([1000.0, 2000.0])) == pytest.approx([0.0, 0.0])
    assert table(np.array([9000.0])) == table(np.array([8000.0]))
