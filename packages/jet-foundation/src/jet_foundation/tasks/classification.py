"""Tell the classes of jets apart.

The task owns what is specific to it: the network with its head, the streams of jets, the loss and the numbers
a validation reports. The loop in `train.py` knows none of it.

Dimensions: B jets, N particles, F features, C classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hep_shared.amp import Amp
from hep_shared.distributed import World
from hep_shared.errors import CheckpointError, ConfigError
from jet_foundation.config import Config
from jet_foundation.data.features import FEATURE_NAMES
from jet_foundation.data.loader import Batch, JetDataset, JetLoader, narrowed
from jet_foundation.data.normalization import Normalization
from jet_foundation.data.shards import read_info
from jet_foundation.losses import classification_loss
from jet_foundation.metrics.classification import accuracy, auc_one_vs_rest
from jet_foundation.models.classifier import JetClassifier
from jet_foundation.models.deploy import JetClassification
from jet_foundation.models.encoder import JetEncoder, LorentzParTEncoder, ParTEncoder

LORENTZ_ONLY = {"mv_channels", "spurions"}


class ClassificationModule(nn.Module):
    """Network and criterion in one module.

    Args:
        network: The classifier.
        label_smoothing: See `classification_loss`.
    """

    def __init__(self, network: JetClassifier, label_smoothing: float) -> None:
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
    model = config.model
    classes, normalization = read_stamp(conventions or stamp(config))
    num_features = len(FEATURE_NAMES[normalization.feature_set])
    options = model.model_dump(exclude={"kind", "num_class_layers"})
    encoder: JetEncoder
    if model.kind == "lorentz_part":
        encoder = LorentzParTEncoder(num_features, **options)
    else:
        common = {name: value for name, value in options.items() if name not in LORENTZ_ONLY}
        encoder = ParTEncoder(num_features, **common)
    network = JetClassifier(
        encoder, len(classes), num_heads=model.num_heads, num_layers=model.num_class_layers
    )
    return ClassificationModule(network, config.task.label_smoothing)


def data_path(config: Config) -> Path:
    """Directory of the data set.

    Args:
        config: The whole configuration.

    Returns:
        The directory.

    Raises:
        ConfigError: The configuration names none.
    """
    if config.data.path is None:
        raise ConfigError(
            "data.path names no data set; give one made by `jet-foundation preprocess`, for example "
            "--set data.path=jets."
        )
    return config.data.path


def build_streams(config: Config, world: World) -> tuple[JetLoader, JetLoader]:
    """Open the training and the validation jets.

    Args:
        config: The whole configuration.
        world: This process and its fellows.

    Returns:
        Shuffled training stream and ordered validation stream of this rank.

    Raises:
        UserError: For a data set that cannot be used, or too few jets.
    """
    share = world.size * config.train.accumulation_steps
    if config.data.batch_size % share:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, which {world.size} processes times "
            f"train.accumulation_steps = {config.train.accumulation_steps} do not divide; "
            f"use a multiple of {share}."
        )
    return build_stream(config, "train", world, shuffle=True), build_stream(config, "validation", world)


def build_dataset(config: Config, split: str) -> JetDataset:
    """Open the jets of one split.

    Args:
        config: The whole configuration.
        split: `train`, `validation` or `test`.

    Returns:
        The jets.

    Raises:
        UserError: The data set cannot be used.
    """
    names = {"train": "train", "validation": "val", "test": "test"}
    if split not in names:
        raise ConfigError(f"--split is '{split}'; choose one of {', '.join(names)}.")
    return JetDataset(
        data_path(config),
        names[split],
        feature_set=config.data.feature_set,
        max_jets=config.data.max_train_jets if split == "train" else None,
    )


def build_stream(
    config: Config, split: str, world: World | None = None, *, shuffle: bool = False
) -> JetLoader:
    """Open the batches of one split.

    Args:
        config: The whole configuration.
        split: `train`, `validation` or `test`.
        world: This process and its fellows; None for a single process.
        shuffle: Random order and whole batches, for training.

    Returns:
        The stream.

    Raises:
        UserError: The data set cannot be used, or has too few jets.
    """
    size = world.size if world else 1
    return JetLoader(
        build_dataset(config, split),
        config.data.batch_size // size,
        seed=config.train.seed,
        shuffle=shuffle,
        rank=world.rank if world else 0,
        world_size=size,
    )


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
    num_classes = len(stream.dataset.info.classes)
    total, num_jets = 0.0, 0
    probabilities, labels = [np.zeros((0, num_classes), np.float32)], [np.zeros(0, np.int64)]
    for batch in stream.batches():
        moved = batch.to(world.device)
        with amp.autocast():
            loss, found = module(moved.p4, moved.features, moved.valid_mask, moved.labels)
        total += loss.item() * len(batch.labels)
        num_jets += len(batch.labels)
        probabilities.append(found.cpu().numpy())
        labels.append(batch.labels.numpy())
    means = world.mean({"val_loss": total / max(num_jets, 1)}, weight=num_jets)
    everything = world.gather_rows(np.concatenate(probabilities))
    truth = world.gather_rows(np.concatenate(labels))
    return {
        **means,
        "val_accuracy": accuracy(everything, truth),
        "val_auc_ovr": auc_one_vs_rest(everything, truth),
    }


def stamp(config: Config) -> dict[str, str]:
    """What a network takes from its data set, and what must agree when it is used again.

    Args:
        config: The whole configuration.

    Returns:
        Classes and normalisation, as text.
    """
    info = read_info(data_path(config))
    normalization = narrowed(info.normalization, config.data.feature_set or info.feature_set)
    return {"classes": ",".join(info.classes), "normalization": normalization.model_dump_json()}


def read_stamp(found: Mapping[str, str]) -> tuple[tuple[str, ...], Normalization]:
    """Turn a stamp back into classes and normalisation.

    Args:
        found: What `stamp` gave.

    Returns:
        Class names and the normalisation.
    """
    return tuple(found["classes"].split(",")), Normalization.model_validate_json(found["normalization"])


def check_stamp(config: Config, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs.

    Args:
        config: The whole configuration.
        found: Stamp of the checkpoint.
        source: Where the checkpoint is from.

    Raises:
        CheckpointError: Classes or normalisation differ.
    """
    for name, ours in stamp(config).items():
        if found.get(name) != ours:
            raise CheckpointError(
                f"the weights in {source} were trained with other {name} than those of {config.data.path}; "
                "use the data set and the data.feature_set of that run."
            )


def load_classification(config: Config, checkpoint: Mapping[str, Any]) -> JetClassification:
    """Build what predicts from a checkpoint; the data set is not needed.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The classification in evaluation mode, with the averaged weights, on the CPU.
    """
    module = build_model(config, checkpoint["stamp"])
    weights = checkpoint["ema"]
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in weights.items() if k.startswith("module.")}
    )
    classes, normalization = read_stamp(checkpoint["stamp"])
    return JetClassification(module.network, normalization, classes).eval()
