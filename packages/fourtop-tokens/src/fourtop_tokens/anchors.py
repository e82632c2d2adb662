"""`fourtop-tokens anchors`: the published models on the public file, beside the published numbers.

The areas under the ROC curve were published for one file, tttt against the sum of the backgrounds, over its
30,207 test events. A simulated file cannot be compared with them, and this verb refuses one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fourtop_tokens.config import PRESETS, Config
from fourtop_tokens.data import schema
from fourtop_tokens.data.events import Units, read_events
from fourtop_tokens.report import read_run
from fourtop_tokens.statistics import combine, delong
from fourtop_tokens.train import train
from hep_shared.config import load_config
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_write_json, reader_boundary


@dataclass(frozen=True)
class Anchor:
    """A published area."""

    preset: str
    overrides: tuple[str, ...]
    auroc: float
    seed_sd: float
    source: str


ANCHORS = {
    "identity": Anchor("legacy", (), 0.8431, 0.0007, "identity tokens, learnt id, 3 seeds"),
    "binned_legacy": Anchor("binned_legacy", (), 0.7246, 0.0019, "binned tokens with both defects, 3 seeds"),
    "pairwise": Anchor("pairwise", (), 0.8504, 0.0005, "best published model with pairs of objects, 5 seeds"),
}


def anchors(
    path: Path,
    out: Path,
    *,
    seeds: int = 3,
    overrides: Sequence[str] = (),
    device: str = "auto",
    units: Units = "gev",
) -> dict[str, Any]:
    """Train the anchors and compare; run it again to go on after an interruption.

    Args:
        path: The public four-top file.
        out: Directory for the runs and `anchors.json`.
        seeds: Seeds of each model, at least 2.
        overrides: Items `dotted.key=VALUE` on top of the presets.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        units: Unit of energies in the file.

    Returns:
        For each anchor the published area, ours with its 95 % interval, and their difference.

    Raises:
        UserError: The file is not there, or is a simulated one.
    """
    check_public(path)
    read_events(path, ("test",), units=units)  # a file that is not the format should fail before any training
    result: dict[str, Any] = {}
    for name, anchor in ANCHORS.items():
        runs = []
        for index in range(seeds):
            items = [
                *anchor.overrides, f"data.events={path}", f"data.units={units}", "train.finish=[evaluate]",
                *overrides,
            ]  # fmt: skip
            config = load_config(Config, presets=PRESETS, preset=anchor.preset, overrides=items)
            section = config.train.model_copy(update={"seed": config.train.seed + index})
            run = out / f"{name}_seed{section.seed}"
            if not (run / "evaluation_test.json").exists():
                train(
                    config.model_copy(update={"train": section}), out=run, resume=True, device=device,
                    command="fourtop-tokens anchors",
                )  # fmt: skip
            runs.append(read_run(run))
        areas = delong(runs[0][1] == schema.SIGNAL, np.stack([run.scores for run, _ in runs]))
        weights = np.full(seeds, 1 / seeds)
        ours = combine(
            float(areas.aurocs.mean()),
            float(weights @ areas.covariance @ weights),
            float(areas.aurocs.var(ddof=1)) / seeds,
            seeds - 1,
        )
        result[name] = {
            "published": anchor.auroc,
            "published_seed_sd": anchor.seed_sd,
            "source": anchor.source,
            "ours": ours.value,
            "ours_low": ours.low,
            "ours_high": ours.high,
            "ours_seed_sd": float(areas.aurocs.std(ddof=1)),
            "difference": ours.value - anchor.auroc,
        }
    atomic_write_json(out / "anchors.json", {"file": path, "seeds": seeds, "anchors": result})
    return result


def check_public(path: Path) -> None:
    """Refuse a file that is missing or simulated.

    Args:
        path: The file.

    Raises:
        UserError: It is not the public file.
    """
    if not path.exists():
        raise UserError(
            f"--input {path} does not exist; the published numbers need the public four-top file "
            f"4tops_splitted.h5 (data sets {', '.join(schema.X_KEYS.values())} of 18 ids, 2 globals and 18 x "
            "(E, pT, eta, phi)), give its path."
        )
    with reader_boundary(path, remedy="give the public four-top file"), h5py.File(path, "r") as file:
        provenance = str(file.attrs.get(schema.ATTR_PROVENANCE, ""))
    if provenance:
        with reader_boundary(path, remedy="give the public four-top file"):
            generator = json.loads(provenance).get("generator", "an unknown program")
        raise InputFileError(
            path, f"was simulated by {generator}, so published numbers do not apply to it",
            "give the public four-top file 4tops_splitted.h5",
        )  # fmt: skip
