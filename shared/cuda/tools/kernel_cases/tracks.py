"""Tracks through a magnetic field, and the small network in their place."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from hep_shared.ops import field
from hep_shared.ops import narrow_mlp as mlp
from hep_shared.ops import propagate as track
from hep_shared.ops import propagate_adaptive as adaptive
from kernel_cases import Case

ORIGIN, SPACING, NODES = (-4000.0, -4000.0, -500.0), (100.0, 100.0, 100.0), (81, 81, 146)
FRAME = [*ORIGIN, *(1 / s for s in SPACING)]


def make_map(dtype: torch.dtype, device: str) -> Tensor:
    """A dipole-like field on the nodes of the experiment's maps, (X, Y, Z, 3), T."""
    x, y, z = (
        o + s * torch.arange(n, dtype=torch.float64) for o, s, n in zip(ORIGIN, SPACING, NODES, strict=True)
    )
    x, y, z = torch.meshgrid(x, y, z, indexing="ij")
    by = -1.03 * torch.exp(-(((z - 5000) / 1700) ** 2) - ((x**2 + y**2) / 6000**2))
    return torch.stack((0.1 * by * x * y / 4e6, by, 0.2 * by * y / 1e3), dim=-1).to(device, dtype)


def make_tracks(num: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Tracks from the collision point at the plane in front of the magnet, and the way to the one behind."""
    random = torch.Generator().manual_seed(0)
    slopes = 0.1 * torch.randn(num, 2, dtype=torch.float64, generator=random)
    momentum = 3e3 + 5e4 * torch.rand(num, 1, dtype=torch.float64, generator=random)
    state = torch.cat((2665 * slopes, slopes, 1 / momentum), dim=1)
    z = torch.full((num,), 2665.0, dtype=torch.float64)
    return state.to(device, dtype), z.to(device, dtype), torch.full_like(z, 5161.0).to(device, dtype)


def grid_sample_lookup(grid: Tensor) -> Callable[[Tensor], Tensor]:
    """The same look-up by PyTorch's own sampler, which wants -1 to 1 along each axis and x last."""
    volume = grid.permute(3, 0, 1, 2).contiguous()[None]
    origin, last = (
        grid.new_tensor(ORIGIN),
        grid.new_tensor([s * (n - 1) for s, n in zip(SPACING, NODES, strict=True)]),
    )

    def lookup(points: Tensor) -> Tensor:
        place = ((points - origin) * (2 / last) - 1).flip(-1)
        return functional.grid_sample(volume, place[None, None, None], align_corners=True)[0, :, 0, 0].T

    return lookup


def track_cases(dtype: torch.dtype, device: str, num_points: int, num_tracks: int) -> list[Case]:
    """The rows of one dtype."""
    grid = make_map(dtype, device)
    state, z, dz = make_tracks(num_tracks, dtype, device)
    points = torch.rand(num_points, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = torch.tensor([s * (n - 1) for s, n in zip(SPACING, NODES, strict=True)], dtype=torch.float64)
    points = (points * ends + torch.tensor(ORIGIN, dtype=torch.float64)).to(device, dtype)
    sampler = grid_sample_lookup(grid)
    bits = f"float{8 * dtype.itemsize}"
    cases = [
        Case(
            f"field_lookup, {num_points} points, {bits}",
            lambda: field.reference(points, grid, FRAME),
            lambda: sampler(points),
            lambda: field.operator(points, grid, FRAME),
            num_points,
            "-",
        )
    ]
    for method, steps, lookups in (("rk4", 20, 80), ("rkn4", 8, 17)):
        nystroem = method == "rkn4"
        arguments = (state, z, dz, steps, nystroem)
        cases.append(
            Case(
                f"propagate {method}, {num_tracks} tracks x {steps} steps, {bits}",
                functools.partial(track.reference, state, z, dz, grid, FRAME, steps, nystroem),
                functools.partial(track.integrate, sampler, *arguments),
                functools.partial(track.operator, state, z, dz, grid, FRAME, steps, nystroem),
                num_tracks * lookups,
                ">= 15 x best torch" if device == "cpu" else ">= 10 x naive",
            )
        )
    limits = [0.01, 5e-5, 10.0, 1000.0]

    def adaptive_steps(run: Callable[..., Tensor]) -> Tensor:
        return run(state, z, dz, grid, FRAME, limits, 5000)

    cases.append(
        Case(
            f"propagate_adaptive, {num_tracks} tracks, 0.01 mm, {bits}; no better torch",
            lambda: adaptive_steps(adaptive.reference),
            lambda: adaptive_steps(adaptive.reference),
            lambda: adaptive_steps(adaptive.operator),
            0,
            "-",
        )
    )
    sizes = [10, 32, 32, 4]
    random = torch.Generator().manual_seed(2)
    rows = torch.randn(num_tracks, sizes[0], generator=random).to(device, dtype)
    weights = torch.randn(1540, generator=random).to(device, dtype) / 6
    cases.append(
        Case(
            f"narrow_mlp 10-32-32-4 isru, {num_tracks} rows, {bits}; best torch in blocks of 1024",
            lambda: mlp.reference(rows, weights, sizes, 3),
            lambda: torch.cat([mlp.reference(part, weights, sizes, 3) for part in torch.split(rows, 1024)]),
            lambda: mlp.operator(rows, weights, sizes, 3),
            0,
            "-",
        )
    )
    if dtype == torch.float32:
        wanted = state.clone().requires_grad_()

        def gradient(run: Callable[[Tensor], Tensor]) -> Tensor:
            scale = wanted.new_tensor([1, 1, 1e-3, 1e-3, 1e-6])  # to 1 mm, 1 mrad and 1e-6/MeV
            return torch.autograd.grad(run(wanted)[:, :2].sum(), wanted)[0] * scale

        cases.append(
            Case(
                f"propagate rkn4, {num_tracks} tracks x 8 steps, {bits}, forward and backward to the state",
                lambda: gradient(lambda s: track.reference(s, z, dz, grid, FRAME, 8, True)),
                lambda: gradient(lambda s: track.integrate(sampler, s, z, dz, 8, True)),
                lambda: gradient(lambda s: track.operator(s, z, dz, grid, FRAME, 8, True)),
                0,
                "-",
            )
        )
    return cases
