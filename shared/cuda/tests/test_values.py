"""The operators against formulas of their own, and the compiled ones against the reference."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hep_shared.ops import field
from hep_shared.ops import narrow_mlp as mlp
from hep_shared.ops import propagate as track
from hep_shared.ops import propagate_adaptive as adaptive
from hep_shared.ops._backend import backend

ORIGIN, SPACING = (-400.0, -300.0, 100.0), (100.0, 75.0, 80.0)
SIZES = (0, 1, 7, 8, 9, 16, 17, 33, 257)
ULPS = {torch.float32: 4 * 1.2e-7, torch.float64: 4 * 2.2e-16}
METHODS = ("rk4", "rkn4")
LIMITS = [1e-3, 5e-5, 10.0, 1000.0]  # of the adaptive step
ACTIVATIONS = ("tanh", "silu", "relu", "isru")  # as the operator counts them
LAYERS = ([10, 32, 24, 4], [1, 64, 3], [64, 64, 64, 64, 1], [5, 2])


def assert_same_tracks(found: Tensor, expected: Tensor, num_steps: int = 6) -> None:
    """Equal up to rounding: some roundings of numbers of 1000 mm, and of slopes of 1, over the steps."""
    assert found.dtype == expected.dtype
    rounding = 8 * ULPS[found.dtype] * max(1.0, num_steps / 6)
    torch.testing.assert_close(found[:, :2], expected[:, :2], rtol=0, atol=1e3 * rounding, equal_nan=True)
    torch.testing.assert_close(found[:, 2:], expected[:, 2:], rtol=0, atol=rounding, equal_nan=True)


def interpolate(point: np.ndarray, grid: np.ndarray) -> np.ndarray:
    u = (point - ORIGIN) / SPACING
    if not all(0 <= c <= n - 1 for c, n in zip(u, grid.shape, strict=False)):
        return np.zeros(3)
    node = np.minimum(np.floor(u), np.array(grid.shape[:3]) - 2).astype(int)
    total = np.zeros(3)
    for corner in itertools.product((0, 1), repeat=3):
        total += (
            np.prod([1 - abs(c - w) for c, w in zip(corner, u - node, strict=True)])
            * grid[tuple(node + corner)]
        )
    return total


def test_field_is_trilinear(device: str) -> None:
    random = np.random.default_rng(1)
    grid = random.normal(size=(3, 4, 2, 3))
    end = np.array(ORIGIN) + np.array(SPACING) * (2, 3, 1)
    inside = ORIGIN + random.uniform(size=(20, 3)) * (end - ORIGIN)
    nodes = [ORIGIN, end, (ORIGIN[0] + SPACING[0], ORIGIN[1] + SPACING[1], ORIGIN[2])]
    outside = [(end[0] + 1e-6, end[1], end[2]), (ORIGIN[0], ORIGIN[1] - 1e-6, ORIGIN[2])]
    points = np.vstack([inside, *nodes, *outside])
    expected = torch.tensor(np.array([interpolate(point, grid) for point in points]))
    found = field.field_lookup(
        torch.tensor(points, device=device), torch.tensor(grid, device=device), ORIGIN, SPACING
    )
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-14)
    assert (found[-2:] == 0).all()
    assert (found[:-2] != 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_uniform_field_bends_by_the_field_integral(device: str, method: Any) -> None:
    """In a pure By, the change of u = tx / N is -kappa By dz, exactly."""
    grid = torch.tensor([0.0, -0.8, 0.0], dtype=torch.float64, device=device).expand(2, 2, 2, 3)
    state = torch.tensor([[0.0, 0.0, 0.1, -0.05, 1 / 3000.0]], dtype=torch.float64, device=device)
    end = track.propagate(state, 0.0, 4000.0, grid, (-5e3,) * 3, (1e4,) * 3, num_steps=200, method=method)

    def direction(state: Tensor) -> Tensor:
        return state[0, 2:4] / torch.sqrt(1 + state[0, 2:4].square().sum())

    change = (direction(end) - direction(state)).tolist()
    assert change == pytest.approx([0.299792458 / 3000 * 0.8 * 4000, 0.0], abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_propagation_is_of_fourth_order(method: Any) -> None:
    grid = torch.zeros(2, 2, 2, 3, dtype=torch.float64)
    grid[..., 1] = 1.0
    grid[1, :, :, 0] = 0.5  # one cell, so that the field is smooth
    state = torch.tensor([[1.0, -2.0, 0.2, 0.1, 1 / 2000.0]], dtype=torch.float64)

    def end(num_steps: int) -> Tensor:
        return track.propagate(
            state, 0.0, 4e3, grid, (-5e3,) * 3, (1e4,) * 3, num_steps=num_steps, method=method
        )

    exact = end(512)
    errors = [(end(n) - exact).abs().max().item() for n in (4, 8)]
    assert 10 < errors[0] / errors[1] < 40


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back(method: Any) -> None:
    grid = torch.ones(2, 2, 2, 3, dtype=torch.float64)
    state = torch.tensor([[1.0, -2.0, 0.2, 0.1, 1 / 2000.0]], dtype=torch.float64)
    frame = ((-5e3,) * 3, (1e4,) * 3)
    there = track.propagate(state, 0.0, 1e3, grid, *frame, num_steps=50, method=method)
    back = track.propagate(there, 1e3, -1e3, grid, *frame, num_steps=50, method=method)
    torch.testing.assert_close(back, state, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("num_rows", SIZES)
def test_compiled_agrees_with_reference(
    problem: Callable[[int], Any], num_rows: int, dtype: torch.dtype
) -> None:
    p = problem(num_rows)
    found, expected = (run(p.points, p.grid, p.frame) for run in (field.operator, field.reference))
    assert found.shape == (num_rows, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=16 * ULPS[dtype])
    found, expected = (
        run(p.points, p.grid, p.points.sin(), p.frame) for run in (field.pullback, field.pullback_reference)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=ULPS[dtype])  # over spacings of 75 mm and more
    for nystroem in (False, True):
        found, expected = (run(*p.track_args, 6, nystroem) for run in (track.operator, track.reference))
        assert found.shape == (num_rows, 5)
        assert_same_tracks(found, expected)
    if dtype == torch.float64:  # in float32 a rounding may decide whether a step is accepted
        found, expected = (run(*p.track_args, LIMITS, 500) for run in (adaptive.operator, adaptive.reference))
        assert found.shape == (num_rows, 5)
        assert_same_tracks(found, expected, 60)  # 600 mm in steps of 10 mm
    else:
        found = adaptive.operator(*p.track_args, LIMITS, 500)
        expected = adaptive.reference(*(t.double() for t in p.track_args[:4]), p.frame, LIMITS, 500)
        assert (found - expected).abs().amax(dim=1).le(0.05).all()  # some steps of the tolerance


@pytest.fixture
def network_of() -> Callable[..., tuple[Tensor, Tensor]]:
    """Function that gives rows and weights of a network."""

    def build(num_rows: int, sizes: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(num_rows)
        num = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
        draws = (torch.randn(n, dtype=torch.float64, generator=random) for n in (num_rows * sizes[0], num))
        rows, weights = (draw.to(dtype) for draw in draws)
        return rows.view(num_rows, sizes[0]), weights / sizes[0] ** 0.5

    return build


def perceptron(rows: Tensor, weights: Tensor, sizes: list[int], activation: str) -> np.ndarray:
    """The formula in NumPy, float64."""
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "tanh": np.tanh,
        "silu": lambda v: v / (1 + np.exp(-v)),
        "relu": lambda v: np.maximum(v, 0),
        "isru": lambda v: v / np.sqrt(1 + v**2),
    }
    values, flat = rows.double().numpy(), weights.double().numpy()
    for number, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
        values = values if number == 0 else functions[activation](values)
        matrix, bias, flat = np.split(flat, [size_in * size_out, (size_in + 1) * size_out])
        values = values @ matrix.reshape(size_out, size_in).T + bias
    return values


@pytest.mark.parametrize("sizes", LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_narrow_mlp_is_the_formula(
    network_of: Callable[..., Any], sizes: list[int], activation: Any, dtype: torch.dtype, device: str
) -> None:
    for num_rows in SIZES:
        rows, weights = network_of(num_rows, sizes, dtype)
        found = mlp.narrow_mlp(rows.to(device), weights.to(device), sizes, activation).cpu()
        assert found.shape == (num_rows, sizes[-1])
        expected = torch.from_numpy(perceptron(rows, weights, sizes, activation))
        tolerance = 64 * ULPS[dtype] * max(1.0, float(expected.abs().max()) if num_rows else 1.0)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    strided = rows.to(device).T.contiguous().T
    again = mlp.narrow_mlp(strided, weights.to(device), sizes, activation).cpu()
    limit = tolerance if backend() == "reference" else 0.0  # the reference may sum in another order
    torch.testing.assert_close(again, found, rtol=0, atol=limit)


def test_narrow_mlp_far_out(dtype: torch.dtype, device: str) -> None:
    """The activations at their limits; NaN stays NaN."""
    rows = torch.tensor([[-1e4], [-50.0], [50.0], [1e4], [torch.nan]], dtype=dtype)
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=dtype)
    for activation, ends in {"tanh": (-1, 1), "isru": (-1, 1), "silu": (0, 1e4), "relu": (0, 1e4)}.items():
        found = mlp.narrow_mlp(rows.to(device), weights.to(device), [1, 1, 1], activation)[:, 0].cpu()
        expected = torch.tensor(ends, dtype=dtype)
        torch.testing.assert_close(found[[0, 3]], expected, rtol=1e-5, atol=1e-6)
        assert found[4].isnan()


def test_layers_are_packed_in_order() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    rows = torch.randn(9, 3)
    weights, sizes = mlp.pack(layers)
    assert sizes == [3, 5, 2]
    torch.testing.assert_close(mlp.narrow_mlp(rows, weights, sizes, "tanh"), layers(rows))


def test_adaptive_steps_reach_the_tolerance(device: str) -> None:
    """In a pure By, the change of u = tx / N is -kappa By dz, exactly; and the way back ends at the start."""
    grid = torch.tensor([0.0, -0.8, 0.0], dtype=torch.float64, device=device).expand(2, 2, 2, 3)
    frame = ((-5e3,) * 3, (1e4,) * 3)
    state = torch.tensor([[0.0, 0.0, 0.1, -0.05, 1 / 3000.0]], dtype=torch.float64, device=device)
    limits = {"tolerance_mm": 1e-7, "slope_tolerance": 1e-11, "min_step_mm": 0.1}
    end = adaptive.propagate_adaptive(state, 0.0, 4000.0, grid, *frame, **limits)
    u = [s[0, 2] / torch.sqrt(1 + s[0, 2:4].square().sum()) for s in (state, end)]
    assert float(u[1] - u[0]) == pytest.approx(0.299792458 / 3000 * 0.8 * 4000, abs=1e-9)
    back = adaptive.propagate_adaptive(end, 4000.0, -4000.0, grid, *frame, **limits)
    torch.testing.assert_close(back, state, rtol=0, atol=1e-5)
    still = adaptive.propagate_adaptive(state, 0.0, 0.0, grid, *frame)
    assert torch.equal(still, state)


def test_adaptive_steps_give_up(problem: Callable[[int], Any]) -> None:
    p = problem(20)
    dz = p.dz.clone()
    dz[3] = torch.nan
    state = p.state.clone()
    state[5, 2] = torch.inf
    frame = (ORIGIN, SPACING)
    found = adaptive.propagate_adaptive(state, p.z, dz, p.grid, *frame, max_trials=300)
    assert found[[3, 5], :4].isnan().all()
    assert torch.equal(found[:, 4], state[:, 4])
    assert found[6:].isfinite().all()
    few = adaptive.propagate_adaptive(p.state, p.z, p.dz, p.grid, *frame, max_step_mm=10.0, max_trials=3)
    far = p.dz.abs() > 30
    assert few[far, :4].isnan().all()
    assert few[~far].isfinite().all()


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_each_instruction_set_agrees_with_reference(
    isa: str,
    tmp_path: Path,
    run_python: Callable[..., Any],
    problem_of: Callable[..., Any],
    supported: set[str],
) -> None:
    problems = [problem_of(61, dtype, "cpu") for dtype in ULPS]
    torch.save([(p.points, *p.track_args) for p in problems], tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops import field, propagate as track, _backend
        from hep_shared.ops import narrow_mlp as mlp, propagate_adaptive as adaptive
        os.chdir({str(tmp_path)!r})
        results = [
            [
                field.operator(points, *args[3:]),
                torch.ops.hep.field_pullback(points, args[3], points.sin(), args[4]),
                *(track.operator(*args, 6, n) for n in (False, True)),
                adaptive.operator(*args, {LIMITS}, 500),
                *(mlp.operator(args[0], args[0].flatten()[:61], [5, 6, 3, 1], k) for k in range(4)),
            ]
            for points, *args in torch.load("in.pt")
        ]
        torch.save(results, "out.pt")
        print(json.dumps(_backend.backend()))"""
    if isa not in supported:
        with pytest.raises(
            AssertionError, match=f"HEP_SHARED_ISA is '{isa}', which is unknown or more than this"
        ):
            run_python(code, HEP_SHARED_ISA=isa)
        return
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    for p, found in zip(problems, torch.load(tmp_path / "out.pt", weights_only=True), strict=True):
        expected = field.reference(p.points, p.grid, p.frame)
        torch.testing.assert_close(found[0], expected, rtol=0, atol=16 * ULPS[p.points.dtype])
        expected = field.pullback_reference(p.points, p.grid, p.points.sin(), p.frame)
        torch.testing.assert_close(found[1], expected, rtol=0, atol=ULPS[p.points.dtype])
        for result, nystroem in zip(found[2:4], (False, True), strict=True):
            assert_same_tracks(result, track.reference(*p.track_args, 6, nystroem))
        if p.points.dtype == torch.float64:
            assert_same_tracks(found[4], adaptive.reference(*p.track_args, LIMITS, 500), 60)
        weights, sizes = p.state.flatten()[:61], [5, 6, 3, 1]
        for result, kind in zip(found[5:], range(4), strict=True):
            expected = mlp.reference(p.state, weights, sizes, kind)
            scale = 64 * ULPS[p.points.dtype] * float(expected.abs().max())
            torch.testing.assert_close(result, expected, rtol=0, atol=scale)


def padded(grid: Tensor) -> Tensor:
    """x fastest and four numbers a node, as in the maps of the experiment; the fourth must not be used."""
    wide = torch.nn.functional.pad(grid.permute(2, 1, 0, 3), (0, 1), value=torch.nan).contiguous()
    return wide[..., :3].permute(2, 1, 0, 3)


LAYOUTS = {
    "x fastest, padded": padded,
    "y fastest": lambda grid: grid.transpose(1, 2).contiguous().transpose(1, 2),
    "component slowest": lambda grid: grid.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0),
    "z fastest, in a wider grid": lambda grid: torch.nn.functional.pad(grid, (0, 0, 1, 1))[:, :, 1:-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_of_the_grid_does_not_matter(problem: Callable[[int], Any], layout: str) -> None:
    p = problem(40)
    grid = LAYOUTS[layout](p.grid)
    assert torch.equal(grid, p.grid)
    assert not grid.is_contiguous()
    torch.testing.assert_close(
        field.operator(p.points, grid, p.frame),
        field.operator(p.points, p.grid, p.frame),
        rtol=0,
        atol=16 * ULPS[grid.dtype],
    )
    for nystroem in (False, True):
        found = track.operator(p.state, p.z, p.dz, grid, p.frame, 5, nystroem)
        assert_same_tracks(found, track.operator(*p.track_args, 5, nystroem))


def test_strides_of_the_rows_do_not_matter(problem: Callable[[int], Any]) -> None:
    p = problem(40)
    points, state = (rows.T.contiguous().T for rows in (p.points, p.state))
    z, dz = (torch.stack([values, values], dim=1)[:, 0] for values in (p.z, p.dz))
    assert not any(tensor.is_contiguous() for tensor in (points, state, z, dz))
    assert torch.equal(field.operator(points, p.grid, p.frame), field.operator(p.points, p.grid, p.frame))
    found = track.operator(state, z, dz, p.grid, p.frame, 5, True)
    assert found.is_contiguous()
    assert torch.equal(found, track.operator(*p.track_args, 5, True))


def test_number_of_threads_does_not_matter(
    problem: Callable[[int], Any], by_threads: Callable[..., list[Any]]
) -> None:
    p = problem(1501)
    results = by_threads(lambda: track.operator(*p.track_args, 4, True))
    assert torch.equal(*results)


def test_impossible_positions_are_off_the_map(problem: Callable[[int], Any]) -> None:
    p = problem(24)
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 3e9], dtype=p.state.dtype)
    points = p.points
    for axis in range(3):
        points[axis * 6 : axis * 6 + 6, axis] = bad
    found = field.operator(points, p.grid, p.frame)
    assert (found[:18] == 0).all()
    assert (found[18:] != 0).all()
    state = p.state.clone()
    state[:6, 0], state[6:12, 2], state[12:18, 4] = bad, bad, bad
    for nystroem in (False, True):
        found, expected = (
            run(state, *p.track_args[1:], 3, nystroem) for run in (track.operator, track.reference)
        )
        assert_same_tracks(found[18:], expected[18:])
        assert torch.equal(found[:6].isnan(), expected[:6].isnan())


def test_numbers_may_stand_for_columns(problem: Callable[[int], Any]) -> None:
    p = problem(9)
    call = {"num_steps": 3, "method": "rkn4"}
    ones = torch.ones_like(p.z)
    assert torch.equal(
        track.propagate(p.state, 200.0, 90, p.grid, ORIGIN, SPACING, **call),
        track.propagate(p.state, 200 * ones, 90 * ones, p.grid, ORIGIN, SPACING, **call),
    )
