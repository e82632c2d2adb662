"""Messages along the edges of a graph: values, derivatives, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hep_shared.ops import edges
from hep_shared.ops.edges import SLOPE, edge_message

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
# Rows, sources, most edges of a row, channels around the widths of lanes and the 32 channels a thread takes.
SIZES = [
    (0, 1, 1, 3), (3, 1, 0, 4), (1, 1, 1, 1), (5, 9, 3, 7), (9, 4, 2, 8), (300, 290, 4, 17), (40, 40, 8, 33),
    (600, 600, 3, 64), (30, 30, 5, 100),
]  # fmt: skip


class Graph(NamedTuple):
    own: Tensor
    other: Tensor
    source: Tensor
    first: Tensor


def make(rows: int, sources: int, most: int, channels: int, dtype: torch.dtype, device: str = "cpu") -> Graph:
    random = torch.Generator().manual_seed(rows + sources + most + channels)
    degree = torch.randint(0, most + 1, (rows,), generator=random)
    first = torch.cat([degree.new_zeros(1), degree.cumsum(0)])
    source = torch.randint(0, sources, (int(first[-1]),), generator=random)
    own, other = (torch.randn(n, channels, generator=random, dtype=torch.float64) for n in (rows, sources))
    return Graph(own.to(device, dtype), other.to(device, dtype), source.to(device), first.to(device))


def targets(graph: Graph) -> np.ndarray:
    first = graph.first.cpu().numpy()
    return np.repeat(np.arange(len(first) - 1), np.diff(first))


def formula(graph: Graph, slope: float) -> np.ndarray:
    own, other, source, _ = (t.double().cpu().numpy() for t in graph)
    z = own[targets(graph)] + other[source.astype(int)]
    return np.where(z > 0, z, slope * z)


def gradient_formula(graph: Graph, grad: Tensor, slope: float) -> tuple[np.ndarray, np.ndarray]:
    g = grad.double().cpu().numpy()
    of_z = np.where(formula(graph, slope) > 0, g, slope * g)
    of_own, of_other = (np.zeros(tuple(t.shape)) for t in graph[:2])
    np.add.at(of_own, targets(graph), of_z)
    np.add.at(of_other, graph.source.cpu().numpy(), of_z)
    return of_own, of_other


def gradients(run: Callable[..., Tensor], graph: Graph, grad: Tensor) -> tuple[Tensor, ...]:
    own, other = (t.detach().clone().requires_grad_() for t in graph[:2])
    return torch.autograd.grad(run(own, other, *graph[2:]), (own, other), grad)


@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_formula(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    graph = make(*sizes, dtype, device)  # type: ignore[misc]
    for slope in (SLOPE, 0.0, 1.0):
        expected = formula(graph, slope)
        for run in (edges.operator, edges.reference):
            found = run(*graph, slope)
            assert (found.dtype, found.device.type, tuple(found.shape)) == (dtype, device, expected.shape)
            np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=0, atol=TOLERANCE[dtype])
        assert torch.equal(edge_message(*graph, slope=slope), edges.operator(*graph, slope))


@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_those_of_the_formula(sizes: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    graph = make(*sizes, dtype, device)  # type: ignore[misc]
    message = edges.operator(*graph, SLOPE)
    grad = torch.cos(3 * message)
    expected = gradient_formula(graph, grad, SLOPE)
    for f, e in zip(gradients(edge_message, graph, grad), expected, strict=True):
        np.testing.assert_allclose(f.cpu().numpy(), e, rtol=0, atol=30 * TOLERANCE[dtype])
    for run in (edges.pullback, edges.pullback_reference):
        found = run(grad, message, graph.source, graph.first, len(graph.other), SLOPE)
        assert (found.dtype, found.device.type) == (dtype, device)
        together = np.concatenate(expected)
        np.testing.assert_allclose(found.cpu().numpy(), together, rtol=0, atol=30 * TOLERANCE[dtype])


@pytest.mark.usefixtures("native")
def test_numbers_beyond_the_lists_read_nothing(dtype: torch.dtype, device: str) -> None:
    """Sources that are no rows give no number; ends of rows are kept within the list."""
    graph = make(5, 6, 3, 9, dtype, device)
    source = torch.tensor([0, 6, -1, 3, 1 << 40, 5], device=device)
    first = torch.tensor([-7, 2, 4, 4, 1 << 40, -5], device=device)
    found = edges.operator(graph.own, graph.other, source, first, SLOPE)
    assert found[[1, 2, 4]].isnan().all()
    assert not found[[0, 3, 5]].isnan().any()
    if device == "cpu":
        below = edges.pullback(torch.ones_like(found), found, source, first, 6, SLOPE)
        assert below.isfinite().all()
        assert below[5 + 5].any()
        assert not below[[5 + 1, 5 + 2, 5 + 4]].any()


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    graph = make(30, 20, 4, 19, dtype, device)
    turned = Graph(*(torch.stack([t, t], dim=-1)[..., 0] for t in graph))
    assert not any(t.is_contiguous() for t in turned)
    assert torch.equal(edge_message(*turned), edge_message(*graph))
    grad = edge_message(*graph).cos()
    wide = torch.stack([grad, grad], dim=-1)[..., 0]
    for f, e in zip(gradients(edge_message, turned, wide), gradients(edge_message, graph, grad), strict=True):
        torch.testing.assert_close(f, e)


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    graph = make(1000, 900, 4, 100, torch.float32)
    grad = edge_message(*graph).cos()
    results = by_threads(lambda: (edge_message(*graph), *gradients(edge_message, graph, grad)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    graphs = [make(*sizes, dtype) for sizes in SIZES for dtype in TOLERANCE]  # type: ignore[misc]
    torch.save([tuple(graph) for graph in graphs], tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops import edges
        from hep_shared.ops._backend import backend
        os.chdir({str(tmp_path)!r})
        results = []
        for own, other, source, first in torch.load("in.pt"):
            message = edges.operator(own, other, source, first, {SLOPE})
            below = edges.pullback(message.cos(), message, source, first, len(other), {SLOPE})
            results.append((message, below))
        torch.save(results, "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    results = torch.load(tmp_path / "out.pt", weights_only=True)
    for graph, (message, below) in zip(graphs, results, strict=True):
        tolerance = TOLERANCE[message.dtype]
        np.testing.assert_allclose(message.numpy(), formula(graph, SLOPE), rtol=0, atol=tolerance)
        expected = np.concatenate(gradient_formula(graph, message.cos(), SLOPE))
        np.testing.assert_allclose(below.numpy(), expected, rtol=0, atol=30 * tolerance)


def small(dtype: torch.dtype = torch.float64) -> Graph:
    """Without a sum near zero, where the slope jumps."""
    graph = make(6, 5, 3, 4, dtype)
    assert np.abs(formula(graph, SLOPE)).min() > 1e-4
    return graph


def test_derivatives() -> None:
    graph = small()
    rows = tuple(t.requires_grad_() for t in graph[:2])

    def run(own: Tensor, other: Tensor) -> Tensor:
        return edge_message(own, other, *graph[2:])

    assert torch.autograd.gradcheck(run, rows)
    assert torch.autograd.gradgradcheck(run, rows)
    (only,) = torch.autograd.grad(run(graph.own, graph.other.detach()).sum(), graph.own)
    assert only.shape == graph.own.shape


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck() -> None:
    graph = small()
    own, other = (t.requires_grad_() for t in graph[:2])
    torch.library.opcheck(edges.operator, (own, other, *graph[2:], SLOPE))
    message = edges.operator(*graph, SLOPE).detach()
    grad = message.cos().requires_grad_()
    torch.library.opcheck(edges.pullback, (grad, message, *graph[2:], len(other), SLOPE))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_forward_mode_is_not_zero() -> None:
    graph = small()

    def run(own: Tensor) -> Tensor:
        return edge_message(own, *graph[1:])

    tangent = graph.own.cos()
    expected = (run(graph.own + 1e-6 * tangent) - run(graph.own - 1e-6 * tangent)) / 2e-6
    _, found = torch.func.jvp(run, (graph.own,), (tangent,))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(graph.own, tangent)
        torch.testing.assert_close(forward_ad.unpack_dual(run(dual)).tangent, found)


def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operators can be batched by themselves."""
    graph = small()
    batch = torch.stack([graph.own, 2 * graph.own, -graph.own])

    def ours(own: Tensor) -> Tensor:
        return edges.operator(own, *graph[1:], SLOPE)

    def below(own: Tensor) -> Tensor:
        message = ours(own)
        return edges.pullback(message.cos(), message, *graph[2:], len(graph.other), SLOPE)

    for run in (ours, below):
        found = torch.func.vmap(run)(batch)
        for b in range(3):
            torch.testing.assert_close(found[b], run(batch[b]))
    found = torch.func.vmap(lambda own: edge_message(own, *graph[1:]))(batch)
    torch.testing.assert_close(found[1], ours(batch[1]))


def test_compiles_into_one_graph() -> None:
    graph = small()
    compiled = torch.compile(edge_message, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*graph), edge_message(*graph))
    grad = edge_message(*graph).cos()
    for f, e in zip(gradients(compiled, graph, grad), gradients(edge_message, graph, grad), strict=True):
        torch.testing.assert_close(f, e)


def test_autocast_keeps_float32() -> None:
    own, other, source, first = small(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = edge_message(own.bfloat16(), other.bfloat16(), source, first)
    assert torch.equal(found, edge_message(own.bfloat16().float(), other.bfloat16().float(), source, first))


class Ring(nn.Module):
    """Two edges to every row, from its neighbours on a ring of fixed size."""

    def __init__(self) -> None:
        super().__init__()
        rows = torch.arange(6)
        self.register_buffer("source", torch.stack([(rows + 1) % 6, (rows - 1) % 6], dim=1).flatten())
        self.register_buffer("first", torch.arange(0, 13, 2))

    def forward(self, x: Tensor) -> Tensor:
        source, first = self.buffers()
        return edge_message(x, -2 * x, source, first)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = Ring().eval(), tmp_path / "model.onnx"
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    exported = torch.export.export(model, (x,))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    torch.onnx.export(model, (x,), path, input_names=["x"], dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=0, atol=1e-6)


LONG = torch.zeros(3, dtype=torch.int64)
GOOD: dict[str, Any] = {
    "own": torch.zeros(2, 4),
    "other": torch.zeros(5, 4),
    "source": LONG,
    "first": torch.tensor([0, 1, 3]),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("own", torch.zeros(2), r"own must have the shape \(R, C\) .* not \(2,\)"),
        ("own", torch.zeros(2, 0), "own must have the shape .* 1 to 1048576 channels"),
        ("own", torch.zeros(2, 4).half(), "own must be float32 or float64, not torch.float16"),
        ("other", torch.zeros(5, 3), r"other must have the shape \(V, 4\), not \(5, 3\)"),
        (
            "other",
            torch.zeros(5, 4).double(),
            "other is torch.float64 on cpu, but own is torch.float32 on cpu",
        ),
        ("source", LONG.int(), r"source must be a list of int64 on cpu, not \(3,\) torch.int32 on cpu"),
        ("source", LONG[None], r"source must be a list of int64 on cpu, not \(1, 3\)"),
        ("first", torch.zeros(3, dtype=torch.int64, device="meta"), "first must be .* torch.int64 on meta"),
        ("first", torch.zeros(4, dtype=torch.int64), r"first must have the shape \(3,\), not \(4,\)"),
        ("slope", -0.1, "slope must not be negative, but is -0.1"),
    ],
)
def test_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"edge_message: {message}"):
        edge_message(**GOOD | {name: value})


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("own", torch.zeros(2)),
        ("own", torch.zeros(2, 0)),
        ("own", torch.zeros(3, 4)),
        ("own", torch.zeros(2, 4).half()),
        ("other", torch.zeros(5, 3)),
        ("other", torch.zeros(5, 4).double()),
        ("source", LONG.int()),
        ("first", torch.zeros(3)),
        ("first", torch.zeros(4, dtype=torch.int64)),
        ("slope", -0.1),
    ],
)
def test_compiled_operator_refuses(name: str, value: Any) -> None:
    args = GOOD | {"slope": SLOPE} | {name: value}
    with pytest.raises(RuntimeError, match="hep::edge_message: "):
        edges.operator(*args.values())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(2, 4)),
        (0, torch.zeros(3, 4).half()),
        (0, torch.zeros(3, 0)),
        (1, torch.zeros(3, 5)),
        (1, torch.zeros(2, 4)),
        (1, torch.zeros(3, 4).double()),
        (2, LONG.int()),
        (3, torch.zeros(0, dtype=torch.int64)),
        (4, -1),
        (5, -0.1),
    ],
)
def test_compiled_pullback_refuses(position: int, value: Any) -> None:
    args: list[Any] = [torch.zeros(3, 4), torch.zeros(3, 4), LONG, torch.tensor([0, 1, 3]), 5, SLOPE]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::edge_message_pullback: "):
        edges.pullback(*args)
