"""`xec report`: runs side by side in one HTML page that needs nothing beside it.

Every number is from the runs' `evaluation_*.json`; pictures are embedded.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text, reader_boundary
from hep_shared.run import RunDir

# Metric, label, unit.
ROWS: tuple[tuple[str, str, str], ...] = (
    ("val_resolution_deg", "opening angle, 68 %", "deg"),
    ("energy_resolution_percent", "energy, 68 % width", "%"),
    ("timing_width68", "time, 68 % width", "ps"),
    ("u_width68", "u, 68 % width", "mm"),
    ("v_width68", "v, 68 % width", "mm"),
    ("w_width68", "w, 68 % width", "mm"),
)
# Pictures by the end of their name; one that begins with the name of a split is there once for each split.
FIGURES = (
    "training_curves", "residuals", "energy_resolution", "opening_angle", "profile_opening_angle",
    "profile_energy_relative", "profile_w", "truth_vs_prediction", "calibration", "saliency_profile",
    "inpainting", "filled_masked_*", "filled_random_5_percent", "filled_clusters_5_percent", "event_0",
)  # fmt: skip
# Metric of the history, label, unit; of the last epoch.
SYSTEM: tuple[tuple[str, str, str], ...] = (
    ("system/throughput_events_per_sec", "throughput", "events/s"),
    ("system/epoch_duration_sec", "time of an epoch", "s"),
    ("system/avg_data_load_sec", "waiting for a batch", "s"),
    ("system/compute_efficiency", "share of the time spent computing", ""),
    ("system/ram_used_gb", "memory of the process, peak", "GB"),
    ("system/memory_allocated_GB", "device memory, allocated", "GB"),
    ("system/memory_reserved_GB", "device memory, reserved", "GB"),
    ("system/memory_peak_GB", "device memory, peak", "GB"),
    ("system/gpu_utilization_pct", "device memory, allocated share", "%"),
    ("system/memory_fragmentation", "device memory, fragmentation", ""),
)


def report(runs: Sequence[Path], out: Path) -> dict[str, object]:
    """Write the page.

    Args:
        runs: Run directories that were evaluated.
        out: HTML file.

    Returns:
        The file and the number of runs.

    Raises:
        UserError: A run was not evaluated.
    """
    environment = Environment(
        loader=PackageLoader("megii_xec", "templates"), autoescape=True, undefined=StrictUndefined
    )
    entries = [describe(run) for run in runs]
    page = environment.get_template("report.html").render(runs=entries, together=side_by_side(runs))
    atomic_write_text(out, page)
    return {"output": out, "num_runs": len(entries)}


def side_by_side(runs: Sequence[Path]) -> list[list[str]]:
    """One line of resolutions a regression, a heading above and the conventional values below.

    Args:
        runs: Run directories.

    Returns:
        Lines of cells; none if fewer than two runs are regressions that were evaluated on their test events.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in runs:
        file = path / "evaluation_test.json"
        if file.exists():
            with reader_boundary(file, remedy="evaluate the run again"):
                evaluation = json.loads(file.read_text())
            if "network" in evaluation:
                found[path.name] = evaluation
    if len(found) < 2:
        return []
    shown = [row for row in ROWS if any(row[0] in evaluation["network"] for evaluation in found.values())]
    heading = ["run", *(f"{label.partition(',')[0]} [{unit}]" for _, label, unit in shown)]
    lines = [
        [name, *(interval(evaluation["network"], metric) for metric, _, _ in shown)]
        for name, evaluation in found.items()
    ]
    first = next(iter(found.values()))["conventional"]
    return [heading, *lines, ["conventional", *(interval(first, metric) for metric, _, _ in shown)]]


def describe(path: Path) -> dict[str, Any]:
    """Collect what the page shows of one run."""
    run = RunDir.open(path)
    evaluations = sorted(path.glob("evaluation_*.json"))
    if not evaluations:
        raise UserError(f"{path} was not evaluated; run `xec evaluate --run {path}` first.")
    splits = []
    for file in evaluations:
        with reader_boundary(file, remedy="evaluate the run again"):
            evaluation = json.loads(file.read_text())
        splits.append({"name": file.stem.removeprefix("evaluation_"), **table(evaluation)})
    return {
        "name": path.name,
        "splits": splits,
        "figures": [picture for name in FIGURES for picture in embedded(run, name)],
        "config": json.dumps(run.config, indent=2),
        "epochs": len(run.history()),
        "system": system(run),
    }


def system(run: RunDir) -> list[tuple[str, str, str]]:
    """Label, value and unit of what the last epoch took."""
    history = run.history()
    last = history[-1] if history else {}
    return [(label, f"{last[key]:.3g}", unit) for key, label, unit in SYSTEM if last.get(key) is not None]


def table(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What the table of a split holds: number of events, headings, rows, unseen-vertex limit."""
    if "maps" in evaluation:
        methods = list(next(iter(evaluation["maps"].values())))
        rows = [
            [
                name.replace("_", " "),
                evaluation["npho_unit"],
                *(f"{values[method]['mae_npho']:.3g}" for method in methods),
            ]
            for name, values in evaluation["maps"].items()
        ]
        headings = ["hidden sensors, mean error", "unit", *(method.replace("_", " ") for method in methods)]
        return {"num_events": evaluation["num_events"], "headings": headings, "rows": rows, "limit": None}
    kinds = ("network", "conventional")
    rows = [
        [label, unit, *(interval(evaluation[kind], metric) for kind in kinds)]
        for metric, label, unit in ROWS
        if metric in evaluation["network"]
    ]
    for name, values in evaluation.get("uncertainty", {}).items():
        coverage = f"{100 * values['coverage68']:.0f} % within σ, pull width {values['pull_width68']:.2f}"
        rows.append([f"uncertainty of {name.replace('_', ' ')}", "", coverage, "–"])
    return {
        "num_events": int(evaluation["network"]["num_events"]),
        "headings": ["quantity", "unit", *kinds],
        "rows": rows,
        "limit": evaluation.get("unseen_vertex_limit_deg"),
    }


def interval(summary: dict[str, Any], metric: str) -> str:
    """A value with its 68 % interval, or a dash where there is none."""
    value, low, high = (summary.get(key) for key in (metric, f"{metric}_low", f"{metric}_high"))
    if value is None or low is None or high is None:
        return "–"
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def embedded(run: RunDir, name: str) -> list[tuple[str, str]]:
    """Pictures of that name as caption and data address, one a split that has it."""
    return [
        (
            file.stem.replace("_", " "),
            "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode(),
        )
        for file in sorted((run.path / "figures").glob(f"*{name}.png"))
    ]
