"""Tables of many runs: what `xec scan` says when its points are done.

Runs that differ by `train.seed` alone belong together: a row of a table is their mean with its standard
error, s / √n. The same runs can be evaluated as one ensemble, and each with dropout on, to see how true the
uncertainties are that they claim.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hep_shared.files import reader_boundary
from hep_shared.run import RunDir
from megii_xec.evaluate import evaluate

COLUMNS: dict[str, str] = {
    "val_resolution_deg": "opening angle [deg]",
    "energy_resolution_percent": "energy [%]",
    "timing_width68": "time [ps]",
    "u_width68": "u [mm]",
    "v_width68": "v [mm]",
    "w_width68": "w [mm]",
}  # what a table shows of a regression
UNCERTAIN = ("energy", "timing", "u", "v", "w")
NETWORK = "network"
Row = dict[str, float]


def rows_of(result: Mapping[str, Any]) -> dict[str, Row]:
    """Arrange what a finished training printed.

    Args:
        result: `{"network": {metric: value}, "conventional": ...}` of a regression, or `{map: {"network":
            value, "neighbor_mean": ...}}` of an inpainter or autoencoder, besides other entries.

    Returns:
        For `network` and each conventional method the values by column; empty if nothing was evaluated.
    """
    nested = {name: values for name, values in result.items() if isinstance(values, Mapping)}
    if NETWORK in nested:
        return {
            method: {label: values[name] for name, label in COLUMNS.items() if name in values}
            for method, values in nested.items()
        }
    rows: dict[str, Row] = {}
    for column, methods in nested.items():
        for method, value in methods.items():
            rows.setdefault(method, {})[column.replace("_", " ")] = value
    return rows


def collect(groups: Sequence[str], results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Bring the results of a scan together.

    Args:
        groups: Name of the group that each point belongs to.
        results: What each point printed.

    Returns:
        By row and column the values of the points; the groups first, then the conventional methods, which are
        equal for all points and stand there once.
    """
    table: dict[str, dict[str, list[float]]] = {group: {} for group in groups}
    others: dict[str, dict[str, list[float]]] = {}
    for group, result in zip(groups, results, strict=True):
        if result.get("best_val_loss") is not None:
            table[group].setdefault("validation loss", []).append(float(result["best_val_loss"]))
        for method, row in rows_of(result).items():
            for column, value in row.items():
                if method == NETWORK:
                    table[group].setdefault(column, []).append(float(value))
                else:
                    others.setdefault(method.replace("_", " "), {})[column] = [float(value)]
    return table | others


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, None with fewer than two values."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return float(np.mean(values)), error


def number(values: Sequence[float]) -> str:
    """Mean with its standard error, with as many digits as the error allows."""
    mean, error = mean_and_error(values)
    if error is None or not np.isfinite(error):
        return f"{mean:.4g}"
    decimals = max(0, 1 - int(np.floor(np.log10(error)))) if error > 0 else 3
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def markdown(table: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Write a table, one line a row; columns that a row lacks are dashes."""
    columns = list(dict.fromkeys(column for row in table.values() for column in row))
    lines = [" | ".join(["", "", *columns, ""]).strip(), "|---" * (len(columns) + 1) + "|"]
    for name, row in table.items():
        cells = [number(row[column]) if row.get(column) else "–" for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def evaluate_groups(
    groups: Sequence[str], runs: Sequence[Path], *, device: str, ensemble: bool, mc_passes: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, list[float]]]]:
    """Evaluate the runs of each group as an ensemble, and each run with dropout on.

    Uncertainties that a network gives by itself, because of its loss, are judged beside them.

    Args:
        groups: Name of the group that each run belongs to.
        runs: Run directories of trained regressors.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        ensemble: Make an ensemble of every group of two runs or more.
        mc_passes: Passes with dropout on, for runs that were trained with it; 0 for none.

    Returns:
        Resolutions as in `collect`; and for every component with an uncertainty the share of events within
        one of them, in percent (68 if it is true), and the 68 % width of the pulls (1 if it is true).
    """
    resolutions: dict[str, dict[str, list[float]]] = {}
    calibrations: dict[str, dict[str, list[float]]] = {}
    for group in dict.fromkeys(groups):
        own = [run for run, name in zip(runs, groups, strict=True) if name == group]
        for run in own:
            judge(calibrations, f"{group}, its own σ", evaluated(run))
        todo: list[tuple[str, Path, dict[str, Any]]] = []
        if ensemble and len(own) > 1:
            todo.append((f"{group}, ensemble of {len(own)}", own[0], {"members": own[1:]}))
        if mc_passes and has_dropout(own[0]):
            todo += [
                (f"{group}, {mc_passes} passes with dropout", run, {"mc_passes": mc_passes}) for run in own
            ]
        for name, run, how in todo:
            result = evaluate(run, device=device, pictures=False, **how)
            for column, value in rows_of(result)[NETWORK].items():
                resolutions.setdefault(name, {}).setdefault(column, []).append(value)
            judge(calibrations, name, result)
    return resolutions, calibrations


def judge(table: dict[str, dict[str, list[float]]], name: str, result: Mapping[str, Any]) -> None:
    """Add how true the uncertainties of an evaluation are to a row of a table, if it has any."""
    for component in UNCERTAIN:
        if component in result.get("uncertainty", {}):
            facts, row = result["uncertainty"][component], table.setdefault(name, {})
            row.setdefault(f"{component}: within σ [%]", []).append(100 * facts["coverage68"])
            row.setdefault(f"{component}: width of pulls", []).append(facts["pull_width68"])


def evaluated(run: Path) -> dict[str, Any]:
    """Read the evaluation that followed a training; empty if there was none."""
    found = [run / f"evaluation_{split}.json" for split in ("test", "validation")]
    file = next((path for path in found if path.exists()), None)
    if file is None:
        return {}
    with reader_boundary(file, remedy=f"run `xec evaluate --run {run}` again"):
        result: dict[str, Any] = json.loads(file.read_text())
    return result


def has_dropout(run: Path) -> bool:
    """Whether a run was trained with dropout."""
    model = RunDir.open(run).config["model"]
    return bool(model["dropout"] or model["head_dropout"])
