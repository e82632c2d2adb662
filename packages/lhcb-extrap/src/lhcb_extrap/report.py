"""`lhcb-extrap report`: runs side by side and the five questions of the study, in one HTML page.

Every number and every answer is computed from the runs' `history.json` and `evaluation_test.json`; a question
that the given runs cannot answer says which runs it needs. Pictures are embedded.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text, reader_boundary
from hep_shared.run import RunDir
from lhcb_extrap import metrics, plots
from lhcb_extrap.compare import expand_runs
from lhcb_extrap.data.history import HISTORY_FILE
from lhcb_extrap.statistics import NAMES, Entry, answers, base_runs, number, of_kind, panels, three_digits

RUN_PICTURES = ("training_curves", "test_residuals", "test_error_momentum", "test_error_position")
_FEW_RUNS = 4  # whose pictures are unfolded
Picture = tuple[str, str]  # caption and data address


def report(runs: Sequence[Path], out: Path, *, comparison: Path | None = None) -> dict[str, object]:
    """Write the page.

    Args:
        runs: Run directories that were evaluated, or directories of them.
        out: HTML file.
        comparison: JSON file of `compare-with-cpp --out`, for the picture of accuracy against speed.

    Returns:
        The file and the number of runs.

    Raises:
        UserError: A run was not evaluated, or the comparison cannot be read.
    """
    paths = expand_runs(runs)
    entries = [describe(path) for path in paths]
    table = read_comparison(comparison) if comparison else None
    environment = Environment(
        loader=PackageLoader("lhcb_extrap", "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        runs=[(entry, pictures(path)) for entry, path in zip(entries, paths, strict=True)],
        unfolded=len(entries) <= _FEW_RUNS,
        rows=[summary_row(entry) for entry in entries],
        questions=answers(entries),
        figures=figures(entries, table),
        comparison=table,
        targets=metrics.TARGETS,
    )
    atomic_write_text(out, page)
    return {"output": out, "num_runs": len(entries)}


def describe(path: Path) -> Entry:
    """Collect what the page shows of one run."""
    run = RunDir.open(path)
    found = []
    for name in ("evaluation_test.json", HISTORY_FILE):
        file = path / name
        if not file.exists():
            raise UserError(
                f"{path} was not evaluated; run `lhcb-extrap evaluate --run {path}` after the training."
            )
        with reader_boundary(file, remedy="evaluate the run again"):
            found.append(json.loads(file.read_text()))
    return Entry(path.name, found[0], found[1], run.config)


def pictures(path: Path) -> list[Picture]:
    """Pictures of one run, embedded."""
    return [
        (name.replace("_", " "), embed(file.read_bytes()))
        for name in RUN_PICTURES
        if (file := path / "figures" / f"{name}.png").exists()
    ]


def read_comparison(path: Path) -> dict[str, Any]:
    """Read the table of `compare-with-cpp`."""
    with reader_boundary(path, remedy="make it with `lhcb-extrap compare-with-cpp --out`"):
        table: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(table["rows"], list):
            raise TypeError("its 'rows' are no list")
    return table


def summary_row(entry: Entry) -> dict[str, str]:
    """One line of the first table."""
    errors, by_momentum = entry.evaluation["network"], entry.evaluation["by_momentum"]

    def in_range(study: str) -> str:
        return length(by_momentum[study]["pos_mean_mm"]) if study in by_momentum else "–"

    def length(value: float | None) -> str:
        return three_digits(number(value))

    rejected = entry.evaluation["rejected_fraction"]
    return {
        "name": entry.name,
        "weights": f"{entry.num_parameters:,}",
        "mean": length(errors["pos_mean_mm"]),
        "p95": length(errors["pos_95_mm"]),
        "max": length(errors["pos_max_mm"]),
        "slope": f"{number(errors['slope_mean']):.2g}",
        "low": in_range("low_p"),
        "mid": in_range("mid_p"),
        "high": in_range("high_p"),
        "baseline": length(entry.evaluation["field of the axis"]["pos_mean_mm"]),
        "failed": f"{errors['num_failed']:.0f}",
        "rejected": "–" if rejected is None else f"{100 * rejected:.1f} %",
        "minutes": three_digits(entry.history["training_time"] / 60),
    }


def figures(entries: Sequence[Entry], comparison: dict[str, Any] | None) -> list[Picture]:
    """Draw and embed the pictures of all runs together."""
    groups = panels(entries)
    curves = {title: {entry.name: error_curve(entry) for entry in rows} for title, rows in groups.items()}
    drawn: list[tuple[str, Figure]] = [("Convergence", plots.convergence(curves))]
    physics = {entry.name: parts for entry in entries if (parts := physics_curves(entry))}
    if physics:
        drawn.append(("Parts of the loss", plots.physics_losses(physics)))
    ratios = {title: {entry.name: loss_ratios(entry) for entry in rows} for title, rows in groups.items()}
    drawn.append(("Overfitting", plots.overfitting(ratios)))
    base = base_runs(entries)
    points = {
        name: rows
        for kind, name in NAMES.items()
        if (rows := [(entry.num_parameters, entry.error_mm) for entry in of_kind(base, kind)])
    }
    drawn.append(("Size and accuracy", plots.size_accuracy(points)))
    profiles = {title: {entry.name: profile(entry) for entry in rows} for title, rows in groups.items()}
    drawn.append(("Error against momentum", plots.errors_momentum(profiles)))
    if comparison:
        drawn.append(("Accuracy and speed, one thread", plots.pareto(*fastest(comparison["rows"]))))
    return [(name, to_png(figure)) for name, figure in drawn]


def error_curve(entry: Entry) -> list[float]:
    """Validation position error after every epoch and every polish step, mm."""
    return entry.curve + [number(row["pos_mean_mm"]) for row in entry.history["polish"]]


def physics_curves(entry: Entry) -> dict[str, list[float]]:
    """Parts of the training loss after every epoch; empty for a run without physics."""
    rows = entry.history["train"]
    if not entry.has_physics or not rows:
        return {}
    names = ("data_loss", "ic_loss", "pde_loss")
    return {name: [number(row[name]) for row in rows] for name in names if rows[0].get(name)}


def loss_ratios(entry: Entry) -> list[float]:
    """Validation over training loss after every epoch."""
    train, validation = entry.end_losses
    return [v / t for t, v in zip(train, validation, strict=True)]


def profile(entry: Entry) -> metrics.Profile:
    """Position error in bins of momentum."""
    found = entry.evaluation["profile_momentum"]
    edges, mean, percentile95 = (
        np.array([number(value) for value in found[key]])
        for key in ("edges_gev", "mean_mm", "percentile95_mm")
    )
    return metrics.Profile(edges, mean, percentile95, np.zeros(len(mean), np.intp))


def fastest(rows: Sequence[dict[str, Any]]) -> tuple[dict[str, tuple[float, float]], list[str]]:
    """The fastest implementation of each method, of classical methods in each precision.

    Args:
        rows: Of `compare-with-cpp`; the reference, which has no error, is left out.

    Returns:
        Tracks a second and mean position error (mm) by name, and which names are classical.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["method"], row["backend"].partition(", ")[2]
        if row["pos_mean_mm"] and (key not in best or row["tracks_per_s"] > best[key]["tracks_per_s"]):
            best[key] = row
    named = {f"{row['method']} ({row['backend']})": row for row in best.values()}
    points = {name: (row["tracks_per_s"], row["pos_mean_mm"]) for name, row in named.items()}
    return points, [name for name, row in named.items() if row["kind"] == "classical"]


def to_png(figure: Figure) -> str:
    """A figure as a data address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=plots.STYLE["savefig.dpi"])
    return embed(buffer.getvalue())


def embed(data: bytes) -> str:
    """Bytes of a PNG as a data address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
