"""Events as tokens and codes, and the neighbours of their points."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hep_shared.ops import knn, nearest, tokens
from hep_shared.ops._backend import backend
from kernel_cases import Case
from kernel_cases.timing import time_pairs


def token_cases(dtype: torch.dtype, device: str, num_events: int) -> list[Case]:
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
    floor = time_pairs(lambda: target.copy_(source), lambda: None, device, pairs=9).ours
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


def code_cases(dtype: torch.dtype, device: str, num_vectors: int) -> list[Case]:
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


def neighbor_cases(dtype: torch.dtype, device: str, num_sets: int) -> list[Case]:
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
