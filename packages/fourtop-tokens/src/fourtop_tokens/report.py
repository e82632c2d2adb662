"""`fourtop-tokens report`: runs compared in one HTML page that needs nothing beside it.

Beside the page, in `<page>_files`, lie the 18 figures as PNG and PDF, `summary.csv` and `statistics.json`. A
claim without its interval is not printed: with a single seed the page shows numbers and pictures only.
"""

import base64
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fourtop_tokens import plots
from fourtop_tokens.comparison import FACTOR_NAMES, FACTORS, Comparison, Run
from fourtop_tokens.config import BinnedTokens, ClassifierConfig, Config
from fourtop_tokens.statistics import EQUIVALENCE_MARGIN, Estimate
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_json, atomic_write_text, reader_boundary
from hep_shared.run import RunDir

METRICS = ("auroc", "accuracy", "weighted_f1", "eff_at_10", "eff_at_50", "eff_at_100", "eff_at_1000")
SHOWN = {
    "auroc": "AUROC",
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "eff_at_50": r"$\varepsilon_S$ at 1/50",
}


def report(paths: Sequence[Path], out: Path, *, num_resamples: int = 2000) -> dict[str, object]:
    """Write the page and the files beside it.

    Args:
        paths: Run directories and directories of sweeps.
        out: HTML file.
        num_resamples: Resamples of the bootstrap.

    Returns:
        The file, the numbers of runs, configurations and figures.

    Raises:
        UserError: A run was not evaluated, or the runs saw different test events.
    """
    if out.suffix != ".html":
        raise UserError(f"--out {out} should end in .html, for example --out report.html.")
    runs, labels = read_runs(paths)
    comparison = Comparison(runs, labels, num_resamples=num_resamples)
    folder = out.with_name(f"{out.stem}_files")
    figures = []
    for name, figure in draw(comparison).items():
        image = plots.save(figure, folder / "figures" / name)[0]
        data = "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode()
        width = round(80 * figure.get_size_inches()[0])  # in pixels: letters are of one size on the page
        figures.append({"name": name.replace("_", " "), "data": data, "width": width})
    atomic_write_text(folder / "summary.csv", summary_csv(comparison))
    statistics = describe(comparison)
    atomic_write_json(folder / "statistics.json", statistics)
    environment = Environment(
        loader=PackageLoader("fourtop_tokens", "templates"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        statistics=statistics, figures=figures, margin=EQUIVALENCE_MARGIN
    )
    atomic_write_text(out, page)
    return {
        "output": out, "files": folder, "runs": len(runs), "configurations": len(comparison.configurations()),
        "figures": len(figures),
    }  # fmt: skip


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], NDArray[np.int8]]:
    """Read the evaluations of runs; of a sweep those that are done.

    Args:
        paths: Run directories and directories of sweeps.

    Returns:
        The runs in a fixed order and the labels of the test events.

    Raises:
        UserError: There is no evaluated run, or the runs saw different test events.
    """
    directories: list[Path] = []
    for path in paths:
        if (path / "manifest.json").exists():
            done = [
                run for run in sorted((path / "runs").glob("*")) if (run / "evaluation_test.json").exists()
            ]
            if not done:
                raise UserError(
                    f"{path} holds no finished run; run `fourtop-tokens sweep --out {path}` first."
                )
            directories += done
        else:
            directories.append(path)
    runs, labels = [], None
    for directory in directories:
        run, found = read_run(directory)
        if labels is not None and not np.array_equal(labels, found):
            raise UserError(
                f"{directory} was tested on other events than {directories[0]}; "
                "compare runs over one data.events file."
            )
        labels = found
        runs.append(run)
    assert labels is not None
    return runs, labels


def read_run(path: Path) -> tuple[Run, NDArray[np.int8]]:
    """Read one run.

    Args:
        path: Run directory.

    Returns:
        The run and the labels of its test events.

    Raises:
        UserError: It was not evaluated on the test split, or classifies nothing.
    """
    directory = RunDir.open(path)
    config = Config.model_validate(directory.config)
    if not isinstance(config.model, ClassifierConfig):
        raise UserError(f"{path} is a {config.model.kind}, which classifies nothing; give runs of `train`.")
    file, scores = path / "evaluation_test.json", path / "scores_test.npz"
    if not file.exists():
        raise UserError(f"{path} was not evaluated; run `fourtop-tokens evaluate --run {path}` first.")
    with reader_boundary(file, remedy="evaluate the run again"):
        summary = json.loads(file.read_text())
    with (
        reader_boundary(scores, remedy="evaluate the run again"),
        np.load(scores, allow_pickle=False) as data,
    ):
        labels, probabilities = data["labels"], data["probabilities"].astype(np.float64)
    curve = np.array([record.get("val_auroc", np.nan) for record in directory.history()], dtype=np.float64)
    levels, options = levels_of(config, config.model)
    run = Run(path.name, levels, options, config.train.seed, probabilities[:, 0], summary, curve)
    return run, labels


def levels_of(config: Config, model: ClassifierConfig) -> tuple[dict[str, str], str]:
    """The factors of a run, and what else its configuration differs in from the defaults.

    Args:
        config: The whole configuration.
        model: Its model section.

    Returns:
        Level of each factor, and the other options in a few words.
    """
    tokens: str = model.tokens.kind
    if isinstance(model.tokens, BinnedTokens):
        if (model.tokens.phi_mode, model.tokens.edge_mode) == ("legacy", "legacy"):
            tokens = "binned_legacy"
        elif model.tokens.fit_on == "background":
            tokens = "binned_background"
    binned = isinstance(model.tokens, BinnedTokens) and not model.tokens.with_energy
    binned = binned and model.pairwise == "none"  # else masses of pairs hold E
    levels = {
        "tokens": tokens,
        "pooling": model.pooling,
        "met": "met" if model.met else "nomet",
        "vector": "four" if binned else model.vector,
    }
    options: list[str] = [model.pairwise] if model.pairwise != "none" else []
    options += ["augment"] if config.data.augment else []
    options += [] if model.positions else ["nopositions"]
    options += ["legacy"] if config.data.scaling == "legacy" else []
    return levels, "+".join(options)


def draw(comparison: Comparison) -> dict[str, Figure]:
    """Draw the 18 figures.

    Args:
        comparison: The runs.

    Returns:
        Figures by file name.
    """
    runs = comparison.runs
    figures: dict[str, Figure] = {}
    for factor in FACTORS:
        levels, name = pictured(comparison, factor), FACTOR_NAMES[factor]
        curves = {level: [runs[i].val_auroc for i in group] for level, group in levels.items()}
        figures[f"val_auroc_by_{factor}"] = plots.validation_curves(curves, name)
        overlay = {level: (comparison.is_signal, comparison.scores[group]) for level, group in levels.items()}
        figures[f"roc_by_{factor}"] = plots.roc_overlay(overlay, f"by {name}")
        bars = {level: interval_of(comparison, group) for level, group in levels.items()}
        figures[f"auroc_by_{factor}"] = plots.auroc_bars(bars, f"by {name}")
    groups = comparison.configurations()
    overlay = {name: (comparison.is_signal, comparison.scores[group]) for name, group in groups.items()}
    figures["roc_all_runs"] = plots.roc_overlay(overlay, "all configurations, seeds averaged")
    means = {
        name: {label: float(np.mean([runs[i].summary[key] for i in group])) for key, label in SHOWN.items()}
        for name, group in groups.items()
    }
    figures["metrics_comparison"] = plots.metrics_comparison(means)
    for rows, columns in (("tokens", "pooling"), ("tokens", "vector"), ("tokens", "met"), ("pooling", "met")):
        figures[f"heatmap_{rows}_{columns}"] = heatmap(comparison, rows, columns)
    return figures


def pictured(comparison: Comparison, factor: str) -> dict[str, list[int]]:
    """Runs of each level of a factor, without those whose options not every level has."""
    levels, runs = comparison.levels(factor, comparable=True), comparison.runs
    common = set.intersection(*({runs[i].options for i in group} for group in levels.values()))
    if not common:
        return levels
    return {level: [i for i in group if runs[i].options in common] for level, group in levels.items()}


def interval_of(comparison: Comparison, group: Sequence[int]) -> tuple[float, float | None, float | None]:
    """Mean area of runs with the ends of its interval, None for these with a single seed."""
    estimate = comparison.mean(group)
    if estimate is None:
        return float(comparison.areas.aurocs[list(group)].mean()), None, None
    return estimate.value, estimate.low, estimate.high


def heatmap(comparison: Comparison, rows: str, columns: str) -> Figure:
    """Mean area for the levels of two factors."""
    down, across = pictured(comparison, rows), comparison.levels(columns)
    table = np.full((len(down), len(across)), np.nan)
    for i, group in enumerate(down.values()):
        for j, other in enumerate(across.values()):
            common = [index for index in group if index in other]
            if common:
                table[i, j] = comparison.areas.aurocs[common].mean()
    title = f"{FACTOR_NAMES[rows]} and {FACTOR_NAMES[columns]}"
    return plots.heatmap(table, list(down), list(across), title)


def summary_csv(comparison: Comparison) -> str:
    """One line a run.

    Args:
        comparison: The runs.

    Returns:
        CSV text.
    """
    columns = ["run", "configuration", "seed", *FACTORS, "options", "best_val_auroc"]
    columns += ["auroc_low", "auroc_high", *METRICS]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for run in comparison.runs:
        row: dict[str, Any] = {
            "run": run.name, "configuration": run.configuration, "seed": run.seed, **run.levels,
            "options": run.options, "best_val_auroc": float(np.nanmax(run.val_auroc)),
        }  # fmt: skip
        writer.writerow(
            {**row, **{name: run.summary[name] for name in ("auroc_low", "auroc_high", *METRICS)}}
        )
    return buffer.getvalue()


def describe(comparison: Comparison) -> dict[str, Any]:
    """Everything the page says in numbers.

    Args:
        comparison: The runs.

    Returns:
        JSON-ready tables.
    """
    contrasts = comparison.contrasts()
    efficiencies, against = comparison.efficiencies(), comparison.against_best()
    configurations = [
        {
            "name": name,
            "seeds": len(group),
            "auroc": _estimate(comparison.mean(group)),
            "mean_auroc": float(comparison.areas.aurocs[group].mean()),
            "against_best": _estimate(against[name]),
            "efficiencies": {str(r): _estimate(e) for r, e in efficiencies[name].items()},
        }
        for name, group in comparison.configurations().items()
    ]
    configurations.sort(key=lambda entry: -float(str(entry["mean_auroc"])))
    model = comparison.effects()
    effects = None
    if model is not None:
        effects = {
            "seed_sd": model.seed_sd,
            "residual_sd": model.residual_sd,
            "rows": [{"name": name, **(_estimate(model.effect(name)) or {})} for name in model.names],
        }
    return {
        "num_runs": len(comparison.runs),
        "num_seeds": comparison.num_seeds,
        "num_events": len(comparison.labels),
        "num_signal": int(comparison.is_signal.sum()),
        "files": sorted({str(run.summary.get("file")) for run in comparison.runs}),
        "unstable": [r for r in (50, 100, 1000) if not comparison.stable(r)],
        "configurations": configurations,
        "contrasts": [
            {**asdict(c), "estimate": _estimate(c.estimate), "verdict": c.verdict, "sentence": c.sentence}
            for c in contrasts
        ],
        "effects": effects,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    text = f"{estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"
    return {**asdict(estimate), "text": text}
