"""`history.json`: the whole history of a training in one file, losses of every kind included.

The run directory's `history.jsonl` has one flat record an epoch; this is the same, arranged as lists for the
training and for the validation, with what was known at the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

HISTORY_FILE = "history.json"
TRAIN_KEYS = ("loss", "data_loss", "physics_loss", "ic_loss", "pde_loss")
VALIDATION_KEYS = (
    "pos_mean_mm", "pos_std_mm", "pos_95_mm", "slope_mean", "x_mean_mm", "y_mean_mm", "tx_mean", "ty_mean"
)  # fmt: skip
STAGE_KEYS = ("stage_1", "stage_2", "stage_3", "stage_4")
Record = Mapping[str, Any]


def arrange_history(records: Sequence[Record], test_final: Record | None = None) -> dict[str, Any]:
    """Arrange the records of a run.

    Args:
        records: Lines of `history.jsonl`.
        test_final: Metrics of the test split, once known.

    Returns:
        `train` and `val`, one entry an epoch; `polish`, one entry a Levenberg-Marquardt step; `test_final`,
        `best_epoch`, `best_val_loss` and `training_time` in seconds.
    """
    epochs = [record for record in records if record.get("stage", "adamw") == "adamw"]
    polish = [record for record in records if record.get("stage") == "polish"]
    train, validation = [], []
    for record in epochs:
        entry = {"epoch": record["epoch"], "lr": record["lr"]}
        entry |= {key: record[f"train_{key}"] for key in TRAIN_KEYS if f"train_{key}" in record}
        if f"train_{STAGE_KEYS[0]}" in record:
            entry["stage_losses"] = [record[f"train_{key}"] for key in STAGE_KEYS]
        train.append(entry)
        validation.append({"epoch": record["epoch"], "loss": record["val_loss"], **_errors(record)})
    best = min(records, key=lambda r: _or_infinite(r["val_loss"]), default=None)
    return {
        "train": train,
        "val": validation,
        "polish": [
            {
                "step": record["polish_step"],
                "loss": record["train_loss"],
                "damping": record["damping"],
                "val_loss": record["val_loss"],
                **_errors(record),
            }
            for record in polish
        ],
        "test_final": dict(test_final or {}),
        "best_epoch": best["epoch"] if best else None,
        "best_val_loss": best["val_loss"] if best else None,
        "training_time": records[-1]["system/training_time_sec"] if records else 0.0,
    }


def _errors(record: Record) -> dict[str, Any]:
    return {key: record[key] for key in VALIDATION_KEYS}


def _or_infinite(value: float | None) -> float:
    return float("inf") if value is None else value
