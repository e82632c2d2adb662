"""The network that computes its activations again: against float64 autograd through the plain layers."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hep_shared.ops import pair_mlp as op
from hep_shared.ops.linear import Linear
from hep_shared.ops.pair_mlp import is_fused, merge, pair_mlp, plain_layers

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp

Modules = tuple[nn.ModuleList, nn.ModuleList | None]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "_BLOCK", 37)


def make(widths: list[int], mode: str = "train", dtype: torch.dtype = torch.float64) -> Modules:
    """Layers with random parameters and running statistics."""
    torch.manual_seed(len(widths))
    linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
    norms = None if mode == "none" else nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
    for norm in norms or ():
        for value in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(value)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        norm.train(mode == "train")
    return linears.to(dtype), None if norms is None else norms.to(dtype)


def make_rows(num: int, width: int, mean: float = 0.0) -> Tensor:
    return mean + torch.randn(num, width, generator=torch.Generator().manual_seed(num)).double()


def state(modules: Modules) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": value
        for part, module in zip(("linears", "norms"), modules, strict=True)
        if module is not None
        for name, value in module.state_dict().items()
    }


def gradients(modules: Modules) -> dict[str, Tensor | None]:
    return {
        f"{part}.{name}": value.grad
        for part, module in zip(("linears", "norms"), modules, strict=True)
        if module is not None
        for name, value in module.named_parameters()
    }


def test_layers_of_the_house_are_taken_and_other_subclasses_are_not() -> None:
    linears, norms = make([4, 7, 3])
    expected = pair_mlp(make_rows(50, 4), linears, norms)
    house = nn.ModuleList(Linear(a, b).double() for a, b in pairwise([4, 7, 3]))
    house.load_state_dict(linears.state_dict())
    assert torch.equal(pair_mlp(make_rows(50, 4), house, norms), expected)
    house[0] = type("Other", (Linear,), {})(4, 7).double()
    with pytest.raises(ValueError, match=r"linears must hold nn\.Linear"):
        pair_mlp(make_rows(50, 4), house, norms)


@pytest.mark.parametrize("mode", ["train", "eval", "none"])
@pytest.mark.parametrize("widths", [[4, 7, 9, 5, 3], [1, 6, 2], [3, 2]])
@pytest.mark.parametrize("num", [0, 2, 37, 100])
def test_is_the_plain_layers(mode: str, widths: list[int], num: int) -> None:
    """Values, gradients and running statistics."""
    modules = make(widths, mode)
    twin = copy.deepcopy(modules)
    rows = make_rows(num, widths[0], mean=1.5)
    slope = make_rows(num, widths[-1])
    found, expected = pair_mlp(rows, *modules), plain_layers(rows, *twin)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for result in (found, expected):
        result.backward(slope)
    for name, gradient in gradients(modules).items():
        torch.testing.assert_close(gradient, gradients(twin)[name], rtol=1e-7, atol=1e-8, msg=name)
    for name, value in state(modules).items():
        torch.testing.assert_close(value, state(twin)[name], msg=name)


def test_one_row() -> None:
    row = make_rows(1, 4)
    for mode in ("eval", "none"):
        modules = make([4, 3, 2], mode)
        torch.testing.assert_close(pair_mlp(row, *modules), plain_layers(row, *modules))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        pair_mlp(row, *make([4, 3, 2]))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_over_steps(momentum: float | None) -> None:
    modules = make([4, 3, 2])
    for norm in modules[1] or ():
        norm.momentum = momentum
    twin = copy.deepcopy(modules)
    for step in range(3):
        pair_mlp(make_rows(50 + step, 4), *modules)
        plain_layers(make_rows(50 + step, 4), *twin)
    assert state(modules)["norms.0.num_batches_tracked"] == 3
    for name, value in state(modules).items():
        torch.testing.assert_close(value, state(twin)[name], msg=name)


def test_norms_of_both_kinds() -> None:
    """One normalisation stands still, another one has no running statistics."""
    modules = make([4, 5, 3])
    assert modules[1] is not None
    modules[1][1].eval()
    modules[1][2] = nn.BatchNorm1d(3, track_running_stats=False, dtype=torch.float64).eval()
    twin, rows = copy.deepcopy(modules), make_rows(80, 4)
    for run, layers in ((pair_mlp, modules), (plain_layers, twin)):
        run(rows, *layers).square().mul(torch.arange(80)[:, None]).sum().backward()
    for name, gradient in gradients(modules).items():
        torch.testing.assert_close(gradient, gradients(twin)[name], rtol=1e-7, atol=1e-8, msg=name)


def test_large_mean_costs_no_digits() -> None:
    """In float32, with a mean of ten thousand standard deviations, the result is that of the shifted rows."""
    modules = make([4, 16, 16, 2], dtype=torch.float32)
    exact = copy.deepcopy(modules)
    for module in exact:
        assert module is not None
        module.double()
    rows = make_rows(500, 4, mean=1e4).float()
    slope = make_rows(500, 2)
    found, expected = pair_mlp(rows, *modules), plain_layers(rows.double(), *exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    found.backward(slope.float())
    expected.backward(slope)
    for name, gradient in gradients(modules).items():
        scale = 1e-5 * len(rows)
        torch.testing.assert_close(gradient.double(), gradients(exact)[name], rtol=1e-4, atol=scale, msg=name)


def test_blocks_are_merged_by_their_means() -> None:
    values = make_rows(100, 3, mean=1e8)
    blocks = values.split([60, 1, 39])
    means = torch.stack([block.mean(0) for block in blocks])
    variances = torch.stack([block.var(0, correction=0) for block in blocks])
    mean, variance = merge([60, 1, 39], means, variances)
    torch.testing.assert_close(mean, values.mean(0))
    torch.testing.assert_close(variance, values.var(0, correction=0), rtol=1e-6, atol=0)


def test_keeps_the_rows_alone() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    rows, modules = make_rows(1000, 4), make([4, 64, 64, 8])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pair_mlp(rows, *modules)
    assert sum(tensor.numel() for tensor in kept) == rows.numel()


def test_parameters_may_move_before_the_backward() -> None:
    modules, rows = make([4, 5, 3]), make_rows(60, 4)
    twin = copy.deepcopy(modules)
    for layers, step in ((modules, 1.0), (twin, 0.0)):
        result = pair_mlp(rows, *layers).square().sum()
        with torch.no_grad():
            for module in layers:
                for parameter in module.parameters():  # type: ignore[union-attr]
                    parameter += step
        result.backward()
    for name, gradient in gradients(modules).items():
        torch.testing.assert_close(gradient, gradients(twin)[name], msg=name)


def test_no_second_derivative() -> None:
    modules = make([4, 5, 3])
    weight = modules[0][0].weight
    result = pair_mlp(make_rows(20, 4), *modules).square().sum()
    (gradient,) = torch.autograd.grad(result, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_without_gradients() -> None:
    modules = make([4, 5, 3], "eval")
    with torch.no_grad():
        result = pair_mlp(make_rows(20, 4), *modules)
    assert not result.requires_grad
    torch.testing.assert_close(result, plain_layers(make_rows(20, 4), *modules))


def test_autocast_rounds_factors_alone() -> None:
    """Nearer to float32 than torch, which rounds each step; the result has its dtype."""
    modules = make([4, 32, 32, 3], dtype=torch.float32)
    twin, rows, slope = copy.deepcopy(modules), make_rows(300, 4).float(), make_rows(300, 3)
    exact = plain_layers(rows, *copy.deepcopy(modules))
    with torch.autocast("cpu", torch.bfloat16):
        found, peer = pair_mlp(rows, *modules), plain_layers(rows, *twin)
        found.backward(slope.bfloat16())  # the context must not reach the sums
    assert found.dtype == peer.dtype == torch.bfloat16
    assert (found - exact).square().mean() < (peer - exact).square().mean()
    gradient = gradients(modules)["linears.1.weight"]
    assert gradient is not None
    assert gradient.dtype == torch.float32
    exact_modules = copy.deepcopy(twin)
    plain_layers(rows, *exact_modules).backward(slope.float())
    expected = gradients(exact_modules)["linears.1.weight"]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_transforms_go_to_the_plain_layers() -> None:
    modules = make([4, 5, 3], "none")
    rows, tangent = make_rows(20, 4), make_rows(21, 4)[1:]
    _, expected = torch.func.jvp(lambda x: plain_layers(x, *modules), (rows,), (tangent,))
    _, found = torch.func.jvp(lambda x: pair_mlp(x, *modules), (rows,), (tangent,))
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = pair_mlp(forward_ad.make_dual(rows, tangent), *modules)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)
    compiled = torch.compile(lambda x: pair_mlp(x, *modules), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(rows), plain_layers(rows, *modules))


def test_a_cpu_has_no_kernels() -> None:
    assert not is_fused(make_rows(5, 4).float(), *make([4, 3], dtype=torch.float32))


def changed(modules: Modules, **change: object) -> Modules:
    linears, norms = modules
    if "linear" in change:
        linears[1] = change["linear"]  # type: ignore[assignment]
    if "norm" in change and norms is not None:
        norms[1] = change["norm"]  # type: ignore[assignment]
    return linears, norms


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        (torch.zeros(5, 3), {}, r"features must have the shape \(P, 4\), not \(5, 3\)"),
        (torch.zeros(5, 4, 1), {}, r"not \(5, 4, 1\)"),
        (torch.zeros(5, 4).half(), {}, "features must be float32 or float64, not torch.float16"),
        (torch.zeros(5, 4, requires_grad=True), {}, "features must not require a gradient"),
        (
            torch.zeros(5, 4).double(),
            {},
            "weight of Linear.* is torch.float32 on cpu, but features is torch.fl",
        ),
        (
            torch.zeros(5, 4),
            {"linear": nn.Linear(5, 2, device="meta")},
            "weight of Linear.* on meta, but features",
        ),
        (torch.zeros(5, 4), {"linear": nn.Linear(6, 2)}, r"they take \[4, 6\] and give \[5, 2\] channels"),
        (
            torch.zeros(5, 4),
            {"linear": nn.Linear(5, 2, bias=False)},
            "linears must hold nn.Linear with weight and",
        ),
        (
            torch.zeros(5, 4),
            {"linear": nn.GELU()},
            "linears must hold nn.Linear with weight and bias, not GELU",
        ),
        (torch.zeros(5, 4), {"norm": nn.BatchNorm1d(6)}, r"norms must be \[4, 5, 2\] wide, not \[4, 6, 2\]"),
        (
            torch.zeros(5, 4),
            {"norm": nn.BatchNorm1d(5, affine=False)},
            "norms must hold nn.BatchNorm1d with wei",
        ),
        (
            torch.zeros(5, 4),
            {"norm": nn.SyncBatchNorm(5)},
            "norms must hold nn.BatchNorm1d .* not SyncBatchNorm",
        ),
    ],
)
def test_refuses(rows: Tensor, change: dict[str, object], message: str) -> None:
    modules = changed(make([4, 5, 2], dtype=torch.float32), **change)
    with pytest.raises(ValueError, match=f"pair_mlp: .*{message}"):
        pair_mlp(rows, *modules)
    with pytest.raises(ValueError, match="pair_mlp: linears must hold at least one layer"):
        pair_mlp(torch.zeros(5, 4), [])
