"""`jet-foundation evaluate`: how well a run does its task, with pictures.

What is measured belongs to the task (`tasks/`); this verb wires run, data and files.
"""

from pathlib import Path
from typing import Any

from hep_shared.amp import explain_oom, resolve_device
from hep_shared.run import RunDir
from jet_foundation import plots
from jet_foundation.config import Config
from jet_foundation.tasks import TASKS
from jet_foundation.tasks.common import build_stream, load_averaged, read_stamp


def evaluate(
    run: Path, *, split: str = "test", device: str = "auto", checkpoint: str = "best"
) -> dict[str, Any]:
    """Evaluate a run and draw its pictures.

    Args:
        run: Run directory.
        split: `train`, `validation` or `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        What `evaluation_<split>.json` in the run directory holds: task, number of jets, classes, metrics, and
        what else the task says.

    Raises:
        UserError: The run or its data cannot be used.
    """
    directory = RunDir.open(run)
    # The weights are in the run itself; the run it started from may be gone.
    config = Config.model_validate(directory.config | {"start": {}})
    task, where = TASKS[config.task.kind], resolve_device(device)
    state = directory.load_checkpoint(checkpoint)
    normalization = read_stamp(state["stamp"])[1]
    stream = build_stream(config, split, normalization=normalization)
    module = task.build_model(config, state["stamp"])
    load_averaged(module, state)
    with explain_oom("lower data.batch_size"):
        found, figures = task.evaluate(module.to(where), stream, where)
    result: dict[str, Any] = {
        "task": config.task.kind,
        "split": split,
        "checkpoint": checkpoint,
        "num_jets": len(stream.dataset),
        "classes": list(stream.dataset.info.classes),
        **found,
    }
    directory.write_json(f"evaluation_{split}.json", result)
    if history := directory.history():
        plots.save(plots.training_curves(history), directory.figure_path("training_curves"))
    for name, figure in figures.items():
        plots.save(figure, directory.figure_path(f"{split}_{name}"))
    return result
