"""Products by oneDNN: those of plain layers, with gradients, in every layout and for any number of rows."""

import pytest
import torch
from torch.nn import functional as F

from chhiggs_pnet.models.products import SLOPE, linear, product, rounded, uses_onednn


def example(rows=37, inputs=5, outputs=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, inputs), (outputs, inputs), (outputs,)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def layouts(matrix):
    """The same matrix as it is, transposed in memory, and with gaps."""
    yield matrix
    yield matrix.t().contiguous().t()
    yield torch.cat([matrix, matrix], dim=1)[:, : matrix.shape[1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activate", [False, True])
def test_product_in_every_layout(dtype, activate):
    x, weight, bias = example(dtype=dtype)
    assert dtype == torch.float32 or not uses_onednn(x)
    expected = x @ weight.T + bias
    if activate:
        expected = F.leaky_relu(expected, SLOPE)
    for given in layouts(x):
        for matrix in layouts(weight):
            torch.testing.assert_close(product(given, matrix, bias, activate=activate), expected)
    same_rows = x[:1].expand(4, -1)
    torch.testing.assert_close(
        product(same_rows, weight, bias, activate=activate), expected[:1].expand(4, -1)
    )


@pytest.mark.parametrize("rows", [0, 1, 16, 37, 1025])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_and_its_gradients(rows, with_bias):
    ours = [tensor.requires_grad_() for tensor in example(rows)]
    peer = [tensor.detach().clone().requires_grad_() for tensor in ours]
    factor = torch.randn(rows, 7, generator=torch.Generator().manual_seed(1))
    used = 3 if with_bias else 2
    found, expected = linear(*ours[:used]), F.linear(*peer[:used])
    torch.testing.assert_close(found, expected)
    (found * factor).sum().backward()
    (expected * factor).sum().backward()
    for mine, theirs in zip(ours[:used], peer[:used], strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-4)


def test_a_gradient_that_is_one_number_everywhere():
    x, weight, bias = (tensor.requires_grad_() for tensor in example())
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(x.grad, weight.detach().sum(dim=0).expand(37, -1))
    torch.testing.assert_close(bias.grad, torch.full((7,), 37.0))


def test_weights_without_a_gradient():
    x, weight, bias = example()
    x.requires_grad_()
    linear(x, weight, bias).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * F.linear(x.detach(), weight, bias) @ weight)


def test_rounded_numbers_are_few_and_near():
    numbers = {rounded(num) for num in range(1, 1 << 12)}
    assert all(num <= rounded(num) <= num * 9 / 8 for num in range(1, 1 << 12))
    assert all(rounded(num) == num for num in numbers)
    assert len({num for num in numbers if 1 << 11 <= num < 1 << 12}) == 8
