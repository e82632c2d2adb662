import numpy as np
import pytest
import torch

from lhcb_extrap.physics.field_map import FieldMap, Grid, sample_field
from lhcb_extrap.physics.field_torch import map_values, trilinear

GRID = Grid((-300.0, -200.0, 100.0), (100.0, 50.0, 200.0), (7, 9, 6))


def multilinear(x, y, z):
    """A field that interpolation linear in each coordinate reproduces."""
    return (
        1 + 0.01 * x + 1e-6 * x * y * z,
        -2 + 0.02 * y - 1e-4 * x * z,
        0.5 + 0.003 * z + 1e-5 * y * z + 0 * x,
    )


def inside_points(num=200, seed=0):
    return np.random.default_rng(seed).uniform([[-300], [-200], [100]], [[300], [200], [1100]], (3, num))


def test_multilinear_field_is_reproduced_with_its_gradient():
    small = sample_field(multilinear, GRID, dtype=np.float64)
    x, y, z = inside_points()
    np.testing.assert_allclose(small(x, y, z), multilinear(x, y, z), atol=1e-12)
    value, by_x, by_y = small.gradient(x, y, z)
    np.testing.assert_allclose(value, multilinear(x, y, z), atol=1e-12)
    np.testing.assert_allclose(by_x, [0.01 + 1e-6 * y * z, -1e-4 * z, 0 * x], atol=1e-13)
    np.testing.assert_allclose(by_y, [1e-6 * x * z, 0.02 + 0 * x, 1e-5 * z], atol=1e-13)


def test_nodes_borders_and_outside():
    small = sample_field(multilinear, GRID, dtype=np.float64)
    x, y, z = (axis.ravel() for axis in np.meshgrid(*GRID.axes(), indexing="ij"))
    np.testing.assert_allclose(small(x, y, z), multilinear(x, y, z), atol=1e-12)
    assert small.contains(x, y, z).all()
    outside = np.array([[-300.1, 0.0, 0.0, np.nan], [0.0, 200.1, 0.0, 0.0], [500.0, 500.0, 1100.1, 500.0]])
    assert not np.any(small(*outside))
    assert not small.contains(*outside).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_follows_the_positions(field_map, dtype):
    x, y, z = (p.astype(dtype) for p in inside_points())
    for component in field_map(x, y, z + dtype(3000)):
        assert component.dtype == dtype
    assert field_map.astype(np.float64).values.dtype == np.float64


def test_interpolation_error_of_the_default_spacing(coils, field_map):
    rng = np.random.default_rng(4)
    points = rng.uniform([[-1000], [-800], [3000]], [[1000], [800], [7000]], (3, 5000))
    error = np.abs(np.stack(field_map(*points)) - np.stack(coils(*points)))
    assert error.mean() < 2e-4
    assert error.max() < 5e-3


def test_any_shape():
    small = sample_field(multilinear, GRID)
    assert small(np.zeros((2, 1)), np.zeros(3), np.float64(500.0))[2].shape == (2, 3)
    assert small(np.zeros(0), np.zeros(0), np.zeros(0))[0].shape == (0,)


def test_torch_lookup_agrees_and_has_the_gradient_of_the_map(field_map):
    x, y, z = inside_points(300, seed=1) * np.array([[4.0], [4.0], [3.0]]) + np.array(
        [[0.0], [0.0], [3000.0]]
    )
    x[0], x[1] = 9000.0, -4000.0  # outside, and on the border
    values = map_values(field_map, dtype=torch.float64)
    at = [torch.tensor(c, requires_grad=True) for c in (x, y, z)]
    found = trilinear(values, field_map.grid, *at)
    np.testing.assert_allclose([b.detach().numpy() for b in found], field_map(x, y, z), atol=1e-13)
    _, by_x, by_y = field_map.gradient(x, y, z)
    for component in range(3):
        dx, dy, _ = torch.autograd.grad(found[component].sum(), at, retain_graph=True)
        np.testing.assert_allclose(dx, by_x[component], atol=1e-15)
        np.testing.assert_allclose(dy, by_y[component], atol=1e-15)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch itself, in jvp
def test_torch_lookup_works_under_forward_mode_and_vmap(field_map):
    values = map_values(field_map, dtype=torch.float64)

    def by_along_z(z):
        return trilinear(values, field_map.grid, torch.zeros_like(z), torch.zeros_like(z), z)[1]

    z = torch.tensor([4010.0, 5230.0], dtype=torch.float64)
    slope = torch.func.vmap(torch.func.jacfwd(by_along_z))(z)
    torch.testing.assert_close(slope, (by_along_z(z + 1) - by_along_z(z - 1)) / 2)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="two nodes"):
        Grid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2, 2, 1))
    with pytest.raises(ValueError, match="C-contiguous array of shape"):
        FieldMap(GRID, np.zeros((7, 9, 6, 4), np.float32))
