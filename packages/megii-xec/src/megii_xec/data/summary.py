"""What is in a photon file, for a person who wonders whether to use it."""

from pathlib import Path
from typing import Any

import numpy as np

from hep_shared.files import StrPath, manifest_path, reader_boundary
from megii_xec.data import checks
from megii_xec.data.reader import PhotonFile
from megii_xec.data.schema import BRANCHES, BY_NAME, INVALID_ABOVE, NPHO, NUM_GAMMA, NUM_SENSORS, TIME


def summarize_file(path: StrPath) -> dict[str, Any]:
    """Read a whole file once and report what is in it.

    Args:
        path: The file.

    Returns:
        JSON-ready facts: entries, whether truth and a manifest are present, branches beyond or short of the
        schema, NaN and infinite values, sensors without any count (`dead_channels`), mean fraction of sensors
        without count and without time, number of events without any count, median and largest count in
        photons, range and unit of each scalar branch.

    Raises:
        InputFileError: The file does not pass the checks.
    """
    path = Path(path)
    with PhotonFile(path, (NPHO, TIME), verify=False) as file:
        missing, extra = file.missing, file.unknown
        num_entries = file.num_entries
        edges = file.chunk_edges(NPHO, 1000)
    with reader_boundary(path):
        has_manifest = manifest_path(path).exists()
        checks.verify_once(path, large=True)
    scalars = [branch for name, branch in BY_NAME.items() if branch.shape == () and name not in missing]
    no_npho = no_time = empty = 0
    odd = {f"{kind}_{name}": 0 for name in ("npho", "time") for kind in ("nan", "inf")}
    ever = np.zeros(NUM_SENSORS, np.bool_)
    largest, medians = 0.0, []
    low: dict[str, float] = {branch.name: np.inf for branch in scalars}
    high: dict[str, float] = {branch.name: -np.inf for branch in scalars}
    with PhotonFile(path, (NPHO, TIME, *scalars), verify=False) as file:
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            for values, end in file.pieces(NPHO, start, stop):
                checks.check_sensors(path, NPHO, values, end - len(values))
                valid = values <= INVALID_ABOVE
                ever |= valid.any(axis=0)
                odd["nan_npho"] += int(np.isnan(values).sum())
                odd["inf_npho"] += int(np.isinf(values).sum())
                no_npho += valid.size - int(valid.sum())
                empty += int((~valid.any(axis=1)).sum())
                if valid.any():
                    counts = values[valid].astype(np.float32)
                    largest = max(largest, float(counts.max()))
                    medians.append(float(np.median(counts)))
            for values, end in file.pieces(TIME, start, stop):
                checks.check_sensors(path, TIME, values, end - len(values))
                odd["nan_time"] += int(np.isnan(values).sum())
                odd["inf_time"] += int(np.isinf(values).sum())
                no_time += int((~(np.abs(values.astype(np.float32)) <= INVALID_ABOVE)).sum())
            for name, values in file.columns(scalars, start, stop).items():
                known = values[np.abs(values.astype(np.float64)) <= INVALID_ABOVE]
                if known.size:
                    low[name], high[name] = (
                        min(low[name], known.min().item()),
                        max(high[name], known.max().item()),
                    )
    sensors = num_entries * NUM_SENSORS
    return {
        "path": str(path),
        "entries": num_entries,
        "simulated": not any(
            branch.name in missing for branch in BRANCHES if branch.role == "truth" and branch != NUM_GAMMA
        ),
        "manifest": has_manifest,
        "missing_branches": missing,
        "extra_branches": extra,
        **{f"num_{name}": number for name, number in odd.items()},
        "num_dead_channels": int((~ever).sum()),
        "dead_channels": np.flatnonzero(~ever).tolist(),
        "fraction_without_npho": no_npho / sensors,
        "fraction_without_time": no_time / sensors,
        "events_without_npho": empty,
        "median_npho": float(np.median(medians)) if medians else None,
        "max_npho": largest,
        "ranges": {
            branch.name: {"min": low[branch.name], "max": high[branch.name], "unit": branch.unit}
            for branch in scalars
            if low[branch.name] <= high[branch.name]
        },
    }
