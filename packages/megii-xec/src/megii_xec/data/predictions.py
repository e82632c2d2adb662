"""Guessed values of hidden sensors on disk: one row a sensor, streamed.

A validation hides hundreds of sensors in each of many events. Rows leave for the disk as they come, so memory
holds one basket whatever the number of events.

Dimensions: R rows (hidden sensors), B events, S sensors.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import EVENT, MISSING, RUN, Branch
from megii_xec.data.stream import PhotonBatch
from megii_xec.data.writer import TreeWriter
from megii_xec.physics.geometry import sensor_face

TREE = "sensors"
BASKET_ROWS = 32_768


def sensor_branches(npho_unit: str) -> tuple[Branch, ...]:
    """Branches of the file.

    Args:
        npho_unit: Unit of the counts.

    Returns:
        Who the sensor is, what was hidden, what was predicted, and the difference.
    """
    return (
        Branch("event_idx", (), "i4", "1", "id", "entry number, counted through all files"),
        RUN,
        EVENT,
        Branch("sensor_id", (), "i4", "1", "id", "sensor number"),
        Branch("face", (), "i2", "1", "id", "0 inner, 1 us, 2 ds, 3 outer, 4 top, 5 bottom"),
        Branch("truth_npho", (), "f4", npho_unit, "truth", "count that was hidden"),
        Branch("truth_time", (), "f4", "s", "truth", "time that was hidden; 1e10 where there was none"),
        Branch("pred_npho", (), "f4", npho_unit, "reco", "predicted count"),
        Branch("pred_time", (), "f4", "s", "reco", "predicted time"),
        Branch("error_npho", (), "f4", npho_unit, "reco", "predicted - true count"),
        Branch("error_time", (), "f4", "s", "reco", "predicted - true time; 1e10 without a true time"),
    )


class SensorWriter:
    """Write hidden sensors and what a network says of them.

    Use as a context manager, see `TreeWriter`.

    Args:
        path: ROOT file.
        normalization: What the sensors were normalised with.
    """

    def __init__(self, path: Path, normalization: Normalization) -> None:
        self._normalization = normalization
        self._writer = TreeWriter(
            path,
            sensor_branches(normalization.npho_unit),
            tree=TREE,
            basket_events=BASKET_ROWS,
            manifest={"normalization": normalization.fingerprint()},
        )

    def __enter__(self) -> "SensorWriter":
        self._writer.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.__exit__(*exception)  # type: ignore[arg-type]

    def extend(self, batch: PhotonBatch, hidden: Tensor, prediction: Tensor) -> None:
        """Append the hidden sensors of a batch.

        Args:
            batch: Events with nothing hidden.
            hidden: Which sensors were, (B, S) bool.
            prediction: Normalised counts and times of all sensors, (B, S, 2).
        """
        rows, sensors = (part.cpu().numpy() for part in hidden.nonzero(as_tuple=True))
        truth_npho, truth_time = self._normalization.invert(batch.sensors[hidden].cpu().numpy())
        guess = prediction[hidden].float().cpu().numpy()
        pred_npho = self._normalization.denormalize_npho(guess[:, 0])
        pred_time = (guess[:, 1] + np.float32(self._normalization.time_shift)) * np.float32(
            self._normalization.time_scale_s
        )
        timed = truth_time < MISSING / 2
        columns: dict[str, NDArray[np.generic]] = {
            "event_idx": batch.index.cpu().numpy()[rows],
            RUN.name: batch.run.cpu().numpy()[rows],
            EVENT.name: batch.event.cpu().numpy()[rows],
            "sensor_id": sensors,
            "face": sensor_face()[sensors],
            "truth_npho": truth_npho,
            "truth_time": truth_time,
            "pred_npho": pred_npho,
            "pred_time": pred_time,
            "error_npho": pred_npho - truth_npho,
            "error_time": np.where(timed, pred_time - truth_time, MISSING),
        }
        self._writer.extend(columns)
