"""One self-contained page to turn events around in three dimensions; it needs no network and no library.

Every sensor is drawn at its true place, coloured by its photons or by its time. Numbers are rounded to what
can be seen: positions to a millimetre, counts to a photon, times to 10 ps.

Dimensions: S sensors (4760).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import ArrayLike

from megii_xec.data.schema import INVALID_ABOVE
from megii_xec.physics.coordinates import uvw_to_xyz
from megii_xec.physics.geometry import FACES, sensor_face, sensor_positions


def event_page(events: Sequence[Mapping[str, Any]], *, title: str = "Events") -> str:
    """Write the page.

    Args:
        events: What `event_display.event_display` takes: `npho`, `time`, `truth`, `reco`, `title`.
        title: Heading.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=PackageLoader("megii_xec", "templates"), autoescape=True, undefined=StrictUndefined
    )
    data = {
        "positions": np.round(sensor_positions(), 1).ravel().tolist(),
        "faces": sensor_face().tolist(),
        "names": list(FACES),
        "events": [_describe(event) for event in events],
    }
    # "</" would end the script element that holds the data.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return environment.get_template("event_page.html").render(title=title, data=text)


def _describe(event: Mapping[str, Any]) -> dict[str, Any]:
    npho, time = (np.asarray(event[name], dtype=np.float64) for name in ("npho", "time"))
    alive = np.abs(npho) < INVALID_ABOVE
    timed = alive & (np.abs(time) < INVALID_ABOVE)
    delay = np.where(timed, 1e9 * (time - (time[timed].min() if timed.any() else 0.0)), -1.0)
    return {
        "title": str(event.get("title", "")),
        # Noise can be below zero; -1 says that a sensor is dead.
        "npho": np.where(alive, np.round(np.where(alive, npho, 0)).clip(0), -1).astype(int).tolist(),
        "time": np.round(delay, 2).tolist(),
        "truth": _point(event.get("truth")),
        "reco": _point(event.get("reco")),
    }


def _point(values: Mapping[str, ArrayLike] | None) -> dict[str, Any] | None:
    """First interaction and energy of a photon, or None."""
    if not values or "uvwFI" not in values:
        return None
    xyz = uvw_to_xyz(np.asarray(values["uvwFI"], dtype=np.float64)[None])[0]
    if not np.isfinite(xyz).all():
        return None
    energy = values.get("energy")
    mev = None if energy is None else float(1e3 * np.asarray(energy, dtype=np.float64).ravel()[0])
    return {"xyz": np.round(xyz, 2).tolist(), "energy_mev": mev}
