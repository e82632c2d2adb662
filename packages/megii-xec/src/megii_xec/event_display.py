"""One event on all six faces, unrolled at the true places and proportions of the sensors.

The display plane has u along the abscissa and the arc length v of the inner face along the ordinate, in cm,
as seen from the target. The inner and outer faces are cylinders cut open along z: abscissa z, ordinate
R (pi - phi). The us and ds faces lie to both sides as sectors in (r, phi); the top and bottom faces continue
the inner face with z along the abscissa and r along the ordinate. Every face keeps its scale; faces are only
moved apart.

Legend: S sensors, V corners of an outline.
"""

from collections.abc import Mapping
from functools import cache

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from megii_xec.data.schema import INVALID_ABOVE
from megii_xec.physics.geometry import (
    FACES,
    HEX_PITCH_CM,
    NUM_SENSORS,
    R_INNER_CM,
    R_OUTER_CM,
    Face,
    face_ids,
    outer_center_index_map,
    sensor_face,
    sensor_positions,
)

FloatArray = NDArray[np.float64]

# Pitch of the sensors, cm and degrees, from the closed form in physics.geometry.
_INNER_PITCH = (1.509767, np.deg2rad(1.349674) * R_INNER_CM)
_OUTER_PITCH = (10.356, np.deg2rad(5.23) * R_OUTER_CM)
_CENTER_PITCH = (6.2, np.deg2rad(3.48672) * R_OUTER_CM)
_END_PITCH = (6.684, np.deg2rad(5.23))  # cm along r, rad along phi
_TUBE_FILL = 0.94  # tubes are drawn a little smaller than their pitch, so that neighbours stay apart

# Displacement of each face in the display plane, cm.
_OFFSET: dict[Face, tuple[float, float]] = {
    "inner": (0.0, 0.0),
    "us": (-8.0, 0.0),
    "ds": (8.0, 0.0),
    "outer": (172.0, 0.0),
    "top": (0.0, 12.0),
    "bottom": (0.0, -12.0),
}
_LABEL: dict[Face, tuple[float, float, str]] = {
    "inner": (0.0, -76.5, "inner"),
    "us": (-100.0, -80.0, "upstream"),
    "ds": (103.0, -80.0, "downstream"),
    "outer": (172.0, -122.0, "outer"),
    "top": (0.0, 129.0, "top"),
    "bottom": (0.0, -129.0, "bottom"),
}
_DEAD_COLOR, _EMPTY_COLOR, _TEXT_COLOR = "0.85", "0.94", "0.3"
_DECADES = 3.0  # of photons on the colour scale


@cache
def display_positions() -> FloatArray:
    """Return the centre of each sensor in the display plane, shape (S, 2), cm."""
    x, y, z = sensor_positions().T
    radius, angle = np.hypot(x, y), np.arctan2(y, -x)  # angle = pi - phi, zero at the centre of the detector
    half_opening = float(np.abs(angle[face_ids("top")[0]]))
    plane = np.stack([z, radius * angle], axis=1)  # right for the inner and outer face
    for face, sign in (("us", -1.0), ("ds", 1.0)):
        ids = face_ids(face)
        plane[ids] = np.stack(
            [sign * radius[ids] * np.cos(angle[ids]), radius[ids] * np.sin(angle[ids])], axis=1
        )
    for face, sign in (("top", 1.0), ("bottom", -1.0)):
        ids = face_ids(face)
        # The edge of the inner face continues into the end face.
        plane[ids, 1] = sign * (R_INNER_CM * half_opening + radius[ids] - R_INNER_CM)
    offset = np.array([_OFFSET[face] for face in FACES])
    plane += offset[sensor_face()]
    plane.setflags(write=False)
    return plane


def _rectangle(width: float, height: float) -> FloatArray:
    """Corners of a rectangle around the origin, shape (4, 2)."""
    return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)], dtype=np.float64) * [width, height]


@cache
def sensor_outlines() -> tuple[FloatArray, ...]:
    """Return the outline of each sensor's cell in the display plane, S arrays of shape (V, 2), cm."""
    position, face = display_positions(), sensor_face()
    centre_patch = set(outer_center_index_map().ravel().tolist())
    corner = np.deg2rad(30 + 60 * np.arange(6))
    hexagon = (
        HEX_PITCH_CM / np.sqrt(3) * np.stack([np.cos(corner), np.sin(corner)], axis=1)
    )  # flat to flat: pitch
    arc = np.linspace(-0.5, 0.5, 4) * _END_PITCH[1] * _TUBE_FILL
    x, y, _ = sensor_positions().T
    radius, angle = np.hypot(x, y), np.arctan2(y, -x)

    outlines = []
    for sensor in range(NUM_SENSORS):
        name = FACES[face[sensor]]
        if name == "inner":
            outline = position[sensor] + _rectangle(*_INNER_PITCH)
        elif name == "outer":
            pitch = _CENTER_PITCH if sensor in centre_patch else _OUTER_PITCH
            outline = position[sensor] + _TUBE_FILL * _rectangle(*pitch)
        elif name in ("top", "bottom"):
            outline = position[sensor] + _TUBE_FILL * hexagon
        else:
            inner, outer = (radius[sensor] + s * _END_PITCH[0] * _TUBE_FILL / 2 for s in (-1, 1))
            r = np.repeat([inner, outer], len(arc))
            a = angle[sensor] + np.concatenate([arc, arc[::-1]])
            sign = -1.0 if name == "us" else 1.0
            outline = np.stack([sign * r * np.cos(a), r * np.sin(a)], axis=1) + np.array(_OFFSET[name])
        outline.setflags(write=False)
        outlines.append(outline)
    return tuple(outlines)


def _draw_sensors(
    ax: Axes, value: FloatArray, dead: NDArray[np.bool_], norm: Normalize, cmap: str
) -> PolyCollection:
    """Draw all sensors: live ones in colour, pale without a value, dead ones hatched."""
    outlines = sensor_outlines()
    colors = matplotlib.colormaps[cmap].with_extremes(bad=_EMPTY_COLOR)
    live = PolyCollection(
        [outline for outline, is_dead in zip(outlines, dead, strict=True) if not is_dead],
        norm=norm,
        cmap=colors,
        edgecolors="face",
        linewidths=0.2,  # closes the seams between touching cells
        label="live",
    )
    live.set_array(np.ma.masked_invalid(value[~dead]))
    ax.add_collection(live)
    off = PolyCollection(
        [outline for outline, is_dead in zip(outlines, dead, strict=True) if is_dead],
        facecolors=_DEAD_COLOR,
        edgecolors="0.35",
        linewidths=0.4,
        hatch="//////",
        label="dead",
    )
    ax.add_collection(off)
    return live


def _draw_frame(ax: Axes) -> None:
    """Fix the proportions and add names, directions and a scale."""
    ax.set(xlim=(-122, 224), ylim=(-138, 138), aspect="equal")
    ax.axis("off")
    for x, y, text in _LABEL.values():
        ax.text(x, y, text, ha="center", va="center", color=_TEXT_COLOR)
    x0, y0 = -118.0, -132.0
    arrow = {"arrowstyle": "-|>", "color": _TEXT_COLOR, "shrinkA": 0, "shrinkB": 0}
    for dx, dy, text in ((22.0, 0.0, "$u$"), (0.0, 22.0, "$v$")):
        ax.annotate("", (x0 + dx, y0 + dy), (x0, y0), arrowprops=arrow)
        ax.text(x0 + 1.2 * dx, y0 + 1.2 * dy, text, ha="center", va="center", color=_TEXT_COLOR)
    ax.plot([-85, -65], [y0, y0], color=_TEXT_COLOR, linewidth=2, solid_capstyle="butt")
    ax.text(-75, y0 + 3, "20 cm", ha="center", va="bottom", color=_TEXT_COLOR, fontsize=9)


def _mark(ax: Axes, values: Mapping[str, ArrayLike] | None, marker: str, color: str, label: str) -> None:
    """Mark the first interaction on the inner face."""
    if values is None or "uvwFI" not in values:
        return
    u, v = np.asarray(values["uvwFI"], dtype=np.float64)[:2]
    ax.plot(u, v, marker, markersize=11, markeredgewidth=4.0, color="white", fillstyle="none")
    ax.plot(u, v, marker, markersize=11, markeredgewidth=2.0, color=color, fillstyle="none", label=label)


def _describe(name: str, values: Mapping[str, ArrayLike]) -> str:
    """One line with the numbers of the photon."""
    x = {key: np.asarray(value, dtype=np.float64).ravel() for key, value in values.items()}
    parts = [f"{name:<8}"]
    if "energy" in x:
        parts.append(f"E = {1e3 * x['energy'][0]:6.2f} MeV")
    if "timing" in x:
        parts.append(f"t = {x['timing'][0]:8.3f} ns")
    if "uvwFI" in x:
        parts.append("(u, v, w) = ({:6.2f}, {:6.2f}, {:5.2f}) cm".format(*x["uvwFI"]))
    if "angle" in x:
        parts.append("(θ, φ) = ({:6.2f}, {:6.2f}) deg".format(*x["angle"]))
    return "   ".join(parts)


def event_display(
    npho: ArrayLike,
    time: ArrayLike,
    *,
    truth: Mapping[str, ArrayLike] | None = None,
    reco: Mapping[str, ArrayLike] | None = None,
    title: str = "",
    min_npho: float = 100.0,
) -> Figure:
    """Draw the light and the times of one event.

    Args:
        npho: Photons of each sensor, shape (S,); NaN or above `INVALID_ABOVE` where the sensor is dead.
        time: Pulse time of each sensor, shape (S,), s; the same values where there is none.
        truth: True photon: any of `uvwFI` (3,) cm, `energy` GeV, `timing` ns, `angle` (2,) degrees.
        reco: Reconstructed photon, same keys.
        title: First line above the figure, as in "run 430000, event 17".
        min_npho: Sensors with fewer photons show no time, theirs is noise.

    Returns:
        Two panels: photons on a logarithmic scale and time after the earliest sensor.

    Raises:
        ValueError: `npho` or `time` does not have one value per sensor.
    """
    npho, time = np.asarray(npho, dtype=np.float64), np.asarray(time, dtype=np.float64)
    if npho.shape != (NUM_SENSORS,) or time.shape != (NUM_SENSORS,):
        raise ValueError(f"npho and time need shape ({NUM_SENSORS},), got {npho.shape} and {time.shape}")
    dead = ~(np.abs(npho) < INVALID_ABOVE)
    timed = ~dead & (np.abs(time) < INVALID_ABOVE) & (np.nan_to_num(npho) >= min_npho)
    delay = np.full(NUM_SENSORS, np.nan)
    if timed.any():
        delay[timed] = 1e9 * (time[timed] - time[timed].min())
    brightest = max(float(npho[~dead].max(initial=0.0)), 100.0)
    light_norm = LogNorm(brightest / 10**_DECADES, brightest)
    # A few late pulses must not take the colours away from the others.
    time_norm = Normalize(0.0, max(float(np.quantile(delay[timed], 0.98)), 1.0) if timed.any() else 1.0)

    figure = Figure(figsize=(16.0, 7.6), layout="constrained")
    light_ax, time_ax = figure.subplots(1, 2)
    light = np.where(dead, np.nan, np.maximum(npho, light_norm.vmin or 1.0))
    panels = (
        (light_ax, light, light_norm, "viridis", "photons", "min"),
        (time_ax, delay, time_norm, "plasma_r", "time after the earliest sensor [ns]", "max"),
    )
    for ax, value, norm, cmap, label, extend in panels:
        image = _draw_sensors(ax, value, dead, norm, cmap)
        figure.colorbar(image, ax=ax, label=label, extend=extend, location="bottom", shrink=0.7, aspect=32)
        _draw_frame(ax)
        _mark(ax, truth, "o", "#D55E00", "true first interaction")
        _mark(ax, reco, "+", "#D55E00", "reconstructed")
        handles = [
            *ax.get_legend_handles_labels()[0][2:],
            Patch(facecolor=_DEAD_COLOR, edgecolor="0.35", hatch="//////", label=f"dead ({dead.sum()})"),
        ]
        ax.legend(handles=handles, loc="upper left", frameon=False)
    lines = [title] if title else []
    lines += [_describe(name, values) for name, values in (("truth", truth), ("reco", reco)) if values]
    if lines:
        figure.suptitle("\n".join(lines), fontsize=12, family="monospace", x=0.02, ha="left")
    return figure


def hidden_display(
    measured: ArrayLike, seen: ArrayLike, filled: ArrayLike, *, unit: str = "photons", title: str = ""
) -> Figure:
    """Draw how hidden sensors of one event were filled in.

    Args:
        measured: Counts of the event, shape (S,); NaN or above `INVALID_ABOVE` where a sensor is dead.
        seen: The same with the hidden sensors dead too, which is what the network saw.
        filled: The same with the network's counts in the hidden sensors.
        unit: Unit of the counts.
        title: Line in the lower left corner.

    Returns:
        Three panels on one logarithmic scale.

    Raises:
        ValueError: One of the three does not have one value per sensor.
    """
    panels = {"measured": measured, "seen by the network": seen, "hidden sensors filled in": filled}
    counts = {name: np.asarray(values, dtype=np.float64) for name, values in panels.items()}
    for name, values in counts.items():
        if values.shape != (NUM_SENSORS,):
            raise ValueError(f"'{name}' needs shape ({NUM_SENSORS},), got {values.shape}")
    dead = {name: ~(np.abs(values) < INVALID_ABOVE) for name, values in counts.items()}
    brightest = float(counts["measured"][~dead["measured"]].max(initial=0.0)) or 1.0
    norm = LogNorm(brightest / 10**_DECADES, brightest)
    figure = Figure(figsize=(24.0, 7.6), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, (name, values) in zip(axes, counts.items(), strict=True):
        light = np.where(dead[name], np.nan, np.maximum(values, brightest / 10**_DECADES))
        image = _draw_sensors(ax, light, dead[name], norm, "viridis")
        _draw_frame(ax)
        off = Patch(
            facecolor=_DEAD_COLOR, edgecolor="0.35", hatch="//////", label=f"dead ({dead[name].sum()})"
        )
        ax.legend(handles=[off], loc="upper left", frameon=False)
        ax.set_title(name)
    figure.colorbar(image, ax=axes, label=unit, extend="min", location="bottom", shrink=0.4, aspect=40)
    figure.text(0.01, 0.03, title, fontsize=12, family="monospace")
    return figure
