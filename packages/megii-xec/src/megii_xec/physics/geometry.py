r"""Positions, normals, faces and index maps of the 4760 sensors, in closed form.

The liquid xenon fills a sector of a barrel around the muon target, on the side of negative x: radius 64.84 to
106.27 cm, azimuth 117.24 to 242.76 degrees, length growing with the radius. Sensors sit on six faces,

    inner   93 x 44  MPPC  R = 64.97            phi_i = 117.915 + 1.349674 i     z_j = -32.46 + 1.509767 j
    outer   24 x 9   PMT   R = 106.27           phi_i = 119.855 + 5.23 i         z_j = -41.424 + 10.356 j
    centre   6 x 5   PMT   R = 106.27           phi_k = 180 + 3.48672 (k - 2.5)  z_l = -12.4 + 6.2 l
    us, ds  24 x 6   PMT   R_k = 69.53 + 6.684 k  phi_i = 119.855 + 5.23 i       z_k = -/+(35.155 + 2.33685 k)
    top, bottom  73  PMT   R_r = 68.27 + 6.91 r   phi = 117.24 / 242.76          rows of pitch 6.12 along z

with lengths in cm and angles in degrees. The dense centre patch of the outer face replaces a 4 x 3 block of
the coarse grid: 12 of its 30 tubes carry the identifiers of that block (`CENTRAL_COARSE_IDS`) but sit on the
centre grid. The closed form agrees with the nominal position table of the experiment to 5e-4 cm; the survey
of the built detector differs from it by up to 1 cm.

Layouts. Two of the maps circulate in an early form whose neighbours on the grid are not neighbours in the
detector. `layout="corrected"` follows the positions; `layout="legacy"` reproduces the early form, for
networks that were trained with it.

References:
    MEG II Collaboration, The design of the MEG II experiment, arXiv:1801.04688.

All arrays are cached and read-only; copy before changing one.
"""

from functools import cache
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Layout = Literal["corrected", "legacy"]
Face = Literal["inner", "us", "ds", "outer", "top", "bottom"]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ScalarT = TypeVar("ScalarT", bound=np.generic)

NUM_SENSORS = 4760
NUM_MPPC = 4092  # silicon sensors, identifiers 0 to 4091; all others are photomultipliers
NUM_HEX = 73  # tubes on each of the top and bottom faces

FACES: tuple[Face, ...] = ("inner", "us", "ds", "outer", "top", "bottom")

# Identifiers of each face as half-open ranges; the outer face has two because its 18 extra tubes came last.
FACE_SLICES: dict[Face, tuple[slice, ...]] = {
    "inner": (slice(0, 4092),),
    "us": (slice(4308, 4452),),
    "ds": (slice(4452, 4596),),
    "outer": (slice(4092, 4308), slice(4742, 4760)),
    "top": (slice(4596, 4669),),
    "bottom": (slice(4669, 4742),),
}

R_INNER_CM = 64.97  # sensor surface of the inner face, origin of w
R_OUTER_CM = 106.27  # sensor surface of the outer face
R_LXE_MIN_CM = 64.84  # cold wall in front of the inner face
PHI_MIN_DEG, PHI_MAX_DEG = 117.24, 242.76  # top and bottom faces
HALF_LENGTH_INNER_CM = 33.515  # half length of the xenon at R_LXE_MIN_CM
HALF_LENGTH_OUTER_CM = 48.0  # half length of the xenon at R_OUTER_CM
END_SLOPE = 2.33685 / 6.684  # dz/dR of the us and ds faces: a tilt of 19.27 degrees

MPPC_CHIP_CM = 0.59  # side of one of the four chips of an MPPC, arXiv:1801.04688
MPPC_GAP_CM = 0.05  # between chips
PMT_RADIUS_CM = 2.25  # of the photocathode; the tube is wider

FIDUCIAL_U_CM, FIDUCIAL_V_CM = 23.9, 67.9  # |u| and |v| below these, w above 0

# Fine grid of the outer face: a coarse cell is 5 x 3 pixels, a centre cell 3 x 2, so both tile the same area.
OUTER_COARSE_SCALE = (5, 3)
OUTER_CENTER_SCALE = (3, 2)
OUTER_FINE_SHAPE = (45, 72)
OUTER_CENTER_ROWS, OUTER_CENTER_COLS = slice(15, 30), slice(30, 42)

# Rows along phi, columns along z; identifiers below 4742 are shared with the coarse grid.
_CENTER_PHI_Z = (
    (4185, 4742, 4186, 4743, 4187),
    (4744, 4745, 4746, 4747, 4748),
    (4194, 4749, 4195, 4750, 4196),
    (4203, 4751, 4204, 4752, 4205),
    (4753, 4754, 4755, 4756, 4757),
    (4212, 4758, 4213, 4759, 4214),
)
CENTRAL_COARSE_IDS: tuple[int, ...] = tuple(i for row in _CENTER_PHI_Z for i in row if i < 4742)

HEX_ROW_LENGTHS = (11, 12, 11, 12, 13, 14)
MPPC_PITCH_CM = (1.509767, np.deg2rad(1.349674) * R_INNER_CM)  # of the inner face along u and v
HEX_PITCH_CM = 6.12  # along a row
HEX_ROW_STEP_CM = 6.91  # between rows, along R


def _frozen(array: NDArray[ScalarT]) -> NDArray[ScalarT]:
    array.setflags(write=False)
    return array


@cache
def inner_index_map() -> IntArray:
    """Return sensor identifiers of the inner face, shape (93, 44), rows along phi and columns along z."""
    return _frozen(np.arange(4092, dtype=np.int64).reshape(93, 44))


@cache
def us_index_map() -> IntArray:
    """Return sensor identifiers of the upstream face (z < 0), shape (24, 6), phi by radius."""
    return _frozen(np.arange(4308, 4452, dtype=np.int64).reshape(24, 6))


@cache
def ds_index_map() -> IntArray:
    """Return sensor identifiers of the downstream face (z > 0), shape (24, 6), phi by radius."""
    return _frozen(np.arange(4452, 4596, dtype=np.int64).reshape(24, 6))


@cache
def outer_coarse_index_map(layout: Layout = "corrected") -> IntArray:
    """Return sensor identifiers of the coarse outer grid.

    Args:
        layout: `corrected` puts z along the rows and phi along the columns; `legacy` fills the same shape in
            identifier order, which places sensors up to 83 cm apart side by side.

    Returns:
        Identifiers, shape (9, 24).
    """
    ids = np.arange(4092, 4308, dtype=np.int64)
    grid = ids.reshape(24, 9).T.copy() if layout == "corrected" else ids.reshape(9, 24)
    return _frozen(grid)


@cache
def outer_center_index_map() -> IntArray:
    """Return sensor identifiers of the dense centre of the outer face, shape (5, 6), z by phi."""
    return _frozen(np.array(_CENTER_PHI_Z, dtype=np.int64).T.copy())


@cache
def outer_fine_index_map(layout: Layout = "corrected") -> IntArray:
    """Return the identifier of the tube under each pixel of the fine outer grid.

    Args:
        layout: Layout of the coarse grid below the centre patch.

    Returns:
        Identifiers, shape (45, 72), z by phi.
    """
    fine = np.kron(outer_coarse_index_map(layout), np.ones(OUTER_COARSE_SCALE, dtype=np.int64))
    center = np.kron(outer_center_index_map(), np.ones(OUTER_CENTER_SCALE, dtype=np.int64))
    fine[OUTER_CENTER_ROWS, OUTER_CENTER_COLS] = center
    return _frozen(fine)


@cache
def top_ids() -> IntArray:
    """Return sensor identifiers of the top face in row order, shape (73,)."""
    return _frozen(np.arange(4596, 4669, dtype=np.int64))


@cache
def bottom_ids() -> IntArray:
    """Return sensor identifiers of the bottom face in row order, shape (73,)."""
    return _frozen(np.arange(4669, 4742, dtype=np.int64))


@cache
def face_ids(face: Face) -> IntArray:
    """Return the sorted sensor identifiers of one face, shape (num_sensors_of_face,)."""
    ids = [np.arange(part.start, part.stop, dtype=np.int64) for part in FACE_SLICES[face]]
    return _frozen(np.concatenate(ids))


@cache
def sensor_face() -> NDArray[np.int8]:
    """Return the face of each sensor as an index into `FACES`, shape (4760,)."""
    face = np.full(NUM_SENSORS, -1, dtype=np.int8)
    for index, name in enumerate(FACES):
        face[face_ids(name)] = index
    return _frozen(face)


@cache
def is_mppc() -> NDArray[np.bool_]:
    """Return True where the sensor is an MPPC and False where it is a photomultiplier, shape (4760,)."""
    return _frozen(np.arange(NUM_SENSORS) < NUM_MPPC)


@cache
def sensor_area() -> FloatArray:
    """Return the sensitive area of each sensor, shape (4760,), cm2."""
    return _frozen(np.where(is_mppc(), 4 * MPPC_CHIP_CM**2, np.pi * PMT_RADIUS_CM**2))


def _cylindrical() -> tuple[FloatArray, FloatArray, FloatArray]:
    """Radius (cm), azimuth (rad) and z (cm) of every sensor."""
    r, phi_deg, z = (np.empty(NUM_SENSORS) for _ in range(3))

    ids = inner_index_map()
    r[ids] = R_INNER_CM
    phi_deg[ids] = 117.915 + 1.349674 * np.arange(93)[:, None]
    z[ids] = -32.46 + 1.509767 * np.arange(44)

    ids = outer_coarse_index_map("corrected")
    r[ids] = R_OUTER_CM
    phi_deg[ids] = 119.855 + 5.23 * np.arange(24)
    z[ids] = -41.424 + 10.356 * np.arange(9)[:, None]

    ids = outer_center_index_map()  # after the coarse grid: moves the 12 shared tubes to where they are
    r[ids] = R_OUTER_CM
    phi_deg[ids] = 180 + 3.48672 * (np.arange(6) - 2.5)
    z[ids] = -12.4 + 6.2 * np.arange(5)[:, None]

    for ids, sign in ((us_index_map(), -1.0), (ds_index_map(), 1.0)):
        r[ids] = 69.53 + 6.684 * np.arange(6)
        phi_deg[ids] = 119.855 + 5.23 * np.arange(24)[:, None]
        z[ids] = sign * (35.155 + 2.33685 * np.arange(6))

    row, along = _hex_lattice()
    for ids, phi in ((top_ids(), PHI_MIN_DEG), (bottom_ids(), PHI_MAX_DEG)):
        r[ids] = 68.27 + HEX_ROW_STEP_CM * row
        phi_deg[ids] = phi
        z[ids] = along
    return r, np.deg2rad(phi_deg), z


@cache
def sensor_positions() -> FloatArray:
    """Return the centre of each sensor's sensitive surface, shape (4760, 3), cm."""
    r, phi, z = _cylindrical()
    return _frozen(np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1))


@cache
def sensor_normals() -> FloatArray:
    """Return the unit normal of each sensor, pointing into the xenon, shape (4760, 3)."""
    _, phi, _ = _cylindrical()
    zero = np.zeros(NUM_SENSORS)
    radial = np.stack([np.cos(phi), np.sin(phi), zero], axis=1)
    azimuthal = np.stack([-np.sin(phi), np.cos(phi), zero], axis=1)
    axial = np.array([0.0, 0.0, 1.0])

    normals = np.empty((NUM_SENSORS, 3))
    normals[face_ids("inner")] = radial[face_ids("inner")]
    normals[face_ids("outer")] = -radial[face_ids("outer")]
    normals[top_ids()] = azimuthal[top_ids()]
    normals[bottom_ids()] = -azimuthal[bottom_ids()]
    tilt = np.hypot(1.0, END_SLOPE)
    for face, sign in (("us", 1.0), ("ds", -1.0)):
        ids = face_ids(face)
        normals[ids] = (END_SLOPE * radial[ids] + sign * axial) / tilt
    return _frozen(normals)


def _hex_lattice() -> tuple[IntArray, FloatArray]:
    """Row number and z (cm) of the 73 tubes of a hexagonal face; each row is centred on z = 0."""
    row = np.repeat(np.arange(6), HEX_ROW_LENGTHS)
    column = np.concatenate([np.arange(length) for length in HEX_ROW_LENGTHS])
    length = np.array(HEX_ROW_LENGTHS)[row]
    return row, HEX_PITCH_CM * (column - (length - 1) / 2)


@cache
def hex_rows() -> tuple[IntArray, ...]:
    """Return the node numbers (0 to 72) of each of the six rows of a hexagonal face."""
    stops = np.cumsum(HEX_ROW_LENGTHS)
    return tuple(
        _frozen(np.arange(stop - n, stop, dtype=np.int64))
        for stop, n in zip(stops, HEX_ROW_LENGTHS, strict=True)
    )


@cache
def hex_edges(layout: Layout = "corrected") -> IntArray:
    """Return the directed edges of the hexagonal face.

    Type 0 joins a node to itself. The others name the direction from source to destination: 1 and 2 along the
    row towards smaller and larger z, 3 and 4 into the row at smaller radius (smaller z, larger z), 5 and 6
    into the row at larger radius. Opposite directions are (1, 2), (3, 6) and (4, 5).

    Args:
        layout: `corrected` joins tubes that touch: 366 edges and 73 self edges. `legacy` takes the column
            offset from the parity of the row number instead of from the row lengths, which gives 358 edges,
            84 of them between tubes 11.5 cm apart, and mixes directions within a type.

    Returns:
        Source, destination and type of each edge, shape (3, 439) or (3, 431).
    """
    rows = hex_rows()
    edges: list[tuple[int, int, int]] = []
    for r, row in enumerate(rows):
        for c, node in enumerate(row):
            steps = [(0, c - 1), (0, c + 1)]
            for dr in (-1, 1):
                if layout == "legacy":
                    left = c - 1 if r % 2 == 0 else c
                else:  # a longer row is shifted by half a pitch to smaller z, a shorter one to larger z
                    inside = 0 <= r + dr < len(rows)
                    left = c if inside and len(rows[r + dr]) > len(row) else c - 1
                steps += [(dr, left), (dr, left + 1)]
            edges.append((int(node), int(node), 0))
            for kind, (dr, column) in enumerate(steps, start=1):
                if 0 <= r + dr < len(rows) and 0 <= column < len(rows[r + dr]):
                    edges.append((int(node), int(rows[r + dr][column]), kind))
    return _frozen(np.array(edges, dtype=np.int64).T.copy())


@cache
def hex_neighbors(layout: Layout = "corrected") -> IntArray:
    """Return the edges of a hexagonal face as a gather table.

    Args:
        layout: See `hex_edges`.

    Returns:
        At [n, t] the source of the edge of type t that ends in node n; column 0 is the node itself and -1
        marks an absent neighbour. Shape (73, 7).
    """
    source, destination, kind = hex_edges(layout)
    table = np.full((NUM_HEX, 7), -1, dtype=np.int64)
    table[destination, kind] = source
    return _frozen(table)


def half_length(radius: FloatArray) -> FloatArray:
    """Return the half length of the xenon along z at a given radius.

    Args:
        radius: Distance from the beam axis, any shape, cm.

    Returns:
        Half length, same shape, cm.
    """
    return HALF_LENGTH_INNER_CM + END_SLOPE * (radius - R_LXE_MIN_CM)


def inside_xenon(xyz: FloatArray) -> NDArray[np.bool_]:
    """Tell which points lie in the liquid xenon.

    Args:
        xyz: Positions, shape (..., 3), cm.

    Returns:
        True inside, shape (...).
    """
    x, y, z = xyz[..., 0], xyz[..., 1], xyz[..., 2]
    radius = np.hypot(x, y)
    half_opening = np.deg2rad((PHI_MAX_DEG - PHI_MIN_DEG) / 2)
    inside: NDArray[np.bool_] = (
        (radius > R_LXE_MIN_CM)
        & (radius < R_OUTER_CM)
        & (np.abs(np.arctan2(y, -x)) < half_opening)  # the barrel is centred on phi = 180 degrees
        & (np.abs(z) < half_length(radius))
    )
    return inside


def in_fiducial(uvw: FloatArray) -> NDArray[np.bool_]:
    """Tell which points pass the fiducial cut |u| < 23.9, |v| < 67.9, w >= 0 cm.

    Args:
        uvw: Positions in u, v, w, shape (..., 3), cm.

    Returns:
        True inside, shape (...).
    """
    accepted: NDArray[np.bool_] = (
        (np.abs(uvw[..., 0]) < FIDUCIAL_U_CM) & (np.abs(uvw[..., 1]) < FIDUCIAL_V_CM) & (uvw[..., 2] >= 0)
    )
    return accepted
