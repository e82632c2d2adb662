"""What the tasks share: the data set and its stamp, the encoder and where its weights come from.

A stamp is what a network takes from its data set: class names and normalisation. An encoder that continues
from another run keeps the normalisation of that run, whatever data set it is trained on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hep_shared.distributed import World
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.run import RunDir
from jet_foundation.config import Config, ModelConfig
from jet_foundation.data.events import EventDataset
from jet_foundation.data.features import FEATURE_NAMES
from jet_foundation.data.loader import Batch, Dataset, JetDataset, Loader, narrowed
from jet_foundation.data.normalization import Normalization
from jet_foundation.data.shards import read_info
from jet_foundation.models.attention import ParticleAttention
from jet_foundation.models.encoder import JetEncoder, LorentzParTEncoder, ParTEncoder
from jet_foundation.models.legacy import LegacyEncoder

LORENTZ_ONLY = {"mv_channels", "spurions"}
NOT_LEGACY = LORENTZ_ONLY | {"embed_dims", "pair_norm", "pair_kind"}
ENCODER = "network.encoder."  # where every task keeps its encoder


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


def build_streams(config: Config, world: World) -> tuple[Loader[Any], Loader[Any]]:
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


def build_dataset(config: Config, split: str, normalization: Normalization | None = None) -> Dataset[Any]:
    """Open the jets of one split, or the events where the task is about events.

    Args:
        config: The whole configuration.
        split: `train`, `validation` or `test`.
        normalization: Of the features; None takes that of the data set or of the run started from.

    Returns:
        The jets or events.

    Raises:
        UserError: The data set cannot be used.
    """
    names = {"train": "train", "validation": "val", "test": "test"}
    if split not in names:
        raise ConfigError(f"--split is '{split}'; choose one of {', '.join(names)}.")
    normalization = normalization or read_stamp(stamp(config))[1]
    kind: type[JetDataset | EventDataset] = EventDataset if config.task.kind == "event" else JetDataset
    dataset = kind(
        data_path(config),
        names[split],
        feature_set=normalization.feature_set,
        max_jets=config.data.max_train_jets if split == "train" else None,
    )
    dataset.normalization = normalization
    return dataset


def build_stream(
    config: Config,
    split: str,
    world: World | None = None,
    *,
    shuffle: bool = False,
    normalization: Normalization | None = None,
) -> Loader[Any]:
    """Open the batches of one split.

    Args:
        config: The whole configuration.
        split: `train`, `validation` or `test`.
        world: This process and its fellows; None for a single process.
        shuffle: Random order and whole batches, for training.
        normalization: See `build_dataset`.

    Returns:
        The stream.

    Raises:
        UserError: The data set cannot be used, or has too few jets.
    """
    size = world.size if world else 1
    return Loader(
        build_dataset(config, split, normalization),
        config.data.batch_size // size,
        seed=config.train.seed,
        shuffle=shuffle,
        rank=world.rank if world else 0,
        world_size=size,
    )


def stamp(config: Config) -> dict[str, str]:
    """What a network takes from its data set, and what must agree when it is used again.

    Args:
        config: The whole configuration.

    Returns:
        Classes and normalisation, as text.

    Raises:
        UserError: The data set, or the run started from, cannot be used.
    """
    info = read_info(data_path(config))
    if config.start.run is None:
        normalization = narrowed(info.normalization, config.data.feature_set or info.feature_set)
    else:
        normalization = read_stamp(start_checkpoint(config.start.run)["stamp"])[1]
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


def continued(config: Config) -> Config:
    """Complete the configuration of a training that starts from another run.

    Args:
        config: The whole configuration.

    Returns:
        The same with the network of that run, and its data set where none is named; unchanged without a run.

    Raises:
        UserError: The run cannot be used, or the configuration describes another network.
    """
    if config.start.run is None:
        return config
    former = Config.model_validate(RunDir.open(config.start.run).config)
    if config.model not in (ModelConfig(), former.model):
        raise ConfigError(
            f"the section model differs from that of {config.start.run}, whose encoder is to be trained "
            "further; leave it out."
        )
    data = config.data
    if data.path is None and config.task.kind != "event":
        data = data.model_copy(update={"path": former.data.path})
    return config.model_copy(update={"model": former.model, "data": data})


def start_checkpoint(run: Path) -> dict[str, Any]:
    """Load the best checkpoint of the run that a training starts from.

    Args:
        run: Run directory.

    Returns:
        The checkpoint.

    Raises:
        UserError: The run cannot be used.
    """
    return RunDir.open(run).load_checkpoint("best")


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Averaged weights in a checkpoint.

    Args:
        checkpoint: A checkpoint of a run.

    Returns:
        Weight by name of the task's module.
    """
    weights = checkpoint["ema"]
    return {k.removeprefix("module."): v for k, v in weights.items() if k.startswith("module.")}


def build_encoder(config: Config, num_features: int, *, hidden_tokens: bool = False) -> JetEncoder:
    """Build the encoder, load the weights it starts from, and freeze what is not trained further.

    Args:
        config: The whole configuration.
        num_features: Features F of a particle.
        hidden_tokens: Whether particles can be hidden.

    Returns:
        The encoder on the CPU.

    Raises:
        CheckpointError: The run started from has an encoder of another shape.
    """
    model = config.model
    options: dict[str, Any] = model.model_dump(exclude={"kind", "num_class_layers"})
    options["hidden_tokens"] = hidden_tokens
    encoder: JetEncoder
    if model.kind == "lorentz_part":
        encoder = LorentzParTEncoder(num_features, **options)
        if not hidden_tokens:
            # Only pre-training reads the equivariant output; torchrun must not wait for its gradients.
            encoder.gate.requires_grad_(False)
            encoder.out_linear.requires_grad_(False)
    elif model.kind == "legacy":
        encoder = LegacyEncoder(**{name: value for name, value in options.items() if name not in NOT_LEGACY})
    else:
        common = {name: value for name, value in options.items() if name not in LORENTZ_ONLY}
        encoder = ParTEncoder(num_features, **common)
    start = config.start
    if start.run is not None:
        load_encoder(encoder, start_checkpoint(start.run), start.run)
        if start.mode != "full":
            encoder.freeze(start.last_k if start.mode == "partial" else 0)
    if isinstance(encoder, LegacyEncoder) and not hidden_tokens:
        encoder.project_out.requires_grad_(False)  # as above
        encoder.out_linear.requires_grad_(False)
    return encoder


def load_encoder(encoder: JetEncoder, checkpoint: Mapping[str, Any], source: Path) -> None:
    """Take over the averaged weights of another run's encoder.

    Args:
        encoder: The encoder to fill.
        checkpoint: Checkpoint of the other run.
        source: Where it is from.

    Raises:
        CheckpointError: The encoders have different shapes.
    """
    weights = {
        name.removeprefix(ENCODER): value
        for name, value in averaged_weights(checkpoint).items()
        if name.startswith(ENCODER)
    }
    if encoder.hidden_token is None:
        weights.pop("hidden_token", None)
    own = encoder.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        shapes = [tuple(state[name].shape) if name in state else None for state in (own, weights)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f"the encoder in {source} has {name} of shape {shapes[1]}, this one needs {shapes[0]}; "
                "use the model settings and the feature set of that run."
            )
    encoder.load_state_dict(weights)


def num_features(conventions: Mapping[str, str]) -> int:
    """Number of features per particle that a stamp stands for.

    Args:
        conventions: The stamp.

    Returns:
        The number F.
    """
    return len(FEATURE_NAMES[read_stamp(conventions)[1].feature_set])


def load_averaged(module: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Fill a task's module with the averaged weights of a checkpoint, in evaluation mode.

    Args:
        module: The module.
        checkpoint: A checkpoint of the same task.
    """
    module.load_state_dict(averaged_weights(checkpoint))
    module.eval()


def padded_rows(parts: Sequence[NDArray[Any]], num_slots: int | None = None) -> NDArray[Any]:
    """Put batches of different widths one after another.

    Args:
        parts: Batches, (B, N, ...) each with its own N.
        num_slots: Common width; None takes the largest.

    Returns:
        All rows, (J, num_slots, ...), filled up with zeros.
    """
    num = num_slots or max(part.shape[1] for part in parts)
    return np.concatenate(
        [np.pad(part, [(0, 0), (0, num - part.shape[1])] + [(0, 0)] * (part.ndim - 2)) for part in parts]
    )


@torch.no_grad()
def attention_of(encoder: JetEncoder, batch: Batch, jet: int) -> NDArray[Any]:
    """What the particles of one jet attend to in the last layer.

    Args:
        encoder: The encoder in evaluation mode.
        batch: Jets on its device.
        jet: Place of the jet in the batch.

    Returns:
        Weights of query and key, (H, N, N), without padding.
    """
    attention = encoder.blocks[-1].get_submodule("attention")
    assert isinstance(attention, ParticleAttention)
    maps: list[Tensor] = []
    hook = attention.register_forward_pre_hook(
        lambda _, arguments: maps.append(attention.attention_map(*arguments))
    )
    num = int(batch.valid_mask[jet].sum())
    try:
        one = [tensor[jet : jet + 1, :num] for tensor in (batch.p4, batch.features, batch.valid_mask)]
        encoder.tokens(*one)
    finally:
        hook.remove()
    found: NDArray[Any] = maps[0][0].float().cpu().numpy()
    return found
