"""`jet-foundation evaluate` and `anomaly`: how well a run does its task, and what its encoder finds strange.

What is measured belongs to the task (`tasks/`); the verbs wire run, data and files.

Dimensions: J jets, C channels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import UserError
from hep_shared.run import RunDir
from jet_foundation import plots
from jet_foundation.config import Config
from jet_foundation.data.loader import JetLoader
from jet_foundation.data.normalization import Normalization
from jet_foundation.metrics.anomaly import fit_known, mahalanobis
from jet_foundation.metrics.classification import auc, background_rejection, roc_curve
from jet_foundation.models.encoder import JetEncoder
from jet_foundation.tasks import TASKS
from jet_foundation.tasks.common import build_stream, load_averaged, read_stamp

Array = NDArray[Any]

MIN_KNOWN_JETS = 2


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
    config, module, normalization = open_module(directory, checkpoint)
    task, where = TASKS[config.task.kind], resolve_device(device)
    stream = build_stream(config, split, normalization=normalization)
    with explain_oom("lower data.batch_size"):
        found, figures = task.evaluate(module.to(where), stream, where)
    result: dict[str, Any] = {
        "task": config.task.kind,
        "split": split,
        "checkpoint": checkpoint,
        f"num_{stream.dataset.counted}": len(stream.dataset),
        "classes": list(stream.dataset.info.classes),
        **found,
    }
    directory.write_json(f"evaluation_{split}.json", result)
    if history := directory.history():
        plots.save(plots.training_curves(history), directory.figure_path("training_curves"))
    for name, figure in figures.items():
        plots.save(figure, directory.figure_path(f"{split}_{name}"))
    return result


def open_module(directory: RunDir, checkpoint: str) -> tuple[Config, nn.Module, Normalization]:
    """Build the module of a run with its averaged weights.

    Args:
        directory: The run.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        Configuration, module in evaluation mode on the CPU, and the normalisation of its features.

    Raises:
        UserError: The checkpoint cannot be used.
    """
    # The weights are in the run itself; the run it started from may be gone.
    config = Config.model_validate(directory.config | {"start": {}})
    state = directory.load_checkpoint(checkpoint)
    module = TASKS[config.task.kind].build_model(config, state["stamp"])
    load_averaged(module, state)
    return config, module, read_stamp(state["stamp"])[1]


def anomaly(
    run: Path,
    *,
    background: str = "QCD",
    split: str = "test",
    device: str = "auto",
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Score jets by how far their embedding lies from the known background, and draw the result.

    Args:
        run: Run directory of any task.
        background: Class of the training split that counts as known.
        split: Jets to score: `train`, `validation` or `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        What `anomaly_<split>.json` in the run directory holds: area under the curve of every other class
        against the background, and its rejection at 50 % signal efficiency, null when no background jet
        passes.

    Raises:
        UserError: The run or its data cannot be used, or there is no such class or too few of its jets.
    """
    directory, where = RunDir.open(run), resolve_device(device)
    config, module, normalization = open_module(directory, checkpoint)
    if config.task.kind == "event":
        raise UserError(f"{run} was trained on events; give a run whose data set holds jets.")
    encoder = module.get_submodule("network.encoder").to(where)
    assert isinstance(encoder, JetEncoder)
    known = embeddings(encoder, build_stream(config, "train", normalization=normalization), where)
    stream = build_stream(config, split, normalization=normalization)
    classes = stream.dataset.info.classes
    if background not in classes:
        raise UserError(f"--background is '{background}'; the classes are {', '.join(classes)}.")
    number = classes.index(background)
    chosen = known[0][known[1] == number]
    if len(chosen) < MIN_KNOWN_JETS:
        raise UserError(
            f"the training split has {len(chosen)} jets of class {background}, at least {MIN_KNOWN_JETS} are "
            "needed; use a larger data set."
        )
    scored, labels = embeddings(encoder, stream, where)
    scores = mahalanobis(scored, *fit_known(chosen))
    areas: dict[str, float] = {}
    rejections: dict[str, float | None] = {}
    curves = {}
    for other, name in enumerate(classes):
        pair = np.isin(labels, (number, other))
        if other == number or not (labels == other).any():
            continue
        positive = labels[pair] == other
        areas[name] = auc(scores[pair], positive)
        rejection = background_rejection(scores[pair], positive, 0.5)
        rejections[name] = rejection if np.isfinite(rejection) else None
        curves[name] = roc_curve(scores[pair], positive)
    result: dict[str, Any] = {
        "split": split,
        "checkpoint": checkpoint,
        "background": background,
        "num_known": len(chosen),
        "num_jets": len(labels),
        "auc": areas,
        "rejection_50": rejections,
    }
    directory.write_json(f"anomaly_{split}.json", result)
    plots.save(plots.roc_curves(curves, background), directory.figure_path(f"{split}_anomaly"))
    return result


@torch.no_grad()
def embeddings(encoder: JetEncoder, stream: JetLoader, device: torch.device) -> tuple[Array, Array]:
    """Mean of the encoder's particles, jet by jet.

    Args:
        encoder: The encoder on its device.
        stream: Ordered jets.
        device: Where the encoder is.

    Returns:
        Embeddings (J, C) and class numbers (J,).
    """
    found, labels = [], []
    for batch in stream.batches():
        moved = batch.to(device)
        tokens = encoder.tokens(moved.p4, moved.features, moved.valid_mask)
        found.append((tokens.sum(dim=1) / moved.valid_mask.sum(dim=1, keepdim=True)).cpu().numpy())
        labels.append(batch.labels.numpy())
    return np.concatenate(found), np.concatenate(labels)
