"""Product of tall matrices with the rows summed over: values, derivatives, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hep_shared.ops import transposed
from hep_shared.ops._backend import references
from hep_shared.ops.transposed import transposed_product

EPS = {torch.float32: 1.2e-7, torch.float64: 2.3e-16}
# Around the blocks of rows (128), the tiles (6 and 8 columns, 1 to 3 lanes) and the widths of lanes.
SIZES = [
    (0, 3, 4), (1, 1, 1), (5, 9, 17), (127, 8, 48), (128, 24, 16), (129, 25, 33), (300, 7, 15), (257, 50, 80),
    (40, 1, 64), (40, 64, 1), (2, 0, 3), (2, 3, 0),
]  # fmt: skip


def make(num: int, ins: int, outs: int, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(num + ins + outs)
    return tuple(
        torch.randn(num, width, dtype=torch.float64, generator=random).to(device, dtype)
        for width in (ins, outs)
    )


def assert_is_product(found: Tensor, a: Tensor, b: Tensor) -> None:
    """Within the rounding errors of as many sums: N ε Σ |a b| is never reached."""
    first, second = (t.double().cpu().numpy() for t in (a, b))
    bound = 4 * EPS[a.dtype] * (np.abs(first).T @ np.abs(second))
    assert (np.abs(found.double().cpu().numpy() - first.T @ second) <= bound).all()


@pytest.mark.parametrize("sizes", SIZES)
def test_is_the_product(sizes: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
    a, b = make(*sizes, dtype, device)
    for run in (transposed_product, transposed.reference):
        found = run(a, b)
        assert (tuple(found.shape), found.dtype, found.device.type) == (sizes[1:], dtype, device)
        assert_is_product(found, a, b)


@pytest.mark.usefixtures("native")
def test_many_rows_keep_their_digits() -> None:
    """Blocks of rows are summed by themselves: a million rows one after the other are wrong by 1e-2."""
    a, b = torch.full((1_000_000, 1), 0.1), torch.ones(1_000_000, 16)
    most = (128 + 1_000_000 / 128) * EPS[torch.float32] / 2
    torch.testing.assert_close(transposed.operator(a, b), torch.full((1, 16), 1e5), rtol=most, atol=0)


def test_no_number_stays_in_its_place(dtype: torch.dtype, device: str) -> None:
    a, b = make(200, 9, 20, dtype, device)
    a[150, 3] = torch.nan
    b[10, 19] = torch.inf
    found = transposed_product(a, b).isfinite().cpu()
    expected = torch.ones(9, 20, dtype=torch.bool)
    expected[3], expected[:, 19] = False, False
    assert torch.equal(found, expected)


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    a, b = make(33, 10, 20, dtype, device)
    turned = a.t().contiguous().t(), torch.stack([b, b], dim=-1)[..., 0]
    assert not any(t.is_contiguous() for t in turned)
    assert_is_product(transposed_product(*turned), a, b)
    wide = torch.ones((), dtype=dtype, device=device).expand(33, 20)  # the gradient of a sum
    assert_is_product(transposed_product(a, wide), a, wide)


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    a, b = make(1000, 77, 50, torch.float32)
    results = by_threads(lambda: transposed.operator(a, b))
    torch.testing.assert_close(*results, rtol=0, atol=0 if transposed_is_native() else 1e-4)


def transposed_is_native() -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key("hep::transposed_product", "CPU"))


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    cases = [make(*sizes, dtype) for sizes in SIZES for dtype in EPS]
    torch.save(cases, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops import transposed
        from hep_shared.ops._backend import backend
        os.chdir({str(tmp_path)!r})
        torch.save([transposed.operator(*case) for case in torch.load("in.pt")], "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    for case, found in zip(cases, torch.load(tmp_path / "out.pt", weights_only=True), strict=True):
        assert_is_product(found, *case)


def test_derivatives() -> None:
    a, b = (t.requires_grad_() for t in make(7, 3, 4, torch.float64))
    assert torch.autograd.gradcheck(transposed_product, (a, b))
    assert torch.autograd.gradgradcheck(transposed_product, (a, b))
    (only,) = torch.autograd.grad(transposed_product(a, b.detach()).sum(), a)
    torch.testing.assert_close(only, b.detach().sum(1, keepdim=True).expand(7, 3))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck() -> None:
    a, b = (t.requires_grad_() for t in make(7, 3, 4, torch.float64))
    torch.library.opcheck(transposed.operator, (a, b))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_forward_mode_is_not_zero() -> None:
    a, b = make(7, 3, 4, torch.float64)
    expected = a.cos().t() @ b
    _, found = torch.func.jvp(lambda a: transposed_product(a, b), (a,), (a.cos(),))
    torch.testing.assert_close(found, expected)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(a, a.cos())
        torch.testing.assert_close(forward_ad.unpack_dual(transposed_product(dual, b)).tangent, expected)


def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operator can be batched by itself."""
    a, b = make(12, 3, 4, torch.float64)
    batches = a.view(4, 3, 3), b.view(4, 3, 4)
    expected = torch.stack([x.t() @ y for x, y in zip(*batches, strict=True)])
    for run in (transposed_product, transposed.operator):
        torch.testing.assert_close(torch.func.vmap(run)(*batches), expected)
    found = torch.func.vmap(transposed.operator, (None, 0))(a[:3], batches[1])
    torch.testing.assert_close(found[2], a[:3].t() @ b[6:9])


def test_compiles_into_one_graph() -> None:
    a, b = (t.requires_grad_() for t in make(9, 3, 4, torch.float64))
    compiled = torch.compile(transposed_product, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b), a.t() @ b)
    found, expected = (
        torch.autograd.grad(f(a, b).square().sum(), (a, b)) for f in (compiled, transposed_product)
    )
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_elsewhere_pytorch_serves() -> None:
    a, b = make(9, 3, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transposed_product(a, b), a.t() @ b)
        assert transposed_product(a, b).dtype == torch.bfloat16
    half = a.bfloat16(), b.bfloat16()
    assert torch.equal(transposed_product(*half), half[0].t() @ half[1])
    with references():
        assert torch.equal(transposed_product(a, b), a.t() @ b)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_traced_graphs_know_no_operator_of_ours() -> None:
    traced = torch.jit.trace(transposed_product, make(9, 3, 4, torch.float32))
    assert "hep::" not in str(traced.inlined_graph)


class Covariance(nn.Module):
    """Of columns that have no mean."""

    def forward(self, x: Tensor) -> Tensor:
        return transposed_product(x, x) / x.shape[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path, example = Covariance().eval(), tmp_path / "model.onnx", make(5, 3, 1, torch.float32)[0]
    exported = torch.export.export(model, (example,))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {"x": {0: torch.export.Dim.DYNAMIC}}
    torch.onnx.export(
        model, (example,), path, input_names=["x"], dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 6):
        x = make(num, 3, 1, torch.float32)[0]
        (found,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(4), torch.zeros(4, 2), r"a must have the shape \(N, I\), not \(4,\)"),
        (torch.zeros(4, 2), torch.zeros(5, 2), r"b must have the shape \(4, O\), not \(5, 2\)"),
        (torch.zeros(4, 2), torch.zeros(4, 2, 1), r"b must have the shape \(4, O\), not \(4, 2, 1\)"),
    ],
)
def test_refuses(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"transposed_product: {message}"):
        transposed_product(a, b)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(4), torch.zeros(4, 2)),
        (torch.zeros(4, 2), torch.zeros(4)),
        (torch.zeros(4, 2), torch.zeros(5, 2)),
        (torch.zeros(4, 2).half(), torch.zeros(4, 2).half()),
        (torch.zeros(4, 2), torch.zeros(4, 2).double()),
    ],
)
def test_compiled_operator_refuses(a: Tensor, b: Tensor) -> None:
    with pytest.raises(RuntimeError, match="hep::transposed_product: "):
        transposed.operator(a, b)
