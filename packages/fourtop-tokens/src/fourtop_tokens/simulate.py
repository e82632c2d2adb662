"""Make a file in the public format.

A class is made in blocks of `BLOCK` events, each with its own random numbers, so a file depends on the seed
and the number of events and not on how many workers made it. Finished blocks lie beside the output until the
file is written; an interrupted simulation makes only what is missing.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fourtop_tokens import __version__
from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet
from fourtop_tokens.data.schema import LABELS, SPLITS, MuonIds, Split
from fourtop_tokens.data.writer import write_events
from fourtop_tokens.physics import generator, pythia
from fourtop_tokens.physics.generator import SelectedEvents
from fourtop_tokens.physics.hard_process import BEAM_ENERGY
from fourtop_tokens.physics.selection import Selection
from hep_shared.errors import UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_path, reader_boundary
from hep_shared.seed import epoch_permutation, shard_seed

Engine = Literal["fast", "pythia"]
ENGINES: dict[Engine, Callable[[str, int, np.random.Generator], SelectedEvents]] = {
    "fast": generator.generate,
    "pythia": pythia.generate,
}
_DESCRIBE: dict[Engine, Callable[[str], dict[str, float]]] = {
    "fast": generator.describe,
    "pythia": pythia.describe,
}
_IS_NOT: dict[Engine, list[str]] = {
    "fast": [
        "spin correlated: only the W helicity in top decays is that of the Standard Model",
        "a parton shower or hadronisation: jets are clustered partons with smeared momenta",
    ],
    "pythia": [
        "spin correlated beyond what Pythia does in the decays of single resonances and taus",
        "with an underlying event: multiparton interactions are off",
    ],
}

BLOCK = 4096  # events; part of what a seed means
PUBLIC_NUM_EVENTS = 302_072
MIN_EVENTS = 100  # every class then occurs in every split


def simulate(
    path: str | Path,
    num_events: int = PUBLIC_NUM_EVENTS,
    *,
    seed: int = 0,
    engine: Engine = "fast",
    muon_ids: MuonIds = "plus_5",
    cluster: str = "local",
    num_workers: int = 1,
    progress: str | None = "blocks",
) -> dict[Split, EventSet]:
    """Simulate events and write them.

    Args:
        path: HDF5 file to write.
        num_events: Selected events of all splits together.
        seed: Seed, non-negative.
        engine: Name in `ENGINES`.
        muon_ids: Which muon is written as 5; see `schema.object_ids`.
        cluster: Where the blocks are made; see `hep_shared.farm.run_shards`.
        num_workers: Processes or batch jobs.
        progress: Label of the progress bar, or None.

    Returns:
        What was written, by split.

    Raises:
        UserError: There are too few events for five classes in three splits, or a file cannot be written.
    """
    if num_events < MIN_EVENTS:
        raise UserError(
            f"--num-events is {num_events}; ask for {MIN_EVENTS} or more to have every class in every split."
        )
    path = Path(path)
    per_split = {split: schema.class_sizes(size) for split, size in schema.split_sizes(num_events).items()}
    per_class = {label: sum(sizes[label] for sizes in per_split.values()) for label in LABELS}
    blocks = [
        (label, block, min(BLOCK, per_class[label] - block * BLOCK))
        for label in LABELS
        for block in range(-(-per_class[label] // BLOCK))
    ]
    parts = _parts_directory(path, engine, seed, blocks)
    run_shards(
        functools.partial(_make_block, parts, engine, seed, tuple(blocks)),
        len(blocks),
        cluster=cluster,
        num_workers=num_workers,
        done=functools.partial(_block_done, parts),
        progress=progress,
    )
    per_label = {
        label: SelectedEvents.concatenate(
            [_read_block(parts, index) for index, block in enumerate(blocks) if block[0] == label]
        )
        for label in LABELS
    }
    splits = _split(per_label, per_split, seed, muon_ids)
    write_events(path, splits, provenance(engine, num_events, seed, muon_ids))
    shutil.rmtree(parts)
    return splits


def provenance(engine: Engine, num_events: int, seed: int, muon_ids: MuonIds) -> dict[str, Any]:
    """What a simulated file says about itself.

    Args:
        engine: Name in `ENGINES`.
        num_events: Number of events.
        seed: Seed.
        muon_ids: Which muon is written as 5.

    Returns:
        Settings, figures of the generator, and what the events are not.
    """
    return {
        "generator": f"fourtop_tokens {__version__}, engine {engine}",
        "num_events": num_events,
        "seed": seed,
        "muon_ids": muon_ids,
        "beam_energy_gev": BEAM_ENERGY,
        "selection": vars(Selection()),
        "processes": {name: _DESCRIBE[engine](name) for name in LABELS.values()},
        "is_not": [
            "the public four-top sample: results on this file cannot be compared with published figures",
            "a matrix element: heavy particles follow phase space times a scale-free surrogate",
            *_IS_NOT[engine],
            "a parton-density set, a merged multi-jet sample, or a cross-section prediction",
            "a full detector: no pile-up, no misidentified leptons, no charge flips",
        ],
    }


def _parts_directory(path: Path, engine: str, seed: int, blocks: list[tuple[int, int, int]]) -> Path:
    """Directory of the finished blocks; its name says what they were made with."""
    digest = hashlib.sha256(json.dumps([engine, seed, blocks, __version__]).encode()).hexdigest()[:12]
    return path.with_name(f"{path.name}.parts-{digest}")


def _block_path(parts: Path, index: int) -> Path:
    return parts / f"block-{index:05d}.npz"


def _block_done(parts: Path, index: int) -> bool:
    return _block_path(parts, index).exists()


def _make_block(
    parts: Path, engine: Engine, seed: int, blocks: tuple[tuple[int, int, int], ...], index: int
) -> None:
    label, block, size = blocks[index]
    rng = np.random.default_rng(shard_seed(seed, block * len(LABELS) + label - 1))
    events = ENGINES[engine](LABELS[label], size, rng)
    with atomic_path(_block_path(parts, index)) as temporary:
        np.savez(temporary, **vars(events))


def _read_block(parts: Path, index: int) -> SelectedEvents:
    path = _block_path(parts, index)
    with reader_boundary(path, remedy="remove it and run again"), np.load(path, allow_pickle=False) as arrays:
        return SelectedEvents(**arrays)


def _split(
    per_label: dict[int, SelectedEvents], per_split: dict[Split, dict[int, int]], seed: int, muon_ids: MuonIds
) -> dict[Split, EventSet]:
    """Deal the events of each class out to the splits and shuffle each split."""
    used = dict.fromkeys(LABELS, 0)
    splits: dict[Split, EventSet] = {}
    for number, split in enumerate(SPLITS):
        chosen: list[SelectedEvents] = []
        for label, size in per_split[split].items():
            chosen.append(per_label[label][used[label] : used[label] + size])
            used[label] += size
        events = SelectedEvents.concatenate(chosen)
        labels = np.repeat(np.array([*per_split[split]], np.int8), [*per_split[split].values()])
        ids = schema.object_ids(events.objects, events.charges, muon_ids)
        order = epoch_permutation(seed, number, len(events))
        splits[split] = EventSet(ids, events.momenta, events.missing, labels)[order]
    return splits
