"""`xec scan`: many trainings from one YAML file, each a process of its own, on one machine or a batch system.

::

    verb: train                  # train, pretrain or inpaint
    preset: small
    set: ["data.train=[photons/*.root]"]
    grid:                        # every combination
      optim.lr: [1.0e-3, 3.0e-4]
      model.dropout: [0.0, 0.1]
    random:                      # and as many points drawn from ranges
      num_points: 8
      seed: 1
      ranges:
        optim.weight_decay: {low: 1.0e-6, high: 1.0e-2, log: true}

A point that was stopped goes on from its checkpoint, one that is finished is left alone: run the same command
again until all are done. `scan.json` holds the points with their results, the best first.
"""

import itertools
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import Field, ValidationError

from hep_shared.config import StrictModel, to_plain
from hep_shared.errors import ConfigError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_json, reader_boundary
from hep_shared.signals import EXIT_CHECKPOINTED

MANIFEST, RESULT = "scan.json", "result.json"
Settings = dict[str, Any]


class Range(StrictModel):
    """An interval to draw numbers from."""

    low: float = Field(description="Lower end.")
    high: float = Field(description="Upper end.")
    log: bool = Field(False, description="Uniform in the logarithm.")
    integer: bool = Field(False, description="Round to whole numbers.")


class RandomPoints(StrictModel):
    """Points drawn at random."""

    num_points: int = Field(ge=1, description="How many.")
    seed: int = Field(0, ge=0, description="Seed of the draw.")
    ranges: dict[str, Range] = Field(description="Interval of each dotted key.")


class ScanConfig(StrictModel):
    """A scan."""

    verb: Literal["train", "pretrain", "inpaint"] = Field("train", description="What runs at every point.")
    preset: str | None = Field(None, description="Preset of all points.")
    config: Path | None = Field(None, description="Configuration file of all points.")
    set: tuple[str, ...] = Field((), description="Settings of all points.")
    grid: dict[str, tuple[Any, ...]] = Field({}, description="Values of each dotted key; all combinations.")
    random: RandomPoints | None = Field(None, description="Points drawn at random.")

    def points(self) -> list[Settings]:
        """List the settings of every point, the same in every process."""
        points = []
        if self.grid:
            keys = list(self.grid)
            points = [
                dict(zip(keys, values, strict=True)) for values in itertools.product(*self.grid.values())
            ]
        if self.random is not None:
            rng = np.random.default_rng(self.random.seed)
            for _ in range(self.random.num_points):
                points.append({key: _number(rng, interval) for key, interval in self.random.ranges.items()})
        return points


def _number(rng: np.random.Generator, interval: Range) -> float | int:
    low, high = interval.low, interval.high
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))) if interval.log else rng.uniform(low, high))
    return round(value) if interval.integer else float(f"{value:.6g}")


def read_scan(path: Path) -> ScanConfig:
    """Read the file of a scan.

    Args:
        path: YAML file.

    Returns:
        The scan.

    Raises:
        ConfigError: It is no YAML, has an unknown key, or describes no point.
    """
    with reader_boundary(path, remedy="give a YAML file as in `xec scan --help`"):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        scan = ScanConfig.model_validate(data or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {place or 'the file'} is wrong ({first['msg'].lower()}).") from error
    if scan.random is not None:
        for key, interval in scan.random.ranges.items():
            if interval.low > interval.high or (interval.log and interval.low <= 0):
                raise ConfigError(
                    f"{path}: random.ranges.{key} goes from {interval.low:g} to {interval.high:g}; give an "
                    "interval that grows, above 0 if it is logarithmic."
                )
    if not scan.points():
        raise ConfigError(f"{path}: describes no point; give grid or random.")
    return scan


def run_scan(
    path: Path, out: Path, *, cluster: str = "local", num_workers: int = 1, device: str = "auto"
) -> dict[str, Any]:
    """Run all points of a scan that are not finished.

    Args:
        path: YAML file.
        out: Directory; point number n goes to `point_<n>`.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.
        num_workers: Points at a time.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        Directory, number of points, and the best point with its settings and validation loss.

    Raises:
        UserError: The file is wrong, the directory holds another scan, or a point failed.
    """
    scan = read_scan(path)
    points = scan.points()
    sample = to_plain(scan)
    manifest = out / MANIFEST
    if manifest.exists():
        with reader_boundary(manifest, remedy="choose another --out"):
            former = json.loads(manifest.read_text())["scan"]
        if former != sample:
            raise UserError(f"--out {out} holds another scan than {path}; choose another directory.")
    else:
        atomic_write_json(manifest, {"scan": sample, "points": []})
    run_shards(
        partial(run_point, scan, points, out, device),
        len(points),
        cluster=cluster,
        num_workers=num_workers,
        done=partial(is_done, out),
        progress="scan",
    )
    table = [{"point": k, "settings": p, **_result(out, k)} for k, p in enumerate(points)]
    table.sort(key=lambda row: float("inf") if row["best_val_loss"] is None else row["best_val_loss"])
    atomic_write_json(manifest, {"scan": sample, "points": table})
    return {"output": out, "num_points": len(points), "best": table[0]}


def point_directory(out: Path, index: int) -> Path:
    """Run directory of a point."""
    return out / f"point_{index:04d}"


def is_done(out: Path, index: int) -> bool:
    """Whether a point is finished."""
    return (point_directory(out, index) / RESULT).exists()


def run_point(scan: ScanConfig, points: list[Settings], out: Path, device: str, index: int) -> None:
    """Run or continue one point in a process of its own.

    Args:
        scan: The scan.
        points: Settings of all points.
        out: Directory of the scan.
        device: Device of the training.
        index: Number of the point.

    Raises:
        UserError: The point cannot run as configured.
        RuntimeError: It was stopped, or failed for another reason; trying again goes on where it stood.
    """
    directory = point_directory(out, index)
    command = [
        sys.executable,
        "-m",
        "megii_xec.cli",
        scan.verb,
        "--out",
        str(directory),
        "--resume",
        "--json",
    ]
    command += ["--device", device]
    command += ["--preset", scan.preset] if scan.preset else []
    command += ["--config", str(scan.config)] if scan.config else []
    settings = [*scan.set, *(f"{key}={json.dumps(value)}" for key, value in points[index].items())]
    command += [item for setting in settings for item in ("--set", setting)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 2:
        sentence = done.stderr.strip().splitlines()[-1].removeprefix("error: ")
        raise UserError(f"point {index} ({', '.join(settings)}): {sentence}")
    if done.returncode == EXIT_CHECKPOINTED:
        raise RuntimeError("it was stopped and has saved its state")
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    atomic_write_json(directory / RESULT, json.loads(done.stdout.strip().splitlines()[-1]))


def _result(out: Path, index: int) -> dict[str, Any]:
    file = point_directory(out, index) / RESULT
    with reader_boundary(file, remedy="remove it and run the scan again"):
        result = json.loads(file.read_text())
    return {"best_val_loss": result.get("best_val_loss"), "run": str(point_directory(out, index))}
