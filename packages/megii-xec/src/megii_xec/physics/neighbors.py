"""Which sensors are next to a sensor.

Neighbours are sought among the sensors of the same face, by the distance between their centres: across an
edge of the detector the light changes too much for a neighbour to be like one.

Dimensions: S sensors (4760), K neighbours.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from megii_xec.physics.geometry import FACES, NUM_HEX, NUM_SENSORS, face_ids, sensor_positions

RINGS = (8, 24)  # the ring around a sensor of the inner face, and two rings for holes
_ROWS = 512  # sensors compared with all others of their face at once


@cache
def nearest_on_face(num: int) -> NDArray[np.int64]:
    """Return the nearest sensors of the same face, the sensor itself first.

    Args:
        num: How many, itself included; at most 73, the sensors of the smallest face.

    Returns:
        Sensor identifiers by increasing distance, shape (S, num), read-only.

    Raises:
        ValueError: `num` is out of range.
    """
    if not 1 <= num <= NUM_HEX:
        raise ValueError(f"num is {num}; it must lie between 1 and {NUM_HEX}")
    table = np.empty((NUM_SENSORS, num), dtype=np.int64)
    for face in FACES:
        ids = face_ids(face)
        where = sensor_positions()[ids].astype(np.float32)
        for start in range(0, len(ids), _ROWS):
            rows = slice(start, start + _ROWS)
            squared = sum((where[rows, None, k] - where[None, :, k]) ** 2 for k in range(3))
            assert isinstance(squared, np.ndarray)
            # Rounded to 1e-3 cm2, so that equal distances are ordered by identifier on every machine.
            squared = np.round(squared, 3)
            order = np.argsort(squared, axis=1, kind="stable")[:, :num]
            table[ids[rows]] = ids[order]
    table.setflags(write=False)
    return table
