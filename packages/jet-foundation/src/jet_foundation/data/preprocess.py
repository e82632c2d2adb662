"""From files of any supported kind to a balanced data set of shards.

Every class contributes the same number of jets to each split. The first jets of a class in the order of the
files are taken and dealt to the splits by a permutation of the seed. The normalisation sees training jets
only. Memory holds the jets that are kept, 1.5 kB each.

Dimensions: J jets, K particles of all jets.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import InputFileError, UserError
from hep_shared.files import make_directory, reader_boundary, remove_temporaries
from hep_shared.seed import epoch_permutation, shard_seed
from jet_foundation.data import foreign, schema
from jet_foundation.data.features import FEATURE_NAMES, particle_features
from jet_foundation.data.jetclass import iter_jetclass
from jet_foundation.data.normalization import Moments, Normalization
from jet_foundation.data.schema import FEATURE_SETS, FeatureSet
from jet_foundation.data.shards import INDEX_FILE, SPLITS, DatasetInfo, write_info, write_shard
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets, concatenate
from jet_foundation.physics.processes import CLASSES

Array = NDArray[Any]

Kind = Literal["jetclass", "top", "quark-gluon", "sample"]
SHARD_JETS = 50_000
_JET_SCALARS = ("pt", "eta", "phi", "energy", "mass", "sdmass")


class Source(NamedTuple):
    """Files of one kind.

    Attributes:
        kind: Layout of the files.
        classes: Class names in the order of the labels.
        paths: The files.
    """

    kind: Kind
    classes: tuple[str, ...]
    paths: tuple[Path, ...]


def find_source(inputs: Sequence[Path], *, classes: Sequence[str] | None = None) -> Source:
    """Recognise what kind of files are given.

    Args:
        inputs: Files, or directories whose ROOT, HDF5 and npz files are taken.
        classes: Class names of a padded sample; None takes those of JetClass.

    Returns:
        The source.

    Raises:
        UserError: There are no files, or files of several kinds.
    """
    paths: list[Path] = []
    for path in map(Path, inputs):
        found = (
            sorted(p for p in path.rglob("*") if p.suffix in (".root", ".h5", ".npz"))
            if path.is_dir()
            else [path]
        )
        if not found:
            raise InputFileError(path, "holds no .root, .h5 or .npz file", "give files or another directory")
        paths += found
    if not paths:
        raise UserError("No input files are given; name ROOT, HDF5 or npz files.")
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise UserError(
            f"The inputs are of several kinds ({', '.join(sorted(kinds))}); give one kind at a time."
        )
    kind = kinds.pop()
    names = {
        "jetclass": CLASSES,
        "top": foreign.TOP_CLASSES,
        "quark-gluon": foreign.QG_CLASSES,
        "sample": CLASSES,
    }
    return Source(kind, tuple(classes or names[kind]), tuple(paths))


def _kind(path: Path) -> Kind:
    if not path.exists():
        raise InputFileError(path, "does not exist", "check the path")
    if path.suffix == ".root":
        return "jetclass"
    if path.suffix in (".h5", ".hdf5"):
        return "top"
    with (
        reader_boundary(path, remedy="give a ROOT, HDF5 or npz file"),
        np.load(path, allow_pickle=False) as file,
    ):
        return "quark-gluon" if "X" in file.files else "sample"


def iter_jets(source: Source, feature_set: FeatureSet, *, labels: bool = True) -> Iterator[Jets]:
    """Read all files of a source.

    Args:
        source: The files.
        feature_set: What to read where the files offer it.
        labels: Whether JetClass labels are needed.

    Yields:
        Checked jets.
    """
    for path in source.paths:
        if source.kind == "jetclass":
            yield from iter_jetclass(path, feature_set, labels=labels)
        elif source.kind == "top":
            yield from foreign.iter_top_landscape(path)
        elif source.kind == "quark-gluon":
            yield foreign.read_quark_gluon(path)
        else:
            yield foreign.read_padded_sample(path, len(source.classes))


def with_scalars(jets: Jets) -> Jets:
    """Compute pt, eta, phi, energy and mass of the jets from their summed four-vectors.

    Args:
        jets: Any jets, with all their particles.

    Returns:
        The same jets; an unknown soft-drop mass is NaN.
    """
    total = jets.jet_p4()
    unknown = np.full(len(jets), np.nan, np.float32)
    values = {
        "pt": fv.pt(total),
        "eta": fv.eta(total),
        "phi": fv.phi(total),
        "energy": total[:, 0],
        "mass": fv.mass(total),
        "sdmass": jets.scalars.get("sdmass", unknown),
    }
    scalars = {name: np.asarray(values[name], np.float32) for name in _JET_SCALARS}
    return Jets(jets.offsets, jets.p4, jets.labels, jets.pid, jets.displacement, scalars)


def preprocess(
    inputs: Sequence[Path],
    out: Path,
    *,
    jets_per_class: int | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    feature_set: FeatureSet | None = None,
    scheme: Literal["fitted", "part"] = "fitted",
    max_particles: int = schema.MAX_PARTICLES,
    classes: Sequence[str] | None = None,
    seed: int = 42,
    shard_jets: int = SHARD_JETS,
) -> DatasetInfo:
    """Make a balanced data set.

    Args:
        inputs: Files or directories of one kind.
        out: Directory for the shards; it must not hold a data set.
        jets_per_class: Jets of each class over all splits; None takes as many as the rarest class has.
        fractions: Shares of train, val and test.
        feature_set: What to keep of the particles; None keeps all that the files offer.
        scheme: Normalisation of the features.
        max_particles: Softer particles of longer jets are left out.
        classes: Class names of a padded sample.
        seed: Decides which jet goes where.
        shard_jets: Jets per shard.

    Returns:
        What was made.

    Raises:
        UserError: An input is unusable, a class has too few jets, or `out` holds a data set.
    """
    out = Path(out)
    _check_options(out, fractions, jets_per_class)
    source = find_source(inputs, classes=classes)
    kept = _collect(source, feature_set, jets_per_class, max_particles)
    offered = min((foreign.available_features(jets) for jets in kept), key=FEATURE_SETS.index)
    feature_set = offered if feature_set is None else feature_set
    if FEATURE_SETS.index(feature_set) > FEATURE_SETS.index(offered):
        raise UserError(f"Feature set '{feature_set}' is not in these files; use '{offered}'.")

    counts = _split_counts(min(map(len, kept)), fractions)
    make_directory(out)
    remove_temporaries(out)
    shards: dict[str, tuple[str, ...]] = {}
    moments, particles = Moments(len(FEATURE_NAMES[feature_set])), 0
    start = 0
    for number, split in enumerate(SPLITS):
        picked = [_pick(jets, label, seed, start, counts[split]) for label, jets in enumerate(kept)]
        start += counts[split]
        jets = concatenate(picked)
        jets = jets.take(np.random.default_rng(shard_seed(seed, number)).permutation(len(jets)))
        names = []
        for first in range(0, len(jets), shard_jets):
            shard = jets.take(np.arange(first, min(first + shard_jets, len(jets))))
            if split == "train":
                moments.add(particle_features(shard, feature_set))
                particles += len(shard.p4)
            names.append(f"{split}_{first // shard_jets:05d}.npz")
            write_shard(out / names[-1], shard)
        shards[split] = tuple(names)
    normalization = (
        Normalization.part(feature_set) if scheme == "part" else Normalization.fitted(feature_set, moments)
    )
    info = DatasetInfo(
        classes=source.classes,
        feature_set=feature_set,
        normalization=normalization,
        num_jets={split: counts[split] * len(source.classes) for split in SPLITS},
        shards=shards,
        mean_num_particles=particles / (counts["train"] * len(source.classes)),
        sources=tuple(path.name for path in source.paths),
    )
    write_info(out, info)
    return info


def _check_options(out: Path, fractions: tuple[float, float, float], jets_per_class: int | None) -> None:
    if (out / INDEX_FILE).exists():
        raise UserError(f"{out} already holds a data set; choose another --out or remove it first.")
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise UserError(f"The split fractions are {fractions}; give three that sum to 1, the first above 0.")
    if jets_per_class is not None and jets_per_class < 1:
        raise UserError(f"The number of jets per class is {jets_per_class} but must be at least 1.")


def _collect(
    source: Source, feature_set: FeatureSet | None, jets_per_class: int | None, max_particles: int
) -> list[Jets]:
    """Take the first jets of each class."""
    parts: list[list[Jets]] = [[] for _ in source.classes]
    found = [0] * len(source.classes)
    for jets in _readable(source, feature_set):
        jets = with_scalars(jets).truncated(max_particles)
        for label in range(len(source.classes)):
            chosen = np.flatnonzero(jets.labels == label)
            if jets_per_class is not None:
                chosen = chosen[: jets_per_class - found[label]]
            if len(chosen):
                parts[label].append(jets.take(chosen))
                found[label] += len(chosen)
        if jets_per_class is not None and min(found) >= jets_per_class:
            break
    wanted = 1 if jets_per_class is None else jets_per_class
    for name, number in zip(source.classes, found, strict=True):
        if number < wanted:
            raise UserError(
                f"Class {name} has {number} jets in these files but {wanted} are needed; add files."
            )
    return [concatenate(part) for part in parts]


def _readable(source: Source, feature_set: FeatureSet | None) -> Iterable[Jets]:
    """Read with the feature set asked for, or with the largest one of which a JetClass file holds a part."""
    if feature_set is not None or source.kind != "jetclass":
        return iter_jets(source, feature_set or "kin")
    import uproot

    with (
        reader_boundary(source.paths[0], remedy="give a complete ROOT file"),
        uproot.open(source.paths[0]) as file,
    ):
        tree = file.get(schema.TREE)
        present = set(tree.keys()) if tree is not None else set()
    # Where only some branches of a group are there, reading it tells which are missing.
    fitting: FeatureSet = "kin"
    if any(branch.name in present for branch in schema.IDENTITY):
        fitting = "full" if any(branch.name in present for branch in schema.DISPLACEMENT) else "kinpid"
    return iter_jets(source, fitting)


def _split_counts(num: int, fractions: tuple[float, float, float]) -> dict[str, int]:
    """Jets of each class per split; val and test are rounded down, train takes the rest."""
    val, test = (int(num * fraction + 1e-9) for fraction in fractions[1:])
    return {"train": num - val - test, "val": val, "test": test}


def _pick(jets: Jets, label: int, seed: int, start: int, count: int) -> Jets:
    """Deal jets of one class; the permutation is the same for every split."""
    order = epoch_permutation(seed, label, len(jets))
    return jets.take(np.sort(order[start : start + count]))
