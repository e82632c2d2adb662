import numpy as np
import pytest
import torch

from hep_shared.ops.equilinear import dense_matrix
from jet_foundation.models.equilinear import METRIC, EquiLinear, embed_vector, inner_product
from jet_foundation.physics import fourvectors as fv

# Agreement of two orders of summation in float32 at 16 channels.
ATOL = 2e-6


def random_transformation() -> np.ndarray:
    return fv.boost_matrix(np.array([0.3, -0.4, 0.2])) @ fv.rotation_matrix(np.array([1.0, -2.0, 0.5]), 1.1)


def compound_matrix(transformation: np.ndarray) -> np.ndarray:
    """How a Lorentz transformation acts on the 16 components: minors of its matrix, grade by grade."""
    from itertools import combinations

    blocks = np.zeros((16, 16))
    start = 0
    for grade in range(5):
        index = list(combinations(range(4), grade))
        for a, rows in enumerate(index):
            for b, columns in enumerate(index):
                minor = np.linalg.det(transformation[np.ix_(rows, columns)]) if grade else 1.0
                blocks[start + a, start + b] = minor
        start += len(index)
    return blocks


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (1, 16), (4, 16), (16, 16), (8, 24), (33, 9)])
def test_agrees_with_the_dense_matrix(inputs: int, outputs: int) -> None:
    layer = EquiLinear(inputs, outputs)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 171, inputs, 16)
    expected = (x.flatten(-2) @ dense_matrix(layer.weight).T).unflatten(-1, (outputs, 16))
    expected = expected + torch.nn.functional.pad(layer.bias, (0, 15))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=ATOL * inputs)


def test_gradients_are_exact() -> None:
    layer = EquiLinear(8, 9).double()
    x = torch.randn(5, 8, 16, dtype=torch.float64, requires_grad=True)
    weights = tuple(layer.parameters())

    def run(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return layer(x)

    assert torch.autograd.gradcheck(run, (x, *weights), fast_mode=True)


@pytest.mark.parametrize("channels", [1, 16])
def test_commutes_with_lorentz_transformations(channels: int) -> None:
    layer = EquiLinear(channels, channels).double()
    torch.nn.init.normal_(layer.bias)
    move = torch.from_numpy(compound_matrix(random_transformation()))
    x = torch.randn(40, channels, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x @ move.T), layer(x) @ move.T, rtol=1e-10, atol=1e-10)


def test_inner_product_is_invariant_and_extends_that_of_four_vectors() -> None:
    move = torch.from_numpy(compound_matrix(random_transformation()))
    a, b = torch.randn(2, 30, 16, dtype=torch.float64)
    torch.testing.assert_close(inner_product(a @ move.T, b @ move.T), inner_product(a, b))
    p = torch.randn(10, 4, dtype=torch.float64)
    torch.testing.assert_close(inner_product(embed_vector(p), embed_vector(p)), fv.mass_squared(p))
    assert sum(METRIC) == 0


@pytest.mark.parametrize("channels", [1, 3, 16, 32])
def test_equals_lgatr(channels: int) -> None:
    layers = pytest.importorskip("lgatr.layers", reason="lgatr is not installed (group `peers`)")
    primitives = pytest.importorskip("lgatr.primitives.config")
    theirs = layers.EquiLinear(channels, channels, primitives.PrimitivesConfig())
    torch.nn.init.normal_(theirs.bias)
    ours = EquiLinear(channels, channels)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(64, 10, channels, 16)
    expected, _ = theirs(x)
    scale = expected.abs().max()
    assert (ours(x) - expected).abs().max() / scale < 1e-6


def test_empty_batches_and_export_path() -> None:
    layer = EquiLinear(16, 16)
    assert layer(torch.zeros(0, 16, 16)).shape == (0, 16, 16)
