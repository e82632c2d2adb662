"""Names, shapes and units of the arrays in track batches and field maps.

A batch of tracks is an npz file with one row per track. The network learns Y from X; P and Z repeat what X
implies, for cuts and as a check of units. Every other module takes names on disk from here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One number of a track.

    Attributes:
        name: Name in messages and plots.
        unit: Unit, "1" where dimensionless.
        max_abs: Largest plausible size, to tell a wrong unit from an unusual track.
        text: What it is.
    """

    name: str
    unit: str
    max_abs: float
    text: str


@dataclass(frozen=True)
class Array:
    """One array of a track batch.

    Attributes:
        key: Name in the npz file.
        columns: Its columns; a single column is stored with shape (N,).
        required: Whether a batch may be without it.
    """

    key: str
    columns: tuple[Column, ...]
    required: bool = True

    def shape(self, num_tracks: int) -> tuple[int, ...]:
        """Shape on disk for a number of tracks."""
        return (num_tracks,) if len(self.columns) == 1 else (num_tracks, len(self.columns))


_X = Column("x", "mm", 1.0e4, "horizontal position")
_Y = Column("y", "mm", 1.0e4, "vertical position")
_TX = Column("tx", "1", 10.0, "slope dx/dz")
_TY = Column("ty", "1", 10.0, "slope dy/dz")
_QOP = Column("q/p", "1/MeV", 0.1, "charge over momentum")
_DZ = Column("dz", "mm", 2.0e4, "length of the path along the beam; negative goes back")

START = Array("X", (_X, _Y, _TX, _TY, _QOP, _DZ))
END = Array("Y", (_X, _Y, _TX, _TY))
MOMENTUM = Array("P", (Column("p", "GeV", 1.0e4, "momentum"),))
PLANES = Array(
    "Z",
    (Column("z_start", "mm", 2.0e4, "start of the path"), Column("z_end", "mm", 2.0e4, "end of the path")),
    required=False,
)

TRACK_ARRAYS: tuple[Array, ...] = (START, END, MOMENTUM, PLANES)
SHARD_NAME = "batch_{index:05d}.npz"  # one shard of a simulation
SHARD_PATTERN = "batch_*.npz"

# A field map in npz form: numpy arrays, x fastest.
FIELD_VALUES = "values_tesla"  # (num_z, num_y, num_x, 4): Bx, By, Bz, 0
FIELD_ORIGIN = "origin_mm"  # (3,): x, y, z of the first node
FIELD_SPACING = "spacing_mm"  # (3,)
