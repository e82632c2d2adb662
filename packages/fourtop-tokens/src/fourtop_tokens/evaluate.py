"""`fourtop-tokens evaluate`: figures of merit of a run on one split, with intervals and pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from fourtop_tokens import plots
from fourtop_tokens.config import Config
from fourtop_tokens.tasks import TASKS
from hep_shared.amp import resolve_device
from hep_shared.files import atomic_write_bytes
from hep_shared.run import RunDir


def evaluate(
    run: Path,
    *,
    split: str = "test",
    device: str = "auto",
    checkpoint: str = "best",
    figures: bool = True,
) -> dict[str, Any]:
    """Evaluate a run and draw its pictures.

    Args:
        run: Run directory.
        split: `train`, `val` or `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.
        figures: Whether to draw.

    Returns:
        What `evaluation_<split>.json` in the run directory holds; labels and scores of the events are beside
        it in `scores_<split>.npz`.

    Raises:
        UserError: The run or its data cannot be used.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    measured, arrays = task.evaluate(
        config, directory.load_checkpoint(checkpoint), split, resolve_device(device)
    )
    result: dict[str, Any] = {
        "split": split, "checkpoint": checkpoint, "file": config.data.tokens or config.data.events, **measured
    }  # fmt: skip
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic_write_bytes(directory.path / f"scores_{split}.npz", buffer.getvalue())
    if figures:
        for name, figure in task.draw(arrays).items():
            plots.save(figure, directory.figure_path(f"{split}_{name}"))
        if history := directory.history():
            plots.save(plots.training_curves(history), directory.figure_path("training_curves"))
    directory.write_json(f"evaluation_{split}.json", result)  # last: it says that the rest is there
    return result
