"""Events in memory, and the checked reader of the public format.

N events, 18 objects.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.data import schema
from fourtop_tokens.data.schema import SPLITS, X_KEYS, Y_KEYS, Split
from hep_shared.errors import InputFileError
from hep_shared.files import reader_boundary, verify_manifest

Units = Literal["gev", "mev"]
_NAMES: dict[Units, str] = {"gev": "GeV", "mev": "MeV"}

# The median of the leading pT is 100-300 GeV in any top sample: far from both ends, a thousand times that
# where MeV are taken for GeV, and a thousandth where GeV are taken for MeV.
_LEADING_PT_GEV = (5.0, 5000.0)
_ID_REMEDY = "number the objects anew, ids are 0 (empty) to 7 (photon)"
_LABEL_REMEDY = "label the events anew, labels are 1 (tttt) to 5 (ttZ)"
_COPY = "copy the file again or make it again with `fourtop-tokens simulate`"


@dataclass(frozen=True)
class EventSet:
    """One split.

    Attributes:
        ids: Object codes, 0 where there is no object, (N, 18) int8.
        features: E, pT, eta, phi, (N, 18, 4) float32 in GeV and rad.
        missing: Missing transverse momentum and its azimuth, (N, 2) float32 in GeV and rad.
        labels: Class 1 to 5, (N,) int8.
    """

    ids: NDArray[np.int8]
    features: NDArray[np.float32]
    missing: NDArray[np.float32]
    labels: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | NDArray[Any]) -> "EventSet":
        return EventSet(self.ids[index], self.features[index], self.missing[index], self.labels[index])

    @property
    def valid_mask(self) -> NDArray[np.bool_]:
        """True where there is an object, (N, 18)."""
        return np.asarray(self.ids != schema.PAD)

    @property
    def is_signal(self) -> NDArray[np.bool_]:
        """True for tttt, (N,)."""
        return np.asarray(self.labels == schema.SIGNAL)

    def to_columns(self) -> NDArray[np.float32]:
        """Rows as they lie on disk.

        Returns:
            (N, 92) float32.
        """
        flat = self.features.reshape(len(self), -1)
        return np.concatenate([self.ids.astype(np.float32), self.missing, flat], axis=1)


def read_events(
    path: str | Path,
    splits: Sequence[Split] = SPLITS,
    *,
    units: Units = "gev",
    num_events: int | None = None,
    with_labels: bool = True,
) -> dict[Split, EventSet]:
    """Read and check a file in the public format.

    Args:
        path: HDF5 file.
        splits: Splits to read.
        units: Unit of energies and momenta in the file.
        num_events: Read only the first events of each split.
        with_labels: Whether labels are needed; otherwise all are 0.

    Returns:
        The splits asked for, in GeV.

    Raises:
        InputFileError: The file is missing, damaged or incomplete; a shape, an id, a label or a number is not
            what the format allows; or the momenta can only be in another unit than `units`.
    """
    verify_manifest(path)
    events: dict[Split, EventSet] = {}
    with reader_boundary(path, remedy=_COPY), h5py.File(path, "r") as file:
        for split in splits:
            columns = _dataset(path, file, X_KEYS[split], (schema.NUM_COLUMNS,))
            labels = _dataset(path, file, Y_KEYS[split], ()) if with_labels else np.zeros(len(columns))
            if len(columns) != len(labels):
                problem = f"has {len(labels)} labels for {len(columns)} events in {X_KEYS[split]}"
                raise InputFileError(path, problem, _COPY, branch=Y_KEYS[split])
            rows = slice(num_events)
            checked = read_labels(path, split, labels[rows]) if with_labels else labels[rows].astype(np.int8)
            events[split] = _parse(path, split, columns[rows], checked, units)
    return events


def splits_in(path: str | Path) -> tuple[Split, ...]:
    """Find the splits of a file.

    Args:
        path: HDF5 file in the public format.

    Returns:
        At least one.

    Raises:
        InputFileError: The file is missing or damaged, or has none.
    """
    verify_manifest(path)
    with reader_boundary(path, remedy=_COPY), h5py.File(path, "r") as file:
        found = tuple(split for split in SPLITS if X_KEYS[split] in file)
        if not found:
            keys = ", ".join(itertools.islice(file, 8)) or "nothing"
            raise InputFileError(path, f"holds none of {', '.join(X_KEYS.values())}, only {keys}", _COPY)
    return found


def read_labels(path: str | Path, split: Split, labels: NDArray[Any]) -> NDArray[np.int8]:
    """Check labels and make them integers.

    Args:
        path: The file they come from, for the message.
        split: Their split.
        labels: Numbers of any type, (N,).

    Returns:
        (N,) int8.

    Raises:
        InputFileError: A label is not one of 1 to 5.
    """
    known = np.isin(labels, tuple(schema.LABELS))
    _require(
        path,
        Y_KEYS[split],
        known,
        labels,
        "is not a label",
        _LABEL_REMEDY,
    )
    return labels.astype(np.int8)


def _dataset(path: str | Path, file: h5py.File, key: str, row_shape: tuple[int, ...]) -> h5py.Dataset:
    if key not in file:
        found = ", ".join(itertools.islice(file, 8)) or "nothing"
        raise InputFileError(
            path, f"is missing, the file holds {found}", "give a file with all splits", branch=key
        )
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
        raise InputFileError(path, "is not a data set of numbers", _COPY, branch=key)
    if dataset.shape[1:] != row_shape or dataset.ndim != 1 + len(row_shape):
        wanted = str(("N", *row_shape)).replace("'", "").replace(",)", ")")
        problem = f"has the shape {dataset.shape} instead of {wanted}"
        remedy = "give an unbinned file: 18 ids, 2 globals and 18 x (E, pT, eta, phi) per row"
        raise InputFileError(path, problem, remedy, branch=key)
    if not len(dataset):
        raise InputFileError(path, "holds no events", _COPY, branch=key)
    return dataset


def _parse(
    path: str | Path, split: Split, columns: NDArray[Any], labels: NDArray[np.int8], units: Units
) -> EventSet:
    key = X_KEYS[split]
    _require(path, key, np.isfinite(columns), columns, "is not a finite number", _COPY)
    raw_ids, numbers = columns[:, : schema.NUM_OBJECTS], columns[:, schema.NUM_OBJECTS :].astype(np.float32)
    known = np.isin(raw_ids, (schema.PAD, *schema.OBJECT_IDS))
    _require(
        path,
        key,
        known,
        raw_ids,
        "is not an object id",
        _ID_REMEDY,
    )
    ids = raw_ids.astype(np.int8)
    missing, flat = numbers[:, : schema.NUM_GLOBALS], numbers[:, schema.NUM_GLOBALS :]
    features = np.ascontiguousarray(flat).reshape(len(columns), schema.NUM_OBJECTS, len(schema.FEATURES))
    missing = np.ascontiguousarray(missing)
    if units == "mev":
        features[:, :, [schema.ENERGY, schema.PT]] /= 1000
        missing[:, 0] /= 1000
    pt = features[:, :, schema.PT]
    _require(path, key, pt >= 0, pt, "is a negative pT", _COPY)
    _require(path, key, missing[:, 0] >= 0, missing[:, 0], "is a negative missing momentum", _COPY)
    _require_gev(path, key, float(np.median(pt.max(axis=1))), units)
    return EventSet(ids, features, missing, labels)


def _require_gev(path: str | Path, key: str, leading_pt: float, units: Units) -> None:
    """Refuse a median leading pT [GeV] that only a wrong unit explains."""
    low, high = _LEADING_PT_GEV
    problem = f"has a median leading pT of {leading_pt:.3g} GeV when its unit is taken for {_NAMES[units]}"
    if units == "gev" and leading_pt > high:
        remedy = "if it is in MeV, pass --units mev (in a configuration data.units=mev)"
        raise InputFileError(path, problem, remedy, branch=key)
    if units == "mev" and leading_pt < low:
        remedy = "if it is in GeV, leave --units mev out (in a configuration data.units=gev)"
        raise InputFileError(path, problem, remedy, branch=key)


def _require(
    path: str | Path, key: str, good: NDArray[np.bool_], values: NDArray[Any], problem: str, remedy: str
) -> None:
    if good.all():
        return
    first = tuple(int(i) for i in np.argwhere(~good)[0])
    raise InputFileError(path, f"{values[first]:g} {problem}", remedy, branch=key, entry=first[0])


def concatenate(parts: Mapping[Any, EventSet]) -> EventSet:
    """Join splits.

    Args:
        parts: At least one split.

    Returns:
        All events in order.
    """
    names = ("ids", "features", "missing", "labels")
    return EventSet(*(np.concatenate([getattr(part, name) for part in parts.values()]) for name in names))
