"""Checks of jets at the reader's boundary: what would train nonsense is refused with file, entry and value.

Dimensions: J jets, K particles of all jets.
"""

import difflib
from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from jet_foundation.data import schema
from jet_foundation.physics.jet_table import Jets

Array = NDArray[Any]

# |p| may exceed E by rounding of float32, and by the mass that a massless treatment drops; not by more.
MOMENTUM_EXCESS = 1e-4
DAMAGED = "the file is damaged or incomplete; copy it again or make it again"
SELECT_AGAIN = "remove such jets when the file is made"


def missing_branch(path: str | PathLike[str], name: str, present: Iterable[str]) -> InputFileError:
    """Describe an absent branch or array.

    Args:
        path: The file.
        name: What is absent.
        present: What the file holds.

    Returns:
        The error, which names the closest match.
    """
    # A name with a meaning of its own is no misspelling, and a particle branch hardly became a jet branch.
    known = {branch.name for branch in schema.BRANCHES}
    group = name.split("_")[0]
    alike = {other.lower(): other for other in present if other.split("_")[0] == group and other not in known}
    close = [alike[found] for found in difflib.get_close_matches(name.lower(), alike, n=1, cutoff=0.5)]
    remedy = f"rename '{close[0]}' if it means the same" if close else "give a file that holds it"
    return InputFileError(path, "is missing", remedy, branch=name)


def check_jets(
    path: str | PathLike[str],
    jets: Jets,
    *,
    first_entry: int = 0,
    names: tuple[str, ...] = ("E", "px", "py", "pz"),
) -> None:
    """Refuse jets without particles and particles that cannot exist.

    Args:
        path: The file they come from.
        jets: Jets as read.
        first_entry: Entry number of the first.
        names: Names on disk of the components of the four-vectors.

    Raises:
        InputFileError: A jet is empty, a number is NaN or infinite, an energy is negative, or |p| > E.
    """
    empty = np.flatnonzero(jets.num_particles == 0)
    if len(empty):
        raise InputFileError(
            path, "the jet holds no particle", SELECT_AGAIN, entry=first_entry + int(empty[0])
        )
    p4 = jets.p4
    if not np.isfinite(p4).all():
        particle, component = np.argwhere(~np.isfinite(p4))[0]
        _refuse(
            path,
            jets,
            int(particle),
            names[component],
            f"the value is {p4[particle, component]}",
            first_entry,
        )
    energy = p4[:, 0].astype(np.float64)
    if (energy <= 0).any():
        particle = int(np.argmax(energy <= 0))
        _refuse(
            path,
            jets,
            particle,
            names[0],
            f"the energy is {energy[particle]:.6g} GeV, not positive",
            first_entry,
        )
    momentum = np.sqrt((p4[:, 1:].astype(np.float64) ** 2).sum(axis=1))
    bad = momentum > energy * (1 + MOMENTUM_EXCESS)
    if bad.any():
        particle = int(np.argmax(bad))
        problem = f"|p| = {momentum[particle]:.6g} GeV exceeds E = {energy[particle]:.6g} GeV"
        remedy = "check the units and the order of the components"
        _refuse(path, jets, particle, names[0], problem, first_entry, remedy)
    for column, values in (("particle identity", jets.pid), ("impact parameters", jets.displacement)):
        if values is not None and not np.isfinite(values).all():
            particle = int(np.argwhere(~np.isfinite(values))[0, 0])
            _refuse(path, jets, particle, column, "a value is not finite", first_entry)


def _refuse(
    path: str | PathLike[str],
    jets: Jets,
    particle: int,
    branch: str,
    problem: str,
    first_entry: int,
    remedy: str = SELECT_AGAIN,
) -> None:
    jet = int(np.searchsorted(jets.offsets, particle, side="right")) - 1
    problem = f"particle {particle - int(jets.offsets[jet])}: {problem}"
    raise InputFileError(path, problem, remedy, branch=branch, entry=first_entry + jet)


def check_labels(path: str | PathLike[str], columns: dict[str, Array], *, first_entry: int = 0) -> Array:
    """Turn one-hot columns of any numeric type into class numbers.

    Args:
        path: The file they come from.
        columns: Column by branch name in the order of the classes, each (J,).
        first_entry: Entry number of the first row.

    Returns:
        Class numbers, (J,) int64.

    Raises:
        InputFileError: A column is not numeric, a value is neither 0 nor 1, or a row has not exactly one 1.
    """
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind not in "biuf":
            raise InputFileError(
                path,
                f"holds values of type {column.dtype}, not 0 or 1",
                "write the labels as numbers",
                branch=name,
            )
        odd = ~np.isin(column, (0, 1))
        if odd.any():
            entry = int(np.argmax(odd))
            problem = f"the label is {column[entry]}, not 0 or 1"
            raise InputFileError(path, problem, "write 0 or 1", branch=name, entry=first_entry + entry)
    one_hot = np.stack([column.astype(np.int64) for column in columns.values()], axis=1)
    total = one_hot.sum(axis=1)
    if (total != 1).any():
        entry = int(np.argmax(total != 1))
        problem = f"the jet has {total[entry]} labels"
        raise InputFileError(
            path,
            problem,
            "give exactly one label per jet",
            branch=next(iter(columns)),
            entry=first_entry + entry,
        )
    labels: Array = one_hot.argmax(axis=1)
    return labels
