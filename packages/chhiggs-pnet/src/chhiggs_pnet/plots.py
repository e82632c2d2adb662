"""Figures of a training, of its discrimination and of the mass plane.

The functions draw numbers that `chhiggs_pnet.metrics` has computed and return a `Figure` that belongs to the
caller: no pyplot, no figure kept in a global list. `save` writes it as PNG for the screen and as PDF for the
paper. Masses are in GeV.

Legend: N events, K points.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from chhiggs_pnet.data.schema import CLASSES
from chhiggs_pnet.physics.constants import Z_MASS
from hep_shared.files import atomic_path

FloatArray = NDArray[Any]
P = ParamSpec("P")

STYLE: Any = {  # not dict[str, ...]: the stubs of rc_context want the literal names of all parameters
    "font.size": 11.0,
    "axes.labelsize": 12.0,
    "axes.titlesize": 12.0,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "legend.fontsize": 9.0,
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
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
GREY = "0.45"
MIN_BIN_WEIGHT = 0.005
ROLE_STYLE: dict[str, tuple[str, str, str]] = {  # colour, marker, line
    "train": (COLORS[0], "o", "-"),
    "validation": (COLORS[2], "s", "-."),
    "interpolation": (COLORS[1], "^", "--"),
    "extrapolation": (COLORS[3], "D", ":"),
    "untrained": (GREY, "v", ":"),
}


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
        path: Target without suffix; the folder exists.

    Returns:
        The two files.
    """
    files = []
    for suffix in (".png", ".pdf"):
        target = Path(f"{path}{suffix}")
        with atomic_path(target) as temporary, matplotlib.rc_context(STYLE):
            figure.savefig(temporary, format=suffix[1:])
        files.append(target)
    return files


@_styled
def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, AUC and learning rate against the epoch.

    Args:
        history: Records of the run directory.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    epoch = [record["epoch"] for record in history]
    marker = "o" if len(epoch) < 30 else None
    for name, label, color in (("train_loss", "training", COLORS[0]), ("val_loss", "validation", COLORS[1])):
        panels[0].plot(epoch, [r.get(name) for r in history], label=label, color=color, marker=marker, ms=4)
    panels[0].set(xlabel="epoch", ylabel="loss")
    panels[0].legend()
    by_point = sorted(name for name in history[-1] if name.startswith("val_auc_"))
    for number, name in enumerate(by_point):
        shown = None if number else "one point each"
        panels[1].plot(epoch, [r.get(name) for r in history], color=GREY, lw=0.8, alpha=0.6, label=shown)
    mean = [r.get("val_auc") for r in history]
    panels[1].plot(epoch, mean, color=COLORS[1], label="mean of the points", marker=marker, ms=4)
    panels[1].set(xlabel="epoch", ylabel="AUC on validation events")
    panels[1].legend(loc="lower right")
    panels[2].plot(epoch, [r.get("lr") for r in history], color=COLORS[2], marker=marker, ms=4)
    panels[2].set(xlabel="epoch", ylabel="learning rate")
    return figure


@_styled
def roc_curves(
    curves: Mapping[str, tuple[FloatArray, FloatArray]], roles: Mapping[str, str] | None = None
) -> Figure:
    """Background efficiency against signal efficiency, logarithmic.

    Args:
        curves: Background and signal efficiency by name.
        roles: Role of each mass point, for colour and line; without it every curve has its own colour.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    named: set[str] = set()
    for number, (name, (background, signal)) in enumerate(curves.items()):
        role = (roles or {}).get(name)
        color, _, line = ROLE_STYLE[role] if role else (COLORS[number % 4], "o", "-")
        label = role or name
        kept = background > 0
        axes.plot(
            signal[kept], background[kept], line, color=color, lw=1.1,
            label=None if label in named else label,
        )  # fmt: skip
        named.add(label)
    axes.axhline(0.01, color=GREY, lw=0.8)
    axes.text(0.98, 0.0105, r"$\varepsilon_B$ = 1 %", color=GREY, fontsize=9, ha="right", va="bottom")
    axes.set(
        xlabel=r"signal efficiency $\varepsilon_S$", ylabel=r"background efficiency $\varepsilon_B$",
        yscale="log", xlim=(0, 1), ylim=(1e-3, 1),
    )  # fmt: skip
    axes.legend(loc="lower right")
    return figure


@_styled
def values_by_point(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """AUC and signal efficiency of every mass point with 68 % intervals.

    Args:
        entries: Points of an evaluation.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(max(7.0, 0.45 * len(entries) + 2), 6.4), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    place = np.arange(len(entries))
    for axes, name, label in (
        (panels[0], "auc", "AUC"),
        (panels[1], "efficiency", r"$\varepsilon_S$ at $\varepsilon_B$ = 1 %"),
    ):
        named: set[str] = set()
        for x, entry in zip(place, entries, strict=True):
            color, marker, _ = ROLE_STYLE[entry["role"]]
            value, low, high = (entry[f"{name}{suffix}"] for suffix in ("", "_low", "_high"))
            axes.errorbar(
                x, value, [[max(value - low, 0)], [max(high - value, 0)]], color=color, marker=marker, ms=5,
                capsize=2, ls="none", label=None if entry["role"] in named else entry["role"],
            )  # fmt: skip
            named.add(entry["role"])
        axes.set_ylabel(label)
    panels[0].legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    panels[1].set_xticks(place, [f"{e['mHc']:g}, {e['mA']:g}" for e in entries], rotation=60)
    panels[1].set_xlabel(r"$m_{H^+}, m_A$ [GeV]")
    return figure


@_styled
def score_histograms(scores: FloatArray, label: FloatArray, weight: FloatArray, title: str) -> Figure:
    """Distribution of the likelihood ratio in each class.

    Args:
        scores: In [0, 1], (N,).
        label: Index into `CLASSES`, (N,).
        weight: Weights, (N,).
        title: Name of the point.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 31).tolist()
    for number, name in enumerate(CLASSES):
        chosen = label == number
        if chosen.any():
            axes.hist(
                scores[chosen], edges, weights=weight[chosen], density=True, histtype="step",
                color=COLORS[number], label=name, lw=1.6,
            )  # fmt: skip
    axes.set(xlabel="likelihood ratio", ylabel="probability density", title=title, xlim=(0, 1))
    axes.legend()
    return figure


@_styled
def reliability(curves: Mapping[str, Any]) -> Figure:
    """Fraction of signal against the predicted probability, one line a mass point.

    Bins with less than `MIN_BIN_WEIGHT` of the weight are left out: their fraction is chance.

    Args:
        curves: `Reliability` by name.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(5.2, 5.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    for curve in curves.values():
        told = curve.weight >= MIN_BIN_WEIGHT
        axes.plot(
            curve.probability[told], curve.fraction[told], color=COLORS[0], lw=0.8, alpha=0.6, marker="o",
            ms=2.5,
        )  # fmt: skip
    axes.set(
        xlabel="predicted signal probability", ylabel="fraction of signal", xlim=(0, 1), ylim=(0, 1),
        title="calibrated, classes weighted equally",
    )  # fmt: skip
    return figure


@_styled
def pair_mass(
    scores: FloatArray, values: FloatArray, label: FloatArray, weight: FloatArray, title: str
) -> Figure:
    """Pair mass of the backgrounds before and after cuts on the score.

    Args:
        scores: In [0, 1], (N,).
        values: Largest pair mass in GeV, (N,).
        label: Index into `CLASSES`, (N,).
        weight: Weights, (N,).
        title: Name of the point.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    chosen = label > 0
    scores, values, weight = scores[chosen], values[chosen], weight[chosen]
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    edges = np.linspace(50, 130, 41)  # the last bins hold what is beyond
    values = np.clip(values, edges[0], edges[-1])
    for number, share in enumerate((1.0, 0.5, 0.1)):
        kept = order[reached <= share + 1e-12]
        if kept.size:
            axes.hist(
                values[kept], edges.tolist(), weights=weight[kept], density=True, histtype="step",
                color=COLORS[number], label=rf"$\varepsilon_B$ = {100 * share:g} %", lw=1.6,
            )  # fmt: skip
    axes.axvline(Z_MASS, color=GREY, lw=0.8)
    axes.set(
        xlabel=r"largest $m_{\mu\mu}$ [GeV]",
        ylabel="probability density",
        title=f"backgrounds, {title}",
        xlim=(edges[0], edges[-1]),
    )
    axes.legend()
    return figure


@_styled
def mass_plane(
    mHc: Sequence[float],
    mA: Sequence[float],
    values: FloatArray,
    points: Sequence[tuple[float, float]],
    *,
    label: str,
    title: str,
    truth: tuple[float, float] | None = None,
) -> Figure:
    """A quantity over the mass plane; cells without a value stay blank.

    Args:
        mHc: Centres of the rows in GeV.
        mA: Centres of the columns in GeV.
        values: (rows, columns), NaN where unphysical.
        points: Training points (mHc, mA) to mark.
        label: Of the colour bar.
        title: Of the figure.
        truth: True masses to mark, for a map of hypotheses.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7.4, 6.0), layout="constrained")
    axes = figure.subplots()
    mesh = axes.pcolormesh(edges_of(mA), edges_of(mHc), np.ma.masked_invalid(values), cmap="viridis")
    figure.colorbar(mesh, ax=axes, label=label)
    if values.size <= 200:
        middle = (np.nanmin(values) + np.nanmax(values)) / 2 if np.isfinite(values).any() else 0.0
        marked = {_cell(mHc, mA, mark) for mark in (*points, *([truth] if truth is not None else []))}
        for row, y in enumerate(mHc):
            for column, x in enumerate(mA):
                if np.isfinite(value := values[row, column]):
                    color = "white" if value < middle else "black"
                    # Beside a mark the number moves to the edge of its cell.
                    place = "bottom" if (row, column) in marked else "center"
                    low = edges_of(mHc)[row]
                    axes.text(
                        x, low if place == "bottom" else y, f"{value:.3f}".lstrip("0"), ha="center",
                        va=place, fontsize=6 if place == "bottom" else 7, color=color,
                    )  # fmt: skip
    if points:
        axes.plot(
            [p[1] for p in points], [p[0] for p in points], "*", color="#D55E00", mec="white", ms=10,
            label="training point", clip_on=True,
        )  # fmt: skip
    if truth is not None:
        axes.plot(truth[1], truth[0], "X", color="#CC79A7", mec="white", ms=10, label="true masses")
    axes.set(
        xlabel=r"$m_A$ [GeV]", ylabel=r"$m_{H^+}$ [GeV]", title=title,
        xlim=edges_of(mA)[[0, -1]], ylim=edges_of(mHc)[[0, -1]],
    )  # fmt: skip
    if points or truth is not None:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.24), ncols=2)
    return figure


def _cell(mHc: Sequence[float], mA: Sequence[float], point: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the cell that holds a point; outside of the plane one past its ends."""
    row, column = (np.searchsorted(edges_of(c), v) - 1 for c, v in zip((mHc, mA), point, strict=True))
    return int(row), int(column)


def edges_of(centers: Sequence[float]) -> FloatArray:
    """Edges of cells around centres; a single cell is 1 GeV wide."""
    values = np.asarray(centers, np.float64)
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])


@_styled
def differences(entries: Sequence[Mapping[str, Any]], margin: float, reference: str) -> Figure:
    """Difference of AUCs with its one-sided bound, by point.

    Args:
        entries: Comparisons with `name`, `difference`, `sigma` and `lower`.
        margin: Margin of non-inferiority.
        reference: What the model is compared with.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(max(6.0, 0.5 * len(entries) + 2), 4.4), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(entries))
    values = np.array([entry["difference"] for entry in entries])
    sigma = np.array([entry["sigma"] for entry in entries])
    axes.errorbar(
        place, values, sigma, color=COLORS[0], marker="o", ms=5, capsize=2, ls="none", label=r"± 1 $\sigma$"
    )
    axes.plot(place, [entry["lower"] for entry in entries], "_", color=COLORS[1], ms=12, label="95 % bound")
    axes.axhline(0, color=GREY, lw=0.8)
    axes.axhline(margin, color=COLORS[1], lw=0.9, ls="--", label="margin")
    axes.set_xticks(place, [entry["name"] for entry in entries], rotation=60)
    axes.set_xlim(-0.7, len(entries) - 0.3)
    axes.set_ylabel(f"AUC − AUC({reference})")
    axes.legend()
    return figure


@_styled
def two_engines(
    samples: Mapping[str, Sequence[tuple[FloatArray, FloatArray]]], edges: FloatArray, label: str,
    distances: Mapping[str, tuple[float, float]],
) -> Figure:  # fmt: skip
    """One observable of every sample from the fast generator and from Pythia, with their ratio.

    Args:
        samples: Values and weights of both engines, the fast one first, by name of the sample.
        edges: Edges of the bins.
        label: Of the observable, with unit.
        distances: Kolmogorov-Smirnov distance and probability by name of the sample.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(3.1 * len(samples) + 0.6, 4.2), layout="constrained")
    panels = figure.subplots(2, len(samples), sharex=True, height_ratios=(3, 1), squeeze=False)
    centers, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    for column, (name, engines) in enumerate(samples.items()):
        density, error = [], []
        for (values, weights), engine, color in zip(engines, ("fast", "Pythia"), COLORS, strict=False):
            clipped = np.clip(values, edges[0], edges[-1])  # the last bins hold what is beyond
            total = np.histogram(clipped, edges, weights=weights)[0]
            square = np.histogram(clipped, edges, weights=weights**2)[0]
            density.append(total / weights.sum() / widths)
            error.append(np.sqrt(square) / weights.sum() / widths)
            panels[0, column].stairs(density[-1], edges, color=color, lw=1.6, label=engine)
            panels[0, column].errorbar(centers, density[-1], error[-1], ls="none", color=color, lw=0.8)
        there = (density[0] > 0) & (density[1] > 0)
        ratio = density[0][there] / density[1][there]
        spread = ratio * np.hypot(*(e[there] / d[there] for e, d in zip(error, density, strict=True)))
        panels[1, column].axhline(1.0, color=GREY, lw=0.8)
        panels[1, column].errorbar(
            centers[there], ratio, spread, ls="none", marker="o", ms=3, color=COLORS[0]
        )
        panels[1, column].set(ylim=(0.4, 1.6), xlabel=label, xlim=(edges[0], edges[-1]))
        distance, probability = distances[name]
        panels[0, column].set_title(f"{name}\nKS {distance:.3f}, p = {probability:.2g}", fontsize=9)
        panels[0, column].set_ylim(bottom=0)
    panels[0, 0].set_ylabel("probability density")
    panels[0, 0].legend()
    panels[1, 0].set_ylabel("ratio")
    return figure
