"""Convolution with layer norm on a lattice: values, derivatives, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hep_shared.ops import hex as hex_op
from hep_shared.ops._backend import backend
from hep_shared.ops.hex import hex_conv_norm

EPS = 1e-6
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-13}
CHANNELS = (1, 5, 8, 16, 19, 33, 96)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(num: int, nodes: int, channels: int, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    """Features, a table with absent neighbours, weight, bias, gamma and beta."""
    random = torch.Generator().manual_seed(1000 * num + nodes + channels)
    table = torch.randint(-1, nodes, (nodes, 7), generator=random)
    table[: min(2, nodes), 1:] = torch.tensor([-1, nodes, -(1 << 40), 1 << 40, -1, nodes + 5])
    shapes = [(num, nodes, channels), (7, channels), *[(channels,)] * 3]
    x, *rest = (torch.randn(shape, dtype=torch.float64, generator=random) for shape in shapes)
    x, weight, bias, gamma, beta = (t.to(device, dtype) for t in (x, *rest))
    return x, table.to(device), weight, bias, gamma, beta


def formula(inputs: Inputs) -> np.ndarray:
    """In NumPy, float64, node by node."""
    x, table, weight, bias, gamma, beta = (t.double().cpu().numpy() for t in inputs)
    y = np.zeros_like(x) + bias
    for node, row in enumerate(table.astype(int)):
        for direction, neighbor in enumerate(row):
            if 0 <= neighbor < x.shape[1]:
                y[:, node] += weight[direction] * x[:, neighbor]
    centred = y - y.mean(axis=2, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + EPS)
    return normal * gamma + beta


def wanted(inputs: Inputs) -> Inputs:
    x, table, *rest = (t.clone() for t in inputs)
    for tensor in (x, *rest):
        tensor.requires_grad_()
    return x, table, *rest  # type: ignore[return-value]


def gradients(run: Callable[..., Tensor], inputs: Inputs, grad: Tensor) -> tuple[Tensor, ...]:
    inputs = wanted(inputs)
    return torch.autograd.grad(run(*inputs, EPS), [t for t in inputs if t.requires_grad], grad)


@pytest.mark.parametrize("channels", CHANNELS)
def test_it_is_the_formula(channels: int, dtype: torch.dtype, device: str) -> None:
    for num, nodes in ((3, 9), (1, 1), (20, 4)):
        inputs = make_inputs(num, nodes, channels, dtype, device)
        for run in (hex_conv_norm, hex_op.reference):
            found = run(*inputs, EPS)
            assert (found.dtype, found.device.type, found.is_contiguous()) == (dtype, device, True)
            tolerance = TOLERANCE[dtype] if channels > 1 else 2 * TOLERANCE[dtype] / EPS**0.5
            np.testing.assert_allclose(found.cpu().numpy(), formula(inputs), rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", CHANNELS[1:])
def test_gradients_are_those_of_plain_layers(channels: int, dtype: torch.dtype, device: str) -> None:
    for num, nodes in ((3, 9), (17, 4)):
        inputs = make_inputs(num, nodes, channels, dtype, device)
        grad = inputs[0].sin()
        found = gradients(hex_conv_norm, inputs, grad)
        exact = [t.double() if t.is_floating_point() else t for t in inputs]
        expected = gradients(hex_op.reference, exact, grad.double())  # type: ignore[arg-type]
        for f, e in zip(found, expected, strict=True):
            scale = float(e.abs().max())
            torch.testing.assert_close(f.double(), e, rtol=0, atol=20 * TOLERANCE[dtype] * scale)
        below = hex_op.pullback_reference(inputs[0], grad, *inputs[1:5], EPS)
        ours = hex_op.pullback(inputs[0], grad, *inputs[1:5], EPS)
        assert below.shape == ours.shape == (num * nodes + 10, channels)
        torch.testing.assert_close(ours, below, rtol=0, atol=20 * TOLERANCE[dtype] * float(below.abs().max()))


@pytest.mark.parametrize(("num", "nodes"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_do(num: int, nodes: int, device: str) -> None:
    inputs = make_inputs(num, max(nodes, 1), 4, torch.float32, device)
    inputs = (inputs[0][:, :nodes], inputs[1][:nodes], *inputs[2:])
    assert hex_conv_norm(*inputs, EPS).shape == (num, nodes, 4)
    for run in (hex_conv_norm, hex_op.reference):
        found = gradients(run, inputs, torch.zeros(num, nodes, 4, device=device))
        assert found[0].shape == (num, nodes, 4)
        assert not any(t.any() for t in found[1:])


def test_no_number_stays_with_its_neighbors(dtype: torch.dtype, device: str) -> None:
    inputs = make_inputs(3, 9, 5, dtype, device)
    inputs[0][1, 6, 2] = torch.nan
    bad = hex_conv_norm(*inputs, EPS).isnan().any(2).cpu()
    assert torch.equal(bad, hex_op.reference(*inputs, EPS).isnan().any(2).cpu())
    assert torch.equal(bad[1], (inputs[1] == 6).any(1).cpu())
    assert not bad[[0, 2]].any()


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    inputs = make_inputs(4, 9, 19, dtype, device)
    grad = inputs[0].sin()
    turned: list[Tensor] = []
    for tensor in (*inputs, grad):
        wide = torch.stack([tensor, tensor], dim=-1)
        turned.append(wide[..., 0])
    assert not any(t.is_contiguous() for t in turned)
    factor = float(backend() == "reference")  # which may add up in another order
    close = {"rtol": 0, "atol": factor * TOLERANCE[dtype]}
    torch.testing.assert_close(hex_conv_norm(*turned[:6], EPS), hex_conv_norm(*inputs, EPS), **close)
    for found, expected in zip(
        gradients(hex_conv_norm, tuple(turned[:6]), turned[6]),  # type: ignore[arg-type]
        gradients(hex_conv_norm, inputs, grad),
        strict=True,
    ):
        close["atol"] = 20 * factor * TOLERANCE[dtype] * float(expected.abs().max())
        torch.testing.assert_close(found, expected, **close)


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    inputs = make_inputs(53, 9, 19, torch.float32)
    results = by_threads(
        lambda: (hex_conv_norm(*inputs, EPS), *gradients(hex_conv_norm, inputs, inputs[0].sin()))
    )
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    cases = [make_inputs(5, 9, channels, dtype) for channels in CHANNELS[1:] for dtype in TOLERANCE]
    torch.save(cases, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops import hex as op
        from hep_shared.ops._backend import backend
        os.chdir({str(tmp_path)!r})
        results = [
            (op.operator(x, *rest, {EPS}), op.pullback(x, x.sin(), *rest[:4], {EPS}))
            for x, *rest in torch.load("in.pt")
        ]
        torch.save(results, "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    results = torch.load(tmp_path / "out.pt", weights_only=True)
    for inputs, (found, below) in zip(cases, results, strict=True):
        tolerance = TOLERANCE[found.dtype]
        np.testing.assert_allclose(found.numpy(), formula(inputs), rtol=0, atol=tolerance)
        expected = hex_op.pullback_reference(inputs[0], inputs[0].sin(), *inputs[1:5], EPS)
        scale = float(expected.abs().max())
        torch.testing.assert_close(below, expected, rtol=0, atol=20 * tolerance * scale)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck() -> None:
    inputs = wanted(make_inputs(2, 4, 5, torch.float64))
    torch.library.opcheck(hex_op.operator, (*inputs, EPS))
    x, *rest = inputs
    grad = x.detach().sin().requires_grad_()
    torch.library.opcheck(hex_op.pullback, (x, grad, *rest[:4], EPS))


def test_numeric_derivatives() -> None:
    x, table, *rest = make_inputs(2, 3, 4, torch.float64)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return hex_conv_norm(x, table, *parameters, 0.1)  # type: ignore[arg-type]

    inputs = tuple(t.requires_grad_() for t in (x, *rest))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_only_wanted_gradients() -> None:
    x, table, weight, *rest = make_inputs(2, 3, 4, torch.float64)
    weight.requires_grad_()
    hex_conv_norm(x, table, weight, *rest, EPS).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.any()
    assert x.grad is None


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operators can be batched by themselves."""
    x, table, weight, bias, gamma, beta = make_inputs(6, 5, 4, torch.float64)
    expected = hex_conv_norm(x, table, weight, bias, gamma, beta, EPS)
    batches = x.view(3, 2, 5, 4)

    def call(run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, weight: run(x, table, weight, bias, gamma, beta, EPS)

    for run in (hex_conv_norm, hex_op.operator):
        found = torch.func.vmap(call(run), (0, None))(batches, weight)
        torch.testing.assert_close(found.flatten(0, 1), expected)
    weights = torch.stack([weight, 2 * weight, -weight])
    found = torch.func.vmap(call(hex_op.operator))(batches, weights)
    for b in range(3):
        torch.testing.assert_close(found[b], call(hex_conv_norm)(batches[b], weights[b]))

    def below(x: Tensor) -> Tensor:
        return hex_op.pullback(x, x.sin(), table, weight, bias, gamma, EPS)

    found = torch.func.vmap(below)(batches)
    for b in range(3):
        torch.testing.assert_close(found[b], below(batches[b]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_forward_mode_is_not_zero() -> None:
    x, table, *rest = make_inputs(2, 5, 4, torch.float64)

    def run(x: Tensor) -> Tensor:
        return hex_conv_norm(x, table, *rest, 0.1)  # type: ignore[arg-type]

    tangent = x.sin()
    expected = (run(x + 1e-5 * tangent) - run(x - 1e-5 * tangent)) / 2e-5
    _, found = torch.func.jvp(run, (x,), (tangent,))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_compiles_into_one_graph() -> None:
    inputs = make_inputs(3, 5, 6, torch.float64)
    compiled = torch.compile(hex_conv_norm, fullgraph=True, backend="aot_eager")
    grad = inputs[0].sin()
    torch.testing.assert_close(compiled(*inputs, EPS), hex_conv_norm(*inputs, EPS))
    found, expected = (gradients(run, inputs, grad) for run in (compiled, hex_conv_norm))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        names = ("table", "weight", "bias", "gamma", "beta")
        for name, tensor in zip(names, make_inputs(1, 9, 6, torch.float32)[1:], strict=True):
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        table, *parameters = self.buffers()
        return hex_conv_norm(x, table, *parameters, EPS)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path, example = Layer().eval(), tmp_path / "model.onnx", make_inputs(5, 9, 6, torch.float32)[0]
    exported = torch.export.export(model, (example,))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    torch.onnx.export(
        model, (example,), path, input_names=["x"], dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 6):
        x = make_inputs(num, 9, 6, torch.float32)[0]
        (found,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=0, atol=1e-4)


def test_autocast_keeps_float32() -> None:
    x, *rest = make_inputs(2, 5, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = hex_conv_norm(x.bfloat16(), *rest, EPS)
    assert found.dtype == torch.float32
    assert torch.equal(found, hex_conv_norm(x.bfloat16().float(), *rest, EPS))


GOOD = {
    "x": torch.zeros(2, 5, 4),
    "table": torch.zeros(5, 7, dtype=torch.int64),
    "weight": torch.zeros(7, 4),
    "bias": torch.zeros(4),
    "gamma": torch.zeros(4),
    "beta": torch.zeros(4),
    "eps": EPS,
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(5, 4), r"x must have the shape \(B, N, C\) .* not \(5, 4\)"),
        ("x", torch.zeros(2, 5, 0), "1 to 1024 channels"),
        ("x", torch.zeros(2, 5, 1025), "1 to 1024 channels"),
        ("x", torch.zeros(2, 5, 4).half(), "x must be float32 or float64, not torch.float16"),
        ("table", torch.zeros(6, 7, dtype=torch.int64), r"table must have the shape \(5, 7\), not \(6, 7\)"),
        ("table", torch.zeros(5, 7), "table must be torch.int64 on cpu, not torch.float32 on cpu"),
        ("table", torch.zeros(5, 7, dtype=torch.int64, device="meta"), "not torch.int64 on meta"),
        ("weight", torch.zeros(7, 5), r"weight must have the shape \(7, 4\), not \(7, 5\)"),
        ("bias", torch.zeros(4, 1), r"bias must have the shape \(4,\), not \(4, 1\)"),
        ("gamma", torch.zeros(4).double(), "gamma is torch.float64 on cpu, but x is torch.float32 on cpu"),
        ("beta", torch.zeros(4, device="meta"), "beta is torch.float32 on meta"),
        ("eps", -1.0, "eps must not be negative"),
    ],
)
def test_hex_conv_norm_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"hex_conv_norm: .*{message}"):
        hex_conv_norm(**GOOD | {name: value})


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x", torch.zeros(5, 4)),
        ("x", torch.zeros(2, 5, 0)),
        ("x", torch.zeros(2, 5, 1025)),
        ("x", torch.zeros(2, 5, 4, dtype=torch.float16)),
        ("table", torch.zeros(6, 7, dtype=torch.int64)),
        ("table", torch.zeros(5, 6, dtype=torch.int64)),
        ("table", torch.zeros(5, 7, dtype=torch.int32)),
        ("weight", torch.zeros(6, 4)),
        ("weight", torch.zeros(7, 4, dtype=torch.float64)),
        ("bias", torch.zeros(5)),
        ("gamma", torch.zeros(4, 1)),
        ("eps", -1.0),
    ],
)
def test_compiled_hex_refuses(name: str, value: Any) -> None:
    args = GOOD | {name: value}
    with pytest.raises(RuntimeError, match="hep::hex_conv_norm: "):
        hex_op.operator(*args.values())
    x = args.pop("x")
    del args["beta"]
    with pytest.raises(RuntimeError, match="hep::hex_conv_norm_pullback: "):
        hex_op.pullback(x, x, *args.values())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    "grad", [torch.zeros(2, 4, 4), torch.zeros(5, 4), torch.zeros(2, 5, 4, dtype=torch.float64)]
)
def test_compiled_pullback_refuses(grad: Tensor) -> None:
    args = {name: value for name, value in GOOD.items() if name not in ("x", "beta")}
    with pytest.raises(RuntimeError, match="hep::hex_conv_norm_pullback: grad"):
        hex_op.pullback(GOOD["x"], grad, *args.values())
