"""Photon files of a few events, written with plain uproot so that every defect can be made on purpose."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from megii_xec.data.schema import BRANCHES, MISSING, NUM_SENSORS

Columns = dict[str, np.ndarray]


def photon_columns(num_events: int, seed: int = 0) -> Columns:
    rng = np.random.default_rng(seed)
    columns: Columns = {
        branch.name: np.zeros((num_events, *branch.shape), branch.dtype) for branch in BRANCHES
    }
    npho = np.round(rng.exponential(300.0, (num_events, NUM_SENSORS))).astype(np.float32)
    time = (np.round(rng.gamma(2.0, 2.0, npho.shape)) * 1e-9 - 5e-7).astype(np.float32)
    earliest = time.min(axis=1)
    columns["npho"], columns["time"] = npho.copy(), time.copy()
    columns["relative_npho"], columns["relative_time"] = npho / 1e4, time - earliest[:, None]
    dead = rng.random(npho.shape) < 0.02
    for name in ("npho", "time", "relative_npho", "relative_time"):
        columns[name][dead] = MISSING
    columns["time_min_used"] = earliest
    columns["run"][:] = 7
    columns["event"] = np.arange(num_events, dtype=np.int32)
    columns["energyTruth"] = rng.uniform(0.010, 0.060, num_events).astype(np.float32)
    columns["energyReco"] = columns["energyTruth"] * np.float32(1.01)
    columns["timeTruth"] = (earliest * 1e9 - 1.5).astype(np.float32)
    columns["emiAng"] = rng.uniform(60, 120, (num_events, 2)).astype(np.float32)
    columns["uvwTruth"] = rng.uniform(-30, 30, (num_events, 3)).astype(np.float32)
    return columns


def write_photons(
    path: Path, columns: Columns, *, basket: int = 10, compression: Any = None, tree: str = "tree"
) -> Path:
    num_events = len(next(iter(columns.values())))
    types = {name: np.dtype((values.dtype.str, values.shape[1:])) for name, values in columns.items()}
    with uproot.recreate(path, compression=uproot.LZ4(1) if compression is None else compression) as file:
        writer = file.mktree(tree, types)
        for start in range(0, num_events, basket):
            writer.extend({name: values[start : start + basket] for name, values in columns.items()})
    return path


@pytest.fixture(scope="session")
def columns() -> Columns:
    return photon_columns(60)


@pytest.fixture(scope="session")
def photons(tmp_path_factory: pytest.TempPathFactory, columns: Columns) -> Path:
    return write_photons(tmp_path_factory.mktemp("photons") / "photons.root", columns)


@pytest.fixture
def make_photons(tmp_path: Path) -> Callable[..., Path]:
    """Write a file whose columns are replaced (array) or left out (None)."""

    def make(
        num_events: int = 6, name: str = "photons.root", options: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        columns = photon_columns(num_events)
        for branch, values in changes.items():
            if values is None:
                del columns[branch]
            else:
                columns[branch] = values
        return write_photons(tmp_path / name, columns, **(options or {}))

    return make
