"""Time every operator: naive PyTorch, the best PyTorch found, and the compiled kernel, against a floor.

    python shared/cuda/tools/bench.py --out shared/cuda/benchmarks/cpu.md

Kernel and peer run in turn, one pair after the other; times and ratios are medians over the pairs. On the
CPU one thread is used, so that the figures are per core, and its processor time counts, which other programs
on the machine disturb less than the time on the wall.

- naive: the reference of the operator, eight corners by advanced indexing; for tokens `numpy.digitize`
  on the CPU; for codes `cdist` with argmin.
- best torch: `grid_sample`, which interpolates in one call; for tokens one comparison an edge; for codes
  `addmm` with argmin in blocks. For the equivariant map the dense matrix and products of the blocks that
  are not zero, or lgatr's two ways where it is installed (`uv run --with lgatr`); for pairs nine gathers of
  numbers and two of rows. For the network on pairs both keep the activations, best torch compiled; it is
  timed on a GPU alone.
- floor: for tokens a copy of as many bytes as are read and written; for codes two vectors of products a
  cycle. For tracks the eight corners of every look-up are read once. On the CPU as four runs of neighbouring
  numbers, two runs a cycle at the clock the system reports; on the GPU at the rate of a copy within the
  second-level cache.
"""

import argparse
import functools
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module, util
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hep_shared.ops import equilinear, field, knn, nearest, pair_mlp, pairs, tokens
from hep_shared.ops import hex as hex_op
from hep_shared.ops import narrow_mlp as mlp
from hep_shared.ops import propagate as track
from hep_shared.ops import propagate_adaptive as adaptive
from hep_shared.ops._backend import backend

ORIGIN, SPACING, NODES = (-4000.0, -4000.0, -500.0), (100.0, 100.0, 100.0), (81, 81, 146)
FRAME = [*ORIGIN, *(1 / s for s in SPACING)]
RUNS_PER_LOOKUP, NUMBERS_PER_LOOKUP = 4, 24


class Case(NamedTuple):
    """One row: three ways to do the same work."""

    what: str
    naive: Callable[[], Tensor]
    best: Callable[[], Tensor]
    native: Callable[[], Tensor]
    num_lookups: int
    goal: str
    floor_s: float = 0.0  # where the work is no look-ups
    difference: Callable[[], float] | None = None  # where results are no numbers to subtract


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


def make_cases(dtype: torch.dtype, device: str, num_points: int, num_tracks: int) -> list[Case]:
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


def make_token_cases(dtype: torch.dtype, device: str, num_events: int) -> list[Case]:
    """Events of 18 objects into tokens of 5 bins."""
    random = torch.Generator().manual_seed(2)
    features = torch.randn(num_events, 18, 4, generator=random).to(device, dtype)
    missing = torch.randn(num_events, 2, generator=random).to(device, dtype)
    ids = torch.randint(0, 8, (num_events, 18), generator=random).to(device, torch.int8)
    edges = [-0.84, -0.25, 0.25, 0.84]
    arguments: tuple[Any, ...] = (features, missing, ids, [], edges, edges, edges, edges, 5, False, False)

    def digitize() -> Tensor:
        columns, both = features.numpy(), missing.numpy()
        limits = np.array(edges, both.dtype)
        pt, eta, phi = (np.digitize(columns[..., column], limits) for column in (1, 2, 3))
        number = ids.numpy().astype(np.int64)
        tokens = (125 * (number - 1) + 25 * pt + 5 * eta + phi + 1) * (number > 0)
        rest = 876 + np.digitize(both, limits) + np.array([0, 5])
        return torch.from_numpy(np.concatenate([tokens, rest], axis=1))

    result = tokens.operator(*arguments)
    num_bytes = sum(t.numel() * t.element_size() for t in (features, missing, ids, result))
    source = torch.empty(num_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    floor, _, _ = time_pairs(lambda: target.copy_(source), lambda: None, device, pairs=9)
    return [
        Case(
            f"event_tokens, {num_events} events, float{8 * dtype.itemsize}",
            digitize if device == "cpu" else lambda: tokens.reference(*arguments),
            lambda: tokens.reference(*arguments),
            lambda: tokens.operator(*arguments),
            0,
            ">= 10 x naive" if device == "cpu" else "-",
            floor,
        )
    ]


def make_code_cases(dtype: torch.dtype, device: str, num_vectors: int) -> list[Case]:
    """Vectors of 32 dimensions to the nearest of 512 codes."""
    random = torch.Generator().manual_seed(3)
    vectors, codes = (torch.randn(n, 32, generator=random).to(device, dtype) for n in (num_vectors, 512))
    half_norms = codes.square().sum(1) / 2

    def native() -> Tensor:
        return nearest.operator(vectors, codes, half_norms)

    def best() -> Tensor:
        return nearest.reference(vectors, codes, half_norms)

    def difference() -> float:
        distances = [(vectors.double() - codes.double()[way()]).square().sum(1) for way in (native, best)]
        return float((distances[0] - distances[1]).abs().max())

    width = {"avx512": 64, "avx2": 32}.get(
        backend().removeprefix("native (").rstrip(")"), 0
    ) // dtype.itemsize
    clock = re.search(r"cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text())
    products = num_vectors * vectors.shape[1] * len(codes)
    floor = products / (2e6 * width * float(clock[1])) if clock and width and device == "cpu" else 0.0
    return [
        Case(
            f"nearest_code, {num_vectors} vectors x 32, 512 codes, float{8 * dtype.itemsize}",
            lambda: torch.cdist(vectors, codes).argmin(1),
            best,
            native,
            0,
            ">= 4 x naive" if device == "cpu" else ">= 2.5 x naive",
            floor,
            difference,
        )
    ]


def make_map_cases(dtype: torch.dtype, device: str, num_rows: int) -> list[Case]:
    """The equivariant map of 16 channels to 16, forward and backward to everything."""
    random = torch.Generator().manual_seed(4)
    shapes = ((num_rows, 16, 16), (16, 16, 10), (16, 1))
    inputs = [torch.randn(s, generator=random).to(device, dtype).requires_grad_() for s in shapes]
    slope = torch.randn(shapes[0], generator=random).to(device, dtype)

    def gradients(run: Callable[..., Tensor]) -> Tensor:
        x, weight, bias = inputs
        return torch.autograd.grad(run(x, weight, bias[:, 0]), inputs, slope)[0]

    def dense(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        shift = functional.pad(bias[:, None], (0, 15)).flatten()
        return functional.linear(x.flatten(1), equilinear.dense_matrix(weight), shift).view(-1, 16, 16)

    naive, best, peers = dense, equilinear.reference, "dense and in blocks"
    if util.find_spec("lgatr"):
        layer = import_module("lgatr.primitives.linear").equi_linear
        config = import_module("lgatr.primitives.config").PrimitivesConfig

        def lgatr(x: Tensor, weight: Tensor, bias: Tensor, *, sparse: bool) -> Tensor:
            y: Tensor = layer(x, weight, config=config(sparse_linear=sparse))
            return y + functional.pad(bias[:, None], (0, 15))

        naive, best = (functools.partial(lgatr, sparse=sparse) for sparse in (False, True))
        peers = "lgatr dense and sparse"
    return [
        Case(
            f"equi_linear 16 to 16 and its backward, {num_rows} rows, float{8 * dtype.itemsize}; {peers}",
            lambda: gradients(naive),
            lambda: gradients(best),
            lambda: gradients(equilinear.operator),
            0,
            ">= 5 x lgatr" if device == "cpu" else ">= 4 x lgatr",
        )
    ]


def make_pair_cases(dtype: torch.dtype, device: str, num_jets: int) -> list[Case]:
    """The triangles of jets of 20 to 60 particles."""
    random = torch.Generator().manual_seed(5)
    sizes = torch.randint(20, 61, (num_jets,), generator=random).tolist()
    lists, start = [], 0
    for size in sizes:
        lists.append(start + torch.tril_indices(size, size))
        start += size
    first, second = torch.cat(lists, dim=1).to(device).unbind(0)
    pt, mass2 = torch.rand(2, start, generator=random, dtype=torch.float64) + 0.1
    y, phi = 0.4 * torch.randn(2, start, generator=random, dtype=torch.float64)
    mt = torch.sqrt(pt * pt + mass2)
    scales = (pt, mt, pt, mt, mass2)
    directions = (y.sinh(), y.cosh(), phi.sin(), phi.cos())
    single = pairs.Particles(*(s.to(device, dtype) for s in scales), *(d.to(device) for d in directions))
    table = (torch.stack(single[:5], dim=1), torch.stack(single[5:], dim=1))

    def gathered() -> Tensor:
        a, b = (pairs.Particles(*(values[index] for values in single)) for index in (first, second))
        return pairs.formula(a, b, 1e-8, 0.0)

    return [
        Case(
            f"pair_features, {num_jets} jets, {len(first)} pairs, float{8 * dtype.itemsize}",
            gathered,
            lambda: pairs.reference(first, second, *table, 1e-8, 0.0),
            lambda: pairs.operator(first, second, *table, 1e-8, 0.0),
            0,
            "-",
        )
    ]


def make_network_cases(num_rows: int) -> list[Case]:
    """The network of the pair bias in training, forward and backward; no other device has kernels for it."""
    widths = (4, 64, 64, 64, 8)
    layers = [nn.Linear(a, b).cuda() for a, b in pairwise(widths)]
    linears = nn.ModuleList(layers)
    norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths).cuda()
    rows, grad = torch.randn(num_rows, 4, device="cuda"), torch.randn(num_rows, 8, device="cuda")
    compiled = torch.compile(lambda rows: pair_mlp.plain_layers(rows, linears, norms))

    def gradient(run: Callable[[Tensor], Tensor], half: bool) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            result = run(rows)
        return torch.autograd.grad(result, layers[1].weight, grad.to(result.dtype))[0]

    return [
        Case(
            f"pair_mlp 4-64-64-64-8, {num_rows} rows, forward and backward, {what}; Triton",
            functools.partial(gradient, lambda rows: pair_mlp.plain_layers(rows, linears, norms), half),
            functools.partial(gradient, compiled, half),
            functools.partial(gradient, lambda rows: pair_mlp.pair_mlp(rows, linears, norms), half),
            0,
            ">= 5 x naive",
        )
        for half, what in ((False, "float32"), (True, "bfloat16"))
    ]


def make_knn_cases(dtype: torch.dtype, device: str, num_sets: int) -> list[Case]:
    """Particles of jets in a plane, and objects of events in a plane and by features."""
    random = torch.Generator().manual_seed(4)

    def case(sets: int, slots: int, dims: int, k: int, filled: float) -> Case:
        points = torch.randn(sets, slots, dims, generator=random).to(device, dtype)
        valid = (torch.rand(sets, slots, generator=random) < filled).to(device)
        itself = torch.eye(slots, dtype=torch.bool, device=device)

        def distances() -> Tensor:
            square = points.square().sum(2)
            products = torch.bmm(points, points.transpose(1, 2))
            found = square.unsqueeze(2) + square.unsqueeze(1) - 2 * products
            return found.masked_fill(itself | ~valid.unsqueeze(1), torch.inf)

        matrix = distances()

        def native() -> Tensor:
            return knn.operator(points, valid, k, 0.0)

        def difference() -> float:
            exact = (points.double().unsqueeze(2) - points.double().unsqueeze(1)).square().sum(3)
            ways = [way.clamp(min=0) for way in (native(), knn.reference(points, valid, k, 0.0))]
            return float((exact.gather(2, ways[0]) - exact.gather(2, ways[1])).abs().max())

        return Case(
            f"knn, {sets} sets x {slots} points x {dims}, {filled:.0%} filled, k={k}, "
            f"float{8 * dtype.itemsize}; naive: distances and topk, best torch: topk alone",
            lambda: distances().topk(k, dim=2, largest=False)[1],
            lambda: matrix.topk(k, dim=2, largest=False)[1],
            native,
            0,
            ">= 3 x topk" if device == "cpu" else ">= 10 x naive",
            0.0,
            difference,
        )

    return [
        case(num_sets, 128, 2, 16, 1.0),
        case(8 * num_sets, 18, 2, 4, 0.6),
        case(8 * num_sets, 18, 128, 4, 0.6),
    ]


def hexagon(radius: int) -> Tensor:
    """Neighbours of the nodes of a hexagon, -1 where there is none, (N, 7)."""
    reach = range(-radius, radius + 1)
    nodes = {place: i for i, place in enumerate((q, r) for q in reach for r in reach if abs(q + r) <= radius)}
    steps = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1))
    return torch.tensor([[nodes.get((q + a, r + b), -1) for a, b in steps] for q, r in nodes])


def make_hex_cases(dtype: torch.dtype, device: str, num_events: int) -> list[Case]:
    """61 nodes of 96 channels, forward, and forward and backward; the compiled form is the best PyTorch."""
    random = torch.Generator().manual_seed(5)
    table = hexagon(4).to(device)
    x, grad = (torch.randn(num_events, 61, 96, generator=random).to(device, dtype) for _ in range(2))
    parameters = [torch.randn(7, 96, generator=random).to(device, dtype)]
    parameters += [torch.randn(96, generator=random).to(device, dtype) for _ in range(3)]
    inputs = [tensor.requires_grad_() for tensor in (x, *parameters)]
    node, direction = (table >= 0).nonzero().unbind(1)
    source = table[node, direction]

    def scatter(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        messages = x[:, source] * weight[direction]
        index = node[None, :, None].expand_as(messages)
        y = torch.zeros_like(x).scatter_add(1, index, messages) + bias
        return functional.layer_norm(y, gamma.shape, gamma, beta, 1e-6)

    def gathers(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return hex_op.reference(x, table, weight, bias, gamma, beta, 1e-6)

    def native(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return hex_op.operator(x, table, weight, bias, gamma, beta, 1e-6)

    def forward(run: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: run(*inputs))

    def both(run: Callable[..., Tensor]) -> Callable[[], Tensor]:
        return lambda: torch.autograd.grad(run(*inputs), inputs, grad)[0]

    compiled = torch.compile(gathers)
    what = f"{num_events} events x 61 nodes x 96, float{8 * dtype.itemsize}"
    goal = ">= 10 x naive, >= 1 x best" if device == "cpu" else ">= 8 x naive"
    return [
        Case(
            f"hex_conv_norm, {what}{more}; naive: scatter, best torch: gathers, compiled",
            way(scatter),
            way(compiled),
            way(native),
            0,
            goal,
        )
        for way, more in ((forward, ""), (both, ", forward and backward"))
    ]


def time_pairs(
    ours: Callable[[], object], peer: Callable[[], object], device: str, pairs: int
) -> tuple[float, float, float]:
    """Median times in seconds, and the median of peer over ours."""
    clock = time.process_time if device == "cpu" else time.perf_counter

    def seconds(work: Callable[[], object]) -> float:
        start = clock()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    times = [(seconds(ours), seconds(peer)) for _ in range(pairs + 2)][2:]
    ratio = statistics.median(b / a for a, b in times)
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio


def seconds_per_lookup(device: str) -> float:
    """Time of a look-up in float32 at best: see the head of this file."""
    if device == "cpu":
        clock = re.search(r"cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text())
        return RUNS_PER_LOOKUP / (2 * 1e6 * float(clock[1])) if clock else float("nan")
    source = torch.empty(2 << 20, device=device)  # 8 MiB, and as much to write
    target = torch.empty_like(source)

    def copies() -> None:
        for _ in range(100):
            target.copy_(source)

    numbers = 2 * 100 * source.numel()  # read and written
    return NUMBERS_PER_LOOKUP * time_pairs(copies, copies, device, pairs=5)[0] / numbers


def run(device: str, num_pairs: int, only: str) -> list[str]:
    """Measure; returns the lines of the table."""
    lines = [
        "| what | naive ms | best torch ms | native ms | naive / native | best / native | goal | floor ms "
        "| floor / native | largest difference |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lookup_s = seconds_per_lookup(device)
    sizes = (65536, 16384) if device == "cpu" else (1 << 22, 1 << 20)

    for dtype in (torch.float32, torch.float64):
        cases = [
            *make_cases(dtype, device, *sizes),
            *make_token_cases(dtype, device, sizes[1]),
            *make_code_cases(dtype, device, 9216 if device == "cpu" else 1 << 18),
            *make_map_cases(dtype, device, 4096 if device == "cpu" else 1 << 15),
            *make_pair_cases(dtype, device, 32 if device == "cpu" else 1024),
            *make_knn_cases(dtype, device, 128 if device == "cpu" else 1024),
            *make_hex_cases(dtype, device, 64 if device == "cpu" else 2048),
        ]
        if device == "cuda" and dtype == torch.float32:
            cases += make_network_cases(1 << 20)
        for case in (case for case in cases if case.what.startswith(only)):
            if case.difference is None:
                difference = float((case.native() - case.best()).abs().max())
            else:
                difference = case.difference()
            _, naive, over_naive = time_pairs(case.native, case.naive, device, num_pairs)
            native, best, over_best = time_pairs(case.native, case.best, device, num_pairs)
            floor = case.num_lookups * lookup_s * (dtype.itemsize / 4 if device == "cuda" else 1)
            floor += case.floor_s
            floor_cells = f"{1e3 * floor:.2f} | {floor / native:.2f}" if floor else "- | -"
            lines.append(
                f"| {case.what} | {1e3 * naive:.1f} | {1e3 * best:.1f} | {1e3 * native:.2f} "
                f"| {over_naive:.1f} | {over_best:.1f} | {case.goal} | {floor_cells} | {difference:.1e} |"
            )
            print(lines[-1], file=sys.stderr)
    return lines


def describe_machine(device: str) -> dict[str, str]:
    """What the figures depend on; hep_shared.bench would need packages that a GPU machine may lack."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": cpu[1] if cpu else platform.machine(),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": backend(),
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Time the operators of hep_shared.ops.")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--pairs", type=int, default=15, help="timed pairs for each comparison")
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--out", type=Path, help="file to write; standard output if absent")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = run(options.device, options.pairs, options.only)
    machine = describe_machine(options.device)
    command = f"python shared/cuda/tools/bench.py --device {options.device} --pairs {options.pairs}"
    head = [
        f"# Kernels on {machine['cpu'] if options.device == 'cpu' else machine['accelerator']}",
        "",
        f"`{command}`; medians of {options.pairs} pairs, kernel and peer in turn. The head of the script "
        "explains columns and floor. The largest difference is between the kernel and the best torch, in T "
        "for field_lookup and in mm for propagate, of tokens, and of squared distances for nearest_code and "
        "knn.",
        "",
        *(f"- {key}: {value}" for key, value in machine.items()),
        "",
    ]
    text = "\n".join([*head, *lines]) + "\n"
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
