"""`xec show`: any event of a ROOT file, as a picture of the unrolled faces or as a page to turn it around.

Truth and conventional reconstruction are marked where the file has them; recorded data have no truth.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text
from megii_xec import event_display, event_page, plots
from megii_xec.data.reader import PhotonFile
from megii_xec.data.schema import (
    EMI_ANG,
    ENERGY_RECO,
    ENERGY_TRUTH,
    EVENT,
    INVALID_ABOVE,
    NPHO,
    RELATIVE_TIME,
    RUN,
    TIME_RECO,
    TIME_TRUTH,
    UVW_RECO_LC,
    UVW_TRUTH,
    Branch,
)

TRUTH: dict[str, Branch] = {
    "uvwFI": UVW_TRUTH, "energy": ENERGY_TRUTH, "timing": TIME_TRUTH, "angle": EMI_ANG
}  # fmt: skip
RECO: dict[str, Branch] = {"uvwFI": UVW_RECO_LC, "energy": ENERGY_RECO, "timing": TIME_RECO}
NEEDED = (RUN, EVENT, NPHO, RELATIVE_TIME)


def show(path: Path, entries: Sequence[int], out: Path) -> dict[str, Any]:
    """Draw events.

    Args:
        path: ROOT file with photons.
        entries: Entry numbers, from 0.
        out: A page with all of them if it ends in `.html`; otherwise a picture, PNG and PDF, of the only one.

    Returns:
        File and number of events.

    Raises:
        UserError: The file cannot be read, has no such entry, or a picture of several events is asked for.
    """
    if out.suffix not in (".html", ".png", ".pdf"):
        raise UserError(f"--out {out} should end in .png, .pdf or .html.")
    if out.suffix != ".html" and len(entries) != 1:
        raise UserError(
            f"--out {out} is one picture, but {len(entries)} entries are given; use .html for them."
        )
    events = read_events(path, entries)
    if out.suffix == ".html":
        atomic_write_text(out, event_page.event_page(events, title=path.name))
    else:
        plots.save(event_display.event_display(**events[0]), out.with_suffix(""))
    return {"output": out, "num_events": len(events)}


def read_events(path: Path, entries: Sequence[int]) -> list[dict[str, Any]]:
    """Read events as `event_display.event_display` takes them.

    Args:
        path: ROOT file with photons.
        entries: Entry numbers, from 0.

    Returns:
        One mapping for each entry.

    Raises:
        UserError: The file cannot be read or has no such entry.
    """
    with PhotonFile(path, NEEDED) as probe:
        more = [b for b in (*TRUTH.values(), *RECO.values()) if b.name not in probe.missing]
        num_entries = probe.num_entries
    branches = (*NEEDED, *more)
    events = []
    with PhotonFile(path, branches, verify=False) as file:
        for entry in entries:
            if not 0 <= entry < num_entries:
                raise UserError(f"{path} has entries 0 to {num_entries - 1}, and --entry is {entry}.")
            columns = file.columns(branches, entry, entry + 1)
            events.append(
                {
                    "npho": columns[NPHO.name][0],
                    "time": columns[RELATIVE_TIME.name][0],
                    "truth": _known(columns, TRUTH),
                    "reco": _known(columns, RECO),
                    "title": f"run {int(columns[RUN.name][0])}, event {int(columns[EVENT.name][0])}",
                }
            )
    return events


def _known(columns: dict[str, Any], wanted: dict[str, Branch]) -> dict[str, Any] | None:
    """Values that the file has and that are not missing, or None."""
    values = {name: np.asarray(columns[b.name][0]) for name, b in wanted.items() if b.name in columns}
    return {name: v for name, v in values.items() if (np.abs(v) <= INVALID_ABOVE).all()} or None
