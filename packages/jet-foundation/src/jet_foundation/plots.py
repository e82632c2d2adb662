"""Figures of a training and of its classification.

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
    ("validation", {"val_accuracy": "accuracy", "val_auc_ovr": "AUC"}),
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
            `val_auc_ovr`, `lr`.

    Returns:
        One panel each for the losses, the validation metrics and the learning rate.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.6, 3.4), layout="constrained")
        for ax, (label, curves) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
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
        figure = Figure(figsize=(1.8 + 0.62 * len(classes), 1.4 + 0.56 * len(classes)), layout="constrained")
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
        figure = Figure(figsize=(6.4, 4.6), layout="constrained")
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
        ax.legend(ncols=2)
    return figure
