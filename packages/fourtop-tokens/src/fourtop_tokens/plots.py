"""Figures of a training, of a classifier and of a comparison of many.

The functions draw numbers that others have computed and return a `Figure` that belongs to the caller: no
pyplot, no figure kept in a global list. `save` writes it as PNG for the screen and as PDF for the paper.

Intervals are drawn where they are known: a bar without one says that there was a single seed.

Legend: N events, K codes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from fourtop_tokens import metrics
from fourtop_tokens.data.schema import LABELS
from hep_shared.files import atomic_path

FloatArray = NDArray[np.float64]
P = ParamSpec("P")

STYLE: Any = {  # not dict[str, ...]: the stubs of rc_context want the literal names of all parameters
    "font.size": 11.0,
    "axes.labelsize": 12.0,
    "axes.titlesize": 12.0,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "legend.fontsize": 10.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text
}
# M. Okabe, K. Ito, Color Universal Design (2008): told apart with any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
GREY = "0.45"


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function under `STYLE`, whatever the style of the caller."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write a figure as PNG and PDF.

    Args:
        figure: Any figure.
        path: Target without suffix.

    Returns:
        The two files.
    """
    targets = [Path(f"{path}.{kind}") for kind in ("png", "pdf")]
    for target in targets:
        # Without a date the same numbers give the same bytes.
        metadata = {"CreationDate": None} if target.suffix == ".pdf" else None
        with matplotlib.rc_context(STYLE), atomic_path(target) as temporary:
            figure.savefig(temporary, format=target.suffix[1:], metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out; doing it again takes as long as the drawing
    return targets


def _axes(width: float = 5.6, height: float = 4.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _grid(num_panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with `num_panels` axes of about the given size, inches."""
    columns = num_panels if num_panels <= 3 else 3 if num_panels in (5, 6) else 4
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(num_panels)]


_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"train_loss": "training", "val_loss": "validation"}),
    ("learning rate", {"lr": "learning rate"}),
    ("validation AUROC", {"val_auroc": "AUROC"}),
    ("share of codes in use", {"val_codebook_use": "codes in use"}),
)


@_styled
def training_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the history of a training.

    Args:
        records: Lines of history.jsonl: `step` and any of `train_loss`, `val_loss`, `lr`, `val_auroc`,
            `val_codebook_use`.

    Returns:
        One panel for each quantity in the records.
    """
    present = {key for record in records for key in record}
    panels = [panel for panel in _PANELS if present & set(panel[1])] or [_PANELS[0]]
    figure, axes = _grid(len(panels), 4.4, 3.2)
    for ax, (label, curves) in zip(axes, panels, strict=True):
        for (key, name), color, line in zip(curves.items(), COLORS, LINES, strict=False):
            points = np.array([(r["step"], r[key]) for r in records if r.get(key) is not None])
            if len(points):
                marker = "o" if len(points) < 50 else None
                ax.plot(*points.T, line, color=color, marker=marker, markersize=3.5, label=name)
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend()
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set(xlabel="optimiser step", ylabel=label)
    return figure


def _draw_roc(ax: Axes, background: FloatArray, signal: FloatArray, label: str, index: int) -> None:
    kept = background > 0
    ax.plot(
        signal[kept], 1 / background[kept], LINES[index // len(COLORS) % len(LINES)],
        color=COLORS[index % len(COLORS)], label=label,
    )  # fmt: skip


def _finish_roc(ax: Axes, columns: int = 1) -> None:
    ax.set(
        xlabel=r"signal efficiency $\epsilon_S$", ylabel=r"background rejection $1/\epsilon_B$", xlim=(0, 1)
    )
    ax.set_yscale("log")
    ax.legend(ncols=columns)


@_styled
def roc_by_background(labels: NDArray[np.int8], scores: NDArray[Any]) -> Figure:
    """Draw rejection against efficiency, for each background and for all.

    Args:
        labels: 1 (tttt) to 5, (N,).
        scores: Larger for tttt, (N,).

    Returns:
        One panel.
    """
    figure, ax = _axes()
    backgrounds = {0: "all backgrounds", **{label: LABELS[label] for label in LABELS if label > 1}}
    for index, (label, name) in enumerate(backgrounds.items()):
        chosen = (labels == 1) | (labels == label) if label else np.ones(len(labels), bool)
        if (labels[chosen] != 1).any():
            background, signal = metrics.roc_curve(labels[chosen] == 1, scores[chosen])
            area = metrics.auroc(labels[chosen] == 1, scores[chosen])
            _draw_roc(ax, background, signal, f"{name}: {area:.3f}", index)
    _finish_roc(ax)
    return figure


@_styled
def score_histogram(labels: NDArray[np.int8], scores: NDArray[Any]) -> Figure:
    """Draw the distribution of the score for every process.

    Args:
        labels: 1 (tttt) to 5, (N,).
        scores: In [0, 1], (N,).

    Returns:
        One panel, every process with unit area.
    """
    figure, ax = _axes()
    for index, (label, name) in enumerate(LABELS.items()):
        if (labels == label).any():
            style = {"histtype": "stepfilled", "alpha": 0.35} if label == 1 else {"histtype": "step"}
            ax.hist(
                scores[labels == label], bins=list(np.linspace(0, 1, 41)), density=True, label=name,
                color=COLORS[index], **style,
            )  # fmt: skip
    ax.set(xlabel="probability of tttt", ylabel="events, unit area", xlim=(0, 1))
    ax.legend()
    return figure


@_styled
def codebook_use(counts: FloatArray) -> Figure:
    """Draw how often each code is used.

    Args:
        counts: Objects of each code, (K,).

    Returns:
        One panel, codes in descending order.
    """
    figure, ax = _axes()
    share = np.sort(counts)[::-1] / max(counts.sum(), 1)
    ax.plot(np.arange(1, len(share) + 1), share, color=COLORS[0])
    ax.axhline(1 / len(share), color=GREY, linestyle=":", label="all alike")
    ax.set(
        xlabel="code, by use", ylabel="share of the objects", yscale="log",
        title=f"{(counts > 0).sum()} of {len(counts)} codes in use",
    )  # fmt: skip
    ax.legend()
    return figure


@_styled
def token_comparison(distributions: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the bins of two tokenisations side by side.

    Args:
        distributions: For each field the shares `ours` and `theirs` and their `total_variation`.

    Returns:
        One panel a field.
    """
    figure, axes = _grid(len(distributions), 3.2, 2.8)
    for ax, (name, found) in zip(axes, distributions.items(), strict=True):
        bins = np.arange(1, len(found["ours"]) + 1)
        for shift, key, color in ((-0.2, "ours", COLORS[0]), (0.2, "theirs", COLORS[1])):
            ax.bar(bins + shift, found[key], 0.4, color=color, label=key)
        ax.set(xlabel=f"bin of {name}", ylabel="share", title=f"distance {found['total_variation']:.3f}")
        ax.set_xticks(bins)
    axes[0].legend()
    return figure


# Comparisons of many runs


@_styled
def validation_curves(groups: Mapping[str, Sequence[FloatArray]], factor: str) -> Figure:
    """Draw the validation AUROC of the levels of a factor.

    Args:
        groups: For each level the curves of its runs, AUROC by epoch.
        factor: Name of the factor.

    Returns:
        The mean of each level, with the band of one standard deviation over its runs.
    """
    figure, ax = _axes()
    for index, (level, curves) in enumerate(groups.items()):
        length = min(len(curve) for curve in curves)
        stack = np.stack([curve[:length] for curve in curves])
        epochs, mean = np.arange(1, length + 1), stack.mean(axis=0)
        color = COLORS[index % len(COLORS)]
        ax.plot(epochs, mean, "o-" if length < 20 else "-", markersize=3, color=color, label=level)
        if len(stack) > 1:
            spread = stack.std(axis=0, ddof=1)
            ax.fill_between(epochs, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="epoch", ylabel="validation AUROC", title=f"by {factor}")
    ax.legend()
    return figure


@_styled
def roc_overlay(groups: Mapping[str, tuple[NDArray[np.bool_], NDArray[Any]]], title: str) -> Figure:
    """Draw ROC curves over each other.

    Args:
        groups: For each label the signal mask of the test events (N,) and the scores of its runs (R, N).
        title: Title of the panel.

    Returns:
        For each label the rejection at fixed efficiency, averaged over its runs as ln ε_B.
    """
    many = len(groups) > 8
    figure, ax = _axes(7.6 if many else 5.6, 5.2 if many else 4.2)
    efficiency = np.linspace(0.01, 1, 200)
    for index, (label, (is_signal, scores)) in enumerate(groups.items()):
        logs = []
        for row in scores:
            background, signal = metrics.roc_curve(is_signal, row)
            floor = 0.5 / max((~is_signal).sum(), 1)
            logs.append(np.log(np.maximum(np.interp(efficiency, signal, background), floor)))
        _draw_roc(ax, np.exp(np.mean(logs, axis=0)), efficiency, label, index)
    _finish_roc(ax, 2 if many else 1)
    ax.set_title(title)
    if many:
        ax.legend(ncols=2, fontsize=6.5)
    return figure


@_styled
def auroc_bars(
    values: Mapping[str, tuple[float, float | None, float | None]], title: str, label: str = "test AUROC"
) -> Figure:
    """Draw a number of each level with its interval.

    Args:
        values: For each level the mean and the ends of its interval; None without one.
        title: Title of the panel.
        label: Label of the axis.

    Returns:
        One panel.
    """
    figure, ax = _axes(max(4.0, 1.0 + 0.9 * len(values)))
    lows, highs = [], []
    for index, (mean, low, high) in enumerate(values.values()):
        error = None if low is None or high is None else [[mean - low], [high - mean]]
        ax.errorbar(
            index, mean, yerr=error, fmt="o", markersize=7, capsize=5, color=COLORS[index % len(COLORS)]
        )
        lows.append(mean if low is None else low)
        highs.append(mean if high is None else high)
    margin = 0.15 * max(max(highs) - min(lows), 1e-4)
    ax.set(
        ylabel=label,
        title=title,
        ylim=(min(lows) - margin, max(highs) + margin),
        xlim=(-0.6, len(values) - 0.4),
    )
    ax.set_xticks(range(len(values)), list(values))
    ax.grid(axis="y", alpha=0.3)
    return figure


@_styled
def metrics_comparison(rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw several figures of merit of every configuration.

    Args:
        rows: For each configuration its metrics, seeds averaged.

    Returns:
        One panel a metric, configurations along the vertical axis.
    """
    names = list(next(iter(rows.values())))
    figure = Figure(figsize=(2.2 + 2.1 * len(names), 1.4 + 0.24 * len(rows)), layout="constrained")
    positions = np.arange(len(rows))[::-1]
    first: Axes | None = None
    for index, name in enumerate(names):
        ax = figure.add_subplot(1, len(names), index + 1, sharey=first)
        ax.plot([row[name] for row in rows.values()], positions, "o", color=COLORS[index % len(COLORS)])
        ax.set_xlabel(name)
        ax.grid(alpha=0.3)
        if first is None:
            first = ax
            ax.set_yticks(positions, list(rows), fontsize=8)
        else:
            ax.tick_params(labelleft=False)
    return figure


@_styled
def heatmap(
    table: FloatArray, rows: Sequence[str], columns: Sequence[str], title: str, label: str = "mean test AUROC"
) -> Figure:
    """Draw a table of numbers as colours.

    Args:
        table: NaN where there is no run, (rows, columns).
        rows: Names of the rows.
        columns: Names of the columns.
        title: Title of the panel.
        label: What the colour means.

    Returns:
        One panel with the numbers written into it.
    """
    figure, ax = _axes(max(4.6, 2.2 + 1.3 * len(columns)), 1.6 + 0.75 * len(rows))  # the title fits too
    image = ax.imshow(np.ma.masked_invalid(table), cmap="viridis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for (i, j), value in np.ndenumerate(table):
        text = f"{value:.4f}" if np.isfinite(value) else "no run"
        light = np.isfinite(value) and value < middle
        ax.text(j, i, text, ha="center", va="center", color="white" if light else "black")
    ax.set_xticks(range(len(columns)), list(columns))
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_title(title)
    figure.colorbar(image, ax=ax, label=label)
    return figure
