import pytest
import torch

from jet_foundation.models.generators import CloudFlow, ParticleCvae

MASK = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])


def build(kind: str) -> CloudFlow | ParticleCvae:
    torch.manual_seed(0)
    if kind == "cvae":
        return ParticleCvae(8, 3, latent_dim=4, beta=1.0)
    return CloudFlow(8, 3, num_heads=2, num_layers=1, num_steps=4)


@pytest.mark.parametrize("kind", ["flow", "cvae"])
def test_padding_changes_neither_loss_nor_sample(kind) -> None:
    model = build(kind).eval()
    x, condition = torch.randn(2, 6, 3), torch.randn(2, 8)
    losses = [
        model.loss(
            torch.where(MASK[..., None], x, rubbish), MASK, condition, torch.Generator().manual_seed(1)
        )
        for rubbish in (torch.zeros(()), torch.tensor(7.0))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    sample = model.sample(MASK, condition, torch.Generator().manual_seed(2))
    assert sample.shape == (2, 6, 3)
    assert not sample[~MASK].any()
    assert torch.equal(sample, model.sample(MASK, condition, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("kind", ["flow", "cvae"])
def test_every_parameter_gets_a_gradient(kind) -> None:
    model = build(kind).train()
    model.loss(torch.randn(2, 6, 3), MASK, torch.randn(2, 8)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_particles_of_the_flow_may_come_in_any_order() -> None:
    model = build("flow").eval()
    x, condition, time = torch.randn(2, 6, 3), torch.randn(2, 8), torch.rand(2)
    order = torch.randperm(6)
    shuffled = model(x[:, order], time, MASK[:, order], condition)
    torch.testing.assert_close(shuffled, model(x, time, MASK, condition)[:, order], rtol=1e-5, atol=1e-5)


def test_the_flow_learns_a_distribution_with_correlated_particles() -> None:
    """Both particles of a pair lie at the same place, left or right as the condition says."""
    torch.manual_seed(0)
    model = CloudFlow(16, 1, num_heads=2, num_layers=2, num_steps=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    mask = torch.ones(256, 2, dtype=torch.bool)
    side = torch.where(torch.arange(256) % 2 == 0, 1.0, -1.0)
    condition = side[:, None].expand(-1, 16)
    for _ in range(300):
        x = (2 * side + 0.3 * torch.randn(256))[:, None, None].expand(-1, 2, -1)
        loss = model.loss(x, mask, condition)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model.eval().sample(mask, condition)[..., 0]
    assert (drawn.mean(dim=1) * side).mean() == pytest.approx(2.0, abs=0.3)
    assert (drawn[:, 0] - drawn[:, 1]).std() < 0.35
    assert 0.15 < (drawn.mean(dim=1) * side).std() < 0.5
