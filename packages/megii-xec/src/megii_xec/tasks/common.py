"""What the tasks share: the encoder, the streams of events and the hand-over of weights."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import nn

from hep_shared.distributed import World
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.run import RunDir
from megii_xec.config import Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import Branch
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.models.encoder import XecEncoder

# Turns a batch as it was read into what a training step of an epoch sees.
Prepare = Callable[[PhotonBatch, int], PhotonBatch]


def build_encoder(config: Config) -> XecEncoder:
    """Build the encoder.

    Args:
        config: The whole configuration.

    Returns:
        The encoder on the CPU with fresh weights.
    """
    model, normalization = config.model, config.data.normalization
    return XecEncoder(
        rescale_npho=normalization.rescale_npho,
        sentinel_npho=normalization.sentinel_npho,
        sentinel_time=normalization.sentinel_time,
        **model.model_dump(exclude={"kind", "start", "head_dim", "head_dropout"}),
    )


def build_streams(
    config: Config, world: World, *, extra: Sequence[Branch] = ()
) -> tuple[PhotonStream, PhotonStream]:
    """Open the training and the validation events.

    Args:
        config: The whole configuration.
        world: This process and its fellows.
        extra: Branches to deliver with the training events.

    Returns:
        Shuffled training stream and ordered validation stream of this rank.

    Raises:
        UserError: For files that cannot be used, or too few events.
    """
    share = world.size * config.train.accumulation_steps
    if config.data.batch_size % share:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, which {world.size} processes times "
            f"train.accumulation_steps = {config.train.accumulation_steps} do not divide; "
            f"use a multiple of {share}."
        )
    train = build_stream(config, "train", world, shuffle=True, extra=extra)
    return train, build_stream(config, "validation", world)


def build_stream(
    config: Config,
    split: str,
    world: World | None = None,
    *,
    shuffle: bool = False,
    normalization: Normalization | None = None,
    extra: Sequence[Branch] = (),
) -> PhotonStream:
    """Open the events of one split.

    Args:
        config: The whole configuration.
        split: `train`, `validation` or `test`.
        world: This process and its fellows; None for a single process.
        shuffle: Random order and whole batches, for training.
        normalization: What the sensors become; by default what the network was configured with.
        extra: Branches to deliver besides sensors and targets.

    Returns:
        The stream.

    Raises:
        ConfigError: The configuration names no files for this split.
    """
    data = config.data
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if split not in splits:
        raise ConfigError(f"--split is '{split}'; choose train, validation or test.")
    own = splits[split]
    held_back = split == "validation" and not own
    paths = data.train if held_back else own
    if not paths:
        raise ConfigError(
            f"data.{split} names no files; give ROOT files, for example "
            f"--set data.{split}='[photons/*.root]'."
        )
    cuts = held_back or (split == "train" and not data.validation)
    return PhotonStream(
        paths,
        normalization or data.normalization,
        batch_size=data.batch_size,
        targets=tuple(config.task.targets),
        selection=data.selection,
        shuffle=shuffle,
        seed=config.train.seed,
        split=split if cuts else "all",  # type: ignore[arg-type]
        validation_fraction=data.validation_fraction if cuts else 0.0,
        chunk_events=data.chunk_events,
        num_lanes=data.mixed_chunks,
        num_workers=data.num_threads,
        rank=world.rank if world else 0,
        world_size=world.size if world else 1,
        extra=extra,
    )


def calibrate(module: nn.Module, stream: PhotonStream, world: World) -> None:
    """Measure what a fresh network takes from training events; here nothing, see `inpaint.calibrate`."""


def training_metrics(module: nn.Module, world: World) -> dict[str, float]:
    """Numbers of an epoch of training besides its loss; here none, see `pretrain.training_metrics`."""
    return {}


def stamp(config: Config) -> dict[str, str]:
    """What must agree between an encoder and the network that takes it over.

    Args:
        config: The whole configuration.

    Returns:
        Normalisation and layout.
    """
    return {
        "normalization": config.data.normalization.fingerprint(),
        "layout": config.model.layout,
        "area_scaling": config.model.area_scaling,
        "outer_mode": config.model.outer_mode,
        "outer_pool": str(config.model.outer_pool),
        "face_pool": config.model.face_pool,
        "stem_stride": str(config.model.stem_stride),
        "inner_tokens": str(config.model.inner_tokens),
        "position": config.model.position,
    }


def check_stamp(config: Config, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs.

    Args:
        config: The whole configuration.
        found: Stamp of the checkpoint.
        source: Where the checkpoint is from.

    Raises:
        CheckpointError: Normalisation or layout differ.
    """
    for name, ours in stamp(config).items():
        if found.get(name) != ours:
            section = "data.normalization" if name == "normalization" else f"model.{name}"
            raise CheckpointError(
                f"the weights in {source} were trained with {name} {found.get(name)}, but {section} is "
                f"{ours}; use the configuration of that run for {section}."
            )


def load_encoder(module: nn.Module, config: Config, run: Path) -> None:
    """Start from the encoder of another run, of any task; its averaged weights are taken.

    Args:
        module: The module whose `network.encoder` is filled.
        config: The whole configuration.
        run: Run directory of the other training.

    Raises:
        CheckpointError: The encoder has another size, normalisation or layout.
    """
    checkpoint = RunDir.open(run).load_checkpoint("best")
    check_stamp(config, checkpoint["stamp"], run)
    prefix = "module.network.encoder."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["ema"].items() if k.startswith(prefix)}
    try:
        module.get_submodule("network.encoder").load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise CheckpointError(
            f"the encoder in {run} does not fit the one configured ({reason}); use its model section."
        ) from error


def load_averaged(module: nn.Module, checkpoint: Mapping[str, Mapping[str, object]]) -> None:
    """Fill a module with the averaged weights of a checkpoint.

    Args:
        module: The module as built from the configuration of the run.
        checkpoint: A checkpoint of the run.
    """
    weights = checkpoint["ema"]
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in weights.items() if k.startswith("module.")}
    )
