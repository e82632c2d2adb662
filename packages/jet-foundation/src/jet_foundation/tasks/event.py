"""Tell the processes of whole events apart: jets, leptons and missing momentum over a jet encoder.

The encoder comes from a pre-training or any other run (`start.run`) and is kept frozen with
`start.mode=frozen`; it reads each jet by itself, and attention over the objects of the event does the rest.

Dimensions: B events, C classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from jet_foundation import plots
from jet_foundation.config import Config, EventConfig
from jet_foundation.data.events import NUM_NUMBERS, EventBatch, EventLoader
from jet_foundation.losses import classification_loss
from jet_foundation.metrics import classification as metrics
from jet_foundation.models.event import EventClassifier
from jet_foundation.tasks.classification import roc_curves, summary, validation_metrics
from jet_foundation.tasks.common import build_encoder, num_features, read_stamp, stamp

HEADLINE = ("accuracy", "macro_f1", "auc_ovr", "auc_ovo")
FINISH = ("evaluate",)


class EventModule(nn.Module):
    """Network and criterion in one module.

    Args:
        network: The classifier.
    """

    def __init__(self, network: EventClassifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: EventBatch) -> tuple[Tensor, Tensor]:
        """Evaluate network and loss.

        Args:
            batch: Events on the module's device.

        Returns:
            Loss, and probabilities (B, C).
        """
        logits = self.network(*batch[:6]).float()
        return classification_loss(logits, batch.labels), logits.softmax(dim=-1)


def build_model(config: Config, conventions: Mapping[str, str] | None = None) -> EventModule:
    """Build network and criterion.

    Args:
        config: The whole configuration.
        conventions: Stamp of a checkpoint; by default that of the data set.

    Returns:
        The module on the CPU with fresh weights over the encoder of the run started from.
    """
    settings, model = config.task, config.model
    assert isinstance(settings, EventConfig)
    conventions = conventions or stamp(config)
    classes, _ = read_stamp(conventions)
    network = EventClassifier(
        build_encoder(config, num_features(conventions)),
        len(classes),
        num_numbers=NUM_NUMBERS,
        num_heads=model.num_heads,
        num_layers=settings.num_layers,
        num_class_layers=model.num_class_layers,
        pair_dims=model.pair_dims,
        read_particles=settings.read_particles,
    )
    return EventModule(network)


def compute_loss(forward: nn.Module, batch: EventBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events on the module's device.

    Returns:
        Scalar loss, the mean over the events.
    """
    loss: Tensor = forward(batch)[0]
    return loss


@torch.no_grad()
def validate(module: EventModule, stream: EventLoader, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation events.

    Args:
        module: The averaged module.
        stream: Ordered events of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, `val_accuracy` and `val_auc_ovr`, over the events of all ranks.
    """
    module.eval()

    def run(batch: EventBatch) -> tuple[Tensor, Tensor]:
        with amp.autocast():
            found: tuple[Tensor, Tensor] = module(batch)
        return found

    return validation_metrics(stream.batches(), len(stream.dataset.info.classes), world, run)


@torch.no_grad()
def evaluate(
    module: EventModule, stream: EventLoader, device: torch.device
) -> tuple[dict[str, Any], dict[str, Figure]]:
    """Measure how well the processes are told apart.

    Args:
        module: The trained module on its device, in evaluation mode.
        stream: Ordered events.
        device: Where the module is.

    Returns:
        Metrics under `metrics`, counts with true classes as rows under `confusion`, and pictures by name.
    """
    probabilities, labels = [], []
    for batch in stream.batches():
        probabilities.append(module(batch.to(device))[1].cpu().numpy().astype(np.float64))
        labels.append(batch.labels.numpy())
    scores, truth = np.concatenate(probabilities), np.concatenate(labels)
    classes = stream.dataset.info.classes
    confusion = metrics.confusion_matrix(scores.argmax(axis=1), truth, len(classes))
    figures = {
        "confusion": plots.confusion_matrix(confusion, classes),
        "roc": plots.roc_curves(roc_curves(scores, truth, classes), classes[0]),
    }
    return {"metrics": summary(scores, truth, classes), "confusion": confusion.tolist()}, figures
