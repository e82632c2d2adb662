"""The loss: weights, and a distance correlation that equals the definition and has its gradient."""

import numpy as np
import pytest
import torch

from chhiggs_pnet.losses import (
    disco,
    distance_correlation,
    distance_covariance2,
    event_weights,
    weighted_cross_entropy,
)
from chhiggs_pnet.metrics.dependence import distance_correlation as exact_correlation

MASSES = np.array([[100.0, 95.0], [160.0, 85.0], [100.0, 95.0]])


def definition(x, y):
    a, b = ((v[:, None] - v[None, :]).abs() for v in (x, y))
    centred = [m - m.mean(0) - m.mean(1, keepdim=True) + m.mean() for m in (a, b)]
    return (centred[0] * centred[1]).mean()


@pytest.mark.parametrize("num", [2, 3, 8, 33, 200])
def test_distance_covariance_is_the_definition(num):
    generator = torch.Generator().manual_seed(num)
    x = torch.randn(num, generator=generator, dtype=torch.float64)
    y = x**2 + torch.randn(num, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(distance_covariance2(x, y), definition(x, y), rtol=1e-9, atol=1e-12)


def test_distance_covariance_with_ties():
    x = torch.tensor([1.0, 1.0, 2.0, 2.0, 3.0, 1.0], dtype=torch.float64)
    y = torch.tensor([0.0, 0.0, 0.0, 5.0, 5.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(distance_covariance2(x, y), definition(x, y))


def test_gradient_is_that_of_the_definition():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, generator=generator, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    (ours,) = torch.autograd.grad(distance_covariance2(x, y), x)
    (theirs,) = torch.autograd.grad(definition(x, y), x)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_correlation_agrees_with_the_metric():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(300, generator=generator)
    y = x + torch.rand(300, generator=generator)
    assert distance_correlation(x, y).item() == pytest.approx(
        exact_correlation(x.numpy(), y.numpy()), abs=1e-5
    )


@pytest.mark.parametrize("constant", ["score", "mass", "few"])
def test_degenerate_inputs_give_zero_and_finite_gradients(constant):
    scores = torch.full((10,), 0.3) if constant == "score" else torch.rand(10)
    scores.requires_grad_()
    masses = torch.full((10, 2), 90.0) if constant == "mass" else torch.rand(10, 2) * 50 + 50
    if constant == "few":
        masses[1:] = -1.0
    loss = disco(scores, masses)
    assert loss.item() == pytest.approx(0.0, abs=1e-4)
    loss.backward()
    assert torch.isfinite(scores.grad).all()


def test_missing_pairs_do_not_count():
    generator = torch.Generator().manual_seed(2)
    scores, masses = torch.rand(50, generator=generator), torch.rand(50, 2, generator=generator) * 100
    masses[20:, 1] = -1.0
    expected = distance_correlation(scores, masses[:, 0]) + distance_correlation(scores[:20], masses[:20, 1])
    torch.testing.assert_close(disco(scores, masses), expected.float(), check_dtype=False)


def test_weights_are_normalised():
    found = event_weights(np.array([1.0, 2.0, -3.0]), MASSES)
    np.testing.assert_allclose(found, [0.5, 1.0, 1.5])


@pytest.mark.parametrize(
    ("option", "expected"), [("abs", [1, 1, 1]), ("drop", [1.5, 1.5, 0]), ("keep", [1, 1, -1])]
)
def test_negative_weights(option, expected):
    np.testing.assert_allclose(event_weights(np.array([2.0, 2.0, -2.0]), MASSES, negative=option), expected)


def test_difficulty_is_that_of_the_plan():
    found = event_weights(np.ones(3), MASSES, difficulty="gap")
    assert found[0] / found[1] == pytest.approx((75 / 160 + 0.1) / (5 / 100 + 0.1))  # 3.79
    assert np.abs(found).sum() == pytest.approx(3)


def test_cross_entropy_is_weighted():
    logits, label = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    weight = torch.tensor([1.5, 0.5])
    parts = torch.nn.functional.cross_entropy(logits, label, reduction="none")
    torch.testing.assert_close(weighted_cross_entropy(logits, label, weight), (parts * weight).sum() / 2)
