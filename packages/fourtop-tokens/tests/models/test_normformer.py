import pytest
import torch

from fourtop_tokens.models.normformer import NormFormer, pool, sinusoidal_positions


@pytest.fixture
def network():
    torch.manual_seed(0)
    return NormFormer(dim=16, depth=2, num_heads=4, mlp_dim=24, dropout=0.0).eval()


def test_positions_are_the_published_ones():
    table = sinusoidal_positions(5, 8)
    assert table.shape == (5, 8)
    assert torch.allclose(table[3, 0], torch.tensor(3.0).sin())
    assert torch.allclose(table[3, 3], torch.tensor(3.0 / 10_000 ** (2 / 8)).cos())


def test_permuting_tokens_permutes_the_output(network):
    x, order = torch.randn(2, 6, 16), torch.randperm(6)
    valid = torch.ones(2, 6, dtype=torch.bool)
    assert torch.allclose(network(x, valid)[:, order], network(x[:, order], valid), atol=1e-5)


def test_padding_has_no_influence_at_all(network):
    x, valid = torch.randn(3, 6, 16), torch.arange(6) < torch.tensor([[6], [4], [1]])
    changed = torch.where(valid[..., None], x, 1e3 * torch.randn_like(x))
    for how in ("cls", "mean", "max"):
        a, b = (pool(network(values, valid), valid, how) for values in (x, changed))
        assert torch.equal(a, b)


def test_more_padding_changes_nothing(network):
    x, valid = torch.randn(2, 5, 16), torch.ones(2, 5, dtype=torch.bool)
    longer = torch.cat([x, torch.randn(2, 3, 16)], 1), torch.cat([valid, torch.zeros(2, 3).bool()], 1)
    assert torch.allclose(network(x, valid), network(*longer)[:, :5], atol=1e-6)


def test_an_event_without_tokens_is_finite(network):
    x, valid = torch.randn(2, 4, 16), torch.zeros(2, 4, dtype=torch.bool)
    assert network(x, valid).isfinite().all()
    assert pool(network(x, valid), valid, "mean").eq(0).all()


def test_pool_takes_mean_and_maximum_of_real_tokens():
    tokens = torch.tensor([[[1.0], [5.0], [9.0]]])
    valid = torch.tensor([[True, True, False]])
    assert pool(tokens, valid, "mean").item() == 3
    assert pool(tokens, valid, "max").item() == 5
    assert pool(tokens, valid, "cls").item() == 1


def test_bias_decides_attention(network):
    x, valid = torch.randn(1, 3, 16), torch.ones(1, 3, dtype=torch.bool)
    only_self = torch.full((1, 4, 3, 3), -1e9).diagonal_scatter(torch.zeros(1, 4, 3), dim1=2, dim2=3)
    alone = network(x[:, :1], valid[:, :1])
    assert torch.allclose(network(x, valid, only_self)[:, :1], alone, atol=1e-5)


def test_gradients_are_finite(network):
    x = torch.randn(2, 4, 16, requires_grad=True)
    network(x, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()).square().sum().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
