"""JetClass ROOT files: read in pieces, written whole.

A file made here has the branches of `schema.BRANCHES` and one more, `npart`, the number of particles that
ROOT needs to find their arrays. TTree, LZ4 at level 4 as in the published files, manifest beside.

Dimensions: J jets, K particles of all jets.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from hep_shared.files import (
    atomic_path,
    check_root_length,
    manifest_path,
    reader_boundary,
    verify_manifest,
    write_boundary,
    write_manifest,
)
from jet_foundation.data import schema
from jet_foundation.data.checks import DAMAGED, check_jets, check_labels, missing_branch
from jet_foundation.data.schema import Branch, FeatureSet
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets

Array = NDArray[Any]

CHUNK_JETS = 20_000


def needed_branches(feature_set: FeatureSet, *, labels: bool = True) -> tuple[Branch, ...]:
    """List the branches that a feature set needs.

    Args:
        feature_set: `kin`, `kinpid` or `full`.
        labels: Whether the class is needed.

    Returns:
        Branches of particles and labels.
    """
    identity = schema.IDENTITY if feature_set != "kin" else ()
    displacement = schema.DISPLACEMENT if feature_set == "full" else ()
    return (*schema.MOMENTUM, *identity, *displacement, *(schema.LABELS if labels else ()))


def iter_jetclass(
    path: Path,
    feature_set: FeatureSet = "full",
    *,
    chunk_jets: int = CHUNK_JETS,
    labels: bool = True,
    verify: bool = True,
    first: int = 0,
    stop: int | None = None,
) -> Iterator[Jets]:
    """Read a JetClass file piece by piece.

    Args:
        path: The file.
        feature_set: What to read of each particle.
        chunk_jets: Jets per piece.
        labels: Whether to read the class; without it every label is −1.
        verify: Compare the file with its manifest if it has one.
        first: First entry to read.
        stop: One past the last entry to read; None means the end.

    Yields:
        Checked jets; the jet-level branches that exist are among the scalars.

    Raises:
        InputFileError: The file is damaged, lacks a branch, or holds impossible jets.
    """
    with reader_boundary(path, remedy="give a complete ROOT file"):
        if verify:
            verify_manifest(path)
        check_root_length(path)
        file = uproot.open(path)
    with file:
        tree = _find_tree(path, file)
        needed = needed_branches(feature_set, labels=labels)
        present = set(tree.keys())
        for branch in needed:
            if branch.name not in present:
                raise missing_branch(path, branch.name, sorted(present))
        scalars = [branch for branch in (*schema.JET, *schema.AUX) if branch.name in present]
        num = int(tree.num_entries)
        if num == 0:
            raise InputFileError(path, "holds no jets", "give a file with at least one jet")
        stop = num if stop is None else min(stop, num)
        for start in range(first, stop, chunk_jets):
            end = min(start + chunk_jets, stop)
            yield _read(path, tree, (*needed, *scalars), start, end)


def _find_tree(path: Path, file: Any) -> Any:
    with reader_boundary(path, remedy=DAMAGED):
        keys = file.keys(cycle=False, recursive=False)
        if schema.TREE not in keys:
            found = ", ".join(keys) or "nothing"
            raise InputFileError(path, f"holds no tree '{schema.TREE}' but {found}", "give a JetClass file")
        return file[schema.TREE]


def _read(path: Path, tree: Any, branches: Sequence[Branch], start: int, stop: int) -> Jets:
    columns: dict[str, Any] = {}
    for branch in branches:
        with reader_boundary(path, branch=branch.name, remedy=DAMAGED):
            columns[branch.name] = tree[branch.name].array(entry_start=start, entry_stop=stop)
    counts: Array | None = None
    for branch in branches:
        if branch.level == "particle":
            counts = _check_counts(path, branch, columns[branch.name], counts, start)
    assert counts is not None

    def stack(group: Sequence[Branch], dtype: str) -> Array:
        return np.stack([np.asarray(ak.flatten(columns[b.name]), dtype) for b in group], axis=-1)

    names = columns.keys()
    label_columns = {b.name: _flat(path, b, columns[b.name]) for b in schema.LABELS if b.name in names}
    jets = Jets(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        p4=stack(schema.MOMENTUM, "f4"),
        labels=check_labels(path, label_columns, first_entry=start)
        if label_columns
        else np.full(len(counts), -1),
        pid=stack(schema.IDENTITY, "i1") if schema.IDENTITY[0].name in names else None,
        displacement=stack(schema.DISPLACEMENT, "f4") if schema.DISPLACEMENT[0].name in names else None,
        scalars={
            schema.scalar_name(b): _flat(path, b, columns[b.name]).astype("f4")
            for b in branches
            if b.level == "jet"
        },
    )
    check_jets(path, jets, first_entry=start, names=tuple(b.name for b in schema.MOMENTUM))
    return jets


def _check_counts(path: Path, branch: Branch, column: Any, counts: Array | None, start: int) -> Array:
    """Numbers of particles per jet, which must be the same in every branch."""
    with reader_boundary(path, branch=branch.name, remedy="write one number per particle"):
        found = np.asarray(ak.num(column, axis=1), np.int64)
    if counts is not None and not np.array_equal(found, counts):
        entry = int(np.argmax(found != counts))
        problem = f"holds {found[entry]} particles where {schema.MOMENTUM[0].name} holds {counts[entry]}"
        raise InputFileError(path, problem, "make the file again", branch=branch.name, entry=start + entry)
    return found


def _flat(path: Path, branch: Branch, column: Any) -> Array:
    with reader_boundary(path, branch=branch.name, remedy="write one number per jet"):
        values = ak.to_numpy(column)
        if values.ndim != 1:
            raise InputFileError(path, "holds several numbers per jet", "write one", branch=branch.name)
    return np.asarray(values)


def jet_columns(jets: Jets) -> dict[str, Any]:
    """Arrange jets as branches.

    Args:
        jets: Jets with identity and displacement.

    Returns:
        Jagged particle columns and flat jet columns by branch name, complete with relative positions and
        one-hot labels; jet-level numbers that are unknown are NaN.
    """
    total = jets.jet_p4()
    jet_eta, jet_phi, owner = fv.eta(total), fv.phi(total), jets.jet_of_particle
    side = np.where(jet_eta > 0, 1.0, -1.0)
    deta = side[owner] * (fv.eta(jets.p4) - jet_eta[owner])
    dphi = fv.wrap_phi(fv.phi(jets.p4) - jet_phi[owner])
    assert jets.pid is not None
    assert jets.displacement is not None
    blocks = (
        (schema.MOMENTUM, jets.p4),
        (schema.POSITION, np.stack([deta, dphi], axis=-1)),
        (schema.IDENTITY, jets.pid),
        (schema.DISPLACEMENT, jets.displacement),
    )
    columns: dict[str, Any] = {}
    for branches, values in blocks:
        for n, branch in enumerate(branches):
            columns[branch.name] = ak.unflatten(values[:, n].astype(branch.dtype), jets.num_particles)
    derived = {
        "pt": fv.pt(total),
        "eta": jet_eta,
        "phi": jet_phi,
        "energy": total[:, 0],
        "nparticles": jets.num_particles,
    }
    unknown = np.full(len(jets), np.nan)
    for branch in (*schema.JET, *schema.AUX):
        name = schema.scalar_name(branch)
        values = jets.scalars.get(name, derived.get(name, unknown))
        columns[branch.name] = np.asarray(values).astype(branch.dtype)
    for number, branch in enumerate(schema.LABELS):
        columns[branch.name] = (jets.labels == number).astype(branch.dtype)
    return columns


def write_jetclass(path: Path, jets: Jets, *, manifest: dict[str, object] | None = None) -> None:
    """Write a JetClass file and its manifest; the file appears complete or not at all.

    Args:
        path: The file; an existing one is replaced.
        jets: Jets with identity and displacement.
        manifest: What else the manifest should hold.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    columns = jet_columns(jets)
    particles = {
        branch.name.removeprefix("part_"): columns.pop(branch.name)
        for branch in schema.BRANCHES
        if branch.level == "particle"
    }
    content = {"part": ak.zip(particles), **columns}
    with atomic_path(path) as temporary, write_boundary(path):
        with uproot.recreate(temporary, compression=uproot.LZ4(4)) as file:
            file.mktree(schema.TREE, {name: _branch_type(values) for name, values in content.items()})
            file[schema.TREE].extend(content)
        manifest_path(path).unlink(missing_ok=True)
    write_manifest(path, num_jets=len(jets), **(manifest or {}))


def _branch_type(values: Any) -> Any:
    return values.dtype if isinstance(values, np.ndarray) else ak.type(values).content
