"""Derivatives of the operators, in every way torch has of asking for them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from hep_shared.ops import field
from hep_shared.ops import narrow_mlp as mlp
from hep_shared.ops import propagate as track
from hep_shared.ops import propagate_adaptive as adaptive

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp

ORIGIN, SPACING = (0.0, 0.0, 0.0), (10.0, 8.0, 12.0)
FRAME = [*ORIGIN, *(1 / s for s in SPACING)]


@pytest.fixture
def grid() -> Tensor:
    return torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def points() -> Tensor:
    """Well inside cells, and one off the map: at the border of a cell there is no derivative."""
    return torch.tensor(
        [[3.0, 5.0, 7.0], [14.0, 2.0, 20.0], [9.0, 7.0, 1.0], [-3.0, 2.0, 2.0]], dtype=torch.float64
    )


@pytest.fixture
def tracks() -> tuple[Tensor, Tensor, Tensor]:
    state = [[4.0, 3.0, 0.2, -0.1, 0.02], [13.0, 5.0, -0.3, 0.1, -0.03]]
    double = {"dtype": torch.float64}
    return (
        torch.tensor(state, **double),
        torch.tensor([1.0, 14.0], **double),
        torch.tensor([8.0, 9.0], **double),
    )


def lookup(points: Tensor, grid: Tensor) -> Tensor:
    return field.field_lookup(points, grid, ORIGIN, SPACING)


def propagated(method: Any) -> Callable[..., Tensor]:
    def run(state: Tensor, z: Tensor, dz: Tensor, grid: Tensor) -> Tensor:
        return track.propagate(state, z, dz, grid, ORIGIN, SPACING, num_steps=2, method=method)

    return run


def with_gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.clone().requires_grad_() for tensor in tensors)


def test_field_gradients(points: Tensor, grid: Tensor) -> None:
    inputs = with_gradients(points, grid)
    assert torch.autograd.gradcheck(lookup, inputs)
    assert torch.autograd.gradgradcheck(lookup, inputs, fast_mode=True)


@pytest.mark.parametrize("method", ["rk4", "rkn4"])
def test_propagate_gradients(tracks: tuple[Tensor, ...], grid: Tensor, method: Any) -> None:
    inputs = with_gradients(*tracks, grid)
    assert torch.autograd.gradcheck(propagated(method), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(propagated(method), inputs, fast_mode=True)


def test_arguments_computed_from_each_other(tracks: tuple[Tensor, ...], grid: Tensor) -> None:
    """The backward must not walk from one argument to another by itself."""
    (state,) = with_gradients(tracks[0])

    def loss(run: Callable[..., Tensor]) -> Tensor:
        z = state[:, 0] * 0.5
        return run(state, z, z + 1, grid, FRAME, 2, True).square().sum()

    found, expected = (torch.autograd.grad(loss(run), state)[0] for run in (track.operator, track.reference))
    torch.testing.assert_close(found, expected)


def test_only_wanted_gradients(points: Tensor, grid: Tensor, tracks: tuple[Tensor, ...]) -> None:
    (wanted,) = with_gradients(grid)
    lookup(points, wanted).sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.any()
    state, z, dz = tracks
    (wanted,) = with_gradients(dz)
    propagated("rk4")(state, z, wanted, grid).sum().backward()
    assert wanted.grad is not None
    assert wanted.grad.all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck(points: Tensor, grid: Tensor, tracks: tuple[Tensor, ...]) -> None:
    torch.library.opcheck(field.operator, (*with_gradients(points, grid), FRAME))
    torch.library.opcheck(field.pullback, (*with_gradients(points, grid, points.sin()), FRAME))
    torch.library.opcheck(track.operator, (*with_gradients(*tracks, grid), FRAME, 1, True))


SIZES = [3, 4, 5, 2]


@pytest.fixture
def network() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(4)
    return (
        torch.randn(3, 3, dtype=torch.float64, generator=random),
        torch.randn(53, dtype=torch.float64, generator=random),
    )


@pytest.mark.parametrize("activation", ["tanh", "silu", "isru"])
def test_narrow_mlp_derivatives(network: tuple[Tensor, Tensor], activation: Any) -> None:
    def run(rows: Tensor, weights: Tensor) -> Tensor:
        return mlp.narrow_mlp(rows, weights, SIZES, activation)

    inputs = with_gradients(*network)
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*network), run(*network))
    tangents = tuple(torch.ones_like(tensor) for tensor in network)
    ahead, behind = (run(*(t + s * 1e-5 for t in network)) for s in (1, -1))
    _, found = torch.func.jvp(run, network, tangents)
    torch.testing.assert_close(found, (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck_of_the_others(
    network: tuple[Tensor, Tensor], grid: Tensor, tracks: tuple[Tensor, ...]
) -> None:
    torch.library.opcheck(mlp.operator, (*with_gradients(*network), SIZES, 3))
    torch.library.opcheck(adaptive.operator, (*tracks, grid, FRAME, [1e-3, 1e-5, 0.1, 5.0], 100))


def test_adaptive_steps_have_no_derivative(tracks: tuple[Tensor, ...], grid: Tensor) -> None:
    state, z, dz = tracks
    message = "neither a derivative nor an export; detach the tensors or use propagate"

    def run(state: Tensor) -> Tensor:
        return adaptive.propagate_adaptive(state, z, dz, grid, ORIGIN, SPACING)

    (wanted,) = with_gradients(state)
    with pytest.raises(ValueError, match=message):
        run(wanted)
    with torch.no_grad():
        torch.testing.assert_close(run(wanted), run(state))
    with pytest.raises(ValueError, match=message):
        torch.func.jvp(run, (state,), (state,))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(state), run(state))
    result = adaptive.operator(wanted, z, dz, grid, FRAME, [1e-3, 1e-5, 0.1, 5.0], 100)
    with pytest.raises(NotImplementedError, match="has no derivative"):
        result.sum().backward()


def test_forward_mode_is_not_zero(points: Tensor, grid: Tensor) -> None:
    """Operators with a registered backward give zero tangents silently; the guard must prevent it."""
    tangent = torch.ones_like(points)
    expected = (lookup(points + 1e-4 * tangent, grid) - lookup(points - 1e-4 * tangent, grid)) / 2e-4
    _, found = torch.func.jvp(lambda p: lookup(p, grid), (points,), (tangent,))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    with forward_ad.dual_level():
        dual = lookup(forward_ad.make_dual(points, tangent), grid)
        found = forward_ad.unpack_dual(dual).tangent
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    _, unguarded = torch.func.jvp(lambda p: field.operator(p, grid, FRAME), (points,), (tangent,))
    assert not unguarded.any(), "torch has learned forward mode for operators: the guard can go"


def test_forward_mode_compiled(points: Tensor, grid: Tensor) -> None:
    def derivative(points: Tensor, grid: Tensor) -> Tensor:
        return torch.func.jvp(lambda p: lookup(p, grid), (points,), (torch.ones_like(points),))[1]

    compiled = torch.compile(derivative, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(points, grid), derivative(points, grid))


def test_function_transforms(tracks: tuple[Tensor, ...], grid: Tensor) -> None:
    state, z, dz = tracks
    run = propagated("rkn4")

    def one(row: Tensor) -> Tensor:
        return run(row[None], z[:1], dz[:1], grid)[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one))(state)
    forward = torch.func.vmap(torch.func.jacfwd(one))(state)
    expected = torch.stack([torch.autograd.functional.jacobian(one, row) for row in state])
    torch.testing.assert_close(jacobian, expected)
    torch.testing.assert_close(forward, expected)


@pytest.mark.parametrize("batched_grid", [False, True])
def test_batching_rule(tracks: tuple[Tensor, ...], grid: Tensor, batched_grid: bool) -> None:
    """The operators themselves can be batched, for callers that use them directly."""
    state, z, dz = tracks
    states = torch.stack([state, state.flip(0), state * 0.5])
    grids = torch.stack([grid, 2 * grid, -grid]) if batched_grid else grid

    def run(state: Tensor, grid: Tensor) -> Tensor:
        return track.operator(state, z, dz, grid, FRAME, 2, False)

    found = torch.func.vmap(run, in_dims=(0, 0 if batched_grid else None))(states, grids)
    for b in range(3):
        torch.testing.assert_close(found[b], run(states[b], grids[b] if batched_grid else grid))


@pytest.mark.parametrize("method", ["rk4", "rkn4"])
def test_compiles_into_one_graph(tracks: tuple[Tensor, ...], grid: Tensor, method: Any) -> None:
    run = propagated(method)
    inputs = with_gradients(*tracks, grid)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(f(*inputs).square().sum(), inputs) for f in (compiled, run))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_autocast_keeps_float32(tracks: tuple[Tensor, ...], grid: Tensor) -> None:
    state, z, dz, grid32 = (tensor.float() for tensor in (*tracks, grid))
    with torch.autocast("cpu", torch.bfloat16):
        half = (state.bfloat16(), z.bfloat16(), dz.bfloat16())
        found = propagated("rkn4")(*half, grid32)
    assert found.dtype == torch.float32
    assert torch.equal(found, propagated("rkn4")(*(h.float() for h in half), grid32))
