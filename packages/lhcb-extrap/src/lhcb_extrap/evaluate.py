"""`lhcb-extrap evaluate` and `evaluate-all`: errors of a run on tracks it has not seen, with pictures.

The same tracks are also extrapolated on a straight line and through the field of the beam axis alone
(`physics.kick_baseline`), which shows what the network adds.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hep_shared.cli import table_console
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_json, manifest_path, reader_boundary
from hep_shared.run import RunDir
from lhcb_extrap import metrics, plots
from lhcb_extrap.config import Config
from lhcb_extrap.data.normalization import Normalization
from lhcb_extrap.data.stream import Sample
from lhcb_extrap.physics.arrays import FloatArray
from lhcb_extrap.physics.kick_baseline import apply_correction, kick_baseline
from lhcb_extrap.predict import load_run
from lhcb_extrap.tasks import TASKS

NETWORK, STRAIGHT, AXIS_FIELD = "network", "straight line", "field of the axis"
MOMENTUM_EDGES = np.geomspace(0.5, 100.0, 15)


def evaluate(
    run: Path, *, split: str = "test", device: str = "auto", checkpoint: str = "best"
) -> dict[str, Any]:
    """Evaluate a run and draw its pictures.

    Args:
        run: Run directory.
        split: `train`, `validation` or `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        What `evaluation_<split>.json` in the run directory holds: errors of the network and two baselines,
        errors by momentum, targets met, number of weights, profiles and the rejected fraction of the sample.

    Raises:
        UserError: The run or its data cannot be used.
    """
    if split not in ("train", "validation", "test"):
        raise UserError(f"--split is '{split}'; choose train, validation or test.")
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    state = directory.load_checkpoint(checkpoint)
    network, normalization = task.load_network(config, state, directory)
    predictor = load_run(run, device, checkpoint=checkpoint)
    sample = task.read_split(config, split)
    tracks = np.column_stack([sample.batch.X, sample.z0])
    truth, momentum = sample.batch.Y, sample.batch.P
    ends = {
        NETWORK: predictor.extrapolate(tracks),
        STRAIGHT: straight_line(tracks),
        AXIS_FIELD: through_axis_field(tracks, normalization),
    }
    position = np.hypot(*(ends[NETWORK].astype(np.float64) - truth)[:, :2].T)
    profile = metrics.error_profile(position, momentum, MOMENTUM_EDGES)
    errors = {name: metrics.track_errors(end, truth) for name, end in ends.items()}
    result: dict[str, Any] = {
        "split": split,
        "checkpoint": checkpoint,
        "model": config.model.kind,
        "hidden": list(config.model.hidden),
        "num_parameters": sum(p.numel() for p in network.parameters()),
        **errors,
        "by_momentum": metrics.errors_by_momentum(ends[NETWORK], truth, momentum),
        "targets_met": metrics.targets_met(errors[NETWORK]),
        "momentum_gev": [float(momentum.min()), float(momentum.max())],
        "rejected_fraction": rejected_fraction(sample),
        "profile_momentum": {
            "edges_gev": profile.edges.tolist(),
            "mean_mm": profile.mean.tolist(),
            "percentile95_mm": profile.percentile95.tolist(),
        },
    }
    directory.write_json(f"evaluation_{split}.json", result)
    draw(directory, split, tracks, truth, ends, position, profile)
    return result


def evaluate_all(
    directory: Path, *, split: str = "test", device: str = "auto", out: Path | None = None
) -> dict[str, Any]:
    """Evaluate every finished run below a directory.

    Args:
        directory: Its subdirectories are runs.
        split: `train`, `validation` or `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        out: JSON file for the table; by default `evaluation.json` in the directory.

    Returns:
        The file and one row a run: parameters, position and slope errors, training time.

    Raises:
        UserError: There is no run.
    """
    rows = {}
    for run in find_runs(directory):
        if not RunDir.open(run).has_checkpoint("best"):
            continue
        found = evaluate(run, split=split, device=device)
        history = RunDir.open(run).history()
        rows[run.name] = {
            "num_parameters": found["num_parameters"],
            **{k: found[NETWORK][k] for k in ("pos_mean_mm", "pos_95_mm", "slope_mean")},
            "training_time_s": history[-1]["system/training_time_sec"],
        }
    out = out or directory / "evaluation.json"
    atomic_write_json(out, {"split": split, "runs": rows})
    return {"output": out, **rows}


def print_evaluations(result: dict[str, Any]) -> None:
    """Print what `evaluate_all` found as a table on stdout, one row a run."""
    from rich.table import Table

    table = Table("run", "weights", "mean mm", "95 % mm", "slope", "training s", title=str(result["output"]))
    for name, row in result.items():
        if name != "output":
            table.add_row(
                name, f"{row['num_parameters']:,}", f"{row['pos_mean_mm']:.3g}", f"{row['pos_95_mm']:.3g}",
                f"{row['slope_mean']:.2g}", f"{row['training_time_s']:.0f}",
            )  # fmt: skip
    table_console().print(table)


def find_runs(directory: Path) -> list[Path]:
    """Run directories below a directory, sorted by name.

    Args:
        directory: Where to look.

    Returns:
        The runs.

    Raises:
        UserError: There is none.
    """
    runs = sorted(file.parent for file in directory.glob("*/config.json"))
    if not runs:
        raise UserError(f"{directory} holds no runs; give the directory of `lhcb-extrap run-all --out`.")
    return runs


def straight_line(tracks: FloatArray) -> FloatArray:
    """Ends without any field; tracks (N, 7), ends (N, 4), mm, 1."""
    end = tracks[:, :4].copy()
    end[:, :2] += tracks[:, 5:6] * tracks[:, 2:4]
    return end


def through_axis_field(tracks: FloatArray, normalization: Normalization) -> FloatArray:
    """Ends in the field By(z) of the beam axis; tracks (N, 7), ends (N, 4), mm, 1."""
    baseline = kick_baseline(
        tracks[:, :4], tracks[:, 4], tracks[:, 6], tracks[:, 5], normalization.field.table()
    )
    return apply_correction(baseline, np.zeros((len(tracks), 4)), tracks[:, 5])


def rejected_fraction(sample: Sample) -> float | None:
    """Fraction of the drawn tracks that the simulation lost, None for files of another source."""
    tried = lost = 0
    for path in sample.files:
        manifest = manifest_path(path)
        if not manifest.exists():
            return None
        with reader_boundary(manifest, remedy="remove it or make the file again"):
            record = json.loads(manifest.read_text())
        if "num_tried" not in record:
            return None
        tried += record["num_tried"]
        lost += sum(record["num_rejected"].values())
    return lost / tried if tried else None


def draw(
    directory: RunDir,
    split: str,
    tracks: FloatArray,
    truth: FloatArray,
    ends: dict[str, FloatArray],
    position: FloatArray,
    profile: metrics.Profile,
) -> None:
    """Write training curves, residuals, and the error against momentum and position."""
    if history := directory.history():
        plots.save(plots.training_curves(history), directory.figure_path("training_curves.png"))
    residuals = ends[NETWORK].astype(np.float64) - truth
    pictures = {
        "residuals": plots.residual_histograms(residuals),
        "error_momentum": plots.error_momentum(profile),
        "error_position": plots.error_position(*position_map(tracks, position)),
    }
    for name, figure in pictures.items():
        plots.save(figure, directory.figure_path(f"{split}_{name}.png"))


def position_map(tracks: FloatArray, position: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean position error over the start plane: edges along x and y (mm), error (mm)."""
    edges = [np.linspace(-1, 1, 13) * max(float(np.abs(tracks[:, i]).max()), 1.0) for i in (0, 1)]
    values = metrics.error_map(position, tracks[:, 0], tracks[:, 1], edges[0], edges[1])
    return edges[0], edges[1], values
