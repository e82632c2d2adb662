"""The PyTorch references of the operators; shared/cuda tests the rest."""

import pytest
import torch

from hep_shared.ops._backend import references
from hep_shared.ops.equilinear import equi_linear
from hep_shared.ops.hex import hex_conv_norm
from hep_shared.ops.knn import knn
from hep_shared.ops.narrow_mlp import narrow_mlp
from hep_shared.ops.nearest import nearest_code


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


NEIGHBORS = torch.tensor([[0, 1, -1, -1, -1, -1, -1], [1, 0, -1, -1, -1, -1, -1]])
CALLS = {
    "equi_linear, dense": lambda: equi_linear(numbers(5, 3, 16), numbers(2, 3, 10), numbers(2)),
    "equi_linear, in pairs": lambda: equi_linear(numbers(5, 9, 16), numbers(8, 9, 10), numbers(8)),
    "narrow_mlp": lambda: narrow_mlp(numbers(6, 3), numbers(4 * 3 + 4 + 2 * 4 + 2), [3, 4, 2], "tanh"),
    "nearest_code": lambda: nearest_code(numbers(300, 8), numbers(64, 8)),
    "knn": lambda: knn(numbers(4, 40, 3), torch.ones(4, 40, dtype=torch.bool), 5),
    "hex_conv_norm": lambda: hex_conv_norm(
        numbers(3, 2, 4), NEIGHBORS, numbers(7, 4), numbers(4), numbers(4), numbers(4), 1e-6
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_no_reference(name):
    with references():
        expected = CALLS[name]()
        with torch.autocast("cpu", torch.bfloat16):
            found = CALLS[name]()
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
