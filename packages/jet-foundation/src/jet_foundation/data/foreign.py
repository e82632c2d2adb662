"""Other public jet samples: top landscape, quark-gluon, and small padded samples.

    top landscape   HDF5, key `table`: E_i, PX_i, PY_i, PZ_i (i < 200), is_signal_new; label 1 = top
    quark-gluon     npz: X (N, M, 4) = pT, y, φ, PDG code; y = 1 for quarks
    padded sample   npz: vectors (N, 4, M) = px, py, pz, E; mask (N, M); labels

(zenodo 2603256, Kasieczka et al.; zenodo 3164691, Komiske, Metodiev, Thaler.) The four-momenta of the
quark-gluon files are rebuilt with the mass of the particle type.

Dimensions: J jets, M slots.
"""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from hep_shared.files import reader_boundary, verify_manifest
from jet_foundation.data.checks import DAMAGED, check_jets, missing_branch
from jet_foundation.data.schema import FeatureSet
from jet_foundation.physics.clustering import pid_columns
from jet_foundation.physics.jet_table import Jets, from_padded
from jet_foundation.physics.particles import CHARGED_HADRON, ELECTRON, MUON, NEUTRAL_HADRON, PHOTON

Array = NDArray[Any]

CHUNK_JETS = 20_000
TOP_SLOTS = 200
TOP_CLASSES = ("QCD", "top")
QG_CLASSES = ("gluon", "quark")
# Mass (GeV), charge and kind by |PDG code| of the particles in the quark-gluon files (PDG 2024).
_PARTICLES = {
    22: (0.0, 0, PHOTON),
    11: (0.000511, -1, ELECTRON),
    13: (0.105658, -1, MUON),
    211: (0.139570, 1, CHARGED_HADRON),
    321: (0.493677, 1, CHARGED_HADRON),
    2212: (0.938272, 1, CHARGED_HADRON),
    130: (0.497611, 0, NEUTRAL_HADRON),
    2112: (0.939565, 0, NEUTRAL_HADRON),
    0: (0.0, 0, NEUTRAL_HADRON),
}


def open_npz(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """Read arrays of an npz file.

    Args:
        path: The file.
        names: Arrays that must be there.

    Returns:
        Array by name.

    Raises:
        InputFileError: The file is damaged, lacks an array, or needs pickle.
    """
    verify_manifest(path)
    with reader_boundary(path, remedy="give a complete npz file"), np.load(path, allow_pickle=False) as file:
        for name in names:
            if name not in file.files:
                raise missing_branch(path, name, file.files)
        arrays = {}
        for name in names:
            with reader_boundary(path, branch=name, remedy=DAMAGED):
                arrays[name] = file[name]
    return arrays


def _require_shape(path: Path, name: str, array: Array, shape: tuple[int | None, ...]) -> None:
    wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
    fits = array.ndim == len(shape) and all(b in (None, a) for a, b in zip(array.shape, shape, strict=True))
    if not fits:
        raise InputFileError(path, f"has shape {array.shape}, expected {wanted}", "transpose it", branch=name)


def _require_labels(path: Path, name: str, labels: Array, num_classes: int, first_entry: int = 0) -> Array:
    whole = np.isin(labels, np.arange(num_classes))
    if not whole.all():
        entry = int(np.argmax(~whole))
        problem = f"the label is {labels[entry]}, expected 0 to {num_classes - 1}"
        raise InputFileError(path, problem, "remove such jets", branch=name, entry=first_entry + entry)
    return labels.astype(np.int64)


def iter_top_landscape(path: Path, *, chunk_jets: int = CHUNK_JETS) -> Iterator[Jets]:
    """Read a top-landscape file piece by piece.

    Both layouts of `table` that pandas writes are understood: a compound of blocks under `table/table`, and
    one data set per column.

    Args:
        path: The HDF5 file.
        chunk_jets: Jets per piece.

    Yields:
        Checked jets; label 1 is top.

    Raises:
        InputFileError: The file is damaged, lacks a column, or holds impossible jets.
    """
    verify_manifest(path)
    names = [f"{component}_{slot}" for slot in range(TOP_SLOTS) for component in ("E", "PX", "PY", "PZ")]
    with reader_boundary(path, remedy="give a complete HDF5 file"), h5py.File(path, "r") as file:
        if "table" not in file:
            raise missing_branch(path, "table", list(file))
        table = _TopTable(path, file["table"])
        for name in (*names, "is_signal_new"):
            table.require(name)
        for start in range(0, len(table), chunk_jets):
            stop = min(start + chunk_jets, len(table))
            p4 = table.read(names, start, stop).reshape(stop - start, TOP_SLOTS, 4).astype(np.float32)
            raw = table.read(["is_signal_new"], start, stop)[:, 0]
            labels = _require_labels(path, "is_signal_new", raw, len(TOP_CLASSES), start)
            # A NaN counts as a particle, so that the check below names it.
            jets = from_padded(p4, ~(p4[..., 0] == 0), labels)
            check_jets(path, jets, first_entry=start, names=("E_i", "PX_i", "PY_i", "PZ_i"))
            yield jets


class _TopTable:
    """Columns of a table that pandas or h5py wrote."""

    def __init__(self, path: Path, node: Any) -> None:
        self._path, self._node = path, node
        self._place: dict[str, tuple[str, int]] = {}
        if isinstance(node, h5py.Group) and "table" in node:
            self._node = node["table"]
            for block in self._node.dtype.names or ():
                if block.startswith("values_block_"):
                    for position, name in enumerate(self._block_columns(block)):
                        self._place[name] = (block, position)
        elif isinstance(node, h5py.Group):
            self._place = {name: (name, -1) for name in node}
        else:
            self._place = {name: (name, -1) for name in node.dtype.names or ()}

    def _block_columns(self, block: str) -> list[str]:
        """Names of the columns of a block: pandas keeps a pickled list, whose strings are read off."""
        stored = self._node.attrs.get(f"{block}_kind")
        with reader_boundary(self._path, branch=f"{block}_kind", remedy="write the table with pandas again"):
            return [
                argument for _, argument, _ in pickletools.genops(bytes(stored)) if isinstance(argument, str)
            ]

    def __len__(self) -> int:
        if isinstance(self._node, h5py.Group):
            return len(self._node[next(iter(self._node))])
        return len(self._node)

    def require(self, name: str) -> None:
        if name not in self._place:
            raise missing_branch(self._path, name, self._place)

    def read(self, names: list[str], start: int, stop: int) -> Array:
        """Columns of a range of rows, (rows, columns)."""
        with reader_boundary(self._path, branch=names[0], remedy=DAMAGED):
            if isinstance(self._node, h5py.Group):
                return np.stack([self._node[name][start:stop] for name in names], axis=-1)
            rows = self._node[start:stop]
            blocks = {self._place[name][0] for name in names}
            if all(self._place[name][1] >= 0 for name in names) and len(blocks) == 1:
                return np.asarray(rows[blocks.pop()][:, [self._place[name][1] for name in names]])
            return np.stack([rows[name] for name in names], axis=-1)


def read_quark_gluon(path: Path) -> Jets:
    """Read a quark-gluon file.

    Args:
        path: The npz file.

    Returns:
        Checked jets with particle identity; label 1 is quark.

    Raises:
        InputFileError: The file is damaged, lacks an array, or holds impossible jets.
    """
    arrays = open_npz(path, ("X", "y"))
    x, y = arrays["X"], arrays["y"]
    _require_shape(path, "X", x, (None, None, 4))
    _require_shape(path, "y", y, (len(x),))
    labels = _require_labels(path, "y", y, len(QG_CLASSES))
    real = ~(x[..., 0] == 0)
    code = np.abs(np.where(real & np.isfinite(x[..., 3]), x[..., 3], 0)).astype(np.int64)
    unknown = real & ~np.isin(code, list(_PARTICLES))
    if unknown.any():
        jet, slot = np.argwhere(unknown)[0]
        problem = f"particle {slot} has the PDG code {x[jet, slot, 3]:g}"
        raise InputFileError(path, problem, "give the published files", branch="X", entry=int(jet))
    known = np.array(list(_PARTICLES))
    order = np.argsort(known)
    row = order[np.searchsorted(known[order], code)]
    table = np.array(list(_PARTICLES.values()))[row]
    mass = table[..., 0]
    mt = np.hypot(x[..., 0], mass)
    p4 = np.stack(
        [
            mt * np.cosh(x[..., 1]),
            x[..., 0] * np.cos(x[..., 2]),
            x[..., 0] * np.sin(x[..., 2]),
            mt * np.sinh(x[..., 1]),
        ],
        axis=-1,
    )
    charge = (table[..., 1] * np.where(x[..., 3] < 0, -1, 1)).astype(np.int64)
    by_pt = np.argsort(np.where(real, -x[..., 0], np.inf), axis=1, kind="stable")
    jets = from_padded(p4, real, labels)
    kept = np.take_along_axis(real, by_pt, axis=1)
    pid = pid_columns(
        np.take_along_axis(charge, by_pt, axis=1)[kept],
        np.take_along_axis(table[..., 2].astype(np.int64), by_pt, axis=1)[kept],
    )
    jets = Jets(jets.offsets, jets.p4, jets.labels, pid)
    check_jets(path, jets, names=("X", "X", "X", "X"))
    return jets


def read_padded_sample(path: Path, num_classes: int) -> Jets:
    """Read a padded sample.

    Args:
        path: The npz file.
        num_classes: Number of classes that the labels may name.

    Returns:
        Checked jets.

    Raises:
        InputFileError: The file is damaged, lacks an array, or holds impossible jets.
    """
    arrays = open_npz(path, ("vectors", "mask", "labels"))
    vectors, mask, labels = (arrays[name] for name in ("vectors", "mask", "labels"))
    _require_shape(path, "vectors", vectors, (None, 4, None))
    _require_shape(path, "mask", mask, (vectors.shape[0], vectors.shape[2]))
    _require_shape(path, "labels", labels, (vectors.shape[0],))
    p4 = np.moveaxis(vectors, 1, 2)[..., [3, 0, 1, 2]]
    jets = from_padded(p4, mask.astype(bool), _require_labels(path, "labels", labels, num_classes))
    check_jets(path, jets, names=("vectors", "vectors", "vectors", "vectors"))
    return jets


def available_features(jets: Jets) -> FeatureSet:
    """Largest feature set that jets can serve.

    Args:
        jets: Any jets.

    Returns:
        `full` with displacement, `kinpid` with identity, otherwise `kin`.
    """
    if jets.pid is None:
        return "kin"
    return "kinpid" if jets.displacement is None else "full"
