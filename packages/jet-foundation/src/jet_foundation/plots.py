"""Figures of a training and of what it learned.

The functions draw numbers that `jet_foundation.metrics` has computed and return a `Figure` that belongs to
the caller: no pyplot, no figure kept in a global list. `save` writes it as PNG for the screen and as PDF for
the paper.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hep_shared.files import atomic_path
from jet_foundation.physics import fourvectors as fv

Array = NDArray[Any]

STYLE: Any = {  # not dict[str, ...]: the stubs of rc_context want the literal names of all parameters
    "font.size": 11.0,
    "axes.labelsize": 12.0,
    "legend.fontsize": 10.0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "savefig.dpi": 160,
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text
}
# M. Okabe, K. Ito, Color Universal Design (2008): told apart with any colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--")
_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"train_loss": "training", "val_loss": "validation"}),
    ("validation", {"val_accuracy": "accuracy", "val_auc_ovr": "AUC", "val_r2": "R²"}),
    ("learning rate", {"lr": "learning rate"}),
)


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
    return targets


def training_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the history of a training.

    Args:
        records: Lines of history.jsonl: `step` and any of `train_loss`, `val_loss`, `val_accuracy`,
            `val_auc_ovr`, `val_r2`, `lr`.

    Returns:
        One panel each for the losses, the validation metrics where there are any, and the learning rate.
    """
    panels = [panel for panel in _PANELS if any(key in record for record in records for key in panel[1])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, (label, curves) in zip(axes, panels, strict=True):
            for (key, name), color in zip(curves.items(), COLORS, strict=False):
                points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
                if points:
                    ax.plot(*zip(*points, strict=True), marker="o", markersize=3.5, color=color, label=name)
            ax.set(xlabel="optimiser step", ylabel=label)
            if len(curves) > 1 and ax.get_legend_handles_labels()[0]:
                ax.legend()
    return figure


def confusion_matrix(counts: Array, classes: Sequence[str]) -> Figure:
    """Draw which class is taken for which.

    Args:
        counts: Jets with true classes as rows, (C, C).
        classes: Class names.

    Returns:
        Shares of each true class in percent.
    """
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with matplotlib.rc_context(STYLE):
        size = max(len(classes), 5)  # below, the label of the colour bar is longer than the bar
        figure = Figure(figsize=(1.8 + 0.62 * size, 1.4 + 0.56 * size), layout="constrained")
        ax = figure.subplots()
        image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.ndindex(shares.shape):
            value = shares[row, column]
            ax.text(column, row, f"{value:.0f}", ha="center", va="center", color="w" if value > 55 else "k")
        ticks = range(len(classes))
        ax.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
        ax.set_yticks(ticks, classes)
        ax.set(xlabel="predicted class", ylabel="true class")
        figure.colorbar(image, ax=ax, label="share of the true class [%]", shrink=0.85)
    return figure


def roc_curves(curves: Mapping[str, tuple[Array, Array]], background: str) -> Figure:
    """Draw background rejection against signal efficiency.

    Args:
        curves: Signal and background efficiency by class name.
        background: Name of the background class.

    Returns:
        One curve a class, up to where no background jet passes.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        ax = figure.subplots()
        for number, (name, (signal, rejected)) in enumerate(curves.items()):
            passing = rejected > 0
            ax.plot(
                signal[passing],
                1 / rejected[passing],
                color=COLORS[number % len(COLORS)],
                linestyle=LINES[number // len(COLORS) % len(LINES)],
                label=name,
            )
        ax.set_yscale("log")
        ax.set(xlim=(0, 1), xlabel="signal efficiency", ylabel=rf"rejection $1/\epsilon$ of {background}")
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the curves, which fill the panel
    return figure


def _square(ax: Any, true: Array, predicted: Array, low: float, high: float) -> None:
    """Counts of truth against prediction with the diagonal."""
    edges = np.linspace(low, high, 61)
    counts = np.histogram2d(true, predicted, bins=(edges, edges))[0].T
    shown = np.ma.masked_equal(counts, 0)
    ax.pcolormesh(edges, edges, shown, cmap="viridis", norm="log" if counts.any() else "linear")
    ax.plot([low, high], [low, high], color=COLORS[1], linewidth=1.0)
    ax.set(xlim=(low, high), ylim=(low, high))


def predicted_against_true(predicted: Array, true: Array, labels: Sequence[str]) -> Figure:
    """Draw predictions against the truth, one panel a column.

    Args:
        predicted: (M, D).
        true: (M, D).
        labels: Names of the columns.

    Returns:
        Counts in bins, on a logarithmic scale of colours, with the diagonal.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * len(labels), 3.6), layout="constrained")
        for column, (ax, label) in enumerate(
            zip(figure.subplots(1, len(labels), squeeze=False)[0], labels, strict=True)
        ):
            both = np.concatenate([true[:, column], [-1.0, 1.0]])
            low, high = np.quantile(both, [0.001, 0.999])
            _square(ax, true[:, column], predicted[:, column], float(low), float(high))
            ax.set(xlabel=f"true {label}", ylabel=f"predicted {label}")
    return figure


def mass_response(predicted_gev: Array, true_gev: Array) -> Figure:
    """Draw the mass and its response.

    Args:
        predicted_gev: (J,) GeV.
        true_gev: (J,) GeV.

    Returns:
        Predicted against true mass, and the distribution of their ratio.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _square(left, true_gev, predicted_gev, 0.0, float(max(np.quantile(true_gev, 0.995), 1.0)))
        left.set(xlabel="true mass [GeV]", ylabel="predicted mass [GeV]")
        ratio = predicted_gev / true_gev
        right.hist(ratio, bins=np.linspace(0, 2, 61), histtype="step", color=COLORS[0], linewidth=1.6)
        right.axvline(1.0, color=COLORS[1], linewidth=1.0)
        right.set(xlabel="predicted / true mass", ylabel="jets")
    return figure


def marginals(samples: Mapping[str, tuple[Array, Array]]) -> Figure:
    """Compare the distributions of particles and jets in several samples.

    Args:
        samples: Four-vectors (E, px, py, pz), (J, N, 4) GeV, and where a particle exists, (J, N), by name.

    Returns:
        Panels of pT, Δη and Δφ of particles, mass and multiplicity of jets; the first sample is filled.
    """
    panels = ("particle pT [GeV]", "particle Δη", "particle Δφ [rad]", "jet mass [GeV]", "particles of a jet")
    values = {name: _panel_values(p4, mask) for name, (p4, mask) in samples.items()}
    first = next(iter(values.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(panels), 3.4), layout="constrained")
        for panel, (ax, label) in enumerate(zip(figure.subplots(1, len(panels)), panels, strict=True)):
            low, high = np.quantile(first[panel], [0.002, 0.998])
            edges = np.linspace(low, high if high > low else low + 1, 41)
            if panel == 0:
                edges = np.geomspace(max(low, 0.1), max(high, 1.0), 41)
                ax.set_xscale("log")
            for number, (name, columns) in enumerate(values.items()):
                style = {"histtype": "stepfilled", "alpha": 0.3} if number == 0 else {"histtype": "step"}
                weights = np.full(len(columns[panel]), 1 / max(len(columns[panel]), 1))
                ax.hist(columns[panel], edges, weights=weights, color=COLORS[number], label=name, **style)
            ax.set(xlabel=label, ylabel="share" if panel == 0 else "")
            ax.set_ylim(0, 1.25 * ax.get_ylim()[1])
        ax.legend()
    return figure


def _panel_values(p4: Array, valid_mask: Array) -> tuple[Array, ...]:
    """pT, Δη and Δφ of particles, mass and multiplicity of jets."""
    p4 = np.where(valid_mask[..., None], p4, 0.0).astype(np.float64)
    jet = p4.sum(axis=1)
    deta = fv.eta(p4) - fv.eta(jet)[:, None]
    dphi = fv.wrap_phi(fv.phi(p4) - fv.phi(jet)[:, None])
    counts = valid_mask.sum(axis=1)
    return fv.pt(p4)[valid_mask], deta[valid_mask], dphi[valid_mask], fv.mass(jet), counts


def jet_display(jets: Mapping[str, Array]) -> Figure:
    """Draw one jet of each kind side by side.

    Args:
        jets: Four-vectors (E, px, py, pz) of the particles, (N, 4) GeV, by name; the first gives the axis.

    Returns:
        Particles in Δη and Δφ, with areas that follow pT.
    """
    axis = next(iter(jets.values())).sum(axis=0, dtype=np.float64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9 * len(jets), 3.9), layout="constrained")
        for ax, (name, p4) in zip(figure.subplots(1, len(jets), squeeze=False)[0], jets.items(), strict=True):
            deta, dphi = fv.eta(p4) - fv.eta(axis), fv.wrap_phi(fv.phi(p4) - fv.phi(axis))
            ax.scatter(deta, dphi, s=12 * np.sqrt(fv.pt(p4)), color=COLORS[0], alpha=0.5, linewidths=0)
            ax.set(xlim=(-0.9, 0.9), ylim=(-0.9, 0.9), xlabel="Δη", ylabel="Δφ [rad]", aspect="equal")
            ax.set_title(f"{name}: {len(p4)} particles")
    return figure


def attention_map(weights: Array, name: str) -> Figure:
    """Draw what the particles of a jet attend to.

    Args:
        weights: Attention of query and key by falling pT, (H, N, N).
        name: Class of the jet.

    Returns:
        One panel a head.
    """
    columns = min(len(weights), 4)
    rows = -(-len(weights) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 2.6 * columns, 0.8 + 2.6 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for number, ax in enumerate(axes.flat):
            if number >= len(weights):
                ax.axis("off")
                continue
            image = ax.imshow(weights[number], cmap="viridis", vmin=0, vmax=float(weights.max()))
            ax.set_title(f"head {number + 1}")
        figure.supxlabel("attended particle, by falling pT")
        figure.supylabel("particle")
        figure.suptitle(f"last layer, one jet of class {name}")
        figure.colorbar(image, ax=axes, label="attention", shrink=0.85)
    return figure


def benchmark_chart(values: Mapping[str, Mapping[str, float]]) -> Figure:
    """Compare runs in their main numbers.

    Args:
        values: Value by run, by metric.

    Returns:
        One panel of bars a metric.
    """
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    longest = max(len(runs) for runs in values.values())
    with matplotlib.rc_context(STYLE):
        size = (1.0 + 3.2 * columns, rows * (1.0 + 0.35 * longest))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        for number, ax in enumerate(axes.flat):
            if number >= len(values):
                ax.axis("off")
                continue
            metric = list(values)[number]
            names, heights = list(values[metric]), list(values[metric].values())
            bars = ax.barh(names, heights, color=COLORS[0], height=0.6)
            ax.bar_label(bars, fmt="%.3g", padding=3)
            ax.set_ylim(longest - 0.4, -0.6)  # the same thickness in every panel, the first run on top
            ax.set_title(metric, fontsize="small")  # the longest as wide as a panel
            ax.locator_params(axis="x", nbins=4)
            ax.set_xlim(min(0.0, 1.6 * min(heights)), 1.6 * max(*heights, 1e-12))
    return figure
