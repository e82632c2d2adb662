"""`xec simulate`: photon events into one ROOT file or a directory of shards.

A shard depends on the configuration, the seed and its index alone, so any number of workers on any batch
system makes the same events, and running the command again makes only what is missing or damaged.
"""

import json
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.config import to_plain
from hep_shared.errors import InputFileError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_json, reader_boundary, remove_temporaries, verify_manifest
from hep_shared.seed import shard_seed
from megii_xec.data import schema
from megii_xec.data.writer import TreeWriter
from megii_xec.physics import coordinates as co
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.reconstruction import MIN_NPE_FOR_TIME, Reconstruction, reconstruct
from megii_xec.physics.simulator import PhotonEvents, iter_events

Array = NDArray[Any]

EVENTS_PER_FILE = 2000
INDEX_FILE = "simulation.json"
# Runs are numbered seed x 100 000 + shard, so that samples made with different seeds can be mixed.
RUNS_PER_SEED = 100_000
MAX_SEED = np.iinfo(np.int32).max // RUNS_PER_SEED - 1


def simulate(
    config: SimulationConfig,
    out: Path,
    *,
    num_events: int,
    seed: int,
    num_workers: int = 1,
    cluster: str = "local",
    events_per_file: int = EVENTS_PER_FILE,
) -> list[Path]:
    """Simulate photon events into `out`.

    Args:
        config: Detector, source and output layout.
        out: A file if it ends in `.root`, otherwise a directory for `photons_00000.root` and so on.
        num_events: Total number of events.
        seed: Seed of the sample; pairs of run and event are unique over seeds.
        num_workers: Processes or batch jobs, for a directory.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.
        events_per_file: Events in each file of a directory.

    Returns:
        All files of the sample, in order, whether made by this call or before.

    Raises:
        UserError: The output exists with other parameters, a number is out of range, or a disk is full.
    """
    out = Path(out)
    single = out.suffix == ".root"
    if single:
        events_per_file = max(num_events, 1)
    _check_numbers(num_events, seed, events_per_file)
    num_shards = -(-num_events // events_per_file)
    if num_shards > RUNS_PER_SEED:
        raise UserError(
            f"{num_shards} files are more than {RUNS_PER_SEED}; raise the number of events per file."
        )

    sample = {"seed": seed, "num_events": num_events, "events_per_file": events_per_file} | to_plain(config)
    if not single:
        _claim_directory(out, sample)
    run_shards(
        partial(_make_shard, config, sample, out),
        num_shards,
        cluster=cluster,
        num_workers=1 if single else num_workers,
        done=partial(_is_done, sample, out),
        progress="simulate",
    )
    return [_path(out, index) for index in range(num_shards)]


def _path(out: Path, index: int) -> Path:
    """File of a shard: `out` itself, or a file in it."""
    return out if out.suffix == ".root" else out / f"photons_{index:05d}.root"


def _check_numbers(num_events: int, seed: int, events_per_file: int) -> None:
    if num_events < 1:
        raise UserError(f"--num-events is {num_events} but must be at least 1.")
    if events_per_file < 1:
        raise UserError(f"The number of events per file is {events_per_file} but must be at least 1.")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(
            f"--seed is {seed} but must be between 0 and {MAX_SEED}, as it is part of the run number."
        )


def _claim_directory(out: Path, sample: dict[str, Any]) -> None:
    """Write what the directory holds, or check that it already holds the same."""
    index = out / INDEX_FILE
    if index.exists():
        with reader_boundary(index, remedy="choose another --out or remove the directory"):
            existing = json.loads(index.read_text())["sample"]
        _require_equal(out, existing, sample)
        remove_temporaries(out)
    else:
        versions = {name: metadata.version(name) for name in ("megii-xec", "numpy", "uproot")}
        atomic_write_json(index, {"sample": sample, "versions": versions})


def _require_equal(path: Path, existing: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(existing.keys() | wanted.keys()):
        if existing.get(key) != wanted.get(key):
            raise UserError(
                f"{path} was simulated with {key} = {existing.get(key)}, not {wanted.get(key)}; "
                "choose another --out or remove it first."
            )


def _is_done(sample: dict[str, Any], out: Path, index: int) -> bool:
    """Tell whether a shard is there and whole; damaged and unfinished ones are made again."""
    path = _path(out, index)
    try:
        manifest = verify_manifest(path)
    except InputFileError:
        return False
    if manifest is None:
        return False
    _require_equal(path, manifest.get("sample", {}), sample)
    return True


def _make_shard(config: SimulationConfig, sample: dict[str, Any], out: Path, index: int) -> None:
    """Simulate, reconstruct and write one file."""
    num_events = min(sample["events_per_file"], sample["num_events"] - index * sample["events_per_file"])
    run = sample["seed"] * RUNS_PER_SEED + index
    branches = schema.REAL_DATA if config.real_data_layout else schema.BRANCHES
    rng = np.random.default_rng(shard_seed(sample["seed"], index))
    first_event = 0
    with TreeWriter(_path(out, index), branches, manifest={"shard": index, "sample": sample}) as writer:
        for events in iter_events(config, num_events, rng):
            reco = reconstruct(events.readout.npho, events.readout.time_ns, config)
            columns = event_columns(events, reco, run=run, first_event=first_event)
            writer.extend({branch.name: columns[branch.name] for branch in branches})
            first_event += len(events.time_ns)


def event_columns(
    events: PhotonEvents, reco: Reconstruction, *, run: int, first_event: int
) -> dict[str, Array]:
    """Arrange simulated and reconstructed quantities as branches.

    Args:
        events: A chunk of B events.
        reco: Their conventional reconstruction.
        run: Run number of all of them.
        first_event: Event number of the first.

    Returns:
        One array per branch of `schema.BRANCHES`, first axis B, in the units and types on disk.
    """
    photons, readout = events.photons, events.readout
    num = len(events.time_ns)
    time_s = readout.time_ns * np.float32(1e-9)

    channel_max = np.argmax(np.where(np.isfinite(readout.npho), readout.npho, -np.inf), axis=1)
    npho_max = np.take_along_axis(readout.npho, channel_max[:, None], axis=1)
    usable = np.where(np.isfinite(time_s) & (readout.nphe > MIN_NPE_FOR_TIME), time_s, np.inf)
    channel_min = np.argmin(usable, axis=1)
    time_min = np.take_along_axis(usable, channel_min[:, None], axis=1)
    time_min = np.where(np.isfinite(time_min), time_min, np.nan)  # no sensor above the threshold
    channel_min = np.where(np.isfinite(time_min[:, 0]), channel_min, -1)

    values: dict[schema.Branch, Array] = {
        schema.RUN: np.full(num, run),
        schema.EVENT: first_event + np.arange(num),
        schema.NPHO: readout.npho,
        schema.NPHE: readout.nphe,
        schema.TIME: time_s,
        schema.RELATIVE_NPHO: readout.npho / npho_max,
        schema.RELATIVE_TIME: time_s - time_min,
        schema.SOLID_ANGLE: events.solid_angle,
        schema.CH_NPHO_MAX: channel_max,
        schema.CH_TIME_MIN: channel_min,
        schema.NPHO_MAX_USED: npho_max[:, 0],
        schema.TIME_MIN_USED: time_min[:, 0],
        schema.XYZ_TRUTH: photons.conversion,
        schema.XYZ_VERTEX: photons.vertex,
        schema.EMI_VEC: photons.direction,
        schema.EMI_ANG: co.vector_to_angles(photons.direction),
        schema.UVW_TRUTH: co.xyz_to_uvw(photons.conversion),
        schema.ENERGY_TRUTH: photons.energy_mev * 1e-3,
        schema.TIME_TRUTH: events.time_ns,
        schema.NUM_GAMMA: events.num_gamma,
        schema.XYZ_RECO_FI: co.uvw_to_xyz(reco.uvw_mean),
        schema.XYZ_RECO_LC: co.uvw_to_xyz(reco.uvw_fit),
        schema.UVW_RECO_FI: reco.uvw_mean,
        schema.UVW_RECO_LC: reco.uvw_fit,
        schema.ENERGY_RECO: reco.energy_mev * 1e-3,
        schema.TIME_RECO: reco.time_ns,
    }
    columns = {branch.name: array.astype(branch.dtype) for branch, array in values.items()}
    for column in columns.values():
        if column.dtype.kind == "f":
            column[np.isnan(column)] = schema.MISSING
    return columns
