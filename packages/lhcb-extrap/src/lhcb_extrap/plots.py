"""Figures of trainings and of their errors.

The functions draw numbers that `lhcb_extrap.metrics` has computed and return a `Figure` that belongs to the
caller: no pyplot, no figure kept in a global list. `save` writes it.

What is compared comes as a mapping from its name to its values; the order decides the colours.

Dimension legend: N tracks, K bins.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hep_shared.files import atomic_path
from lhcb_extrap.metrics import TARGETS, Profile
from lhcb_extrap.physics.arrays import FloatArray

P = ParamSpec("P")
STYLE: Any = {
    "font.size": 11.0,
    "axes.labelsize": 12.0,
    "axes.titlesize": 12.0,
    "axes.formatter.use_mathtext": True,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "savefig.dpi": 110,
}
# M. Okabe, K. Ito, Color Universal Design (2008), and three more: told apart with any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "0.45"
Record = Mapping[str, Any]


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with the style of the package and leave the global one alone."""

    @wraps(function)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return drawn


def save(figure: Figure, path: Path) -> None:
    """Write a figure.

    Args:
        figure: The figure.
        path: File, its suffix decides the format.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    with matplotlib.rc_context(STYLE), atomic_path(path) as temporary:
        figure.savefig(temporary)


def _new(num_columns: int = 1, width: float = 5.2, height: float = 3.8) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * num_columns, height), layout="constrained")
    axes = figure.subplots(1, num_columns, squeeze=False)
    return figure, list(axes[0])


def _grid(
    num_panels: int, ylabel: str, *, most_columns: int = 3, width: float = 4.6, height: float = 3.8
) -> tuple[Figure, list[Axes]]:
    """Panels in rows, with logarithmic axes of y that are the same; a single panel is wider."""
    if num_panels == 1:
        num_rows, num_columns, width, height = 1, 1, 7.4, 4.4
    else:
        num_columns = min(num_panels, most_columns)
        num_rows = -(-num_panels // num_columns)
    figure = Figure(figsize=(width * num_columns, height * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    axes[0, 0].set_yscale("log")
    for row in axes:
        row[0].set_ylabel(ylabel)
    for empty in axes.flat[num_panels:]:
        empty.set_axis_off()
    return figure, list(axes.flat[:num_panels])


def _draw_curves(
    axes: Axes, title: str, curves: Mapping[str, Sequence[float]], colors: Mapping[str, str] | None = None
) -> None:
    """Draw values of every epoch, by name."""
    for number, (name, values) in enumerate(curves.items()):
        style, marker = "-" if number < len(COLORS) else "--", "." if len(values) < 3 else None
        color = colors[name] if colors else COLORS[number % len(COLORS)]
        axes.plot(range(1, len(values) + 1), values, style, color=color, marker=marker, label=name)
    axes.set(title=title, xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


@styled
def training_curves(records: Sequence[Record]) -> Figure:
    """Loss, its parts and the position error of one run.

    Args:
        records: History of the run.

    Returns:
        The figure.
    """
    figure, (left, right) = _new(2)
    steps = [record["epoch"] for record in records]
    names = {
        "train_loss": "training, all terms",
        "train_data_loss": "training, distance to the end",
        "train_ic_loss": "training, initial condition",
        "train_pde_loss": "training, equations of motion",
        "val_loss": "validation, distance to the end",
    }
    for color, (name, label) in zip(COLORS, names.items(), strict=False):
        values = [_number(record.get(name)) for record in records]
        if np.nanmax(np.append(values, 0.0)) > 0:
            left.plot(steps, values, color=color, label=label, marker="." if len(steps) < 3 else None)
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    left.legend()
    for color, name, label in ((COLORS[0], "pos_mean_mm", "mean"), (COLORS[1], "pos_95_mm", "95 %")):
        right.plot(steps, [_number(r[name]) for r in records], color=color, label=label)
    right.axhline(TARGETS["pos_mean_mm"], color=GREY, linestyle=":", label="target of the mean")
    first = next((r["epoch"] for r in records if r.get("stage") == "polish"), None)
    for axes in (left, right):
        if first is not None:
            axes.axvline(first - 0.5, color=GREY, linestyle="--", linewidth=1.0)
    right.set(xlabel="epoch" + (", polish after the dashed line" if first else ""), yscale="log")
    right.set_ylabel("validation position error [mm]")
    right.legend()
    return figure


@styled
def residual_histograms(residuals: FloatArray) -> Figure:
    """Distributions of the four residuals between their 0.5 and 99.5 percentiles.

    Args:
        residuals: dx, dy, dtx, dty, (N, 4), mm, 1.

    Returns:
        The figure.
    """
    figure, all_axes = _new(4, width=3.2)
    fine = residuals[np.isfinite(residuals).all(axis=1)]
    for column, (axes, label) in enumerate(
        zip(all_axes, (r"$\Delta x$ [mm]", r"$\Delta y$ [mm]", r"$\Delta t_x$", r"$\Delta t_y$"), strict=True)
    ):
        values = fine[:, column] if len(fine) else np.zeros(1)
        low, high = np.percentile(values, [0.5, 99.5])
        low, high = (low, high) if high > low else (low - 1.0, high + 1.0)
        axes.hist(values, bins=60, range=(low, high), histtype="step", color=COLORS[0])
        axes.set(xlabel=label)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
    all_axes[0].set_ylabel("tracks")
    return figure


@styled
def error_momentum(profile: Profile) -> Figure:
    """Position error of one run against momentum.

    Args:
        profile: Errors in bins of momentum, GeV.

    Returns:
        The figure.
    """
    figure, (axes,) = _new(width=6.4, height=4.2)
    centers = np.sqrt(profile.edges[1:] * profile.edges[:-1])
    axes.plot(centers, profile.mean, color=COLORS[0], marker="o", markersize=4, label="mean")
    axes.plot(centers, profile.percentile95, color=COLORS[0], linestyle="--", label="95 %")
    axes.axhline(TARGETS["pos_mean_mm"], color=GREY, linestyle=":", label="target of the mean")
    axes.set(xlabel="momentum [GeV]", ylabel="position error [mm]", xscale="log", yscale="log")
    axes.legend()
    return figure


@styled
def error_position(x_edges: FloatArray, y_edges: FloatArray, error_mm: FloatArray) -> Figure:
    """Mean position error over the start plane.

    Args:
        x_edges: Bin edges, mm.
        y_edges: Bin edges, mm.
        error_mm: Mean error, (bins of x, bins of y), mm.

    Returns:
        The figure.
    """
    figure, (axes,) = _new(width=5.8, height=4.2)
    finite = error_mm[np.isfinite(error_mm) & (error_mm > 0)]
    norm = LogNorm(float(finite.min()), float(finite.max())) if finite.size > 1 else None
    image = axes.pcolormesh(x_edges, y_edges, error_mm.T, norm=norm, cmap="cividis")
    figure.colorbar(image, ax=axes, label="mean position error [mm]")
    axes.set(xlabel="x at the start [mm]", ylabel="y at the start [mm]")
    return figure


@styled
def convergence(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Validation position error of several runs against the epoch.

    Args:
        panels: By title and run: mean position errors, mm, one an epoch or polish step.

    Returns:
        The figure.
    """
    figure, all_axes = _grid(len(panels), "mean position error [mm]")
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
        _draw_curves(axes, title, curves)
        axes.axhline(TARGETS["pos_mean_mm"], color=GREY, linestyle=":", label="target")
        axes.set_xlabel("epoch, polish steps counted on")
        axes.legend(fontsize=7)
    return figure


@styled
def physics_losses(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Parts of the training loss of networks with physics, one panel a run.

    Args:
        curves: By run, by part, one value an epoch.

    Returns:
        The figure.
    """
    names = list(dict.fromkeys(part for parts in curves.values() for part in parts))
    colors = dict(zip(names, COLORS, strict=False))
    figure, all_axes = _grid(len(curves), "loss", most_columns=4, width=3.4, height=2.9)
    for axes, (name, parts) in zip(all_axes, curves.items(), strict=True):
        _draw_curves(axes, name, parts, colors)
        axes.legend(fontsize=7)
    return figure


@styled
def overfitting(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Validation over training loss of the end, against the epoch.

    Args:
        panels: By title and run: ratios, one an epoch.

    Returns:
        The figure.
    """
    figure, all_axes = _grid(len(panels), "validation / training loss")
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
        _draw_curves(axes, title, curves)
        axes.axhline(1.0, color=GREY, linestyle=":")
        axes.legend(fontsize=7)
    return figure


@styled
def errors_momentum(panels: Mapping[str, Mapping[str, Profile]]) -> Figure:
    """Mean position error against momentum, of several runs.

    Args:
        panels: Profiles in GeV by title and run.

    Returns:
        The figure.
    """
    figure, all_axes = _grid(len(panels), "mean position error [mm]")
    for axes, (title, profiles) in zip(all_axes, panels.items(), strict=True):
        for number, (name, profile) in enumerate(profiles.items()):
            centers = np.sqrt(profile.edges[1:] * profile.edges[:-1])
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            axes.plot(centers, profile.mean, color=color, marker=marker, markersize=4, label=name)
        axes.axhline(TARGETS["pos_mean_mm"], color=GREY, linestyle=":", label="target")
        axes.set(title=title, xlabel="momentum [GeV]", xscale="log")
        axes.legend(fontsize=7)
    return figure


@styled
def size_accuracy(points: Mapping[str, Sequence[tuple[int, float]]]) -> Figure:
    """Mean position error against the number of weights.

    Args:
        points: By kind of network: number of weights, mean position error (mm).

    Returns:
        The figure.
    """
    figure, (axes,) = _new(width=6.4, height=4.2)
    for number, (kind, rows) in enumerate(points.items()):
        weights, errors = zip(*sorted(rows), strict=True)
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        axes.plot(weights, errors, color=color, marker=marker, label=kind)
    axes.axhline(TARGETS["pos_mean_mm"], color=GREY, linestyle=":", label="target")
    axes.set(xlabel="weights", ylabel="mean position error [mm]", xscale="log", yscale="log")
    axes.legend()
    return figure


@styled
def pareto(points: Mapping[str, tuple[float, float]], classical: Sequence[str]) -> Figure:
    """Accuracy against speed.

    Args:
        points: Tracks a second and mean position error (mm) by method.
        classical: Which of them are classical methods.

    Returns:
        The figure.
    """
    figure, (axes,) = _new(width=10.0, height=5.2)
    floor = 1e-3  # mm; below it an error is drawn here, as an arrow
    for number, (name, (speed, error)) in enumerate(sorted(points.items(), key=lambda item: item[1][0]), 1):
        is_classical, is_low = name in classical, error < floor
        where = speed, max(error, floor)
        axes.plot(
            *where, marker="v" if is_low else "s" if is_classical else "o",
            color=COLORS[1] if is_classical else COLORS[0], linestyle="none",
        )  # fmt: skip
        offset = (0, 6 if number % 2 else -12)
        axes.annotate(str(number), where, textcoords="offset points", xytext=offset, ha="center", fontsize=8)
        axes.plot([], [], linestyle="none", label=f"{number}  {name}")
    for label, color, marker in (("classical", COLORS[1], "s"), ("network", COLORS[0], "o")):
        axes.plot([], [], marker=marker, color=color, linestyle="none", label=label)
    axes.axhline(TARGETS["pos_mean_mm"], color=GREY, linestyle=":", label="target")
    axes.margins(x=0.1, y=0.1)
    axes.set(xlabel="tracks per second", ylabel="mean position error [mm]", xscale="log", yscale="log")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8)
    return figure


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
