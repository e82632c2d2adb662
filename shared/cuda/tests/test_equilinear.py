"""The equivariant linear map: values, derivatives, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hep_shared.ops import equilinear as equi
from hep_shared.ops.equilinear import equi_linear

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp

SIZES = (0, 1, 2, 3, 4, 5, 33, 515)
CHANNELS = ((1, 1), (1, 16), (3, 5), (16, 16), (9, 8), (17, 1))
EPS = {torch.float32: 1.2e-7, torch.float64: 2.2e-16}


def make_map(
    num: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Multivectors, coefficients and bias."""
    random = torch.Generator().manual_seed(num)
    shapes = ((num, inputs, 16), (outputs, inputs, 10), (outputs,))
    x, weight, bias = (
        torch.randn(s, dtype=torch.float64, generator=random).to(device, dtype) for s in shapes
    )
    return x, weight, bias


def by_the_formula(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One component after the other, float64."""
    x, weight = x.double(), weight.double()
    y = []
    for k in range(16):
        grade = equi.GRADES[k]
        component = x[:, :, k] @ weight[:, :, grade].T
        component = component + equi.DUAL_SIGNS[k] * x[:, :, 15 - k] @ weight[:, :, 9 - grade].T
        y.append(component + (bias.double() if k == 0 else 0))
    return torch.stack(y, dim=2)


def assert_near(found: Tensor, expected: Tensor, dtype: torch.dtype, terms: int) -> None:
    """Equal up to the rounding of a sum of so many numbers of order one, whose errors walk at random too."""
    assert found.dtype == dtype
    atol = EPS[dtype] * (16 * terms**0.5 + terms)
    torch.testing.assert_close(found.double(), expected.double(), rtol=4 * EPS[dtype], atol=atol)


@pytest.mark.parametrize("channels", CHANNELS)
def test_is_the_formula(channels: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    for num in SIZES:
        arguments = make_map(num, *channels, dtype, device)
        expected = by_the_formula(*arguments)
        found = equi_linear(*arguments)
        assert (found.shape, found.device.type) == ((num, channels[1], 16), device)
        assert_near(found, expected, dtype, 2 * channels[0])
        assert_near(equi.reference(*arguments), expected, dtype, 2 * channels[0])


@pytest.mark.parametrize("channels", CHANNELS)
def test_gradient_of_the_coefficients(channels: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    for num in (*SIZES, 4500):  # more rows than one part of the sum takes
        x, weight, bias = make_map(num, *channels, dtype, device)
        grad = torch.randn(num, channels[1], 16, generator=torch.Generator().manual_seed(1)).to(x)
        wanted = weight.double().requires_grad_()
        (expected,) = torch.autograd.grad(by_the_formula(x, wanted, bias), wanted, grad.double())
        for run in (equi.gradient_operator, equi.gradient_reference):
            assert_near(run(x, grad), expected, dtype, 6 * max(num, 1))


def test_shapes_and_missing_bias(device: str) -> None:
    x, weight, _ = make_map(24, 4, 3, device=device)
    expected = equi_linear(x, weight, weight.new_zeros(3))
    torch.testing.assert_close(equi_linear(x, weight), expected)
    torch.testing.assert_close(equi_linear(x.view(2, 3, 4, 4, 16), weight), expected.view(2, 3, 4, 3, 16))
    torch.testing.assert_close(equi_linear(x[0], weight), expected[0])


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    x, weight, bias = make_map(9, 5, 7, dtype, device)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (x, weight)]
    spread = torch.stack([bias, bias], dim=1)[:, 0]
    assert not any(t.is_contiguous() for t in (*turned, spread))
    torch.testing.assert_close(equi.operator(*turned, spread), equi.operator(x, weight, bias))
    grad = torch.randn(7, 9, 16, dtype=dtype, device=device).transpose(0, 1)
    found = equi.gradient_operator(turned[0], grad)
    torch.testing.assert_close(found, equi.gradient_operator(x, grad.contiguous()))


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    x, weight, bias = make_map(5001, 6, 5, torch.float32)
    grad = torch.randn(5001, 5, 16)
    results = by_threads(lambda: (equi.operator(x, weight, bias), equi.gradient_operator(x, grad)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    cases = [(num, *channels, dtype) for num in (1, 5, 130) for channels in CHANNELS for dtype in EPS]
    inputs = [(*make_map(*case), torch.randn(case[0], case[2], 16).to(case[3])) for case in cases]
    torch.save(inputs, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops._backend import backend
        from hep_shared.ops import equilinear as equi
        os.chdir({str(tmp_path)!r})
        results = [
            (equi.operator(x, weight, bias), equi.gradient_operator(x, grad))
            for x, weight, bias, grad in torch.load("in.pt")
        ]
        torch.save(results, "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    results = torch.load(tmp_path / "out.pt", weights_only=True)
    for (num, channels, _, dtype), (x, weight, bias, grad), (y, slope) in zip(
        cases, inputs, results, strict=True
    ):
        assert_near(y, by_the_formula(x, weight, bias), dtype, 2 * channels)
        assert_near(slope, equi.gradient_reference(x.double(), grad.double()), dtype, 6 * num)


def test_derivatives() -> None:
    inputs = tuple(t.requires_grad_() for t in make_map(3, 2, 9))
    assert torch.autograd.gradcheck(equi_linear, inputs)
    assert torch.autograd.gradgradcheck(equi_linear, inputs)
    assert torch.autograd.gradcheck(equi.reference, inputs)
    x, grad = make_map(3, 2, 9)[0].requires_grad_(), torch.randn(3, 9, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(equi.gradient_operator, (x, grad))
    many = tuple(t.requires_grad_() for t in make_map(3, 8, 9))
    assert torch.autograd.gradcheck(equi.reference, many, fast_mode=True)


def test_only_wanted_gradients() -> None:
    for wanted in range(3):
        inputs = make_map(4, 3, 2)
        inputs[wanted].requires_grad_()
        equi_linear(*inputs).square().sum().backward()
        grads = [t.grad for t in inputs]
        assert [grad is not None for grad in grads] == [number == wanted for number in range(3)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck() -> None:
    x, weight, bias = (t.requires_grad_() for t in make_map(3, 2, 4))
    torch.library.opcheck(equi.operator, (x, weight, bias))
    grad = torch.randn(3, 4, 16, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(equi.gradient_operator, (x, grad))


def test_forward_mode_is_not_zero() -> None:
    x, weight, bias = make_map(4, 3, 2)
    tangent = torch.ones_like(x)
    expected = equi_linear(tangent, weight)
    _, found = torch.func.jvp(lambda x: equi_linear(x, weight, bias), (x,), (tangent,))
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = equi_linear(forward_ad.make_dual(x, tangent), weight, bias)
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operators can be batched by themselves."""
    x, weight, bias = make_map(24, 3, 2)
    batches, expected = x.view(4, 6, 3, 16), equi.operator(x, weight, bias).view(4, 6, 2, 16)
    torch.testing.assert_close(torch.func.vmap(lambda x: equi_linear(x, weight, bias))(batches), expected)
    found = torch.func.vmap(equi.operator, (0, None, None))(batches, weight, bias)
    torch.testing.assert_close(found, expected)
    weights = torch.stack([weight * (b + 1) for b in range(4)])
    found = torch.func.vmap(equi.operator, (0, 0, None))(batches, weights, bias)
    torch.testing.assert_close(found[2], equi.operator(batches[2], weights[2], bias))
    grads = torch.randn(4, 6, 2, 16).double()
    found = torch.func.vmap(equi.gradient_operator)(batches, grads)
    torch.testing.assert_close(found[1], equi.gradient_operator(batches[1], grads[1]))


def test_compiles_into_one_graph() -> None:
    inputs = tuple(t.requires_grad_() for t in make_map(5, 9, 8))
    compiled = torch.compile(equi_linear, fullgraph=True, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(run(*inputs).square().sum(), inputs) for run in (compiled, equi_linear)
    )
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_autocast_keeps_float32() -> None:
    x, weight, bias = make_map(5, 3, 2, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = equi_linear(x.bfloat16(), weight, bias)
    assert torch.equal(found, equi_linear(x.bfloat16().float(), weight, bias))


class Map(nn.Module):
    """Enough channels for the way without the dense matrix."""

    def __init__(self) -> None:
        super().__init__()
        _, self.weight, self.bias = (nn.Parameter(t) for t in make_map(1, 9, 8, torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return equi_linear(x, self.weight, self.bias)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = Map().eval(), tmp_path / "model.onnx"
    example = make_map(5, 9, 8, torch.float32)[:1]
    exported = torch.export.export(model, example)
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    torch.onnx.export(
        model, example, path, input_names=["x"], dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 6):
        x = make_map(num, 9, 8, torch.float32)[0]
        (found,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-5, atol=1e-5)


GOOD = {"x": torch.zeros(4, 3, 16), "weight": torch.zeros(2, 3, 10), "bias": torch.zeros(2)}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(16), r"x must have the shape \(..., I, 16\) with I from 1 to 4096, not \(16,\)"),
        ("x", torch.zeros(4, 3, 15), r"not \(4, 3, 15\)"),
        ("x", torch.zeros(4, 0, 16), r"not \(4, 0, 16\)"),
        ("x", torch.zeros(4, 3, 16).half(), "x must be float32 or float64, not torch.float16"),
        ("weight", torch.zeros(2, 4, 10), r"weight must have the shape \(O, 3, 10\) .* not \(2, 4, 10\)"),
        ("weight", torch.zeros(0, 3, 10), r"O from 1 to 4096, not \(0, 3, 10\)"),
        ("weight", torch.zeros(2, 3, 5), r"not \(2, 3, 5\)"),
        ("weight", torch.zeros(2, 3, 10).double(), "weight is torch.float64 on cpu, but x is torch.float32"),
        ("bias", torch.zeros(3), r"bias must have the shape \(2,\), not \(3,\)"),
        ("bias", torch.zeros(2, device="meta"), "bias is torch.float32 on meta, but x"),
    ],
)
def test_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"equi_linear: .*{message}"):
        equi_linear(**GOOD | {name: value})


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(4, 16)),
        (0, torch.zeros(4, 2, 16)),
        (0, torch.zeros(4, 0, 16)),
        (0, torch.zeros(4, 3, 15)),
        (0, torch.zeros(1).expand(4, 5000, 16)),
        (0, torch.zeros(4, 3, 16, dtype=torch.float16)),
        (1, torch.zeros(2, 3, 9)),
        (1, torch.zeros(0, 3, 10)),
        (1, torch.zeros(6, 10)),
        (1, torch.zeros(2, 3, 10, dtype=torch.float64)),
        (2, torch.zeros(3)),
        (2, torch.zeros(2, 1)),
    ],
)
def test_compiled_map_refuses(position: int, value: Any) -> None:
    args: list[Any] = [*GOOD.values()]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::equi_linear: "):
        equi.operator(*args)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(5, 3, 16)),
        (0, torch.zeros(4, 3, 17)),
        (1, torch.zeros(4, 48)),
        (1, torch.zeros(4, 0, 16)),
        (1, torch.zeros(4, 2, 16, dtype=torch.float64)),
    ],
)
def test_compiled_gradient_refuses(position: int, value: Any) -> None:
    args: list[Any] = [torch.zeros(4, 3, 16), torch.zeros(4, 2, 16)]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::equi_linear_gradient: "):
        equi.gradient_operator(*args)
