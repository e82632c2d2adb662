"""Tell the classes of jets apart.

    background rejection = 1 / ε_B at ε_S = 0.3 and 0.5 with the score p_S / (p_S + p_B)

where the first class of the data set, QCD in JetClass, is the background. The task owns what is
specific to it: the network with its head, the loss and the numbers a validation reports. The loop in
`train.py` knows none of it.

Dimensions: B jets, N particles, F features, C classes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from jet_foundation import plots
from jet_foundation.config import ClassificationConfig, Config
from jet_foundation.data.events import EventBatch
from jet_foundation.data.loader import Batch, JetLoader
from jet_foundation.losses import classification_loss
from jet_foundation.metrics import classification as metrics
from jet_foundation.models.classifier import JetClassifier
from jet_foundation.models.deploy import JetClassification
from jet_foundation.models.legacy import LegacyEncoder
from jet_foundation.models.legacy_heads import LegacyClassifier
from jet_foundation.tasks.common import (
    attention_of,
    build_encoder,
    load_averaged,
    num_features,
    read_stamp,
    stamp,
)

HEADLINE = ("accuracy", "top3_accuracy", "macro_f1", "auc_ovr", "auc_ovo")
FINISH = ("evaluate", "export")
WORKING_POINTS = (0.3, 0.5)
Array = NDArray[Any]
AnyBatch = TypeVar("AnyBatch", Batch, EventBatch)


class ClassificationModule(nn.Module):
    """Network and criterion in one module.

    Args:
        network: The classifier.
        label_smoothing: See `classification_loss`.
    """

    def __init__(self, network: JetClassifier | LegacyClassifier, label_smoothing: float) -> None:
        super().__init__()
        self.network = network
        self.label_smoothing = label_smoothing

    def forward(
        self, p4: Tensor, features: Tensor, valid_mask: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Evaluate network and loss.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).
            labels: Class numbers, (B,).

        Returns:
            Loss, and probabilities (B, C).
        """
        logits = self.network(p4, features, valid_mask).float()
        loss = classification_loss(logits, labels, label_smoothing=self.label_smoothing)
        return loss, logits.softmax(dim=-1)


def build_model(config: Config, conventions: Mapping[str, str] | None = None) -> ClassificationModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        conventions: Stamp of a checkpoint; by default that of the data set.

    Returns:
        The module on the CPU with fresh weights.
    """
    assert isinstance(config.task, ClassificationConfig)
    conventions = conventions or stamp(config)
    classes, _ = read_stamp(conventions)
    encoder, num_heads = build_encoder(config, num_features(conventions)), config.model.num_heads
    network: JetClassifier | LegacyClassifier
    if isinstance(encoder, LegacyEncoder):
        network = LegacyClassifier(encoder, len(classes), num_heads=num_heads)
    else:
        network = JetClassifier(
            encoder, len(classes), num_heads=num_heads, num_layers=config.model.num_class_layers
        )
    return ClassificationModule(network, config.task.label_smoothing)


def compute_loss(forward: nn.Module, batch: Batch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Jets on the module's device.

    Returns:
        Scalar loss, the mean over the jets.
    """
    loss: Tensor = forward(batch.p4, batch.features, batch.valid_mask, batch.labels)[0]
    return loss


@torch.no_grad()
def validate(module: ClassificationModule, stream: JetLoader, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation jets.

    Args:
        module: The averaged module.
        stream: Ordered jets of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, `val_accuracy` and `val_auc_ovr`, over the jets of all ranks.
    """
    module.eval()

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        with amp.autocast():
            found: tuple[Tensor, Tensor] = module(batch.p4, batch.features, batch.valid_mask, batch.labels)
        return found

    return validation_metrics(stream.batches(), len(stream.dataset.info.classes), world, run)


def validation_metrics(
    batches: Iterable[AnyBatch],
    num_classes: int,
    world: World,
    run: Callable[[AnyBatch], tuple[Tensor, Tensor]],
) -> dict[str, float]:
    """Loss and separation over the batches of all ranks.

    Args:
        batches: Batches of this rank.
        num_classes: Classes C.
        world: This process and its fellows.
        run: Function of a batch on the device that gives its mean loss and probabilities (B, C).

    Returns:
        `val_loss`, `val_accuracy` and `val_auc_ovr`.
    """
    total, count = 0.0, 0
    probabilities, labels = [np.zeros((0, num_classes), np.float32)], [np.zeros(0, np.int64)]
    for batch in batches:
        loss, found = run(batch.to(world.device))
        total += loss.item() * len(batch.labels)
        count += len(batch.labels)
        probabilities.append(found.cpu().numpy())
        labels.append(batch.labels.numpy())
    means = world.mean({"val_loss": total / max(count, 1)}, weight=count)
    everything = world.gather_rows(np.concatenate(probabilities))
    truth = world.gather_rows(np.concatenate(labels))
    return {
        **means,
        "val_accuracy": metrics.accuracy(everything, truth),
        "val_auc_ovr": metrics.auc_one_vs_rest(everything, truth),
    }


def load_classification(config: Config, checkpoint: Mapping[str, Any]) -> JetClassification:
    """Build what predicts from a checkpoint; the data set is not needed.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The classification in evaluation mode, with the averaged weights, on the CPU.
    """
    module = build_model(config, checkpoint["stamp"])
    load_averaged(module, checkpoint)
    classes, normalization = read_stamp(checkpoint["stamp"])
    return JetClassification(module.network, normalization, classes).eval()


@torch.no_grad()
def evaluate(
    module: ClassificationModule, stream: JetLoader, device: torch.device
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Measure how well the classes are told apart.

    Args:
        module: The trained module on its device, in evaluation mode.
        stream: Ordered jets.
        device: Where the module is.

    Returns:
        Metrics under `metrics`, counts with true classes as rows under `confusion`, and pictures by name.
    """
    classes = stream.dataset.info.classes
    probabilities, labels = [], []
    figures: dict[str, Figure] = {}
    for batch in stream.batches():
        moved = batch.to(device)
        if not figures:
            jet = int(batch.labels.argmax())  # a jet of the last class: one with structure
            weights = attention_of(module.network.encoder, moved, jet)
            figures["attention"] = plots.attention_map(weights, classes[int(batch.labels[jet])])
        found = module(moved.p4, moved.features, moved.valid_mask, moved.labels)[1]
        probabilities.append(found.cpu().numpy().astype(np.float64))
        labels.append(batch.labels.numpy())
    scores, truth = np.concatenate(probabilities), np.concatenate(labels)
    confusion = metrics.confusion_matrix(scores.argmax(axis=1), truth, len(classes))
    figures |= {
        "confusion": plots.confusion_matrix(confusion, classes),
        "roc": plots.roc_curves(roc_curves(scores, truth, classes), classes[0]),
    }
    return {"metrics": summary(scores, truth, classes), "confusion": confusion.tolist()}, figures


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
