"""`jet-foundation report`: runs side by side in one HTML page that needs nothing beside it.

Every number is from the runs' `evaluation_*.json`; pictures are embedded.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text, reader_boundary
from hep_shared.run import RunDir
from jet_foundation import plots
from jet_foundation.tasks import TASKS

# Where a metric has a plainer name than its own.
LABELS = {
    "top3_accuracy": "accuracy of the best three",
    "macro_f1": "macro F1",
    "auc_ovr": "AUC, one against the rest",
    "auc_ovo": "AUC, one against one",
    "r2": "R²",
    "mae_gev": "mean absolute error [GeV]",
    "rmse_gev": "RMSE [GeV]",
    "w1_mass_gev": "W1 of the mass [GeV]",
    "emd": "EMD [ΔR]",
    "fpd": "FPD",
    "kpd": "KPD",
    "log_pt_rmse": "RMSE of ln pT",
    "log_pt_bias": "bias of ln pT",
    "log_pt_r2": "R² of ln pT",
    "log_energy_rmse": "RMSE of ln E",
    "log_energy_bias": "bias of ln E",
    "log_energy_r2": "R² of ln E",
    "deta_mae": "mean |error| of Δη",
    "dphi_mae": "mean |error| of Δφ [rad]",
    "one_minus_cos_dphi": "1 − cos of the error of Δφ",
    "response_median": "median response",
    "response_iqr": "IQR of the response",
    "w1_num_particles": "W1 of the multiplicity",
    "w1_pt_share": "W1 of the share of pT",
    "w1_deta": "W1 of Δη",
    "w1_dphi": "W1 of Δφ [rad]",
    "chamfer": "Chamfer distance",
    "mse": "MSE",
    "mae": "MAE",
    "mmd": "MMD",
    "pt_kl_divergence": "KL divergence of pT",
    "marginal_histogram_mse": "MSE of marginal histograms",
    "pt_emd": "EMD of pT",
}
PNG = "data:image/png;base64,"
COUNTED = ("jets", "events")
# Tables of an evaluation beside `metrics`, by their heading.
FURTHER = {
    "given_only": "the given particles alone",
    "legacy": "the historical definitions, on normalised slots",
}


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
        loader=PackageLoader("jet_foundation", "templates"), autoescape=True, undefined=StrictUndefined
    )
    entries = [describe(run) for run in runs]
    page = environment.get_template("report.html").render(runs=entries, chart=chart(entries))
    atomic_write_text(out, page)
    return {"output": out, "num_runs": len(entries)}


def describe(path: Path) -> dict[str, Any]:
    """Collect what the page shows of one run."""
    run = RunDir.open(path)
    evaluations = sorted(path.glob("evaluation_*.json"))
    if not evaluations:
        raise UserError(f"{path} was not evaluated; run `jet-foundation evaluate --run {path}` first.")
    splits = []
    for file in evaluations:
        with reader_boundary(file, remedy="evaluate the run again"):
            evaluation = json.loads(file.read_text())
        tables = [{"heading": "metric", "rows": rows(evaluation["metrics"])}]
        tables += [
            {"heading": heading, "rows": rows(evaluation[key])}
            for key, heading in FURTHER.items()
            if key in evaluation
        ]
        splits.append(
            {
                "name": evaluation["split"],
                "size": size(evaluation),
                "background": evaluation["classes"][0],
                "tables": tables,
                "rejections": rejections(evaluation["metrics"]),
            }
        )
    return {
        "name": path.name,
        "splits": splits,
        "task": run.config["task"]["kind"].replace("_", " "),
        "figures": embedded(run),
        "config": json.dumps(run.config, indent=2),
        "epochs": len(run.history()),
        "headline": headline(run.config["task"]["kind"], evaluations),
    }


def headline(task: str, evaluations: Sequence[Path]) -> dict[str, float]:
    """Main numbers of a run on the test split, by their names on the page."""
    for file in evaluations:
        if file.stem == "evaluation_test":
            found = json.loads(file.read_text())["metrics"]
            return {label(name): found[name] for name in TASKS[task].HEADLINE if found.get(name) is not None}
    return {}


def chart(entries: Sequence[dict[str, Any]]) -> str | None:
    """Data address of the bars of all runs' main numbers; None without any."""
    values: dict[str, dict[str, float]] = {}
    for entry in entries:
        for name, value in entry["headline"].items():
            values.setdefault(name, {})[entry["name"]] = value
    if not values:
        return None
    buffer = io.BytesIO()
    plots.benchmark_chart(values).savefig(buffer, format="png", dpi=120)
    return PNG + base64.b64encode(buffer.getvalue()).decode()


def size(evaluation: dict[str, Any]) -> str:
    """How many jets or events an evaluation saw, in words."""
    return next(f"{evaluation[f'num_{what}']} {what}" for what in COUNTED if f"num_{what}" in evaluation)


def rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """One table row a metric that is one number."""
    return [
        {"label": label(name), "value": number(value)}
        for name, value in metrics.items()
        if not isinstance(value, dict)
    ]


def label(name: str) -> str:
    """What a metric is called on the page."""
    return LABELS.get(name, name.replace("_", " "))


def rejections(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """One table row a signal class: rejection of the background at both working points."""
    at_30, at_50 = (metrics.get(f"rejection_{percent}", {}) for percent in (30, 50))
    return [{"name": name, "at_30": number(at_30[name]), "at_50": number(at_50[name])} for name in at_30]


def number(value: float | None) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def embedded(run: RunDir) -> list[tuple[str, str]]:
    """Name and data address of every picture of the run."""
    return [
        (file.stem, PNG + base64.b64encode(file.read_bytes()).decode())
        for file in sorted((run.path / "figures").glob("*.png"))
    ]
