"""What a photon file must look like, and one sentence for each way in which it may not.

Damaged numbers do not always raise: a ROOT basket stored uncompressed has no checksum. Files that carry a
`<file>.manifest.json` are compared with its sha256; the others are held to what the units allow.

Dimensions: B events, S sensors.
"""

import difflib
import glob
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from hep_shared.errors import InputFileError
from hep_shared.files import StrPath, manifest_path, verify_manifest
from megii_xec.data.schema import BRANCHES, ENERGY_RECO, ENERGY_TRUTH, INVALID_ABOVE, TREE, Branch

MANIFEST_LIMIT_BYTES = 2 * 1024**3  # larger files are checked only when asked: hashing takes a second a GB
TIME_LIMIT_S = 1.0e-3  # the readout window is below 1 microsecond; times in ns or us are far above this
ENERGY_LIMIT_GEV = 1.0  # photons have 15 to 130 MeV
_UNIT_CHECK_EVENTS = 8
_NAN_CHECK_STRIDE = 97  # sensors looked at first: an event without a number has none there either


def expand_paths(paths: StrPath | Iterable[StrPath]) -> list[Path]:
    """Find the files that names and patterns stand for.

    Args:
        paths: One or more file names or glob patterns (`**` allowed).

    Returns:
        The files, patterns in the order given, sorted within each; each file once.

    Raises:
        InputFileError: A file is missing or a directory, a pattern matches nothing, or no path was given.
    """
    patterns = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not patterns:
        raise InputFileError("input", "no file was given", "give at least one ROOT file or pattern")
    found: dict[Path, Path] = {}
    for pattern in [os.fspath(path) for path in patterns]:
        if Path(pattern).exists() or not glob.has_magic(pattern):
            matches = [pattern]
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise InputFileError(pattern, "matches no file", "check the pattern")
        for path in map(Path, matches):
            if path.is_dir():
                raise InputFileError(path, "is a directory", f"give files, for example '{path}/*.root'")
            if not path.exists():
                raise InputFileError(path, "does not exist", "check the path")
            found.setdefault(path.resolve(), path)
    return list(found.values())


def verify_once(path: Path, *, large: bool = False) -> None:
    """Compare a file with its manifest, once for each state of the file.

    Args:
        path: The file; without a manifest nothing is done.
        large: Also check files above 2 GB.

    Raises:
        InputFileError: The file differs from its manifest.
    """
    manifest = manifest_path(path)
    if manifest.exists() and (large or path.stat().st_size < MANIFEST_LIMIT_BYTES):
        _verify(path, *_state(path), *_state(manifest))


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=65536)
def _verify(path: Path, *state: int) -> None:
    verify_manifest(path)


def find_tree(path: Path, file: Any) -> Any:
    """Pick the photon tree of an open file.

    Args:
        path: The file, for messages.
        file: What `uproot.open` returned.

    Returns:
        The TTree `tree`.

    Raises:
        InputFileError: There is no such tree, it is an RNTuple or something else, or it is empty.
    """
    classes = file.classnames(cycle=False)
    if classes.get(TREE) != "TTree":
        if classes.get(TREE, "").endswith("RNTuple"):
            problem = f"'{TREE}' is an RNTuple, not a TTree"
            raise InputFileError(path, problem, "write it with TTree, or with uproot's mktree")
        trees = sorted(name for name, kind in classes.items() if kind == "TTree")
        found = f"the trees found are {', '.join(trees)}" if trees else "it holds no tree at all"
        raise InputFileError(path, f"has no tree '{TREE}', {found}", f"rename the tree to '{TREE}'")
    tree = file[TREE]
    if tree.num_entries <= 0:
        problem = f"tree '{TREE}' is empty"
        raise InputFileError(path, problem, "remove the file from the list, or close its writer properly")
    return tree


def find_branch(path: Path, tree: Any, branch: Branch) -> Any:
    """Pick a branch of the tree and compare it with the schema.

    Args:
        path: The file, for messages.
        tree: The TTree.
        branch: The branch wanted.

    Returns:
        The TBranch.

    Raises:
        InputFileError: It is missing, of variable length, of another length, not numeric, or incomplete.
    """
    name = branch.name
    names = tree.keys(recursive=False)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"the nearest names are {', '.join(near)}" if near else f"it has {len(names)} others"
        if branch.role == "truth":
            remedy = "give a simulated file, or ask for no truth as one does for real data"
        else:
            remedy = f"write branch '{name}' ({branch.text})"
        raise InputFileError(path, f"is missing, {hint}", remedy, branch=name)
    found = tree[name]
    interpretation = found.interpretation
    if not isinstance(interpretation, uproot.AsDtype) or interpretation.from_dtype.names is not None:
        problem = f"has type {found.typename}, not {_text(branch)}"
        remedy = f"write it with a fixed length as '{name}{_leaf(branch)}'"
        raise InputFileError(path, problem, remedy, branch=name)
    base, shape = interpretation.from_dtype.base, interpretation.from_dtype.shape
    if base.kind not in ("f" if branch.dtype == "f4" else "iu") or int(np.prod(shape)) != int(
        np.prod(branch.shape)
    ):
        problem = f"has type {found.typename}, not {_text(branch)}"
        raise InputFileError(path, problem, f"write it as '{name}{_leaf(branch)}'", branch=name)
    offsets = np.asarray(found.entry_offsets, np.int64)
    if offsets[0] != 0 or offsets[-1] != tree.num_entries or np.any(np.diff(offsets) <= 0):
        problem = f"holds {offsets[-1]} entries in its baskets but the tree has {tree.num_entries}"
        raise InputFileError(path, problem, "copy the file again or make it again", branch=name)
    return found


def _text(branch: Branch) -> str:
    kind = "float" if branch.dtype == "f4" else "integer"
    return kind + "".join(f"[{length}]" for length in branch.shape)


def _leaf(branch: Branch) -> str:
    letter = {"f4": "F", "i4": "I", "i2": "S"}[branch.dtype]
    return "".join(f"[{length}]" for length in branch.shape) + f"/{letter}"


def check_sensors(path: Path, branch: Branch, values: np.ndarray, first_entry: int) -> None:
    """Refuse events without a single number and times in another unit.

    Args:
        path: The file, for messages.
        branch: Where the values come from.
        values: Consecutive entries as stored, (B, S).
        first_entry: Entry number of `values[0]`.

    Raises:
        InputFileError: An event is all NaN, or the times are not in seconds.
    """
    suspects = np.flatnonzero(np.isnan(values[:, ::_NAN_CHECK_STRIDE]).all(axis=1))
    for row in suspects:
        if np.isnan(values[row]).all():
            problem = f"all {values.shape[1]} sensors are NaN"
            remedy = "remove the event, or write 1e10 for sensors without a value"
            raise InputFileError(path, problem, remedy, branch=branch.name, entry=first_entry + int(row))
    if branch.unit == "s":
        magnitude = np.abs(values[:_UNIT_CHECK_EVENTS].astype(np.float32))
        _check_median(path, branch, magnitude[magnitude <= INVALID_ABOVE], TIME_LIMIT_S, "seconds")


def check_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Refuse energies in another unit.

    Args:
        path: The file, for messages.
        columns: Values by branch name, (B,) or (B, K).

    Raises:
        InputFileError: The median energy is above 1 GeV.
    """
    for branch in (ENERGY_TRUTH, ENERGY_RECO):
        if branch.name in columns:
            values = columns[branch.name]
            _check_median(path, branch, values[np.abs(values) <= INVALID_ABOVE], ENERGY_LIMIT_GEV, "GeV")


def _check_median(path: Path, branch: Branch, values: np.ndarray, limit: float, unit: str) -> None:
    if values.size and (median := float(np.median(values))) > limit:
        problem = (
            f"the median is {median:.3g}, above the {limit:g} {unit} possible, so the unit is not {unit}"
        )
        raise InputFileError(path, problem, f"write the values in {unit}", branch=branch.name)


def check_target(path: Path, branch: Branch, values: np.ndarray, entries: np.ndarray) -> None:
    """Refuse targets that are not numbers.

    Args:
        path: The file, for messages.
        branch: The truth behind the target.
        values: Targets, (B, K).
        entries: Entry numbers of the rows, (B,).

    Raises:
        InputFileError: A target is NaN, infinite or missing.
    """
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        problem = f"the target is not finite ({values[bad[0]].tolist()}, {bad.size} such events nearby)"
        remedy = "remove these events, or leave them out with the selection"
        raise InputFileError(path, problem, remedy, branch=branch.name, entry=int(entries[bad[0]]))


def schema_differences(tree: Any) -> tuple[list[str], list[str]]:
    """Compare the branches of a tree with the schema.

    Args:
        tree: The TTree.

    Returns:
        Names in the schema that the tree lacks, and names in the tree that the schema lacks.
    """
    present, known = set(tree.keys(recursive=False)), {branch.name for branch in BRANCHES}
    return sorted(known - present), sorted(present - known)
