"""`chhiggs-pnet prepare`: ROOT files to the memory-mapped store.

Events are read through a branch map, selected, turned into nodes and appended to the part of their class and
mass point; the store appears when it is complete. The weight of an event becomes its rate in fb where the
cross-section and the sum of weights of a sample are known, from the list of samples or from the manifests
that `simulate` writes; otherwise it stays as the file has it.
"""

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chhiggs_pnet.data.branch_map import BranchMap
from chhiggs_pnet.data.features import fold_of, node_features
from chhiggs_pnet.data.reader import EventReader
from chhiggs_pnet.data.samples import SampleEntry, read_samples
from chhiggs_pnet.data.schema import CLASSES, ERAS
from chhiggs_pnet.data.store import STORE_FILE, part_name, write_part, write_store
from chhiggs_pnet.physics.events import Array, Events, Object
from chhiggs_pnet.physics.mass_points import MassTable
from chhiggs_pnet.physics.processes import CHANNELS
from chhiggs_pnet.physics.selection import Selection, pair_masses, select
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import verify_manifest, write_boundary

NUM_FOLDS = 5
Files = list[Path]


@dataclass(frozen=True)
class Preparation:
    """What happened to one part.

    Attributes:
        name: Name of the part.
        num_read: Entries of its files.
        num_selected: Events in the store.
        rate_fb: Sum of the weights, a rate in fb if the samples are normalised.
    """

    name: str
    num_read: int
    num_selected: int
    rate_fb: float


def prepare(
    samples: Path,
    out: Path,
    *,
    branch_map: BranchMap,
    table: MassTable | None = None,
    selection: Selection | None = None,
    num_folds: int = NUM_FOLDS,
) -> list[Preparation]:
    """Make a store.

    Args:
        samples: List of samples, or the directory of a simulation.
        out: Directory of the store; an existing store is replaced when the other is complete.
        branch_map: Which branch holds what.
        table: Mass points and their roles; signals must be in it.
        selection: Thresholds; those of the search if None.
        num_folds: Number of folds.

    Returns:
        A summary of every part.

    Raises:
        InputFileError: A file is damaged, lacks a branch, or no event of a part passes the selection.
        UserError: A mass point is not in the table, or the directory holds something else.
    """
    if num_folds < 3:
        raise UserError(f"num_folds is {num_folds}; choose at least 3: to train, to validate and to test.")
    table, selection = table or MassTable(), selection or Selection()
    groups: dict[str, list[tuple[SampleEntry, Files]]] = {}
    for entry, files in read_samples(samples):
        if entry.point is not None:
            table.role(entry.point)
        groups.setdefault(part_name(entry.process, entry.point), []).append((entry, files))
    _refuse_foreign(out)
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    with write_boundary(out):
        try:
            summaries = [
                _prepare_part(temporary, name, group, branch_map, selection, num_folds)
                for name, group in groups.items()
            ]
            names = {"classes": CLASSES, "channels": CHANNELS, "eras": ERAS}
            settings = {"selection": selection.model_dump(), **names}
            write_store(temporary, table, num_folds=num_folds, **settings)
            if out.exists():
                shutil.rmtree(out)
            temporary.rename(out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return summaries


def _refuse_foreign(out: Path) -> None:
    """Refuse a directory that holds something other than a store, of whatever version."""
    if out.is_dir() and not (out / STORE_FILE).exists() and (found := sorted(p.name for p in out.iterdir())):
        raise UserError(f"{out} holds '{found[0]}' and is no store; choose another --out.")


def _prepare_part(
    out: Path,
    name: str,
    group: Sequence[tuple[SampleEntry, Files]],
    branch_map: BranchMap,
    selection: Selection,
    num_folds: int,
) -> Preparation:
    point = group[0][0].point
    meta = {"process": group[0][0].process, "point": None if point is None else [point.mHc, point.mA]}
    num_read, rate = 0, 0.0
    with write_part(out, name, **meta) as part:
        for entry, files in group:
            scale = _scale(entry, files)
            cuts = selection
            if entry.era.startswith("2016"):  # the tracker ended at 2.4
                cuts = selection.model_copy(update={"jet_eta_max": min(selection.jet_eta_max, 2.4)})
            before = part.num_events
            for path in files:
                with EventReader(path, branch_map) as reader:
                    num_read += reader.num_entries
                    for events in reader:
                        columns = to_columns(select(events, entry.channel, cuts), entry, scale, num_folds)
                        part.extend(columns)
                        rate += float(columns["weight"].sum())
            if part.num_events == before:
                raise InputFileError(
                    files[0],
                    f"no event of {name} passes the selection {entry.channel} ({num_read} entries read)",
                    "check the channel, the branch map and the working points",
                )
        num_selected = part.num_events
    return Preparation(name, num_read, num_selected, rate)


def _scale(entry: SampleEntry, files: Files) -> float:
    """Factor from the weights in the files to a rate in fb."""
    if entry.cross_section_fb is not None and entry.sum_weights is not None:
        return entry.cross_section_fb / entry.sum_weights
    manifests = [verify_manifest(path) for path in files]
    known = [m for m in manifests if m is not None and "cross_section_fb" in m]
    if len(known) < len(files):
        return 1.0
    return float(known[0]["cross_section_fb"]) / sum(float(m["num_trials"]) for m in known)


def to_columns(events: Events, entry: SampleEntry, scale: float, num_folds: int) -> dict[str, Array]:
    """Arrange selected events as columns of the store.

    Args:
        events: Selected events.
        entry: Their sample.
        scale: Factor on the weights.
        num_folds: Number of folds.

    Returns:
        One array per column of `schema.COLUMNS`.
    """
    num = len(events)
    nodes, valid_mask = node_features(events)
    m1, m2 = pair_masses(events.kind == Object.MUON, events.pt, events.eta, events.phi, events.charge)
    return {
        "nodes": nodes,
        "valid_mask": valid_mask,
        "label": np.full(num, CLASSES.index(entry.process), np.int8),
        "weight": events.weight * scale,
        "fold": fold_of(events.run, events.lumi, events.event, num_folds),
        "channel": np.full(num, CHANNELS.index(entry.channel), np.int8),
        "era": np.full(num, ERAS.index(entry.era), np.int8),
        "m1": m1,
        "m2": m2,
        "run": events.run,
        "lumi": events.lumi,
        "event": events.event,
    }
