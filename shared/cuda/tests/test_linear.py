"""Linear layers: values, derivatives, transforms, export, and where PyTorch's own serves."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from hep_shared.ops import linear as op
from hep_shared.ops._backend import references
from hep_shared.ops.linear import Linear, linear

EPS = {torch.float32: 1.2e-7, torch.float64: 2.3e-16}
# Around the blocks of rows (64), the tiles (6 and 8 rows, 1 to 3 lanes) and the widths of lanes.
SIZES = [
    (0, 3, 4), (1, 1, 1), (5, 9, 17), (63, 8, 48), (64, 24, 16), (129, 25, 33), (70, 7, 15), (200, 50, 80),
    (40, 1, 64), (40, 64, 1), (2, 0, 3), (2, 3, 0), (9, 30, 113),
]  # fmt: skip
LARGE = (4096, 32, 48)


def make(num: int, ins: int, outs: int, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, ...]:
    """x, W and b."""
    random = torch.Generator().manual_seed(num + ins + outs)
    shapes: list[tuple[int, ...]] = [(num, ins), (outs, ins), (outs,)]
    tensors = (torch.randn(shape, dtype=torch.float64, generator=random) for shape in shapes)
    return tuple(t.to(device, dtype) for t in tensors)


def assert_is_layer(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, slope: float = 1.0) -> None:
    """Within the rounding errors of as many sums."""
    numbers, w, b, found = (t.detach().double().cpu().numpy() for t in (x, weight, bias, y))
    z = numbers @ w.T + b
    bound = (4 + numbers.shape[1] ** 0.5) * EPS[x.dtype] * (np.abs(numbers) @ np.abs(w).T + np.abs(b))
    assert (np.abs(found - np.where(z > 0, z, slope * z)) <= bound).all()


def gradients(run: Callable[..., Tensor], tensors: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    wanted = tuple(t.detach().clone().requires_grad_() for t in tensors)
    return torch.autograd.grad(run(*wanted), wanted, grad)


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operator serve small layers too."""
    monkeypatch.setattr(op, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(op, "LEAST_ROWS", 0)


def served(run: Callable[[], object]) -> bool:
    """Whether the operator is called."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profile:
        run()
    return any(event.name == "hep::linear" for event in profile.events())


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_is_the_layer(sizes: tuple[int, int, int], slope: float, dtype: torch.dtype, device: str) -> None:
    x, weight, bias = make(*sizes, dtype, device)
    turned = weight.t().contiguous().t()
    for run in (op.operator, op.reference):
        for w in (weight, turned):
            y = run(x, w, bias, slope)
            assert (tuple(y.shape), y.dtype, y.device.type) == ((sizes[0], sizes[2]), dtype, device)
            assert_is_layer(y, x, weight, bias, slope)


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_gradients(sizes: tuple[int, int, int], slope: float, dtype: torch.dtype, device: str) -> None:
    tensors = make(*sizes, dtype, device)
    grad = torch.cos(op.reference(*tensors, slope))
    found = gradients(lambda *t: linear(*t, slope=slope), tensors, grad)
    exact = tuple(t.double() for t in tensors)
    expected = gradients(lambda *t: op.reference(*t, slope), exact, grad.double())
    for f, e in zip(found, expected, strict=True):
        scale = float(e.abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(f.double(), e, rtol=0, atol=200 * EPS[dtype] * scale)


@pytest.mark.usefixtures("any_size")
def test_leading_dimensions_and_no_bias(dtype: torch.dtype) -> None:
    x, weight, _ = make(60, 9, 17, dtype)
    expected = functional.linear(x, weight)
    for shape in ((60,), (3, 20), (2, 3, 1, 10), (0, 4), (5, 12, 1)):
        part = x[: torch.Size(shape).numel()]
        found = linear(part.view(*shape, 9), weight)
        torch.testing.assert_close(found, expected[: len(part)].view(*shape, 17))
        found += 1.0  # the caller's own
    torch.testing.assert_close(linear(x[0], weight), expected[0])


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("shape", [(37,), (4, 9), (3, 300)])
def test_results_may_be_changed_in_place(shape: tuple[int, ...]) -> None:
    layer = Linear(5, 7).double()
    x = torch.randn(*shape, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = tuple(layer.parameters())
    found = torch.autograd.grad(functional.relu(layer(x).mul_(-2.0), inplace=True).sum(), wanted)
    expected = torch.autograd.grad(functional.relu(-2.0 * layer(x)).sum(), wanted)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_no_number_stays_in_its_row(dtype: torch.dtype, device: str) -> None:
    x, weight, bias = make(70, 9, 20, dtype, device)
    x[50, 3] = torch.nan
    finite = op.operator(x, weight, bias, 0.01).isfinite().all(dim=1)
    assert finite.nonzero().flatten().tolist() == [n for n in range(70) if n != 50]


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    tensors = make(33, 10, 20, dtype, device)
    wide = tuple(torch.stack([t, t], dim=-1)[..., 0] for t in tensors)
    assert not any(t.is_contiguous() for t in wide)
    torch.testing.assert_close(op.operator(*wide, 1.0), op.operator(*tensors, 1.0))
    part = torch.cat([tensors[1], tensors[1]], dim=1)[:, 10:]
    torch.testing.assert_close(op.operator(tensors[0], part, tensors[2], 1.0), op.operator(*tensors, 1.0))


@pytest.mark.usefixtures("native")
def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    tensors = make(1000, 77, 50, torch.float32)
    results = by_threads(lambda: op.operator(*tensors, 1.0))
    assert torch.equal(*results)


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    cases = [make(*sizes, dtype) for sizes in SIZES for dtype in EPS]
    torch.save(cases, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops import linear
        from hep_shared.ops._backend import backend
        os.chdir({str(tmp_path)!r})
        torch.save([linear.operator(*case, 0.01) for case in torch.load("in.pt")], "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    for case, found in zip(cases, torch.load(tmp_path / "out.pt", weights_only=True), strict=True):
        assert_is_layer(found, *case, slope=0.01)


@pytest.mark.usefixtures("any_size")
def test_numeric_derivatives() -> None:
    tensors = tuple(t.requires_grad_() for t in make(5, 3, 4, torch.float64))
    for slope in (1.0, 0.1):
        assert torch.autograd.gradcheck(lambda *t, s=slope: linear(*t, slope=s), tensors)
        assert torch.autograd.gradgradcheck(lambda *t, s=slope: linear(*t, slope=s), tensors)
    x, weight, bias = tensors
    (only,) = torch.autograd.grad(linear(x.detach(), weight, bias.detach()).sum(), weight)
    torch.testing.assert_close(only, x.detach().sum(0).expand(4, 3))


@pytest.mark.usefixtures("any_size")
def test_many_gradients_at_once() -> None:
    x, weight, bias = (t.requires_grad_() for t in make(5, 3, 4, torch.float64))
    y = linear(x, weight, bias)
    seeds = torch.eye(20, dtype=torch.float64).view(20, 5, 4)
    found = torch.autograd.grad(y, (x, weight), seeds, is_grads_batched=True, retain_graph=True)
    for n in (0, 7, 19):
        for f, e in zip(found, torch.autograd.grad(y, (x, weight), seeds[n], retain_graph=True), strict=True):
            torch.testing.assert_close(f[n], e)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck() -> None:
    tensors = tuple(t.requires_grad_() for t in make(5, 3, 4, torch.float64))
    torch.library.opcheck(op.operator, (*tensors, 1.0))
    torch.library.opcheck(op.operator, (*tensors, 0.1))


@pytest.mark.usefixtures("any_size")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_forward_mode_is_not_zero() -> None:
    x, weight, bias = make(5, 3, 4, torch.float64)
    expected = x.cos() @ weight.t()
    _, found = torch.func.jvp(lambda x: linear(x, weight, bias), (x,), (x.cos(),))
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x.cos())
        torch.testing.assert_close(forward_ad.unpack_dual(linear(dual, weight, bias)).tangent, expected)


@pytest.mark.usefixtures("any_size")
def test_function_transforms() -> None:
    """Inside transforms PyTorch serves, and the operator can be batched by itself."""
    x, weight, bias = make(12, 3, 4, torch.float64)
    batches = x.view(4, 3, 3)
    expected = functional.linear(batches, weight, bias)
    found = torch.func.vmap(lambda x: linear(x, weight, bias))(batches)
    torch.testing.assert_close(found, expected)
    found = torch.func.vmap(lambda x: op.operator(x, weight, bias, 1.0))(batches)
    torch.testing.assert_close(found, expected)
    weights = torch.stack([weight, 2 * weight, -weight, weight])
    found = torch.func.vmap(lambda x, w: op.operator(x, w, bias, 1.0))(batches, weights)
    torch.testing.assert_close(found[2], functional.linear(batches[2], -weight, bias))
    torch.testing.assert_close(torch.func.jacrev(lambda w: linear(x, w, bias).sum(0))(weight)[1, 1], x.sum(0))


def test_compiles_into_one_graph() -> None:
    tensors = make(*LARGE, torch.float32)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    grad = torch.cos(linear(*tensors))
    torch.testing.assert_close(compiled(*tensors), linear(*tensors))
    for f, e in zip(gradients(compiled, tensors, grad), gradients(linear, tensors, grad), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("native")
def test_where_it_serves() -> None:
    x, weight, bias = make(*LARGE, torch.float32)
    assert served(lambda: linear(x, weight, bias))
    assert served(lambda: linear(x.double(), weight.double()))
    assert served(lambda: linear(x.view(64, 64, 32), weight))
    assert not served(lambda: linear(x[:100], weight, bias)), "few products"
    assert not served(lambda: linear(torch.ones(15, 512), torch.ones(512, 512))), "few rows"
    assert not served(lambda: linear(x.bfloat16(), weight.bfloat16()))
    with references():
        assert not served(lambda: linear(x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_traced_graphs_know_no_operator_of_ours() -> None:
    x, weight, bias = make(*LARGE, torch.float32)
    traced = torch.jit.trace(lambda x: linear(x, weight, bias), (x,))
    assert "hep::" not in str(traced.inlined_graph)


def test_module_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(32, 48), nn.Linear(32, 48)
    assert isinstance(ours, nn.Linear)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(copy.deepcopy(ours).state_dict())
    x = make(*LARGE, torch.float32)[0].requires_grad_()
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-4)
    grad = torch.cos(theirs(x))
    for layer in (ours, theirs):
        torch.autograd.backward(layer(x), grad)
    for f, e in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert f.grad is not None
        assert f.grad.is_contiguous()
        torch.testing.assert_close(f.grad, e.grad, rtol=1e-4, atol=1e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = nn.Sequential(Linear(32, 48), nn.GELU(), Linear(48, 32)).eval(), tmp_path / "model.onnx"
    x = make(*LARGE, torch.float32)[0]
    exported = torch.export.export(model, (x,))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {"input": {0: torch.export.Dim.DYNAMIC}}
    torch.onnx.export(model, (x,), path, input_names=["x"], dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 4096):
        (found,) = session.run(None, {"x": x[:num].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x[:num]), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.zeros(48, 31), None, r"weight must have the shape \(O, 32\), not \(48, 31\)"),
        (torch.zeros(32), None, r"weight must have the shape \(O, 32\), not \(32,\)"),
        (torch.zeros(1000, 32), torch.zeros(48), r"bias must have the shape \(1000,\), not \(48,\)"),
    ],
)
def test_refuses(weight: Tensor, bias: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"linear: {message}"):
        linear(torch.zeros(1 << 17, 32), weight, bias)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.zeros(4), torch.zeros(3, 4), torch.zeros(3)),
        (torch.zeros(2, 4).half(), torch.zeros(3, 4).half(), torch.zeros(3).half()),
        (torch.zeros(2, 4), torch.zeros(3, 5), torch.zeros(3)),
        (torch.zeros(2, 4), torch.zeros(3), torch.zeros(3)),
        (torch.zeros(2, 4), torch.zeros(3, 4).double(), torch.zeros(3)),
        (torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(4)),
        (torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3).double()),
    ],
)
def test_compiled_operator_refuses(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    with pytest.raises(RuntimeError, match="hep::linear: "):
        op.operator(x, weight, bias, 1.0)
