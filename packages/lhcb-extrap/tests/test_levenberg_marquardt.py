import pytest
import torch

from hep_shared.testing import same_tensors
from lhcb_extrap.data.stream import read_sample
from lhcb_extrap.levenberg_marquardt import (
    LayeredFit,
    LevenbergMarquardt,
    TrackFit,
    add_gram,
    flatten,
    unflatten,
)
from lhcb_extrap.tasks.extrapolation import build_network


class Rosenbrock:
    """r = (1 - a, 10 (b - a^2)): a curved valley with its minimum at (1, 1)."""

    def residual(self, w):
        return torch.stack([1 - w[0], 10 * (w[1] - w[0] ** 2)])

    def loss(self, weights):
        return 0.5 * float(self.residual(weights).square().sum())

    def normal_equations(self, weights):
        jacobian = torch.autograd.functional.jacobian(self.residual, weights)
        return self.loss(weights), jacobian.T @ self.residual(weights), jacobian.T @ jacobian


def test_it_follows_a_curved_valley_and_never_rises():
    solver = LevenbergMarquardt(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    steps = [solver.step(Rosenbrock()) for _ in range(30)]
    assert all(step.after <= step.before for step in steps)
    torch.testing.assert_close(solver.weights, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-8)


def test_a_step_that_cannot_help_is_not_taken():
    class Flat(Rosenbrock):
        def loss(self, weights):
            return 1.0

        def normal_equations(self, weights):
            return 1.0, torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)

    solver = LevenbergMarquardt(torch.zeros(2, dtype=torch.float64), damping=1.0, max_trials=3)
    info = solver.step(Flat())
    assert (info.trials, info.after) == (3, info.before)
    assert solver.weights.tolist() == [0.0, 0.0]
    assert solver.damping == 2 * 4 * 8


@pytest.fixture(scope="module")
def fit(track_file, tiny_config, normalization):
    # With By on the axis alone much is left to learn.
    axis = normalization.model_copy(
        update={"planes": None, "correction_mean": (0.0,) * 4, "correction_std": (0.03,) * 4}
    )
    network = build_network(tiny_config("model.kind=kick").model, axis).double()
    tracks, end = read_sample([track_file]).tensors(torch.float64)
    options = {"delta_mm": 1.0, "slope_arm_mm": 3000.0, "chunk_tracks": 100}
    return network, TrackFit(network, tracks, end, **options)


def test_gradient_and_loss_agree_with_autograd(fit):
    network, problem = fit
    weights = flatten(network)
    loss, gradient, gram = problem.normal_equations(weights)
    assert loss == pytest.approx(problem.loss(weights), rel=1e-12)
    direction = torch.randn(weights.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = (problem.loss(weights + 1e-6 * direction) - problem.loss(weights - 1e-6 * direction)) / 2e-6
    assert float(gradient @ direction) == pytest.approx(difference, rel=1e-4)
    torch.testing.assert_close(gram, gram.T)
    assert float(direction @ gram @ direction) > 0


@pytest.mark.parametrize("activation", ["isru", "tanh"])
def test_outer_products_give_the_same_equations(fit, tiny_config, normalization, activation):
    settings = ("model.kind=kick", "model.hidden=[5, 3, 4]", f"model.activation={activation}")
    network = build_network(tiny_config(*settings).model, normalization).double()
    weights = flatten(network)
    tracks, end = (rows[:90] for rows in (fit[1]._tracks, fit[1]._truth))
    options = {"delta_mm": 1.0, "slope_arm_mm": 3000.0, "chunk_tracks": 40}
    plain, layered = (kind(network, tracks, end, **options) for kind in (TrackFit, LayeredFit))
    assert layered.loss(weights) == pytest.approx(plain.loss(weights), rel=1e-12)
    for found, expected in zip(
        layered.normal_equations(weights), plain.normal_equations(weights), strict=True
    ):
        found, expected = (torch.as_tensor(value, dtype=torch.float64) for value in (found, expected))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


def test_a_few_steps_lower_the_loss_of_a_network_much(fit):
    network, problem = fit
    solver = LevenbergMarquardt(flatten(network))
    before = problem.loss(solver.weights)
    for _ in range(12):
        info = solver.step(problem)
    assert info.after < 0.1 * before
    other = LevenbergMarquardt(torch.zeros_like(solver.weights))
    other.load_state_dict(solver.state_dict())
    assert same_tensors(other.state_dict(), solver.state_dict())


def test_weights_are_cut_as_they_were_joined(fit):
    network, _ = fit
    parts = unflatten(network, flatten(network))
    assert all(torch.equal(parts[name], parameter) for name, parameter in network.named_parameters())


def test_blocks_below_the_diagonal_are_the_product():
    rows = torch.randn(50, 13, dtype=torch.float64)
    gram = torch.zeros(13, 13, dtype=torch.float64)
    add_gram(gram, rows)
    torch.testing.assert_close(torch.tril(gram), torch.tril(rows.T @ rows))
