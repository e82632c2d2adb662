"""Losses against numbers worked out by hand, and the sum over tasks."""

import math

import pytest
import torch

from megii_xec.losses import LOSSES, QUANTILES, MultiTaskLoss, TaskLoss
from megii_xec.models.readout import OUTPUTS_PER_TARGET


def one(kind, prediction, target, beta=1.0):
    return LOSSES[kind](torch.tensor([prediction]), torch.tensor([target]), beta).item()


@pytest.mark.parametrize(
    ("kind", "beta", "expected"),
    [
        ("l1", 1.0, (0.5 + 3.0) / 2),
        ("mse", 1.0, (0.25 + 9.0) / 2),
        ("smooth_l1", 1.0, (0.125 + 2.5) / 2),
        ("smooth_l1", 2.0, (0.0625 + 2.0) / 2),
        ("huber", 2.0, (0.125 + 4.0) / 2),
        ("relative_l1", 1.0, (0.25 + 0.75) / 2),
        ("relative_mse", 1.0, (0.0625 + 0.5625) / 2),
        ("relative_smooth_l1", 1.0, (0.03125 + 0.28125) / 2),
    ],
)
def test_values(kind, beta, expected):
    assert one(kind, [2.5, -1.0], [2.0, -4.0], beta) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "target", "degrees"),
    [
        ([90.0, 0.0], [90.0, 1.5], 1.5),
        ([90.0, 179.5], [90.0, -179.5], 1.0),  # across the seam of phi
        ([0.0, 40.0], [0.0, -70.0], 0.0),  # phi means nothing on the axis
        ([30.0, 10.0], [120.0, 10.0], 90.0),
        ([1.0, 0.0, 0.0], [0.0, 0.0, 2.0], 90.0),
    ],
)
def test_angles(prediction, target, degrees):
    assert one("angular", prediction, target) == pytest.approx(degrees, abs=1e-3)
    assert one("cosine", prediction, target) == pytest.approx(1 - math.cos(math.radians(degrees)), abs=1e-6)


@pytest.mark.parametrize("prediction", [[80.0, 20.0], [100.0, -160.0]])
def test_the_angle_has_a_finite_gradient_at_equal_and_opposite_directions(prediction):
    x = torch.tensor([prediction], requires_grad=True)
    LOSSES["angular"](x, torch.tensor([[80.0, 20.0]]), 1.0).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_beta_nll_with_beta_0_is_the_gaussian_likelihood():
    expected = torch.nn.functional.gaussian_nll_loss(
        torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([2.0])
    )
    assert one("beta_nll", [1.0, math.log(2.0)], [3.0], beta=0.0) == pytest.approx(expected.item())


def test_beta_nll_with_beta_1_has_the_gradient_of_mse_in_the_mean():
    x = torch.tensor([[1.0, math.log(7.0)]], requires_grad=True)
    LOSSES["beta_nll"](x, torch.tensor([[3.0]]), 1.0).sum().backward()
    assert x.grad[0, 0].item() == pytest.approx(-2.0)


def test_the_quantile_loss_is_smallest_at_the_quantiles():
    sample = torch.linspace(0, 1, 1001)[:, None]
    best = torch.tensor(QUANTILES)
    at_best = LOSSES["quantile"](best.expand(1001, 3), sample, 1.0).mean()
    for shift in (-0.05, 0.05):
        assert LOSSES["quantile"]((best + shift).expand(1001, 3), sample, 1.0).mean() > at_best


def test_cross_entropy_takes_class_numbers():
    assert one("cross_entropy", [0.0, 0.0, 0.0, 0.0, 0.0], [3.0]) == pytest.approx(math.log(5))


@pytest.mark.parametrize("kind", LOSSES)
def test_one_number_for_each_event_with_a_gradient(kind):
    num_targets = 2
    outputs = num_targets * OUTPUTS_PER_TARGET.get(kind, 1)
    prediction = torch.rand(5, outputs, requires_grad=True)
    target = torch.ones(5, 1) if kind == "cross_entropy" else torch.rand(5, num_targets) + 1
    loss = LOSSES[kind](prediction, target, 1.0)
    loss.sum().backward()
    assert loss.shape == (5,)
    assert prediction.grad.abs().sum() > 0


OUTPUTS = {"energy": torch.tensor([[1.0], [3.0]]), "angle": torch.tensor([[0.0, 0.0], [2.0, 2.0]])}
TARGETS = {"energy": torch.tensor([[0.0], [0.0]]), "angle": torch.zeros(2, 2)}


def test_fixed_weights_and_event_weights():
    loss = MultiTaskLoss({"energy": TaskLoss("l1", weight=2.0), "angle": TaskLoss("mse", weight=0.5)})
    total, parts = loss(OUTPUTS, TARGETS)
    assert {name: part.item() for name, part in parts.items()} == {"energy": 2.0, "angle": 2.0}
    assert total.item() == pytest.approx(2 * 2.0 + 0.5 * 2.0)
    total, parts = loss(OUTPUTS, TARGETS, torch.tensor([3.0, 1.0]))
    assert parts["energy"].item() == pytest.approx(1.5)
    assert parts["angle"].item() == pytest.approx(1.0)
    assert total.item() == pytest.approx(2 * 1.5 + 0.5 * 1.0)


def test_learned_weights_settle_where_the_variance_equals_the_loss():
    loss = MultiTaskLoss({"energy": TaskLoss("l1"), "angle": TaskLoss("mse")}, weighting="learned")
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        total, parts = loss(OUTPUTS, TARGETS)
        total.backward()
        optimizer.step()
    for name, s in loss.log_variances.items():
        assert math.exp(s.item()) == pytest.approx(parts[name].item(), rel=1e-2)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="task energy has loss 'l3'; the losses are smooth_l1, l1, mse"):
        MultiTaskLoss({"energy": TaskLoss("l3")})
    with pytest.raises(ValueError, match="weighting is 'auto'; use fixed or learned"):
        MultiTaskLoss({}, weighting="auto")
