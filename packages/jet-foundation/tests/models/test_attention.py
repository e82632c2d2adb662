import pytest
import torch

from jet_foundation.models.attention import (
    ClassAttention,
    HeadScale,
    ParticleAttention,
    ParticleAttentionBlock,
    attend,
)
from jet_foundation.models.packing import Packing

Jets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def test_both_forms_of_attention_agree() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8)
    bias = torch.randn(2, 4, 9, 9)
    expected = attend(q, k, v, bias)
    torch.testing.assert_close(attend(q, k, v, bias.requires_grad_()), expected, rtol=1e-5, atol=1e-6)
    weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5 + bias, dim=-1)
    torch.testing.assert_close(weights @ v, expected, rtol=1e-5, atol=1e-6)


def test_attention_map_explains_the_output() -> None:
    layer = ParticleAttention(16, 4)
    mask = torch.ones(2, 5, dtype=torch.bool)
    x, bias, packing = torch.randn(10, 16), torch.randn(2, 4, 5, 5), Packing(mask)
    weights = layer.attention_map(x, packing, bias)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    v = layer.in_proj(x)[:, 32:].view(2, 5, 4, 4).transpose(1, 2)
    mixed = (weights @ v).transpose(1, 2).reshape(10, 16)
    torch.testing.assert_close(layer.out_proj(mixed), layer(x, packing, bias), rtol=1e-5, atol=1e-6)


def test_head_scale_interleaves_the_heads() -> None:
    scale = HeadScale(2)
    scale.weight.data = torch.tensor([1.0, 10.0])
    assert scale(torch.arange(6.0)).tolist() == [0, 30, 1, 40, 2, 50]


def test_a_block_trains_all_its_parameters() -> None:
    block = ParticleAttentionBlock(16, 4, dropout=0.1)
    packing = Packing(torch.ones(2, 5, dtype=torch.bool))
    block(torch.randn(10, 16), packing, torch.randn(2, 4, 5, 5, requires_grad=True)).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in block.parameters())


def test_class_attention_ignores_padding_and_order(jetful: Jets) -> None:
    mask = jetful[2]
    head = ClassAttention(16, 4).eval()
    x = torch.randn(*mask.shape, 16)
    summary = head(x, mask)
    changed = torch.where(mask[..., None], x, 1e3)
    torch.testing.assert_close(head(changed, mask), summary, rtol=0, atol=0)
    order = torch.randperm(mask.shape[1])
    torch.testing.assert_close(head(x[:, order], mask[:, order]), summary, rtol=1e-5, atol=1e-5)


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ValueError, match="dim = 10 must be a multiple of num_heads = 4"):
        ParticleAttention(10, 4)
