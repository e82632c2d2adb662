"""What both tasks need: streams of the splits, fitted constants, weights out of checkpoints."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fourtop_tokens.config import BinnedTokens, ClassifierConfig, Config, DataConfig
from fourtop_tokens.data.events import read_events
from fourtop_tokens.data.scaling import EventStatistics
from fourtop_tokens.data.schema import SPLITS, Split
from fourtop_tokens.data.stream import EventStream, read_split
from fourtop_tokens.data.tokenizer import Binning, Vocabulary
from fourtop_tokens.data.tokens import read_binned
from hep_shared.distributed import World
from hep_shared.errors import CheckpointError, ConfigError


def vocabulary_of(config: Config) -> Vocabulary | None:
    """Numbering of the tokens, None unless they are binned."""
    model = config.model
    binned = isinstance(model, ClassifierConfig) and isinstance(model.tokens, BinnedTokens)
    return model.tokens.vocabulary if binned else None  # type: ignore[union-attr]


def fit_constants(config: Config) -> Config:
    """Measure on the train split what the configuration leaves open.

    Args:
        config: A configuration that names its files.

    Returns:
        The same with `data.statistics` and `model.tokens.binning`.

    Raises:
        UserError: The file cannot be used.
    """
    data, model = config.data, config.model
    tokens = model.tokens if isinstance(model, ClassifierConfig) else None
    if data.tokens is not None:
        assert isinstance(tokens, BinnedTokens)
        tables, _ = read_binned(data.tokens, tokens.vocabulary)
        labels = tables["train"][1][: data.num_events]
        counts = tuple(int((labels == label).sum()) for label in range(1, 6))
        statistics = EventStatistics(scheme=data.scaling, class_counts=counts)
        return config.model_copy(update={"data": data.model_copy(update={"statistics": statistics})})
    if data.events is None:
        raise ConfigError("data.events names no file; give one, for example --set data.events=events.h5.")
    # All splits: what is wrong with the test events should be known before a training, not after it.
    train = read_events(data.events, units=data.units, num_events=data.num_events)["train"]
    updates: dict[str, Any] = {
        "data": data.model_copy(update={"statistics": EventStatistics.fit(train, data.scaling)})
    }
    if isinstance(tokens, BinnedTokens):
        options = tokens.model_dump(exclude={"kind", "rows", "binning"})
        fitted = tokens.model_copy(update={"binning": Binning.fit(train, **options)})
        updates["model"] = model.model_copy(update={"tokens": fitted})
    return config.model_copy(update=updates)


def statistics_of(data: DataConfig) -> EventStatistics:
    """Constants of the train split, which a run's configuration always has."""
    if data.statistics is None:
        raise ConfigError("data.statistics is empty; it is filled in when a training starts.")
    return data.statistics


def build_streams(config: Config, world: World) -> tuple[EventStream, EventStream]:
    """Read the training and the validation events.

    Args:
        config: The whole configuration.
        world: This process and its fellows.

    Returns:
        Shuffled training stream and ordered validation stream of this rank.

    Raises:
        UserError: For a file that cannot be used, or too few events.
    """
    share = world.size * config.train.accumulation_steps
    if config.data.batch_size % share:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, which {world.size} processes times "
            f"train.accumulation_steps = {config.train.accumulation_steps} do not divide; "
            f"use a multiple of {share}."
        )
    return build_stream(config, "train", world, shuffle=True), build_stream(config, "val", world)


def build_stream(
    config: Config, split: str, world: World | None = None, *, shuffle: bool = False
) -> EventStream:
    """Read the events of one split.

    Args:
        config: The whole configuration.
        split: `train`, `val` or `test`.
        world: This process and its fellows; None for a single process.
        shuffle: Random order, whole batches and augmentation, for training.

    Returns:
        The stream.

    Raises:
        UserError: There is no such split, or the file cannot be used.
    """
    data = config.data
    inputs, labels = read_split(
        known_split(split), events=data.events, tokens=data.tokens, vocabulary=vocabulary_of(config),
        units=data.units, num_events=data.num_events,
    )  # fmt: skip
    return EventStream(
        inputs,
        labels,
        batch_size=data.batch_size,
        shuffle=shuffle,
        augment=shuffle and data.augment,
        seed=config.train.seed,
        rank=world.rank if world else 0,
        world_size=world.size if world else 1,
        name=f"the {split} events of {data.tokens or data.events}",
    )


def known_split(split: str) -> Split:
    """Check the name of a split."""
    for name in SPLITS:
        if split == name:
            return name
    raise ConfigError(f"--split is '{split}'; choose one of {', '.join(SPLITS)}.")


def averaged_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The EMA weights of a checkpoint under the names of the module.

    Args:
        checkpoint: A checkpoint of a run.

    Returns:
        A state dict.
    """
    weights = checkpoint["ema"]
    return {k.removeprefix("module."): v for k, v in weights.items() if k.startswith("module.")}


def compare_stamps(ours: Mapping[str, str], found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs.

    Args:
        ours: What the configuration says.
        found: Stamp of the checkpoint.
        source: Where the checkpoint is from.

    Raises:
        CheckpointError: They differ.
    """
    for name, value in ours.items():
        if found.get(name) != value:
            raise CheckpointError(
                f"the weights in {source} were trained with {name} {found.get(name)}, but the configuration "
                f"gives {value}; use the configuration of that run."
            )
