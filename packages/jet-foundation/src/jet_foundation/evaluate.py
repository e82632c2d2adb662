"""`jet-foundation evaluate`: how well a run tells the classes apart, with pictures.

    background rejection = 1 / ε_B at ε_S = 0.3 and 0.5 with the score p_S / (p_S + p_B)

where the first class of the data set, QCD in JetClass, is the background.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.run import RunDir
from jet_foundation import plots
from jet_foundation.config import Config
from jet_foundation.data.loader import JetDataset
from jet_foundation.metrics import classification as metrics
from jet_foundation.predict import Predictor, load_run
from jet_foundation.tasks import TASKS

BATCH_JETS = 256
WORKING_POINTS = (0.3, 0.5)
Array = NDArray[Any]


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
        What `evaluation_<split>.json` in the run directory holds: accuracies, areas under the curves,
        rejections by class, and the confusion matrix with true classes as rows.

    Raises:
        UserError: The run or its data cannot be used.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    dataset = TASKS[config.task.kind].build_dataset(config, split)
    predictor = load_run(run, device, checkpoint=checkpoint)
    probabilities, labels = collect(dataset, predictor)
    classes = predictor.classes
    confusion = metrics.confusion_matrix(probabilities.argmax(axis=1), labels, len(classes))
    result: dict[str, Any] = {
        "split": split,
        "checkpoint": checkpoint,
        "num_jets": len(labels),
        "classes": list(classes),
        "metrics": summary(probabilities, labels, classes),
        "confusion": confusion.tolist(),
    }
    directory.write_json(f"evaluation_{split}.json", result)
    if history := directory.history():
        plots.save(plots.training_curves(history), directory.figure_path("training_curves"))
    plots.save(plots.confusion_matrix(confusion, classes), directory.figure_path(f"{split}_confusion"))
    curves = roc_curves(probabilities, labels, classes)
    plots.save(plots.roc_curves(curves, classes[0]), directory.figure_path(f"{split}_roc"))
    return result


def collect(dataset: JetDataset, predictor: Predictor) -> tuple[Array, Array]:
    """Classify all jets of a split.

    Args:
        dataset: The jets.
        predictor: What classifies them.

    Returns:
        Probabilities (J, C) float64 and class numbers (J,).
    """
    probabilities, labels = [], []
    for start in range(0, len(dataset), BATCH_JETS):
        jets = dataset.jets(np.arange(start, min(start + BATCH_JETS, len(dataset))))
        probabilities.append(predictor.classify(jets).astype(np.float64))
        labels.append(np.asarray(jets.labels, np.int64))
    return np.concatenate(probabilities), np.concatenate(labels)


def summary(probabilities: Array, labels: Array, classes: tuple[str, ...]) -> dict[str, Any]:
    """Name the metrics, rejections by the name of their class.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).
        classes: Class names.

    Returns:
        Metric by name; a rejection is null when no background jet passes.
    """
    found: dict[str, Any] = {
        name: value
        for name, value in metrics.classification_metrics(probabilities, labels).items()
        if not name.startswith("rejection_")
    }
    for efficiency in WORKING_POINTS:
        rejections = metrics.class_rejections(probabilities, labels, efficiency)
        found[f"rejection_{round(100 * efficiency)}"] = {
            classes[number]: value if np.isfinite(value) else None for number, value in rejections.items()
        }
    return found


def roc_curves(
    probabilities: Array, labels: Array, classes: tuple[str, ...]
) -> dict[str, tuple[Array, Array]]:
    """Efficiencies of every class against the background.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).
        classes: Class names, the background first.

    Returns:
        Signal and background efficiency by class name.
    """
    curves = {}
    for number, name in enumerate(classes[1:], start=1):
        chosen = np.isin(labels, (0, number))
        p = probabilities[chosen]
        score = p[:, number] / np.maximum(p[:, number] + p[:, 0], 1e-300)
        curves[name] = metrics.roc_curve(score, labels[chosen] == number)
    return curves
