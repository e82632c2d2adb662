import math

import pytest
import torch

from fourtop_tokens.losses import class_weights, classification_loss, vqvae_losses


def test_weights_balance_the_classes():
    weights = class_weights((500, 100, 100, 200, 100), 5)
    counts = torch.tensor([500.0, 100, 100, 200, 100])
    assert torch.allclose(weights * counts, torch.full((5,), 200.0))
    assert class_weights((500, 100, 100, 200, 100), 2).tolist() == [1.0, 1.0]


def test_binary_loss_joins_the_backgrounds():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    found = classification_loss(logits, torch.tensor([0, 4]), None)
    assert found.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)


def test_pieces_of_a_batch_add_up():
    torch.manual_seed(0)
    logits, labels, weights = torch.randn(8, 5), torch.randint(5, (8,)), torch.rand(5)
    whole = classification_loss(logits, labels, weights)
    pieces = [classification_loss(logits[s], labels[s], weights) / 2 for s in (slice(4), slice(4, 8))]
    assert whole.item() == pytest.approx(sum(pieces).item(), rel=1e-6)


def test_a_perfect_reconstruction_costs_nothing():
    x, codes, missing = torch.randn(6, 4), torch.randn(6, 3), torch.randn(2, 3)
    ids = torch.tensor([1, 2, 3, 4, 5, 7])
    logits = 50.0 * torch.nn.functional.one_hot(ids - 1, 7).float()
    parts = vqvae_losses(
        features=x, found_features=x, ids=ids, id_logits=logits, latent=codes, codes=codes, missing=missing,
        found_missing=missing,
    )  # fmt: skip
    assert set(parts) == {"features", "ids", "commitment", "missing"}
    assert all(part.item() < 1e-6 for part in parts.values())
