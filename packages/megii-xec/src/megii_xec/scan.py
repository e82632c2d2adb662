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
    variants:                    # or settings with names; each runs at every point of the grid
      small: {}
      more tokens: {model.inner_tokens: [3, 2]}
    ensemble: true               # evaluate the seeds of a variant as one ensemble too
    mc_dropout: 20               # and with dropout on, where there is any

A point that was stopped goes on from its checkpoint, one that is finished is left alone: run the same command
again until all are done. `scan.json` holds the points with their results, the best first; `scan.md` is a
table in which points that differ by `train.seed` alone are one row, their mean with its standard error.
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
from hep_shared.files import atomic_write_json, atomic_write_text, reader_boundary
from hep_shared.signals import EXIT_CHECKPOINTED

MANIFEST, RESULT, TABLE = "scan.json", "result.json", "scan.md"
SEED = "train.seed"
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
    variants: dict[str, Settings] = Field(
        {}, description="Settings with a name, tried at every point of the grid."
    )
    ensemble: bool = Field(False, description="Evaluate the seeds of a variant as one ensemble too.")
    mc_dropout: int = Field(
        0, ge=0, description="Passes with dropout on, where a variant has any; 0 for none."
    )

    def named_points(self) -> list[tuple[str, Settings]]:
        """List every point: what its row in the table is called, and its settings.

        Seeds change last, so that a scan which ends early has all points of the first seeds.
        """
        found: list[tuple[str, Settings]] = []
        if self.grid or self.variants:
            seeds = [{SEED: seed} for seed in self.grid.get(SEED, ())] or [{}]
            others = [key for key in self.grid if key != SEED]
            for seed in seeds:
                for variant, own in (self.variants or {"": {}}).items():
                    for values in itertools.product(*(self.grid[key] for key in others)):
                        shown = dict(zip(others, values, strict=True))
                        found.append((_label(variant, shown), {**own, **shown, **seed}))
        if self.random is not None:
            rng = np.random.default_rng(self.random.seed)
            for _ in range(self.random.num_points):
                drawn = {key: _number(rng, interval) for key, interval in self.random.ranges.items()}
                found.append((_label("", drawn), drawn))
        return found

    def points(self) -> list[Settings]:
        """List the settings of every point, the same in every process."""
        return [settings for _, settings in self.named_points()]


def _label(variant: str, settings: Settings) -> str:
    """What a row is called."""
    parts = [variant] if variant else []
    parts += [f"{key} {value}" for key, value in settings.items()]
    return ", ".join(parts) or "all"


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
        raise ConfigError(f"{path}: describes no point; give grid, variants or random.")
    if (scan.ensemble or scan.mc_dropout) and scan.verb != "train":
        raise ConfigError(
            f"{path}: ensemble and mc_dropout are for verb train, and verb is {scan.verb}; leave them out."
        )
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
    table: list[dict[str, Any]] = [
        {
            "point": k,
            "settings": settings,
            "best_val_loss": read_result(out, k).get("best_val_loss"),
            "run": str(point_directory(out, k)),
        }
        for k, settings in enumerate(points)
    ]
    table.sort(key=lambda row: float("inf") if row["best_val_loss"] is None else row["best_val_loss"])
    atomic_write_json(manifest, {"scan": sample, "points": table})
    atomic_write_text(out / TABLE, tables(scan, out, device))
    return {"output": out, "num_points": len(points), "table": out / TABLE, "best": table[0]}


def tables(scan: ScanConfig, out: Path, device: str) -> str:
    """Write the finished points of a scan as tables.

    Args:
        scan: The scan.
        out: Directory of the scan.
        device: Where ensembles and passes with dropout are evaluated.

    Returns:
        Markdown: what was measured, and, where asked for, how true the uncertainties are.
    """
    # Workers of a farm import this module and need none of what evaluates.
    from megii_xec.compare import collect, evaluate_groups, markdown

    groups = [name for name, _ in scan.named_points()]
    results = [read_result(out, k) for k in range(len(groups))]
    text = markdown(collect(groups, results))
    if scan.ensemble or scan.mc_dropout:
        runs = [point_directory(out, k) for k in range(len(groups))]
        resolutions, calibrations = evaluate_groups(
            groups, runs, device=device, ensemble=scan.ensemble, mc_passes=scan.mc_dropout
        )
        text += "".join("\n" + markdown(table) for table in (resolutions, calibrations) if table)
    return text


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


def read_result(out: Path, index: int) -> dict[str, Any]:
    """Read what a finished point printed."""
    file = point_directory(out, index) / RESULT
    with reader_boundary(file, remedy="remove it and run the scan again"):
        result: dict[str, Any] = json.loads(file.read_text())
    return result
