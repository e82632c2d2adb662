"""Figures of uncertainties, filled-in sensors and recorded data, in the style of `megii_xec.plots`.

Legend: K points of a curve, N events.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from megii_xec.plots import COLORS, GREY, LINES, MARKERS, STYLE

CHANCE = np.array([0.0, 1.0])


def calibration_curves(calibration: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the observed share of events inside central intervals against the expected one.

    Args:
        calibration: For each component `levels`, `observed`, `pull_width68`, see `uncertainty`.

    Returns:
        One panel; a curve below the diagonal is too sure of itself.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.0, 5.0), layout="constrained")
        ax = figure.add_subplot()
        ax.plot(CHANCE, CHANCE, color=GREY, linewidth=1)
        for k, (name, values) in enumerate(calibration.items()):
            ax.plot(
                values["levels"],
                values["observed"],
                LINES[k // len(COLORS) % len(LINES)],
                color=COLORS[k % len(COLORS)],
                label=f"{name}: pull width {values['pull_width68']:.2f}",
            )
        ax.set(xlabel="expected share of events", ylabel="observed share of events", xlim=(0, 1), ylim=(0, 1))
        ax.legend(loc="upper left")
    return figure


def inpainting_errors(maps: Mapping[str, Mapping[str, Mapping[str, Any]]], unit: str = "photons") -> Figure:
    """Draw the mean error of filled-in counts against the hidden count.

    Args:
        maps: For each dead-channel map and method `npho_edges` (K + 1,) and `mae_by_npho` (K,).
        unit: Unit of the counts.

    Returns:
        One panel for each map.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(maps), 3.8), layout="constrained")
        for column, (name, methods) in enumerate(maps.items()):
            ax = figure.add_subplot(1, len(maps), column + 1)
            for k, (method, values) in enumerate(methods.items()):
                edges = np.asarray(values["npho_edges"], dtype=np.float64)
                error = np.array([np.nan if v is None else v for v in values["mae_by_npho"]])
                ax.plot(
                    np.sqrt(edges[1:] * edges[:-1]),
                    error,
                    LINES[k],
                    marker=MARKERS[k],
                    markersize=4,
                    color=COLORS[k],
                    label=method.replace("_", " "),
                )
            ax.set(xscale="log", yscale="log", xlabel=f"hidden count [{unit}]", title=name.replace("_", " "))
            ax.set_ylabel(f"mean absolute error [{unit}]")
            ax.legend()
    return figure


def differences(compared: Mapping[str, tuple[NDArray[np.float64], str]]) -> Figure:
    """Draw how far two reconstructions of the same recorded events are apart.

    Args:
        compared: For each component network - conventional, shape (N,), and its unit.

    Returns:
        One panel for each component, from the 1st to the 99th percentile, median and 68 % width written in.
    """
    columns = min(len(compared), 3)
    rows = -(-len(compared) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout="constrained")
        for number, (name, (values, unit)) in enumerate(compared.items()):
            ax = figure.add_subplot(rows, columns, number + 1)
            ax.set(xlabel=f"network - conventional {name} [{unit}]", ylabel="events")
            if not len(values):
                ax.text(0.5, 0.5, "no events", transform=ax.transAxes, ha="center")
                continue
            low, low68, median, high68, high = np.quantile(values, [0.01, 0.1587, 0.5, 0.8413, 0.99])
            reach = (low, high) if high > low else (low - 0.5, low + 0.5)
            ax.hist(values, bins=60, range=reach, histtype="step", color=COLORS[0])
            text = f"median {median:.3g}\n68 % width {(high68 - low68) / 2:.3g}"
            ax.axvline(median, color=GREY, linestyle=":", linewidth=1.2, label=text)
            ax.legend(loc="upper right")
            ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
    return figure
