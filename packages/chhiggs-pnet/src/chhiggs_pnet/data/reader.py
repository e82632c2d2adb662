"""ROOT files of any layout to `Events`, through a branch map.

Everything a file can do wrong becomes one `InputFileError` with the branch, the entry and the value. Ranges
are checked because a file in MeV or degrees trains silently: pt below 13 TeV, |phi| up to π.
"""

import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from chhiggs_pnet.data.branch_map import BranchMap, Condition, JetBranches, LeptonBranches
from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.events import OBJECT_COLUMNS, Array, Events, Object, pack
from hep_shared.errors import InputFileError
from hep_shared.files import check_root_length, reader_boundary

STEP = 50_000  # entries read at a time
_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_IDS = ("run", "lumi", "event")
_MAX_PHI = np.pi * 1.0001  # float32 rounds π up


class EventReader:
    """One open file whose branches are checked against a map.

    Use as a context manager.

    Args:
        path: The file.
        branch_map: Which branch holds what.

    Raises:
        InputFileError: The file is damaged, or lacks the tree or a branch.
    """

    def __init__(self, path: Path, branch_map: BranchMap) -> None:
        self.path, self._map = Path(path), branch_map
        with reader_boundary(self.path, remedy="check that it is a complete ROOT file"):
            check_root_length(self.path)
            self._file = uproot.open(self.path)
        try:
            self._tree = self._find_tree()
            self.num_entries = int(self._tree.num_entries)
            self._has_ids = self._check_branches()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "EventReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def _find_tree(self) -> Any:
        with reader_boundary(self.path):
            trees = sorted({key.split(";")[0] for key in self._file.keys(filter_classname="TTree")})
            if self._map.tree in trees:
                return self._file[self._map.tree]
        found = ", ".join(trees) or "no tree at all"
        raise InputFileError(
            self.path, f"holds no tree '{self._map.tree}' but {found}", "set tree in the branch map"
        )

    def _check_branches(self) -> bool:
        """Check that every branch is there; whether event numbers are."""
        event = self._map.event
        found = set(self._tree.keys(recursive=False))
        ids = [getattr(event, name) for name in _IDS]
        has_ids = any(name in found for name in ids) or self._map.missing_ids == "error"
        wanted = [event.met_pt, event.met_phi, *event.weights, *(ids if has_ids else [])]
        for group in (self._map.muons, self._map.electrons, self._map.jets):
            wanted += _branches_of(group)
        for name in wanted:
            if name not in found:
                close = get_close_matches(name, found, 1)
                hint = f", the nearest is '{close[0]}'" if close else ""
                remedy = "choose the map of this layout (flat, nanoaod) or name the branch in your own map"
                raise InputFileError(self.path, f"the tree has no such branch{hint}", remedy, branch=name)
        return has_ids

    def __iter__(self) -> Iterator[Events]:
        """Yield all events in order, `STEP` entries at a time."""
        for start in range(0, self.num_entries, STEP):
            yield self.read(start, min(start + STEP, self.num_entries))

    def read(self, start: int, stop: int) -> Events:
        """Read a range of entries.

        Args:
            start: First entry.
            stop: One past the last entry.

        Returns:
            The events.

        Raises:
            InputFileError: The range is damaged, inconsistent or out of range.
        """
        event = self._map.event
        columns = {name: self._scalar(getattr(event, name), start, stop) for name in ("met_pt", "met_phi")}
        self._require(event.met_pt, columns["met_pt"] >= 0, columns["met_pt"], start, "is negative")
        self._check_phi(event.met_phi, columns["met_phi"], start)
        columns["weight"] = np.ones(stop - start)
        for name in event.weights:
            columns["weight"] = columns["weight"] * self._scalar(name, start, stop)
        if self._has_ids:
            for name in _IDS:
                columns[name] = self._scalar(getattr(event, name), start, stop).astype(np.int64)
        else:
            columns["run"] = np.zeros(stop - start, np.int64)
            columns["lumi"] = np.full(stop - start, zlib.crc32(self.path.name.encode()))
            columns["event"] = np.arange(start, stop)
        groups = [
            self._collection(self._map.muons, Object.MUON, start, stop),
            self._collection(self._map.electrons, Object.ELECTRON, start, stop),
            self._collection(self._map.jets, Object.JET, start, stop),
        ]
        index = np.concatenate([group[0] for group in groups])
        objects = {name: np.concatenate([group[1][name] for group in groups]) for name in OBJECT_COLUMNS}
        return pack(index, objects, columns)

    def _array(self, name: str, start: int, stop: int) -> Any:
        with reader_boundary(self.path, branch=name, remedy="copy the file again or make it again"):
            return self._tree[name].array(entry_start=start, entry_stop=stop, library="ak")

    def _scalar(self, name: str, start: int, stop: int) -> Array:
        array = self._array(name, start, stop)
        if array.ndim != 1:
            raise InputFileError(
                self.path,
                "holds a list an event where one number is expected",
                "correct the branch map",
                branch=name,
            )
        values: Array = ak.to_numpy(array)
        self._require(name, np.isfinite(values), values, start, "is not finite")
        return values

    def _jagged(
        self, name: str, start: int, stop: int, counts: Array | None, first: str
    ) -> tuple[Array, Array]:
        array = self._array(name, start, stop)
        if array.ndim != 2:
            raise InputFileError(
                self.path,
                "holds one number an event where a list is expected",
                "correct the branch map",
                branch=name,
            )
        number = ak.to_numpy(ak.num(array))
        if counts is not None and (different := np.flatnonzero(number != counts)).size:
            at = int(different[0])
            raise InputFileError(
                self.path,
                f"holds {number[at]} objects but '{first}' holds {counts[at]}",
                "make the file again, or correct the branch map if the two belong to different collections",
                branch=name,
                entry=start + at,
            )
        return ak.to_numpy(ak.flatten(array)), number

    def _collection(
        self, group: LeptonBranches | JetBranches, kind: Object, start: int, stop: int
    ) -> tuple[Array, dict[str, Array]]:
        """Flat columns of one collection and the event of each object."""
        cache: dict[str, Array] = {}
        counts: Array | None = None
        for name in _branches_of(group):
            cache[name], counts = self._jagged(name, start, stop, counts, group.pt)
        assert counts is not None
        index = np.repeat(np.arange(stop - start), counts)
        kept = np.flatnonzero(_all_hold(group.require, cache, len(index)))
        index, cache = index[kept], {name: column[kept] for name, column in cache.items()}

        self._check_objects(group, cache, index + start)
        num = len(index)
        zeros = np.zeros(num)
        out = {name: cache[getattr(group, name)] for name in ("pt", "eta", "phi", "mass")}
        out["kind"] = np.full(num, kind)
        out["charge"] = zeros if group.charge is None else np.rint(cache[group.charge])
        if isinstance(group, JetBranches):
            btag = cache[group.btag]
            out["btag"] = np.clip(btag, 0.0, 1.0)  # negative where the discriminant is undefined
            out["tagged"], out["tight"] = _all_hold(group.tagged, cache, num), zeros
        else:
            out["btag"] = out["tagged"] = zeros
            out["tight"] = _all_hold(group.tight, cache, num)
        return index, out

    def _check_objects(
        self, group: LeptonBranches | JetBranches, cache: dict[str, Array], entry: Array
    ) -> None:
        for name in (group.pt, group.eta, group.phi, group.mass):
            self._require(name, np.isfinite(cache[name]), cache[name], entry, "is not finite")
        pt = cache[group.pt]
        self._require(group.pt, (pt > 0) & (pt < c.BEAM_ENERGY_SUM), pt, entry, "is not a pt in GeV")
        self._check_phi(group.phi, cache[group.phi], entry)
        if isinstance(group, LeptonBranches):
            charge = cache[group.charge]
            self._require(group.charge, np.abs(charge) == 1, charge, entry, "is not the charge of a lepton")

    def _check_phi(self, name: str, values: Array, entry: Array | int) -> None:
        self._require(
            name, np.abs(values) <= _MAX_PHI, values, entry, "is not an azimuth in rad in [-pi, pi]"
        )

    def _require(self, name: str, good: Array, values: Array, entry: Array | int, problem: str) -> None:
        """Refuse the first bad value; `entry` is that of each value, or of the first one."""
        bad = np.flatnonzero(~good)
        if bad.size:
            at = int(bad[0])
            number = entry + at if isinstance(entry, int) else int(entry[at])
            remedy = f"repair the {bad.size} such values in this range or leave the file out"
            raise InputFileError(self.path, f"{values[at]:g} {problem}", remedy, branch=name, entry=number)


def _branches_of(group: LeptonBranches | JetBranches) -> list[str]:
    """Branches a collection needs, pt first, each once."""
    names = [group.pt, group.eta, group.phi, group.mass]
    if isinstance(group, JetBranches):
        names += [group.btag] + ([] if group.charge is None else [group.charge])
        conditions = group.tagged + group.require
    else:
        names.append(group.charge)
        conditions = group.tight + group.require
    return list(dict.fromkeys(names + [condition.branch for condition in conditions]))


def _all_hold(conditions: tuple[Condition, ...], cache: dict[str, Array], num: int) -> Array:
    good = np.ones(num, np.bool_)
    for condition in conditions:
        # Compared in the branch's own precision: 0.6 in a map means float32(0.6) for a float branch.
        values = cache[condition.branch]
        good &= _COMPARE[condition.comparison](
            values, np.asarray(condition.value, np.result_type(values, np.float32))
        )
    return good


def read_events(path: Path, branch_map: BranchMap) -> Events:
    """Read a whole file.

    Args:
        path: The file.
        branch_map: Which branch holds what.

    Returns:
        All its events.

    Raises:
        InputFileError: The file is damaged, incomplete or empty.
    """
    with EventReader(path, branch_map) as reader:
        if reader.num_entries == 0:
            raise InputFileError(path, "holds no events", "leave it out or make it again")
        return Events.concatenate(reader)
