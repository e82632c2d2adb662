import copy

import pytest
import torch

from jet_foundation.models import pair_bias
from jet_foundation.models.packing import Packing
from jet_foundation.models.pair_bias import PairBias, PairKind

Jets = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def trained(bias: PairBias, jetful: Jets) -> PairBias:
    """Running statistics away from their start, and evaluation mode."""
    for _ in range(3):
        bias(jetful[0], jetful[2])
    return bias.eval()


@pytest.mark.parametrize("kind", ["exact", "literal", "mass"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_three_ways_agree(jetful: Jets, kind: PairKind, norm: str) -> None:
    p4, _, mask = jetful
    bias = trained(PairBias(8, norm=norm, kind=kind), jetful)  # type: ignore[arg-type]
    pairs = bias(p4, mask)
    real = (mask[:, :, None] & mask[:, None, :])[:, None].expand_as(pairs)
    with torch.no_grad():
        torch.testing.assert_close(bias(p4, mask), pairs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias._dense(p4, mask)[real], pairs[real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_without_kept_activations(jetful: Jets, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU uses, here with the plain passes: same bias, gradients and running statistics."""
    p4, _, mask = jetful
    kept = PairBias(8, norm=norm).double()  # type: ignore[arg-type]
    again = copy.deepcopy(kept)
    results = []
    for network, fused in ((kept, False), (again, True)):
        monkeypatch.setattr(pair_bias, "is_fused", lambda *_, fused=fused: fused)
        results.append(network(p4.double(), mask))
        results[-1].clamp(min=-100).square().mean().backward()
    torch.testing.assert_close(*results)
    for (name, one), (_, other) in zip(kept.named_parameters(), again.named_parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-6, msg=name)
    for one, other in zip(kept.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(other, one)


def test_symmetric_and_closed_to_padding(jetful: Jets) -> None:
    p4, _, mask = jetful
    bias = PairBias(4)(p4, mask)
    real = (mask[:, :, None] & mask[:, None, :])[:, None].expand_as(bias)
    torch.testing.assert_close(bias[real], bias.transpose(2, 3)[real])
    padded_keys = ~mask[:, None, None, :].expand_as(bias)
    assert (bias[padded_keys] < -1e30).all()
    assert torch.isfinite(bias).all()


def test_statistics_see_real_pairs_only(jetful: Jets) -> None:
    p4, _, mask = jetful
    narrow, wide = PairBias(4), PairBias(4)
    wide.load_state_dict(narrow.state_dict())
    narrow(p4, mask)
    pad = (0, 0, 0, 30)
    wide(torch.nn.functional.pad(p4, pad), torch.nn.functional.pad(mask, (0, 30)))
    for a, b in zip(narrow.buffers(), wide.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_pairs_with_a_hidden_particle_have_no_bias(jetful: Jets) -> None:
    p4, _, mask = jetful
    visible = mask.clone()
    visible[:, 1] = False
    bias = PairBias(4)(p4, mask, visible)
    assert not bias[:, :, 1][mask[:, None].expand(-1, 4, -1)].any()
    assert bias[:, :, 0, 0].abs().sum() > 0


@pytest.mark.parametrize("hide", [False, True])
def test_the_list_of_pairs_is_the_rectangle(jetful: Jets, hide: bool) -> None:
    p4, _, mask = jetful
    visible = mask & (torch.arange(mask.shape[1]) % 4 != 1) if hide else None
    network, packing = PairBias(4).eval(), Packing(mask, by_length=True)
    rectangle, listed = network(p4, mask, visible), network(p4, mask, visible, packing)
    jet, first, second = (mask[:, :, None] & mask[:, None, :]).nonzero(as_tuple=True)
    places = packing.pair_positions(jet, first, second, 4)
    assert listed.shape == (places.numel(),)
    torch.testing.assert_close(listed[places], rectangle[jet, :, first, second])


def test_unknown_options() -> None:
    with pytest.raises(ValueError, match="norm is 'layer'; use one of batch, none"):
        PairBias(4, norm="layer")  # type: ignore[arg-type]
