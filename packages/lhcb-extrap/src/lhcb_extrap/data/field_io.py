r"""Field maps on disk.

Three formats are read and written.

`ascii`: lines `x y z Bx By Bz`, in any order on a complete regular grid, lengths in mm. Files in this
layout exist in tesla and in gauss, and nothing inside tells which, so the unit is an argument. Header lines
before the first line of six numbers, and a backslash at the end of a line as rich-text editors leave it,
are skipped.

`binary`: the layout of the LHCb trigger software, little-endian: four float32 of 1/spacing (1/mm, the
fourth unused), four int32 of the number of nodes, four float32 of the first node (mm), then Bx, By, Bz and
a pad as float32 for each node, x fastest; the field is stored in units of 1e3 T, so 1 T is 1e-3.

`npz`: the arrays of `schema`, in tesla.

Every reader checks that the largest |By| on the beam axis is near 1 T, which catches every mix-up of units
above. Some maps carry numbers of many thousand tesla in corner nodes, far from any particle; fields above 5
T are shortened to 5 T and counted in a warning of the log.
"""

import itertools
import logging
import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from hep_shared.files import atomic_path, reader_boundary, verify_manifest, write_manifest
from lhcb_extrap.data.npz import map_array, npz_members, write_npz
from lhcb_extrap.data.schema import FIELD_ORIGIN, FIELD_SPACING, FIELD_VALUES
from lhcb_extrap.physics.field_map import NUM_COLUMNS, FieldMap, Grid

_log = logging.getLogger(__name__)

AsciiUnit = Literal["tesla", "gauss"]
_TESLA_PER_UNIT: dict[AsciiUnit, float] = {"tesla": 1.0, "gauss": 1.0e-4}
_TESLA_PER_BINARY_UNIT = 1.0e3

_PEAK_RANGE_TESLA = (0.3, 3.0)  # of |By| on the axis; the LHCb magnet has 1.05 T
_MAX_TESLA = 5.0
_MAX_HEADER_LINES = 100
_BINARY_HEADER = np.dtype([("inverse_spacing", "<f4", 4), ("num", "<i4", 4), ("origin", "<f4", 4)])
_GRID_TOLERANCE = 1.0e-3  # of the spacing


def read_field_ascii(path: Path, unit: AsciiUnit) -> FieldMap:
    """Read a map of lines `x y z Bx By Bz`.

    Args:
        path: The file.
        unit: Unit of the field in it.

    Returns:
        The map, float32.

    Raises:
        InputFileError: The file is missing or damaged, its nodes are no complete grid, or the unit is wrong.
    """
    with reader_boundary(path, remedy="give lines of six numbers: x y z in mm and Bx By Bz"):
        with open(path, encoding="ascii", errors="replace") as lines:
            skip = _num_header_lines(lines)
        with open(path, encoding="ascii", errors="replace") as lines:
            rows = (re.sub(r"[\\}]+\s*$", "", line) for line in itertools.islice(lines, skip, None))
            table = np.loadtxt((row for row in rows if row.strip()), dtype=np.float64, ndmin=2)
        if table.shape[1] != 6:
            raise InputFileError(path, f"has {table.shape[1]} columns", "give x y z in mm and Bx By Bz")
    grid, order = _grid_of_nodes(table[:, :3], path)
    values = np.zeros((len(table), NUM_COLUMNS), dtype=np.float32)
    values[:, :3] = table[order, 3:] * _TESLA_PER_UNIT[unit]
    return _checked(grid, values, path, f"read it with another unit than {unit}")


def write_field_ascii(path: Path, field_map: FieldMap, unit: AsciiUnit = "tesla") -> None:
    """Write a map as lines `x y z Bx By Bz`, x fastest.

    Args:
        path: The file.
        field_map: The map.
        unit: Unit of the field in the file.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    x, y, z = field_map.grid.axes()
    zz, yy, xx = (axis.ravel() for axis in np.meshgrid(z, y, x, indexing="ij"))
    values = field_map.values.reshape(-1, NUM_COLUMNS)[:, :3] / _TESLA_PER_UNIT[unit]
    with atomic_path(path) as temporary:
        np.savetxt(temporary, np.column_stack([xx, yy, zz, values]), fmt=["%g"] * 3 + ["%.9g"] * 3)


def read_field_binary(path: Path) -> FieldMap:
    """Read a binary map of the trigger software.

    Args:
        path: The file.

    Returns:
        The map, float32.

    Raises:
        InputFileError: The file is missing, its size does not fit its header, or the unit is wrong.
    """
    remedy = "give a binary map of the trigger software, complete"
    with reader_boundary(path, remedy=remedy):
        size = os.path.getsize(path)
        if size < _BINARY_HEADER.itemsize:
            raise InputFileError(path, f"holds {size} bytes, less than a header", remedy)
        header = np.fromfile(path, _BINARY_HEADER, count=1)[0]
        num, inverse = [int(n) for n in header["num"][:3]], header["inverse_spacing"][:3].astype(np.float64)
        origin = header["origin"][:3].astype(np.float64)
        if min(num) < 2 or not (
            np.isfinite(origin).all() and (inverse > 1e-6).all() and np.isfinite(inverse).all()
        ):
            raise InputFileError(path, f"has a header of {num} nodes, spacing 1/{inverse} mm", remedy)
        expected = _BINARY_HEADER.itemsize + num[0] * num[1] * num[2] * NUM_COLUMNS * 4
        if size != expected:
            raise InputFileError(path, f"holds {size} bytes where {num} nodes need {expected}", remedy)
        values = np.fromfile(path, "<f4", offset=_BINARY_HEADER.itemsize).reshape(-1, NUM_COLUMNS)
    values = values.astype(np.float32) * np.float32(_TESLA_PER_BINARY_UNIT)
    values[:, 3] = 0.0
    # 1/spacing is stored in float32: 1/(1/100) comes back as 99.9999977.
    spacing = np.round(1.0 / inverse, 4)
    grid = Grid(_triple(origin), _triple(spacing), (num[0], num[1], num[2]))
    return _checked(grid, values, path, "store 1 T as 1e-3")


def write_field_binary(path: Path, field_map: FieldMap) -> None:
    """Write a binary map of the trigger software.

    Args:
        path: The file.
        field_map: The map.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    header = np.zeros(1, dtype=_BINARY_HEADER)
    header["inverse_spacing"][0, :3] = 1.0 / np.array(field_map.grid.spacing_mm)
    header["num"][0, :3] = field_map.grid.shape
    header["origin"][0, :3] = field_map.grid.origin_mm
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(header.tobytes())
        file.write((field_map.values / _TESLA_PER_BINARY_UNIT).astype("<f4").tobytes())


def read_field_npz(path: Path) -> FieldMap:
    """Read a map in npz form.

    Args:
        path: The file; compared with its manifest where there is one.

    Returns:
        The map in the precision of the file.

    Raises:
        InputFileError: The file is missing or damaged, an array is missing, or the unit is wrong.
    """
    path = Path(path)
    verify_manifest(path)
    members = npz_members(path)
    remedy = "give a map written by this package"
    for key in (FIELD_VALUES, FIELD_ORIGIN, FIELD_SPACING):
        if key not in members:
            raise InputFileError(
                path, f"has no array '{key}' but {', '.join(sorted(members)) or 'nothing'}", remedy
            )
    with reader_boundary(path, remedy=remedy):
        origin, spacing = (map_array(path, key, members[key]) for key in (FIELD_ORIGIN, FIELD_SPACING))
        values = np.array(map_array(path, FIELD_VALUES, members[FIELD_VALUES]))
        num_z, num_y, num_x, columns = values.shape
        if columns != NUM_COLUMNS or values.dtype not in (np.float32, np.float64):
            raise InputFileError(
                path, f"has shape {values.shape} in {values.dtype}", remedy, branch=FIELD_VALUES
            )
        grid = Grid(_triple(origin), _triple(spacing), (num_x, num_y, num_z))
    return _checked(grid, values.reshape(-1, NUM_COLUMNS), path, "store the field in tesla")


def write_field_npz(path: Path, field_map: FieldMap, **extra: object) -> None:
    """Write a map in npz form and its manifest.

    Args:
        path: The file.
        field_map: The map.
        extra: What else the manifest should record.

    Raises:
        UserError: The disk is full, or the directory cannot be written.
    """
    grid = field_map.grid
    arrays = {
        FIELD_VALUES: field_map.values,
        FIELD_ORIGIN: np.array(grid.origin_mm),
        FIELD_SPACING: np.array(grid.spacing_mm),
    }
    write_npz(path, {key: (a.shape, a.dtype, [a]) for key, a in arrays.items()})
    write_manifest(path, **extra)


def _num_header_lines(lines: Any) -> int:
    for number, line in enumerate(itertools.islice(lines, _MAX_HEADER_LINES)):
        try:
            if len([float(word) for word in line.rstrip("\\}\n\r ").split()]) == 6:
                return number
        except ValueError:
            continue
    raise ValueError(f"no line of six numbers among the first {_MAX_HEADER_LINES}")


def _grid_of_nodes(nodes: NDArray[np.float64], path: Path) -> tuple[Grid, NDArray[np.intp]]:
    """Find the grid a list of nodes (N, 3) makes up, and the order that puts x fastest."""
    remedy = "give every node of a regular grid once"
    axes = [np.unique(nodes[:, i]) for i in range(3)]
    num = [axis.size for axis in axes]
    if min(num) < 2 or num[0] * num[1] * num[2] != len(nodes):
        raise InputFileError(
            path, f"has {len(nodes)} rows on {num[0]} x {num[1]} x {num[2]} coordinates", remedy
        )
    spacing = [float((axis[-1] - axis[0]) / (axis.size - 1)) for axis in axes]
    for name, axis, step in zip("xyz", axes, spacing, strict=True):
        worst = int(np.argmax(np.abs(np.diff(axis) - step)))
        if abs(axis[worst + 1] - axis[worst] - step) > _GRID_TOLERANCE * step:
            problem = (
                f"steps from {name} = {axis[worst]:g} to {axis[worst + 1]:g} mm where others are {step:g} mm"
            )
            raise InputFileError(path, problem, remedy)
    order = np.lexsort((nodes[:, 0], nodes[:, 1], nodes[:, 2]))
    same = np.flatnonzero((np.diff(nodes[order], axis=0) == 0).all(axis=1))
    if same.size:
        entry = int(order[same[0] + 1])
        raise InputFileError(path, f"repeats the node {nodes[entry]}", remedy, entry=entry)
    origin = _triple(np.array([axis[0] for axis in axes]))
    return Grid(origin, _triple(np.array(spacing)), (num[0], num[1], num[2])), order


def _checked(grid: Grid, values: NDArray[Any], path: Path, unit_remedy: str) -> FieldMap:
    """Check finiteness and unit of values (N, 4), shorten absurd ones, and make the map."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise InputFileError(
            path, "has a field that is not finite", "repair or remove that node", entry=int(np.argmin(finite))
        )
    magnitude = np.linalg.norm(values[:, :3].astype(np.float64), axis=1)
    absurd = magnitude > _MAX_TESLA
    field_map = FieldMap(grid, np.ascontiguousarray(values).reshape(*reversed(grid.shape), NUM_COLUMNS))
    z = grid.axes()[2]
    if not all(low <= 0 <= high for low, high in zip(grid.origin_mm[:2], grid.end_mm[:2], strict=True)):
        raise InputFileError(
            path, "does not contain the beam axis x = y = 0", "give the whole map, not one quadrant"
        )
    peak = float(np.abs(field_map(np.zeros_like(z), np.zeros_like(z), z)[1]).max())
    low, high = _PEAK_RANGE_TESLA
    if not low <= peak <= high:
        raise InputFileError(path, f"has a peak of {peak:.4g} T on the beam axis, not about 1 T", unit_remedy)
    if absurd.any():
        _log.warning(
            "%s: %d of %d nodes had more than %g T and were limited.",
            path,
            absurd.sum(),
            absurd.size,
            _MAX_TESLA,
        )
        values = values.copy()
        values[absurd] *= (_MAX_TESLA / magnitude[absurd])[:, None].astype(values.dtype)
        field_map = FieldMap(grid, values.reshape(field_map.values.shape))
    return field_map


def _triple(values: NDArray[Any]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
