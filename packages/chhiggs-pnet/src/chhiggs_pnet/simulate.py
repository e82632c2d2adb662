"""`chhiggs-pnet simulate`: samples of every process and mass point, in shards.

A shard depends on the seed, the sample and its own index alone, so any number of workers makes the same
events, and running the command again makes only what is missing or damaged. The manifest of a file holds
its trials and cross-section, `samples.json` lists all files for `prepare`.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chhiggs_pnet import __version__
from chhiggs_pnet.config import Config, SimulatedData
from chhiggs_pnet.data.samples import SAMPLES_FILE
from chhiggs_pnet.data.schema import ERAS, LAYOUTS, Layout
from chhiggs_pnet.data.store import part_name
from chhiggs_pnet.data.writer import EventWriter
from chhiggs_pnet.physics.generator import ENGINES, Engine, generate_events
from chhiggs_pnet.physics.mass_points import MassPoint, parse_points
from chhiggs_pnet.physics.processes import CHANNELS, PROCESSES, Channel, Process
from chhiggs_pnet.physics.selection import Selection
from hep_shared.errors import InputFileError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_json, reader_boundary, verify_manifest

EVENTS_PER_FILE = 50_000
MAX_SEED = 2**31 - 1
BACKGROUNDS: tuple[Process, ...] = PROCESSES[1:]


@dataclass(frozen=True)
class _Shard:
    process: Process
    point: MassPoint | None
    channel: Channel
    index: int
    num_events: int

    @property
    def name(self) -> str:
        return f"{self.channel}_{part_name(self.process, self.point)}"

    @property
    def file(self) -> str:
        return f"{self.name}_{self.index:04d}.root"

    def seed(self, seed: int) -> np.random.SeedSequence:
        # The name as part of the key keeps the events of a sample when other samples are added.
        return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(self.name.encode()), self.index))


def simulate(
    out: Path,
    *,
    points: Sequence[MassPoint],
    num_events: int,
    seed: int,
    channels: Sequence[Channel] = CHANNELS,
    processes: Sequence[Process] = PROCESSES,
    engine: Engine = "fast",
    layout: Layout = "flat",
    era: str = "2018",
    selection: Selection | None = None,
    num_workers: int = 1,
    cluster: str = "local",
    events_per_file: int = EVENTS_PER_FILE,
) -> list[Path]:
    """Simulate samples.

    Args:
        out: Directory of the files.
        points: Mass points of the signal.
        num_events: Selected events of each process, channel and mass point.
        seed: Seed of all samples.
        channels: Channels.
        processes: Processes.
        engine: What makes the final states.
        layout: Names of the branches.
        era: Era that the events are labelled with.
        selection: Thresholds; those of the search if None.
        num_workers: Processes or batch jobs.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.
        events_per_file: Events in each file.

    Returns:
        All files, whether made by this call or before.

    Raises:
        UserError: A number or name is out of range, or the directory holds another simulation.
    """
    _check(points, num_events, seed, channels, processes, era, events_per_file)
    selection = selection or Selection()
    settings: dict[str, Any] = {
        "seed": seed,
        "engine": engine,
        "layout": layout,
        "selection": selection.model_dump(),
        "events_per_file": events_per_file,
    }
    shards = [
        _Shard(process, point, channel, index, min(events_per_file, num_events - index * events_per_file))
        for channel in channels
        for process in processes
        for point in (points if process == "signal" else (None,))
        for index in range(-(-num_events // events_per_file))
    ]
    _claim(out, settings)
    run_shards(
        partial(_make, out, shards, selection, settings),
        len(shards),
        cluster=cluster,
        num_workers=num_workers,
        done=partial(_is_done, out, shards, settings),
        progress="simulate",
    )
    _write_list(out, shards, settings, era)
    return [out / shard.file for shard in shards]


def simulate_samples(
    config: Config,
    out: Path,
    *,
    points: str | None = None,
    processes: str | None = None,
    num_events: int | None = None,
    seed: int | None = None,
    engine: str = "fast",
    layout: str = "flat",
    num_workers: int = 1,
    cluster: str = "local",
) -> list[Path]:
    """Simulate the signals and backgrounds of a configuration.

    Args:
        config: Gives mass points, channels, selection, and numbers that are not given here.
        out: Directory of the files.
        points: Mass points of the signal; those of the table if None.
        processes: Names of processes with commas between; all if None.
        num_events: Selected events of every sample; those of the configuration if None.
        seed: Seed of all samples; that of the configuration if None.
        engine: What makes the final states.
        layout: Names of the branches.
        num_workers: Processes or batch jobs.
        cluster: As in `simulate`.

    Returns:
        All files.

    Raises:
        UserError: A number or name is out of range, or the directory holds another simulation.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout is '{layout}'; choose {' or '.join(LAYOUTS)}.")
    if engine not in ENGINES:
        raise UserError(f"--engine is '{engine}'; choose {' or '.join(ENGINES)}.")
    named = [name.strip() for name in (processes or ",".join(PROCESSES)).split(",")]
    for name in named:
        if name not in PROCESSES:
            raise UserError(f"--processes names '{name}'; choose from {', '.join(PROCESSES)}.")
    chosen = [process for process in PROCESSES if process in named]
    wanted = config.data.simulated or SimulatedData()
    common: dict[str, Any] = {
        "points": parse_points(points) or config.masses.all_points,
        "seed": wanted.seed if seed is None else seed, "channels": wanted.channels,
        "selection": config.selection, "engine": engine, "layout": layout, "num_workers": num_workers,
        "cluster": cluster,
    }  # fmt: skip
    files: list[Path] = []
    for group, number in (
        (PROCESSES[:1], wanted.num_events),
        (BACKGROUNDS, wanted.num_background_events or wanted.num_events),
    ):
        if some := [process for process in chosen if process in group]:
            files += simulate(out, num_events=num_events or number, processes=some, **common)
    return files


def _check(
    points: Sequence[MassPoint],
    num_events: int,
    seed: int,
    channels: Sequence[str],
    processes: Sequence[str],
    era: str,
    events_per_file: int,
) -> None:
    for name, value, allowed in (
        *(("channel", channel, CHANNELS) for channel in channels),
        *(("process", process, PROCESSES) for process in processes),
        ("era", era, ERAS),
    ):
        if value not in allowed:
            raise UserError(f"The {name} '{value}' is unknown; choose one of {', '.join(allowed)}.")
    if "signal" in processes and not points:
        raise UserError("The signal needs at least one mass point; give one such as 130,90.")
    if num_events < 1 or events_per_file < 1:
        raise UserError(f"The number of events is {min(num_events, events_per_file)} but must be at least 1.")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed is {seed} but must be between 0 and {MAX_SEED}, as it is the run number.")


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a directory with a simulation of other settings."""
    index = out / SAMPLES_FILE
    if not index.exists():
        return
    with reader_boundary(index, remedy="choose another --out or remove the directory"):
        existing = json.loads(index.read_text())["settings"]
    for key, value in settings.items():
        if existing.get(key) != value:
            raise UserError(
                f"{out} was simulated with {key} = {existing.get(key)}, not {value}; "
                "choose another --out or remove it first."
            )


def _is_done(out: Path, shards: Sequence[_Shard], settings: dict[str, Any], index: int) -> bool:
    """Tell whether a shard is there and whole; damaged and unfinished ones are made again."""
    shard = shards[index]
    try:
        manifest = verify_manifest(out / shard.file)
    except InputFileError:
        return False
    return (
        manifest is not None
        and manifest.get("settings") == settings
        and manifest["num_events"] == shard.num_events
    )


def _make(
    out: Path, shards: Sequence[_Shard], selection: Selection, settings: dict[str, Any], index: int
) -> None:
    shard = shards[index]
    seed = settings["seed"]
    sample = generate_events(
        shard.process,
        shard.channel,
        shard.num_events,
        shard.seed(seed),
        point=shard.point,
        selection=selection,
        engine=settings["engine"],
    )
    # Run = seed, luminosity block = hash of the sample, event counted over its shards: unique over samples.
    first = shard.index * settings["events_per_file"]
    events = sample.events.with_ids(seed, zlib.crc32(shard.name.encode()), first)
    manifest = {
        "process": shard.process, "channel": shard.channel,
        "point": None if shard.point is None else [shard.point.mHc, shard.point.mA],
        "num_trials": sample.num_trials, "cross_section_fb": sample.cross_section_fb,
        "settings": settings, "version": __version__,
    }  # fmt: skip
    with EventWriter(out / shard.file, settings["layout"], manifest=manifest) as writer:
        writer.extend(events)


def _write_list(out: Path, shards: Sequence[_Shard], settings: dict[str, Any], era: str) -> None:
    entries: dict[str, dict[str, Any]] = {}
    for shard in shards:
        entry: dict[str, Any] = {
            "process": shard.process, "channel": shard.channel, "era": era, "files": [],
            "point": None if shard.point is None else f"{shard.point.mHc:g},{shard.point.mA:g}",
        }  # fmt: skip
        entries.setdefault(shard.name, entry)["files"].append(shard.file)
    path = out / SAMPLES_FILE
    if path.exists():  # samples of an earlier call stay listed
        for entry in json.loads(path.read_text())["samples"]:
            name = entry["files"][0].rpartition("_")[0]
            entries.setdefault(name, entry)
    atomic_write_json(path, {"settings": settings, "samples": list(entries.values())})
