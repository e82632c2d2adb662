"""`lhcb-extrap simulate` and `merge`: tracks with both ends, into a directory of shards or one file.

A shard depends on the configuration, the seed and its index alone, so any number of workers on any batch
system makes the same tracks, and running the command again makes only what is missing. A shard is in memory
as a whole (10 000 tracks are 1 MB), the sample never is.
"""

import json
from collections import Counter
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hep_shared.config import to_plain
from hep_shared.errors import InputFileError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import (
    atomic_write_json,
    manifest_path,
    reader_boundary,
    remove_temporaries,
    verify_manifest,
)
from hep_shared.seed import shard_seed
from lhcb_extrap.config import SimulationConfig
from lhcb_extrap.data.field_source import FieldConfig, field_fingerprint, load_field
from lhcb_extrap.data.tracks import (
    TrackBatch,
    find_files,
    list_shards,
    merge_tracks,
    shard_path,
    write_tracks,
)
from lhcb_extrap.physics.sampling import generate_tracks
from lhcb_extrap.physics.transport import native_backend, transport

INDEX_FILE = "simulation.json"
TRACKS_PER_FILE = 10_000


def simulate(
    config: SimulationConfig,
    field: FieldConfig,
    out: Path,
    *,
    num_tracks: int,
    seed: int,
    num_workers: int = 1,
    cluster: str = "local",
    tracks_per_file: int = TRACKS_PER_FILE,
) -> dict[str, Any]:
    """Simulate tracks into `out`.

    Args:
        config: Distribution of the tracks and stepping.
        field: Magnetic field.
        out: A file if it ends in `.npz`, otherwise a directory for `batch_00000.npz` and so on.
        num_tracks: Total number of tracks that arrive.
        seed: Seed of the sample.
        num_workers: Processes or batch jobs, for a directory.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.
        tracks_per_file: Tracks in each file of a directory.

    Returns:
        Output, numbers of files and tracks, the implementation that moved them, the rejected fraction and its
        reasons.

    Raises:
        UserError: The output exists with other parameters, hardly any track arrives, or a disk is full.
    """
    out = Path(out)
    single = out.suffix == ".npz"
    if num_tracks < 1 or tracks_per_file < 1:
        raise UserError(
            f"{num_tracks} tracks in files of {tracks_per_file} were asked for; both must be at least 1."
        )
    if single:
        tracks_per_file = num_tracks
    num_shards = -(-num_tracks // tracks_per_file)
    sample = {
        "seed": seed, "num_tracks": num_tracks, "tracks_per_file": tracks_per_file,
        "field": to_plain(field), **to_plain(config),
    }  # fmt: skip
    if not single:
        _claim_directory(out, sample)
    run_shards(
        partial(_make_shard, config, field, sample, out),
        num_shards,
        cluster=cluster,
        num_workers=1 if single else num_workers,
        done=partial(_is_done, sample, out),
        progress="simulate",
    )
    tried, rejected = 0, Counter[str]()
    for index in range(num_shards):
        record = json.loads(manifest_path(_path(out, index)).read_text())
        tried += record["num_tried"]
        rejected.update(record["num_rejected"])
    return {
        "output": out,
        "num_files": num_shards,
        "num_tracks": num_tracks,
        "backend": native_backend(),
        "rejected_fraction": sum(rejected.values()) / tried,
        "rejected": dict(rejected),
    }


def merge(inputs: list[str], out: Path, *, verify: bool = False) -> dict[str, Any]:
    """Put shards into one file, in constant memory.

    Args:
        inputs: Shards, globs or directories of shards.
        out: File to write, ending in `.npz`.
        verify: Compare with the sha256 sums and check every number first.

    Returns:
        Output, numbers of files and tracks.

    Raises:
        UserError: A shard is missing or damaged, or `out` is not an npz file.
    """
    if out.suffix != ".npz":
        raise UserError(f"--out {out} should end in .npz, for example --out tracks.npz.")
    files: list[Path] = []
    for item in inputs:
        files += list_shards(Path(item)) if Path(item).is_dir() else find_files([item], "--input")
    if out.resolve() in {file.resolve() for file in files}:
        raise UserError(f"--out {out} is also an input; choose another file.")
    num_tracks = merge_tracks(files, out, verify=verify, allow_backward=True)
    return {"output": out, "num_files": len(files), "num_tracks": num_tracks, "verified": verify}


def _path(out: Path, index: int) -> Path:
    """File of a shard: `out` itself, or a file in it."""
    return out if out.suffix == ".npz" else shard_path(out, index)


def _claim_directory(out: Path, sample: dict[str, Any]) -> None:
    """Write what the directory holds, or check that it already holds the same."""
    index = out / INDEX_FILE
    if index.exists():
        with reader_boundary(index, remedy="choose another --out or remove the directory"):
            existing = json.loads(index.read_text())["sample"]
        _require_equal(out, existing, sample)
        remove_temporaries(out)
    else:
        versions = {name: metadata.version(name) for name in ("lhcb-extrap", "numpy")}
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


def _make_shard(
    config: SimulationConfig, field: FieldConfig, sample: dict[str, Any], out: Path, index: int
) -> None:
    """Draw, propagate and write one file."""
    num = min(sample["tracks_per_file"], sample["num_tracks"] - index * sample["tracks_per_file"])
    field_map = load_field(field)
    move = partial(
        transport, field_map, num_steps=config.num_steps, method=config.method, acceptance=config.acceptance
    )
    try:
        tracks = generate_tracks(config.sampler(), move, num, shard_seed(sample["seed"], index))
    except ValueError as error:
        raise UserError(f"The simulation cannot go on: {error}.") from error
    batch = TrackBatch(
        X=np.column_stack([tracks.start, tracks.qop, tracks.dz]),
        Y=tracks.end,
        P=tracks.momentum_gev,
        Z=np.column_stack([tracks.z0, tracks.z0 + tracks.dz]),
    )
    write_tracks(
        _path(out, index), batch, shard=index, sample=sample, num_tried=tracks.num_tried,
        num_rejected=tracks.num_rejected, field_fingerprint=field_fingerprint(field_map),
    )  # fmt: skip
