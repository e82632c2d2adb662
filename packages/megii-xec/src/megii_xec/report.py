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
FIGURES = (
    "training_curves", "residuals", "energy_resolution", "opening_angle", "profile_opening_angle",
    "profile_w", "truth_vs_prediction", "event_0",
)  # fmt: skip


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
    page = environment.get_template("report.html").render(runs=entries)
    atomic_write_text(out, page)
    return {"output": out, "num_runs": len(entries)}


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
        splits.append({"name": evaluation["split"], "rows": rows(evaluation), "evaluation": evaluation})
    return {
        "name": path.name,
        "splits": splits,
        "figures": [(name, data) for name in FIGURES for data in embedded(run, name)],
        "config": json.dumps(run.config, indent=2),
        "epochs": len(run.history()),
    }


def rows(evaluation: dict[str, Any]) -> list[dict[str, str]]:
    """One table row a metric: network and conventional value with their intervals."""
    table = []
    for metric, label, unit in ROWS:
        if metric in evaluation["network"]:
            values = {kind: interval(evaluation[kind], metric) for kind in ("network", "conventional")}
            table.append({"label": label, "unit": unit, **values})
    return table


def interval(summary: dict[str, Any], metric: str) -> str:
    """A value with its 68 % interval, or a dash where there is none."""
    value, low, high = (summary.get(key) for key in (metric, f"{metric}_low", f"{metric}_high"))
    if value is None or low is None or high is None:
        return "–"
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def embedded(run: RunDir, name: str) -> list[str]:
    """Pictures of that name as data addresses, one a split that has it."""
    return [
        "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        for file in sorted((run.path / "figures").glob(f"*{name}.png"))
    ]
