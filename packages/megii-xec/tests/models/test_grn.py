"""The folded GRN branch against the formula written out, forward and backward."""

import pytest
import torch
from torch import Tensor

from megii_xec.models import grn
from megii_xec.models.grn import GrnBranch


def branch(reference, dim, dtype, *, recompute):
    """Our branch and the written-out one with the same random weights."""
    torch.manual_seed(0)
    ours = GrnBranch(dim, recompute=recompute).to(dtype)
    theirs = reference.Pointwise(dim).to(dtype)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.3)
    theirs.load_state_dict(
        {f"grn.{name}" if name in ("gamma", "beta") else name: p for name, p in ours.state_dict().items()}
    )
    return ours, theirs


def gradients(module, x: Tensor, weight: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad((module(x) * weight).sum(), [x, *module.parameters()]))


@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_forward_equals_the_formula(reference, monkeypatch, recompute, dtype, atol):
    monkeypatch.setattr(grn, "CACHE_ELEMENTS", 2000)  # two chunks of unequal size
    ours, theirs = branch(reference, 8, dtype, recompute=recompute)
    x = torch.randn(3, 30, 8, dtype=dtype)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=atol)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=atol)


@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_equal_those_of_the_formula(reference, monkeypatch, recompute):
    monkeypatch.setattr(grn, "CACHE_ELEMENTS", 2000)
    ours, theirs = branch(reference, 8, torch.float64, recompute=recompute)
    x, weight = torch.randn(2, 3, 30, 8, dtype=torch.float64)
    named = dict(
        zip(["x", *(n for n, _ in ours.named_parameters())], gradients(ours, x, weight), strict=True)
    )
    expected = dict(
        zip(["x", *(n for n, _ in theirs.named_parameters())], gradients(theirs, x, weight), strict=True)
    )
    for name, value in expected.items():
        torch.testing.assert_close(named[name.removeprefix("grn.")], value, rtol=1e-12, atol=1e-11, msg=name)


def test_wide_channels_take_one_product_for_all_events_of_a_chunk(reference, monkeypatch):
    ours, theirs = branch(reference, 32, torch.float32, recompute=True)
    x, weight = torch.randn(2, 3, 30, 32)
    monkeypatch.setattr(grn, "_folds", lambda x, w1: False)  # so few would be folded
    expected = gradients(theirs.double(), x.double(), weight.double())
    for elements in (10_000, 1 << 19):  # two chunks, one chunk
        monkeypatch.setattr(grn, "CACHE_ELEMENTS", elements)
        own_names = ["x", *(name for name, _ in ours.named_parameters())]
        found = dict(zip(own_names, gradients(ours, x, weight), strict=True))
        names = ["x", *(n.removeprefix("grn.") for n, _ in theirs.named_parameters())]
        for name, value in zip(names, expected, strict=True):
            torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-4, msg=name)
        with torch.no_grad():
            torch.testing.assert_close(ours(x).double(), theirs(x.double()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recompute", [True, False])
def test_gradient_is_finite_where_every_channel_is_silent(recompute):
    ours = GrnBranch(4, recompute=recompute)
    with torch.no_grad():
        ours.gamma.fill_(1.0)
        ours.expand.bias.zero_()
        ours.norm.bias.zero_()
    x = torch.zeros(2, 5, 4, requires_grad=True)  # layer norm of zeros is zero, and so is GELU
    ours(x).sum().backward()
    for gradient in (x.grad, *(p.grad for p in ours.parameters())):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("recompute", [True, False])
def test_masked_positions_do_not_enter_the_norms(recompute):
    ours = GrnBranch(8, recompute=recompute)
    with torch.no_grad():
        ours.gamma.normal_()
    x = torch.randn(2, 10, 8, requires_grad=True)
    visible = torch.ones(2, 10, 1)
    visible[:, 6:] = 0
    y = ours(x, visible)
    torch.testing.assert_close(y[:, :6], ours(x[:, :6]))
    (gradient,) = torch.autograd.grad(y[:, :6].sum(), x)
    assert gradient[:, 6:].abs().max() == 0


@pytest.mark.parametrize(("dim", "dtype"), [(8, torch.float64), (32, torch.float32)])
def test_masked_events_in_chunks_agree_with_the_formula(monkeypatch, dim, dtype):
    monkeypatch.setattr(grn, "CACHE_ELEMENTS", 250 * dim)  # two chunks of unequal size
    torch.manual_seed(0)
    stored, recomputed = (GrnBranch(dim, recompute=recompute).to(dtype) for recompute in (False, True))
    for parameter in stored.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    recomputed.load_state_dict(stored.state_dict())
    x, weight = torch.randn(2, 3, 30, dim, dtype=dtype)
    visible = (torch.rand(3, 30, 1) < 0.5).to(dtype)
    visible[1] = 0  # an event of which nothing is seen
    found, expected = (
        torch.autograd.grad((module(y, visible) * weight).sum(), [y, *module.parameters()])
        for module, y in ((module, x.clone().requires_grad_()) for module in (recomputed, stored))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(recomputed(x, visible), stored(x, visible), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recompute", [True, False])
def test_normalized_features_skip_the_norm(monkeypatch, recompute):
    monkeypatch.setattr(grn, "CACHE_ELEMENTS", 2000)
    torch.manual_seed(0)
    ours = GrnBranch(8, recompute=recompute).double()
    torch.nn.init.normal_(ours.gamma)
    torch.nn.init.normal_(ours.norm.weight)
    x, weight = torch.randn(2, 3, 30, 8, dtype=torch.float64)
    expected = gradients(ours, x, weight)
    x = x.requires_grad_()
    y = ours(ours.norm(x), normalized=True)
    torch.testing.assert_close(y, ours(x))
    found = torch.autograd.grad((y * weight).sum(), [x, *ours.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_recomputing_agrees_under_autocast():
    torch.manual_seed(0)
    stored, recomputed = GrnBranch(8, recompute=False), GrnBranch(8, recompute=True)
    recomputed.load_state_dict(stored.state_dict())
    x = torch.randn(2, 10, 8)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = gradients(stored, x, x), gradients(recomputed, x, x)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)


def test_drop_path_drops_whole_events_and_keeps_the_mean():
    torch.manual_seed(0)
    ours = GrnBranch(4, drop_path=0.25)
    x = torch.randn(1, 3, 4).expand(4000, 3, 4)
    full = ours.eval()(x[:1])
    dropped = ours.train()(x)
    kept = dropped.abs().amax((1, 2)) > 0
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(dropped[kept][:1], full / 0.75)


def test_no_events():
    assert GrnBranch(4)(torch.zeros(0, 3, 4)).shape == (0, 3, 4)
