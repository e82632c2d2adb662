"""Figures of a training and of its resolutions.

The functions draw numbers that `megii_xec.metrics` has computed and return a `Figure` that belongs to the
caller: no pyplot, no figure kept in a global list. `save` writes it as PNG for the screen and as PDF for the
paper.

What is compared comes as a mapping from its name to its values, `{"network": ..., "conventional": ...}`. The
order decides the colours, the names go into the legend. Values have the units of the data files (degrees,
GeV, ns, cm), residuals and widths those of `megii_xec.metrics`.

Legend: B events, K bins, F faces.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

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
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
LINES = ("-", "--", "-.", ":")
GREY = "0.45"
SIGNAL_ENERGY_MEV = 52.83  # photon of mu -> e gamma at rest, half of the muon mass


@dataclass(frozen=True)
class Axis:
    """How a quantity is written on an axis.

    Attributes:
        symbol: LaTeX symbol.
        unit: Unit of the value on the axis.
        residual_unit: Unit of its residual and width.
        scale: Factor from the unit of the data files to `unit`.
    """

    symbol: str
    unit: str
    residual_unit: str
    scale: float = 1.0


AXES: dict[str, Axis] = {
    "theta": Axis(r"\theta_\gamma", "deg", "deg"),
    "phi": Axis(r"\phi_\gamma", "deg", "deg"),
    "energy": Axis(r"E_\gamma", "MeV", "MeV", 1e3),
    "energy_relative": Axis(r"E_\gamma/E_\gamma^\mathrm{true}", "1", "%"),
    "timing": Axis(r"t_\gamma", "ns", "ps"),
    "u": Axis("u", "cm", "mm"),
    "v": Axis("v", "cm", "mm"),
    "w": Axis("w", "cm", "mm"),
    "opening_angle": Axis(r"\psi", "deg", "deg"),
    "opening_angle_vec": Axis(r"\psi_\mathrm{vec}", "deg", "deg"),
    "distance": Axis(r"\Delta r", "mm", "mm"),
}

DISTANCES = ("opening_angle", "opening_angle_vec", "distance")  # never negative: they have no bias

# Panels of the training curves: label of the ordinate, then the curves as metric and legend entry.
_METRIC_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "direction, 68 % width [deg]",
        {
            "val_resolution_deg": r"$\psi$",
            "angleVec_resolution_deg": r"$\psi_\mathrm{vec}$",
            "theta_width68": r"$\theta_\gamma$",
            "phi_width68": r"$\phi_\gamma$",
        },
    ),
    ("energy, 68 % width [%]", {"energy_resolution_percent": r"$E_\gamma$"}),
    ("time, 68 % width [ps]", {"timing_width68": r"$t_\gamma$"}),
    ("position, 68 % width [mm]", {"u_width68": "$u$", "v_width68": "$v$", "w_width68": "$w$"}),
    ("mean error, hidden sensors", {"mae_npho": "counts", "mae_time": "times"}),
    (
        "mean count error by face",  # the other two faces mirror us and top
        {f"mae_{face}_npho": face for face in ("inner", "outer", "us", "top")},
    ),
    ("throughput [events/s]", {"system/throughput_events_per_sec": "training"}),
)
_HEADROOM = 0.72  # share of a panel's height below the legend


class ProfileLike(Protocol):
    """What is drawn of a `metrics.Profile`."""

    edges: FloatArray
    bias: FloatArray
    bias_error: FloatArray
    width: FloatArray
    width_low: FloatArray
    width_high: FloatArray


class EnergyFitLike(Protocol):
    """What is drawn of a `metrics.EnergyFit`."""

    a: float
    b: float
    c: float
    a_error: float
    b_error: float
    c_error: float

    def __call__(self, energy_gev: ArrayLike) -> FloatArray:
        """Return sigma_E / E at the given energies in GeV."""
        ...


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
    targets = [Path(f"{path}.{kind}") for kind in ("png", "pdf")]
    for target in targets:
        # Without a date the same numbers give the same bytes.
        metadata = {"CreationDate": None} if target.suffix == ".pdf" else None
        with matplotlib.rc_context(STYLE), atomic_path(target) as temporary:
            figure.savefig(temporary, format=target.suffix[1:], metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out; doing it again takes as long as the drawing
    return targets


def _num_columns(num_panels: int) -> int:
    """Columns that leave few holes in a grid of panels."""
    return num_panels if num_panels <= 3 else 2 if num_panels == 4 else 3 if num_panels in (5, 6, 9) else 4


def _grid(num_panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Figure with `num_panels` axes of about the given size, inches."""
    columns = _num_columns(num_panels)
    rows = math.ceil(num_panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(num_panels)]


def _three_digits(value: float) -> str:
    """Format with three significant digits, trailing zeros kept."""
    return f"{value:#.3g}".removesuffix(".")


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[FloatArray, FloatArray]:
    """Steps and values of the records that carry a finite `key`."""
    points = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float) and "step" in r]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    array = array[np.isfinite(array[:, 1])]
    return array[:, 0], array[:, 1]


@_styled
def training_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the history of a training: losses, learning rate and the resolution of every task it has.

    Args:
        records: Lines of history.jsonl: `step` and any of `train_loss`, `val_loss`, `lr` and the metrics of
            `regression_summary`.

    Returns:
        One panel for the losses, one for the learning rate, one for each kind of resolution in the records.
    """
    panels: list[tuple[str, dict[str, str]]] = [
        ("loss", {"train_loss": "training", "val_loss": "validation"}),
        ("learning rate", {"lr": "learning rate"}),
        *_METRIC_PANELS,
    ]
    present = {key for record in records for key in record}
    panels = [panel for panel in panels if present & set(panel[1])] or panels[:1]
    figure, axes = _grid(len(panels), 4.4, 3.2)
    val_step, val_loss = _series(records, "val_loss")
    for ax, (label, curves) in zip(axes, panels, strict=True):
        smallest, largest = np.inf, 0.0
        for (key, name), color, line in zip(curves.items(), COLORS, LINES, strict=False):
            step, value = _series(records, key)
            if len(step):
                marker = "o" if len(step) < 50 else None
                ax.plot(step, value, line, color=color, marker=marker, markersize=3.5, label=name)
                smallest, largest = min(smallest, value.min()), max(largest, value.max())
        if len(val_loss) and "lr" not in curves:
            best = val_step[np.argmin(val_loss)]
            text = f"best: step {best:,.0f}" if label == "loss" else None
            ax.axvline(best, color=GREY, linestyle=":", linewidth=1.2, zorder=0, label=text)
        if label == "loss":
            if smallest > 0 and largest > 3 * smallest:  # else there would be no power of ten to write
                ax.set_yscale("log")
        elif 0 <= smallest < np.inf:
            ax.set_ylim(bottom=0)
        if len(ax.get_legend_handles_labels()[0]) > 1:
            ax.legend()
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set(xlabel="optimiser step", ylabel=label)
    return figure


def _points(
    ax: Axes,
    edges: FloatArray,
    value: FloatArray,
    error: FloatArray | None,
    index: int,
    label: str | None = None,
) -> None:
    """Draw one value per bin; the horizontal bar is the bin, `index` chooses colour and marker."""
    ax.errorbar(
        (edges[1:] + edges[:-1]) / 2,
        value,
        error,
        np.diff(edges) / 2,
        color=COLORS[index],
        marker=MARKERS[index],
        markersize=4.5,
        linestyle="none",
        elinewidth=1.2,
        label=label,
    )


@_styled
def resolution_profiles(
    quantity: str,
    profiles: Mapping[str, Mapping[str, ProfileLike]],
    *,
    floor: float | None = None,
    floor_label: str = "limit of the unseen vertex",
) -> Figure:
    """Draw resolution and bias of one quantity against several variables.

    Args:
        quantity: Key of `AXES` whose residual is profiled.
        profiles: For each variable (key of `AXES`) the profiles to compare, edges in units of the data files.
        floor: Resolution that no reconstruction can beat, unit of the residual; None draws none.
        floor_label: What the floor is.

    Returns:
        One column pair of panels per variable: resolution with its 68 % interval above, bias below. Distances
        have no bias panel.
    """
    columns = _num_columns(len(profiles))
    rows = math.ceil(len(profiles) / columns)
    signed = quantity not in DISTANCES
    heights = [2.4, 1.0] if signed else [2.4]
    figure = Figure(figsize=(4.4 * columns, 1.3 * sum(heights) * rows + 0.3), layout="constrained")
    grid = figure.add_gridspec(rows * len(heights), columns, height_ratios=heights * rows)
    unit, symbol = AXES[quantity].residual_unit, AXES[quantity].symbol
    for i, (variable, compared) in enumerate(profiles.items()):
        row, column = len(heights) * (i // columns), i % columns
        top = bottom = figure.add_subplot(grid[row, column])
        if signed:
            bottom = figure.add_subplot(grid[row + 1, column], sharex=top)
            bottom.axhline(0, color=GREY, linewidth=0.8, zorder=0)
            bottom.set_ylabel(f"bias [{unit}]")
            top.tick_params(labelbottom=False)
        for k, (name, profile) in enumerate(compared.items()):
            edges = profile.edges * AXES[variable].scale
            # stairs needs numbers everywhere; a bin without them gets no height
            low, high = (np.nan_to_num(edge) for edge in (profile.width_low, profile.width_high))
            top.stairs(high, edges, baseline=low, fill=True, color=COLORS[k], alpha=0.25, linewidth=0)
            _points(top, edges, profile.width, None, k, name)
            if signed:
                _points(bottom, edges, profile.bias, profile.bias_error, k)
        if floor is not None:
            top.axhline(floor, color="black", linestyle=":", label=floor_label)
        top.set_ylim(0, 1.08 * top.get_ylim()[1])
        top.set_ylabel(rf"$\Delta {symbol}$, 68 % width [{unit}]" if signed else f"${symbol}$, 68 % [{unit}]")
        bottom.set_xlabel(f"true ${AXES[variable].symbol}$ [{AXES[variable].unit}]")
    figure.align_ylabels()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _spread(samples: Mapping[str, FloatArray], level: float) -> float:
    """Largest `level` quantile of the finite absolute values; 1 without any."""
    finite = [np.abs(values[np.isfinite(values)]) for values in samples.values()]
    largest = max((float(np.quantile(values, level)) for values in finite if len(values)), default=0.0)
    return largest if largest > 0 else 1.0


def _histogram(
    ax: Axes, samples: Mapping[str, FloatArray], widths: Mapping[str, float], edges: FloatArray, unit: str
) -> None:
    """Draw compared samples, their widths in the legend and what the frame does not show below it."""
    hidden = []
    for i, (name, values) in enumerate(samples.items()):
        finite = values[np.isfinite(values)]
        counts, _ = np.histogram(finite, edges)
        ax.stairs(counts, edges, color=COLORS[i], fill=i == 0, alpha=0.35 if i == 0 else 1, linewidth=0)
        ax.stairs(counts, edges, color=COLORS[i], linestyle=LINES[i], linewidth=1.6)
        ax.plot([], [], LINES[i], color=COLORS[i], label=f"{name}: {_three_digits(widths[name])} {unit}")
        outside, missing = len(finite) - counts.sum(), len(values) - len(finite)
        hidden.append(f"{name}: {outside:,} outside, {missing:,} missing")
    ax.set_ylim(0, ax.get_ylim()[1] / _HEADROOM)
    ax.set_title("\n".join(hidden), fontsize=8, color=GREY, loc="right", pad=3)


@_styled
def residual_histograms(
    residuals: Mapping[str, Mapping[str, FloatArray]], widths: Mapping[str, Mapping[str, float]]
) -> Figure:
    """Draw pred - true of several quantities.

    Args:
        residuals: For each quantity (key of `AXES`) the residuals to compare, each of shape (B,), NaN where
            missing, in the residual unit of the quantity.
        widths: The 68 % width of each of them, for the legend.

    Returns:
        One panel per quantity; the counts above it tell what the frame does not show.
    """
    figure, axes = _grid(len(residuals), 4.4, 3.6)
    for ax, (quantity, samples) in zip(axes, residuals.items(), strict=True):
        axis = AXES[quantity]
        reach = _spread(samples, 0.99)
        _histogram(ax, samples, widths[quantity], np.linspace(-reach, reach, 61), axis.residual_unit)
        ax.axvline(0, ymax=_HEADROOM, color=GREY, linewidth=0.8, zorder=0)
        ax.legend(title="68 % width", alignment="left", loc="upper left", handlelength=1.4)
        ax.set(
            xlabel=rf"$\Delta {axis.symbol}$ (reco $-$ true) [{axis.residual_unit}]", ylabel="events / bin"
        )
    return figure


@_styled
def opening_angle(
    angles: Mapping[str, FloatArray], resolutions: Mapping[str, float], *, floor_deg: float | None = None
) -> Figure:
    """Draw the angle between predicted and true direction.

    Args:
        angles: Opening angles to compare, each of shape (B,), NaN where missing, degrees.
        resolutions: 68th percentile of each, degrees.
        floor_deg: 68th percentile of a reconstruction that knows all but the unseen vertex, degrees.

    Returns:
        One panel; vertical lines mark the 68th percentiles.
    """
    figure, (ax,) = _grid(1, 6.0, 4.2)
    edges = np.linspace(0, _spread(angles, 0.99), 61)
    _histogram(ax, angles, resolutions, edges, "deg")
    for name, color, line in zip(angles, COLORS, LINES, strict=False):
        ax.axvline(resolutions[name], ymax=_HEADROOM, color=color, linestyle=line, linewidth=1.2)
    if floor_deg is not None:
        label = f"limit of the unseen vertex: {_three_digits(floor_deg)} deg"
        ax.axvline(floor_deg, ymax=_HEADROOM, color="black", linestyle=":", label=label)
    ax.legend(title="68th percentile", alignment="left", loc="upper right")
    ax.set(xlabel=r"opening angle $\psi$ [deg]", ylabel="events / bin", xlim=(0, edges[-1]))
    return figure


@_styled
def truth_vs_prediction(values: Mapping[str, tuple[FloatArray, FloatArray]]) -> Figure:
    """Draw predictions against the truth, event by event.

    Args:
        values: For each quantity (key of `AXES`) true and predicted values, each of shape (B,), units of the
            data files.

    Returns:
        One panel per quantity with the number of events in colour and the diagonal.
    """
    figure, axes = _grid(len(values), 4.4, 3.8)
    for ax, (quantity, (truth, pred)) in zip(axes, values.items(), strict=True):
        axis = AXES[quantity]
        x, y = np.asarray(truth) * axis.scale, np.asarray(pred) * axis.scale
        finite = np.isfinite(x) & np.isfinite(y)
        x, y = x[finite], y[finite]
        low, high = (float(x.min()), float(x.max())) if len(x) else (0.0, 1.0)
        margin = 0.05 * (high - low) or 1.0
        edges = np.linspace(low - margin, high + margin, 81)
        counts, _, _ = np.histogram2d(x, y, (edges, edges))
        largest = max(counts.max(), 2)
        few = largest < 20
        norm = Normalize(1, largest) if few else LogNorm(1, largest)
        image = ax.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), norm=norm, rasterized=True)
        ax.plot(edges[[0, -1]], edges[[0, -1]], "--", color=COLORS[1], linewidth=1)
        ticks = MaxNLocator(5, integer=True) if few else LogLocator()
        bar = figure.colorbar(image, ax=ax, label="events", pad=0.02, ticks=ticks, format="%g")
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        hidden = f"{len(x) - int(counts.sum()):,} outside, {len(finite) - len(x):,} missing"
        ax.set_title(hidden, fontsize=8, color=GREY, loc="right", pad=3)
        ax.set(
            xlabel=f"true ${axis.symbol}$ [{axis.unit}]", ylabel=f"predicted ${axis.symbol}$ [{axis.unit}]"
        )
    return figure


@_styled
def energy_resolution(
    profiles: Mapping[str, ProfileLike], fits: Mapping[str, EnergyFitLike] | None = None
) -> Figure:
    """Draw the relative energy resolution against the energy with the fit sqrt(a^2 / E + b^2 + c^2 / E^2).

    Args:
        profiles: Profiles of `energy_relative` (%) against the true energy (GeV).
        fits: Fit of each profile; profiles without one are drawn as points only.

    Returns:
        One panel; the coefficients are in the legend.
    """
    figure, (ax,) = _grid(1, 6.4, 4.8)
    for k, (name, profile) in enumerate(profiles.items()):
        edges = profile.edges * AXES["energy"].scale
        error = np.abs([profile.width - profile.width_low, profile.width_high - profile.width])
        label = name
        if fits is not None and name in fits:
            fit = fits[name]
            energy = np.linspace(edges[0], edges[-1], 200)
            ax.plot(energy, 100 * fit(energy / AXES["energy"].scale), LINES[k], color=COLORS[k])
            label += (
                f"\n$a = {100 * fit.a:.2f} \\pm {100 * fit.a_error:.2f}$ % GeV$^{{1/2}}$,"
                f"  $b = {100 * fit.b:.2f} \\pm {100 * fit.b_error:.2f}$ %,"
                f"  $c = {1e3 * fit.c:.2f} \\pm {1e3 * fit.c_error:.2f}$ MeV"
            )
        _points(ax, edges, profile.width, error, k, label)
    ax.set_ylim(0, ax.get_ylim()[1] / _HEADROOM)
    ax.axvline(SIGNAL_ENERGY_MEV, ymax=_HEADROOM, color=GREY, linestyle=":", linewidth=1, zorder=0)
    place = ax.get_xaxis_transform()  # x in MeV, y as a share of the panel
    ax.text(SIGNAL_ENERGY_MEV, 0.03, r"$\mu\to e\gamma$ ", color=GREY, ha="right", transform=place)
    formula = r"$\sigma_E/E = \sqrt{a^2/E + b^2 + c^2/E^2}$" if fits else None
    ax.legend(title=formula, loc="upper right", alignment="left")
    ax.set(xlabel=r"true $E_\gamma$ [MeV]", ylabel=r"$\sigma_E/E$, 68 % width [%]")
    return figure


@_styled
def saliency_profile(saliency: Mapping[str, FloatArray], faces: Sequence[str]) -> Figure:
    """Draw how much each output depends on photon counts and times of each face.

    Args:
        saliency: For each output the mean absolute gradient with respect to the normalised npho and time,
            summed over the sensors of a face, shape (F, 2).
        faces: Names of the faces, F of them.

    Returns:
        One panel per output; bars are shares of the total gradient.
    """
    figure, axes = _grid(len(saliency), 4.4, 3.2)
    x = np.arange(len(faces))
    for ax, (output, gradient) in zip(axes, saliency.items(), strict=True):
        total = gradient.sum()
        share = 100 * gradient / (total if total > 0 else 1.0)
        for column, (name, color) in enumerate(zip(("npho", "time"), COLORS, strict=False)):
            ax.bar(x + 0.4 * (column - 0.5), share[:, column], 0.4, color=color, label=name)
        ax.set_xticks(x, faces)
        ax.tick_params(axis="x", which="both", length=0)
        symbol = f"${AXES[output].symbol}$" if output in AXES else output
        ax.set(ylabel=f"share of the gradient of {symbol} [%]")
        ax.legend()
    return figure
