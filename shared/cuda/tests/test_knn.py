"""Nearest neighbours: values, ties, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hep_shared.ops import knn as knn_op
from hep_shared.ops.knn import knn

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}
PERIOD = 2 * np.pi


def make_sets(
    num: int, slots: int, dims: int, dtype: torch.dtype, device: str = "cpu", filled: float = 0.7
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(100 * num + slots)
    points = torch.randn(num, slots, dims, generator=random)
    valid = torch.rand(num, slots, generator=random) < filled
    return points.to(device, dtype), valid.to(device)


def squared_distances(points: Tensor, period: float | None) -> np.ndarray:
    """The formula in NumPy, float64."""
    x = points.double().cpu().numpy()
    difference = x[:, :, None] - x[:, None]
    if period:
        last = difference[..., -1]
        difference[..., -1] = last - period * np.rint(last / period)
    return (difference**2).sum(-1)


def assert_neighbors(found: Tensor, points: Tensor, valid: Tensor, k: int, period: float | None) -> None:
    """By distance, not by slot: rounding may decide between two that are equally near."""
    assert (found.dtype, found.shape) == (torch.int64, (*points.shape[:2], k))
    distance, real = squared_distances(points, period), valid.cpu().numpy()
    distance[~(real[:, :, None] & real[:, None] & ~np.eye(points.shape[1], dtype=bool))] = np.inf
    expected = np.sort(distance, axis=2)[:, :, :k]
    slots = found.cpu().numpy()[:, :, : expected.shape[2]]
    assert (found[:, :, expected.shape[2] :] == -1).all()
    np.testing.assert_array_equal(slots >= 0, np.isfinite(expected))
    chosen = np.take_along_axis(distance, slots.clip(min=0), axis=2)
    chosen[slots < 0] = np.inf
    tolerance = TOLERANCE[points.dtype] * max(1.0, points.shape[2] / 4)
    np.testing.assert_allclose(chosen, expected, rtol=tolerance, atol=tolerance)
    ordered = np.sort(slots, axis=2)
    assert not ((np.diff(ordered, axis=2) == 0) & (ordered[:, :, 1:] >= 0)).any()


@pytest.mark.parametrize("period", [None, PERIOD])
@pytest.mark.parametrize("slots", [0, 1, 2, 7, 15, 16, 17, 33, 70])
def test_knn_is_the_formula(slots: int, period: float | None, dtype: torch.dtype, device: str) -> None:
    for dims, k in ((1, 1), (2, 4), (3, 9), (7, 16), (40, 32)):
        points, valid = make_sets(5, slots, dims, dtype, device)
        for filled in (valid, torch.ones_like(valid)):
            assert_neighbors(knn(points, filled, k, period=period), points, filled, k, period)
            reference = knn_op.reference(points, filled, k, period or 0.0)
            assert_neighbors(reference, points, filled, k, period)


@pytest.mark.parametrize("num", [0, 1, 300])
def test_any_number_of_sets(num: int, dtype: torch.dtype, device: str) -> None:
    points, valid = make_sets(num, 9, 2, dtype, device)
    assert_neighbors(knn(points, valid, 4), points, valid, 4, None)


def test_ties_go_to_the_lowest_slot(dtype: torch.dtype, device: str) -> None:
    """Small integers are exact in any order of sums."""
    random = torch.Generator().manual_seed(1)
    for dims, slots, k in ((2, 40, 5), (6, 19, 8)):
        points = torch.randint(-1, 2, (30, slots, dims), generator=random).to(device, dtype)
        valid = (torch.rand(30, slots, generator=random) < 0.8).to(device)
        distance = torch.from_numpy(squared_distances(points, None))
        itself = torch.eye(slots, dtype=torch.bool)
        distance[~valid.cpu()[:, None].expand_as(distance) | itself] = torch.inf
        nearest, order = distance.sort(dim=-1, stable=True)
        expected = torch.where((nearest < torch.inf) & valid.cpu()[:, :, None], order, -1)[..., :k]
        assert ((nearest[..., k - 1] == nearest[..., k]) & (nearest[..., k] < torch.inf)).sum() > 50
        assert torch.equal(knn(points, valid, k).cpu(), expected)
        assert torch.equal(knn_op.reference(points, valid, k, 0.0).cpu(), expected)


def test_the_period_joins_the_ends(dtype: torch.dtype, device: str) -> None:
    points = torch.tensor([[[0.0, 3.1], [0.0, -3.1], [0.0, 2.9], [0.0, 9.4]]], dtype=dtype, device=device)
    valid = torch.ones(1, 4, dtype=torch.bool, device=device)
    assert knn(points, valid, 3, period=PERIOD).tolist() == [[[3, 1, 2], [3, 0, 2], [0, 3, 1], [0, 1, 2]]]
    assert knn(points, valid, 3).tolist() == [[[2, 1, 3], [2, 0, 3], [0, 1, 3], [0, 2, 1]]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_no_number_is_no_neighbor(bad: float, dtype: torch.dtype, device: str) -> None:
    points, valid = make_sets(3, 20, 3, dtype, device, filled=1.0)
    points[1, 4, 1] = bad
    for run in (lambda: knn(points, valid, 19), lambda: knn_op.reference(points, valid, 19, 0.0)):
        found = run()
        assert (found[1, 4] == -1).all()
        assert not (found[1] == 4).any()
        rest = found[1][torch.arange(20, device=device) != 4]
        assert (rest[:, :18] >= 0).all()
        assert (rest[:, 18] == -1).all()
        assert (found[[0, 2]] >= 0).all()
    points[1, 4], valid[1, 4] = bad, False
    assert not (knn(points, valid, 4)[1] == 4).any()


def test_points_without_coordinates(device: str) -> None:
    valid = torch.tensor([[True, False, True, True]], device=device)
    found = knn(torch.zeros(1, 4, 0, device=device), valid, 2)
    assert found.tolist() == [[[2, 3], [-1, -1], [0, 3], [0, 2]]]


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    points, valid = make_sets(6, 11, 5, dtype, device)
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (points, valid)]
    assert not any(t.is_contiguous() for t in turned)
    assert torch.equal(knn(*turned, 3), knn(points, valid, 3))
    wide = torch.cat([points, points.flip(0)], dim=2)[:, :, :5]
    assert torch.equal(knn(wide, valid, 3), knn(points, valid, 3))


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    points, valid = make_sets(301, 13, 3, torch.float32)
    results = by_threads(lambda: knn(points, valid, 4))
    assert torch.equal(*results)


def test_blocks_of_the_reference_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    points, valid = make_sets(31, 13, 3, torch.float32)
    expected = knn_op.reference(points, valid, 4, 0.0)
    monkeypatch.setattr(knn_op, "BLOCK_BYTES", 4 * 13**2 * 4)
    assert torch.equal(knn_op.reference(points, valid, 4, 0.0), expected)


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    cases = [
        (make_sets(4, slots, dims, dtype), k, period)
        for slots, dims, k in ((5, 2, 4), (20, 3, 7), (67, 9, 32))
        for dtype in TOLERANCE
        for period in (None, PERIOD)
    ]
    torch.save(cases, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops._backend import backend
        from hep_shared.ops.knn import knn
        os.chdir({str(tmp_path)!r})
        torch.save([knn(*sets, k, period=p) for sets, k, p in torch.load("in.pt")], "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    results = torch.load(tmp_path / "out.pt", weights_only=True)
    for (sets, k, period), found in zip(cases, results, strict=True):
        assert_neighbors(found, *sets, k, period)


def test_opcheck() -> None:
    torch.library.opcheck(knn_op.operator, (*make_sets(3, 8, 3, torch.float32), 4, PERIOD))


def test_the_choice_has_no_derivative() -> None:
    points, valid = make_sets(3, 8, 3, torch.float64, filled=1.0)
    points.requires_grad_()
    found = knn(points, valid, 2)
    assert not found.requires_grad
    torch.take_along_dim(points, found[..., :1], 1).sum().backward()
    assert points.grad is not None


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operator can be batched by itself."""
    points, valid = make_sets(12, 8, 3, torch.float64)
    expected = knn(points, valid, 3)
    batches = points.view(4, 3, 8, 3), valid.view(4, 3, 8)
    assert torch.equal(torch.func.vmap(lambda p, v: knn(p, v, 3))(*batches), expected.view(4, 3, 8, 3))
    by_operator = torch.func.vmap(lambda p, v: knn_op.operator(p, v, 3, 0.0))
    assert torch.equal(by_operator(*batches), expected.view(4, 3, 8, 3))

    def first(points: Tensor) -> Tensor:
        return torch.take_along_dim(points, knn(points, valid, 3)[..., :1].clamp(min=0), 1)

    _, tangent = torch.func.jvp(first, (points,), (points,))
    torch.testing.assert_close(tangent, first(points))


class Neighbors(nn.Module):
    """Both metrics in one network."""

    def forward(self, points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        flat = points.flatten(2)
        return knn(flat, valid, 3), knn(flat[..., :2], valid, 20, period=PERIOD)


def test_compiles_into_one_graph() -> None:
    model, sets = Neighbors(), make_sets(5, 12, 6, torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(f, e) for f, e in zip(compiled(*sets), model(*sets), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path, names = Neighbors().eval(), tmp_path / "model.onnx", ["points", "valid"]
    exported = torch.export.export(model, make_sets(5, 12, 6, torch.float32))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
    torch.onnx.export(
        model,
        make_sets(5, 12, 6, torch.float32),
        path,
        input_names=names,
        dynamic_shapes=shapes,
        dynamo=True,
        verbose=False,
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 6):
        sets = make_sets(num, 12, 6, torch.float32)
        sets[0][:, 5:8] = 0.25  # ties
        found = session.run(None, {name: t.numpy() for name, t in zip(names, sets, strict=True)})
        for f, e in zip(found, model(*sets), strict=True):
            np.testing.assert_array_equal(f, e.numpy())


def test_autocast_keeps_float32() -> None:
    points, valid = make_sets(4, 9, 3, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = knn(points.bfloat16(), valid, 3)
    assert torch.equal(found, knn(points.bfloat16().float(), valid, 3))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("points", torch.zeros(4, 9), r"points must have the shape \(B, P, D\), not \(4, 9\)"),
        ("points", torch.zeros(4, 9, 2).half(), "points must be float32 or float64, not torch.float16"),
        ("valid_mask", torch.ones(4, 8).bool(), r"valid_mask must have the shape \(4, 9\), not \(4, 8\)"),
        ("valid_mask", torch.ones(4, 9), "valid_mask must be torch.bool on cpu, not torch.float32 on cpu"),
        ("valid_mask", torch.ones(4, 9, dtype=torch.bool, device="meta"), "not torch.bool on meta"),
        ("k", 0, "k must be from 1 to 32, not 0"),
        ("k", 33, "k must be from 1 to 32, not 33"),
        ("period", 0.0, "period must be a positive number that belongs to a coordinate, not 0.0"),
        ("period", float("nan"), "period must be a positive number"),
        ("points", torch.zeros(4, 9, 0), "period must be a positive number that belongs to a coordinate"),
    ],
)
def test_knn_refuses(name: str, value: Any, message: str) -> None:
    good = {"points": torch.zeros(4, 9, 2), "valid_mask": torch.ones(4, 9).bool(), "k": 3, "period": PERIOD}
    with pytest.raises(ValueError, match=f"knn: .*{message}"):
        knn(**good | {name: value})


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(4, 9)),
        (0, torch.zeros(4, 9, 2, dtype=torch.float16)),
        (0, torch.zeros(4, 9, 0)),
        (1, torch.ones(4, 8).bool()),
        (1, torch.ones(4, 9)),
        (1, torch.ones(4, 9, 1).bool()),
        (2, 0),
        (2, 33),
        (3, -1.0),
        (3, float("inf")),
        (3, float("nan")),
    ],
)
def test_compiled_knn_refuses(position: int, value: Any) -> None:
    args: list[Any] = [torch.zeros(4, 9, 2), torch.ones(4, 9).bool(), 3, PERIOD]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::knn: "):
        knn_op.operator(*args)
