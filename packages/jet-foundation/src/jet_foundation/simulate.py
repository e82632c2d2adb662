"""`jet-foundation simulate` and `simulate-events`: jets into JetClass ROOT files, toy events into a data set.

A shard holds one class and depends on the engine, the seed and its number alone, so any number of workers on
any batch system makes the same jets, and running the command again makes only what is missing or damaged.
"""

import json
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hep_shared.errors import InputFileError, UserError
from hep_shared.farm import run_shards
from hep_shared.files import atomic_write_json, reader_boundary, remove_temporaries, verify_manifest
from hep_shared.seed import shard_seed
from jet_foundation.data.events import write_events
from jet_foundation.data.jetclass import write_jetclass
from jet_foundation.data.shards import DatasetInfo
from jet_foundation.physics import pythia, toy_shower
from jet_foundation.physics.jet_table import Jets, concatenate
from jet_foundation.physics.processes import CLASSES
from jet_foundation.physics.toy_events import EVENT_CLASSES, generate_events

Engine = Literal["toy", "pythia"]
ENGINES: tuple[Engine, ...] = ("toy", "pythia")
JETS_PER_FILE = 2000
MIN_EVENTS_PER_CLASS = 10
INDEX_FILE = "simulation.json"
# Process names of the published files, in the order of the classes.
FILE_NAMES = (
    "ZJetsToNuNu", "HToBB", "HToCC", "HToGG", "HToWW4Q", "HToWW2Q1L", "ZToQQ", "WToQQ", "TTBar", "TTBarLep",
)  # fmt: skip


def simulate(
    out: Path,
    *,
    engine: Engine,
    num_jets: int,
    seed: int,
    num_workers: int = 1,
    cluster: str = "local",
    jets_per_file: int = JETS_PER_FILE,
) -> list[Path]:
    """Simulate the same number of jets of every class.

    Args:
        out: Directory for the files.
        engine: `pythia` for Pythia 8, or `toy` for the NumPy toy, which is no simulation of the LHC.
        num_jets: Jets of all classes together, rounded up to a multiple of ten.
        seed: Seed of the sample.
        num_workers: Processes or batch jobs.
        cluster: `local`, `slurm`, `htcondor` or the address of a Dask scheduler.
        jets_per_file: Jets in a file.

    Returns:
        All files of the sample, whether made by this call or before.

    Raises:
        UserError: The engine is not installed, the directory holds another sample, or a number is too small.
    """
    out = Path(out)
    _check_options(engine, num_jets, seed, jets_per_file)
    per_class = -(-num_jets // len(CLASSES))
    files_per_class = -(-per_class // jets_per_file)
    sample = {"engine": engine, "seed": seed, "jets_per_class": per_class, "jets_per_file": jets_per_file}
    _claim_directory(out, sample)
    num_shards = files_per_class * len(CLASSES)
    run_shards(
        partial(_make_shard, sample, out),
        num_shards,
        cluster=cluster,
        num_workers=max(num_workers, 1),  # one works in this process
        done=partial(_is_done, sample, out),
        progress="simulate",
    )
    return [_path(out, index) for index in range(num_shards)]


def _path(out: Path, index: int) -> Path:
    """File of a shard; the classes take turns."""
    return out / f"{FILE_NAMES[index % len(CLASSES)]}_{index // len(CLASSES):03d}.root"


def _check_options(engine: str, num_jets: int, seed: int, jets_per_file: int) -> None:
    if engine not in ENGINES:
        raise UserError(f"--engine is '{engine}'; choose {' or '.join(ENGINES)}.")
    if engine == "pythia":
        missing = [name for name in ("pythia8mc", "fastjet") if util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"Engine pythia needs {' and '.join(missing)}, not installed; "
                "install `jet-foundation[pythia]` or use --engine toy."
            )
    for name, value, low in (
        ("--num-jets", num_jets, 1),
        ("--seed", seed, 0),
        ("The number of jets per file", jets_per_file, 1),
    ):
        if value < low:
            raise UserError(f"{name} is {value} but must be at least {low}.")


def _claim_directory(out: Path, sample: dict[str, Any]) -> None:
    """Write what the directory holds, or check that it already holds the same."""
    index = out / INDEX_FILE
    if not index.exists():
        versions = {name: metadata.version(name) for name in ("numpy", "uproot")}
        if sample["engine"] == "pythia":
            versions |= {name: metadata.version(name) for name in ("pythia8mc", "fastjet")}
        atomic_write_json(index, {"sample": sample, "versions": versions})
        return
    with reader_boundary(index, remedy="choose another --out or remove the directory"):
        existing = json.loads(index.read_text())["sample"]
    for key, value in sample.items():
        if existing.get(key) != value:
            raise UserError(
                f"{out} holds a sample with {key} = {existing.get(key)}, not {value}; "
                "choose another --out or remove it first."
            )
    remove_temporaries(out)


def _is_done(sample: dict[str, Any], out: Path, index: int) -> bool:
    """Tell whether a shard is there, whole, and of this sample."""
    try:
        manifest = verify_manifest(_path(out, index))
    except InputFileError:
        return False
    return manifest is not None and manifest.get("sample") == sample


def _make_shard(sample: dict[str, Any], out: Path, index: int) -> None:
    """Generate and write one file."""
    name, number = CLASSES[index % len(CLASSES)], index // len(CLASSES)
    size = sample["jets_per_file"]
    num_jets = min(size, sample["jets_per_class"] - number * size)
    rng = np.random.default_rng(shard_seed(sample["seed"], index))
    jets = generate(sample["engine"], name, num_jets, rng)
    write_jetclass(_path(out, index), jets, manifest={"class": name, "shard": index, "sample": sample})


def generate(engine: Engine, name: str, num_jets: int, rng: np.random.Generator) -> Jets:
    """Generate jets of one class.

    Args:
        engine: `pythia` or `toy`.
        name: One of the JetClass classes.
        num_jets: Number of jets.
        rng: Random generator.

    Returns:
        Labelled jets.

    Raises:
        UserError: The engine is not installed.
    """
    if engine == "toy":
        return toy_shower.generate_toy(name, num_jets, rng)
    return concatenate(list(pythia.generate(name, num_jets, rng)))


def simulate_events(out: Path, *, num_events: int, seed: int) -> DatasetInfo:
    """Simulate toy events, the same number of every process, into a data set to train on.

    Args:
        out: Directory, which must not hold a data set.
        num_events: Events of all processes together, rounded up to a multiple of their number.
        seed: Seed of the sample.

    Returns:
        What was made.

    Raises:
        UserError: There are too few events for three splits, or `out` holds a data set.
    """
    per_class = -(-num_events // len(EVENT_CLASSES))
    if per_class < MIN_EVENTS_PER_CLASS:
        raise UserError(
            f"--num-events is {num_events} but must be at least {MIN_EVENTS_PER_CLASS * len(EVENT_CLASSES)}, "
            f"{MIN_EVENTS_PER_CLASS} of each of {len(EVENT_CLASSES)} processes."
        )
    parts = [
        generate_events(name, per_class, np.random.default_rng(shard_seed(seed, number)))
        for number, name in enumerate(EVENT_CLASSES)
    ]
    return write_events(Path(out), parts, seed=seed, source="toy events")
