import pytest
import torch

from jet_foundation.models.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_share_mean_and_independence(probability: float) -> None:
    x = torch.ones(400_001)
    y = dropout(x, probability, training=True)
    dropped = (y == 0).float()
    assert dropped.mean().item() == pytest.approx(probability, abs=3e-3)
    assert y.mean().item() == pytest.approx(1.0, abs=5e-3)
    for lag in (1, 2, 3, 4, 8):  # entries that share a draw are independent
        both = (dropped[lag:] * dropped[:-lag]).mean().item()
        assert both == pytest.approx(probability**2, abs=3e-3)


def test_off_in_evaluation_and_the_seed_decides() -> None:
    layer, x = Dropout(0.3), torch.randn(7, 5)
    assert layer.eval()(x) is x
    layer.train()
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    torch.testing.assert_close(layer(x), first)
    assert dropout(x, 0.0, training=True) is x


def test_gradient_passes_where_kept() -> None:
    x = torch.randn(50, requires_grad=True)
    y = dropout(x, 0.5, training=True)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y != 0).float() * 2)
