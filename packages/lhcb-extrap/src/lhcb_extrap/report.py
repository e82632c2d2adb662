"""`lhcb-extrap report`: runs side by side and the five questions of the study, in one HTML page.

Every number and every answer is computed from the runs' `history.json` and `evaluation_test.json`; a question
that the given runs cannot answer says which runs it needs. Pictures are embedded.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
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

NAMES = {"mlp": "MLP", "pinn": "PINN", "rk_pinn": "RK_PINN", "kick": "kick net"}
OVERFITTING_RATIO = 1.2


@dataclass(frozen=True)
class Entry:
    """What the page needs of one run.

    Attributes:
        name: Directory.
        evaluation: `evaluation_test.json`.
        history: `history.json`.
        figures: Embedded pictures by name.
        config: Resolved configuration.
    """

    name: str
    evaluation: dict[str, Any]
    history: dict[str, Any]
    figures: list[tuple[str, str]]
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """Kind of network."""
        return str(self.evaluation["model"])

    @property
    def error_mm(self) -> float:
        """Mean position error on the test tracks, mm."""
        return float(self.evaluation["network"]["pos_mean_mm"])

    @property
    def curve(self) -> list[float]:
        """Validation position error of every epoch, mm; polish steps are left out."""
        return [row["pos_mean_mm"] for row in self.history["val"]]

    @property
    def has_physics(self) -> bool:
        """Whether equations of motion were part of the loss."""
        return self.kind in ("pinn", "rk_pinn") and self.config["task"]["lambda_pde"] > 0


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
    entries = [describe(path) for path in expand_runs(runs)]
    table = read_comparison(comparison) if comparison else None
    environment = Environment(
        loader=PackageLoader("lhcb_extrap", "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        entries=entries,
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
    pictures = [
        (name, embed(file.read_bytes()))
        for name in ("training_curves", "test_residuals", "test_error_momentum", "test_error_position")
        if (file := run.path / "figures" / f"{name}.png").exists()
    ]
    return Entry(path.name, found[0], found[1], pictures, run.config)


def read_comparison(path: Path) -> dict[str, Any]:
    """Read the table of `compare-with-cpp`."""
    with reader_boundary(path, remedy="make it with `lhcb-extrap compare-with-cpp --out`"):
        table: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(table["rows"], list):
            raise TypeError("its 'rows' are no list")
    return table


def summary_row(entry: Entry) -> dict[str, str]:
    """One line of the first table."""
    errors, baseline = entry.evaluation["network"], entry.evaluation["field of the axis"]
    by_momentum = entry.evaluation["by_momentum"]

    def in_range(study: str) -> str:
        return f"{by_momentum[study]['pos_mean_mm']:.3g}" if study in by_momentum else "–"

    rejected = entry.evaluation["rejected_fraction"]
    return {
        "name": entry.name,
        "weights": f"{entry.evaluation['num_parameters']:,}",
        "mean": f"{errors['pos_mean_mm']:.3g}",
        "p95": f"{errors['pos_95_mm']:.3g}",
        "max": f"{errors['pos_max_mm']:.3g}",
        "slope": f"{errors['slope_mean']:.2g}",
        "low": in_range("low_p"),
        "mid": in_range("mid_p"),
        "high": in_range("high_p"),
        "baseline": f"{baseline['pos_mean_mm']:.3g}",
        "failed": f"{errors['num_failed']:.0f}",
        "rejected": "–" if rejected is None else f"{100 * rejected:.1f} %",
        "minutes": f"{entry.history['training_time'] / 60:.1f}",
    }


# The five questions


def answers(entries: Sequence[Entry]) -> list[tuple[str, str, list[list[str]]]]:
    """Answer the questions of the study from the data.

    Args:
        entries: The runs.

    Returns:
        Question, answer, and a table whose first line is its head.
    """
    return [
        ("Does the physics loss help?", *does_physics_help(entries)),
        ("How fast do the losses converge?", *how_fast(entries)),
        ("Does the physics loss converge?", *does_physics_converge(entries)),
        ("How does the size change the speed of convergence?", *size_and_speed(entries)),
        ("Is there overfitting?", *is_there_overfitting(entries)),
    ]


Answer = tuple[str, list[list[str]]]


def does_physics_help(entries: Sequence[Entry]) -> Answer:
    """Compare networks of the same widths with and without physics."""
    plain = {tuple(e.evaluation["hidden"]): e for e in entries if e.kind == "mlp"}
    table = [["network with physics", "mean mm", "MLP of the same widths", "mean mm", "ratio"]]
    ratios = []
    for entry in entries:
        peer = plain.get(tuple(entry.evaluation["hidden"]))
        if entry.has_physics and peer is not None:
            ratios.append(entry.error_mm / peer.error_mm)
            table.append(
                [entry.name, f"{entry.error_mm:.3g}", peer.name, f"{peer.error_mm:.3g}", f"{ratios[-1]:.2f}"]
            )
    if not ratios:
        return "Give an MLP and a PINN or RK_PINN of the same widths to answer this.", []
    better = sum(ratio < 1 for ratio in ratios)
    return (
        f"In {better} of {len(ratios)} pairs the network with physics is more accurate than the MLP of the "
        f"same widths; the median ratio of the errors is {np.median(ratios):.2f}.",
        table,
    )


def how_fast(entries: Sequence[Entry]) -> Answer:
    """Epochs to 90 % of the improvement."""
    table = [["run", "epochs", "epochs to 90 %", "best epoch"]]
    found = []
    for entry in entries:
        epochs = metrics.epochs_to_converge(entry.curve)
        if epochs is not None:
            found.append(epochs)
        table.append(
            [
                entry.name,
                str(len(entry.curve)),
                "–" if epochs is None else str(epochs),
                str(entry.history["best_epoch"]),
            ]
        )
    if not found:
        return "No run improved; train for more epochs.", table
    text = (
        f"90 % of the improvement of the position error takes {min(found)} to {max(found)} epochs, "
        f"{np.median(found):g} in the median."
    )
    return text, table


def does_physics_converge(entries: Sequence[Entry]) -> Answer:
    """First and last values of the parts of the physics loss."""
    table = [["run", "part", "first epoch", "last epoch", "ratio"]]
    falling = total = 0
    for entry in entries:
        if not entry.has_physics:
            continue
        for part in ("ic_loss", "pde_loss"):
            values = [row[part] for row in entry.history["train"] if row.get(part)]
            if len(values) < 2:
                continue
            total += 1
            falling += values[-1] < values[0]
            table.append(
                [entry.name, part, f"{values[0]:.3g}", f"{values[-1]:.3g}", f"{values[-1] / values[0]:.3g}"]
            )
    if not total:
        return "Give a PINN or RK_PINN with task.lambda_pde above 0 to answer this.", []
    return f"{falling} of {total} physics losses end below their first epoch.", table


def size_and_speed(entries: Sequence[Entry]) -> Answer:
    """Epochs to 90 % and error of the sizes of each kind."""
    table = [["kind", "weights", "run", "epochs to 90 %", "mean mm"]]
    texts = []
    for kind, name in NAMES.items():
        rows = sorted((e for e in entries if e.kind == kind), key=lambda e: e.evaluation["num_parameters"])
        sizes = [e.evaluation["num_parameters"] for e in rows]
        epochs = [metrics.epochs_to_converge(e.curve) for e in rows]
        for entry, count, number in zip(rows, sizes, epochs, strict=True):
            table.append(
                [
                    name,
                    f"{count:,}",
                    entry.name,
                    "–" if number is None else str(number),
                    f"{entry.error_mm:.3g}",
                ]
            )
        if len(set(sizes)) > 1 and epochs[0] is not None and epochs[-1] is not None:
            texts.append(
                f"{name}: {sizes[0]:,} weights need {epochs[0]} epochs and reach {rows[0].error_mm:.3g} mm, "
                f"{sizes[-1]:,} need {epochs[-1]} and reach {rows[-1].error_mm:.3g} mm."
            )
    return " ".join(texts) or "Give runs of one kind in several sizes to answer this.", table


def is_there_overfitting(entries: Sequence[Entry]) -> Answer:
    """Validation over training loss of the end."""
    table = [["run", "validation / training"]]
    overfitted = []
    for entry in entries:
        ratio = metrics.overfitting_ratio(*end_losses(entry))
        table.append([entry.name, f"{ratio:.2f}"])
        if ratio > OVERFITTING_RATIO:
            overfitted.append(entry.name)
    if not overfitted:
        return (
            f"No: the validation loss stays below {OVERFITTING_RATIO} times the training loss in all runs.",
            table,
        )
    return f"Yes, in {', '.join(overfitted)}: the validation loss exceeds the training loss.", table


def end_losses(entry: Entry) -> tuple[list[float], list[float]]:
    """Training and validation losses of the end, one an epoch; both leave physics out."""
    return (
        [row["data_loss"] for row in entry.history["train"]],
        [row["loss"] for row in entry.history["val"]],
    )


# Pictures


def figures(entries: Sequence[Entry], comparison: dict[str, Any] | None) -> list[tuple[str, str]]:
    """Draw and embed the pictures of all runs together."""
    curves = {}
    for entry in entries:
        values = entry.curve + [row["pos_mean_mm"] for row in entry.history["polish"]]
        curves[entry.name] = (list(range(1, len(values) + 1)), values)
    drawn: list[tuple[str, Figure]] = [("Convergence", plots.convergence(curves))]
    physics = {}
    for entry in entries:
        if not entry.has_physics:
            continue
        rows = entry.history["train"]
        physics[entry.name] = {
            part: [row[part] for row in rows]
            for part in ("data_loss", "ic_loss", "pde_loss")
            if rows and rows[0].get(part)
        }
    if physics:
        drawn.append(("Parts of the loss", plots.physics_losses(physics)))
    ratios = {}
    for entry in entries:
        train, validation = end_losses(entry)
        ratios[entry.name] = [v / t for t, v in zip(train, validation, strict=True)]
    drawn.append(("Overfitting", plots.overfitting(ratios)))
    points = {
        name: [(e.name, e.evaluation["num_parameters"], e.error_mm) for e in entries if e.kind == kind]
        for kind, name in NAMES.items()
    }
    drawn.append(
        ("Size and accuracy", plots.size_accuracy({name: rows for name, rows in points.items() if rows}))
    )
    profiles = {}
    for entry in entries:
        found = entry.evaluation["profile_momentum"]
        edges, mean, p95 = (
            np.array([np.nan if v is None else v for v in found[key]], float)
            for key in ("edges_gev", "mean_mm", "percentile95_mm")
        )
        profiles[entry.name] = metrics.Profile(edges, mean, p95, np.zeros(len(mean), np.intp))
    drawn.append(("Error against momentum", plots.error_momentum(profiles)))
    if comparison:
        rows = [row for row in comparison["rows"] if row["pos_mean_mm"]]
        speeds = {
            f"{row['method']} ({row['backend']})": (row["tracks_per_s"], row["pos_mean_mm"]) for row in rows
        }
        classical = [f"{row['method']} ({row['backend']})" for row in rows if row["kind"] == "classical"]
        drawn.append(("Accuracy and speed, one thread", plots.pareto(speeds, classical)))
    return [(name, to_png(figure)) for name, figure in drawn]


def to_png(figure: Figure) -> str:
    """A figure as a data address."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=plots.STYLE["savefig.dpi"])
    return embed(buffer.getvalue())


def embed(data: bytes) -> str:
    """Bytes of a PNG as a data address."""
    return "data:image/png;base64," + base64.b64encode(data).decode()
