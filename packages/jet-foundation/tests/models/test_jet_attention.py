import pytest
import torch

from jet_foundation.models.attention import ParticleAttention
from jet_foundation.models.jet_attention import attend_in_groups
from jet_foundation.models.packing import Packing

HEADS = 2


@pytest.fixture
def packing() -> Packing:
    mask = torch.zeros(5, 6, dtype=torch.bool)
    for jet, length in enumerate((3, 1, 6, 0, 3)):
        mask[jet, :length] = True
    return Packing(mask, by_length=True)


def random_inputs(packing: Packing, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    projected = torch.randn(len(packing.index), 3 * HEADS * 4, dtype=dtype, requires_grad=True)
    return projected, torch.randn(HEADS * packing.num_pairs, dtype=dtype, requires_grad=True)


def test_gradients(packing: Packing) -> None:
    inputs = random_inputs(packing)
    assert torch.autograd.gradcheck(lambda *x: attend_in_groups(*x, packing.groups, HEADS), inputs)
    assert torch.autograd.gradcheck(lambda x: attend_in_groups(x, None, packing.groups, HEADS), inputs[:1])


def test_gradients_with_dropout(packing: Packing) -> None:
    def attention(projected: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)  # the same weights are dropped in every call
        return attend_in_groups(projected, bias, packing.groups, HEADS, drop=0.4)

    assert torch.autograd.gradcheck(attention, random_inputs(packing))


def test_dropout_keeps_the_mean(packing: Packing) -> None:
    projected, bias = random_inputs(packing)
    with torch.no_grad():
        expected = attend_in_groups(projected, bias, packing.groups, HEADS)
        drawn = [attend_in_groups(projected, bias, packing.groups, HEADS, drop=0.3) for _ in range(3000)]
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(torch.stack(drawn).mean(0), expected, rtol=0, atol=0.06)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_same_as_on_the_rectangle(with_bias: bool) -> None:
    layer = ParticleAttention(16, 4)
    mask = torch.arange(9) < torch.tensor([9, 2, 5, 5, 1])[:, None]
    pairs = torch.randn(5, 4, 9, 9) * with_bias
    x = torch.randn(5, 9, 16)
    padded, listed = Packing(mask, by_length=False), Packing(mask, by_length=True)
    jet, first, second = (mask[:, :, None] & mask[:, None, :]).nonzero(as_tuple=True)
    flat = torch.zeros(4 * listed.num_pairs)
    flat[listed.pair_positions(jet, first, second, 4)] = pairs[jet, :, first, second]
    closed = pairs.masked_fill(~mask[:, None, None, :], -1e30)
    results = []
    for packing, bias in ((padded, closed), (listed, flat if with_bias else None)):
        layer.zero_grad()
        own = x.clone().requires_grad_()
        found = packing.unpack(layer(packing.pack(own), packing, bias))
        found.square().sum().backward()
        results.append((found, own.grad, layer.in_proj.weight.grad.clone()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_weights_explain_the_output() -> None:
    layer, mask = ParticleAttention(16, 4), torch.ones(2, 5, dtype=torch.bool)
    packing = Packing(mask, by_length=True)
    x, pairs = torch.randn(10, 16), torch.randn(2, 4, 5, 5)
    expected = layer.attention_map(x, Packing(mask), pairs)
    torch.testing.assert_close(layer.attention_map(x, packing, pairs.flatten()), expected)


def test_no_weight_is_kept(packing: Packing) -> None:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        attend_in_groups(*random_inputs(packing), packing.groups, HEADS, drop=0.1)
    num_pairs = HEADS * packing.num_pairs
    large = [x.dtype for x in saved if x.numel() == num_pairs]  # the bias and what dropout keeps
    assert len(large) == 2
    assert set(large) == {torch.bool, torch.float64}


def test_half_precision(packing: Packing) -> None:
    projected, bias = random_inputs(packing, torch.float32)
    expected = attend_in_groups(projected, bias, packing.groups, HEADS)
    found = attend_in_groups(projected.bfloat16(), bias, packing.groups, HEADS)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    found.sum().backward()
    assert bias.grad.dtype == torch.float32


def test_no_jets() -> None:
    packing = Packing(torch.zeros(2, 3, dtype=torch.bool), by_length=True)
    projected = torch.zeros(0, 12, requires_grad=True)
    attend_in_groups(projected, torch.zeros(0), packing.groups, HEADS, drop=0.1).sum().backward()
    assert projected.grad.shape == (0, 12)
