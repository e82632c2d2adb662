"""Extrapolate tracks: the network with its losses, the streams of tracks, and the numbers of a validation.

Dimension legend: B tracks.
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
from hep_shared.files import manifest_path, reader_boundary, verify_manifest
from hep_shared.run import RunDir
from lhcb_extrap import losses
from lhcb_extrap.config import Config, ExtrapolationConfig, ModelConfig
from lhcb_extrap.data.field_source import load_field
from lhcb_extrap.data.normalization import Normalization
from lhcb_extrap.data.stream import Batch, Sample, Split, TrackStream, read_sample
from lhcb_extrap.data.tracks import find_files
from lhcb_extrap.metrics import track_errors
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.models.mlp import LENGTH, Mlp, Pinn
from lhcb_extrap.models.rk_pinn import NODES, RkPinn

NORMALIZATION_FILE = "normalization.json"
STAGES = tuple(f"stage_{number + 1}" for number in range(len(NODES)))
Network = Mlp | Pinn | RkPinn | KickNet


class ExtrapolationModule(nn.Module):
    """Network and losses in one module.

    Args:
        network: The network.
        task: Kinds and weights of the losses.
        end_std: Standard deviations of x, y, tx, ty at the end.
        num_collocation: Points on each path where a PINN is tested.
    """

    def __init__(
        self,
        network: Network,
        task: ExtrapolationConfig,
        end_std: tuple[float, ...],
        num_collocation: int = 0,
    ) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.num_collocation = num_collocation
        self.data_loss = task.data_loss or ("pseudo_huber" if isinstance(network, KickNet) else "mse")
        # No buffer: the map is neither trained nor saved, and Ema would copy 12 MB at every step.
        self.field: losses.FieldTable | None = None
        self.end_std: Tensor
        self.register_buffer("end_std", torch.tensor(end_std))

    @property
    def needs_field(self) -> bool:
        """Whether the equations of motion are part of the loss."""
        return isinstance(self.network, Pinn | RkPinn) and self.task.lambda_pde > 0

    def distance(self, end: Tensor, truth: Tensor) -> Tensor:
        """Loss between ends (B, 4), mm, 1; scalar."""
        if self.data_loss == "mse":
            return losses.mse(end, truth, self.end_std)
        difference = losses.weighted_difference(end, truth, self.task.slope_arm_mm)
        return losses.pseudo_huber(difference, self.task.huber_delta_mm)

    def forward(self, tracks: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Evaluate network and losses.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.
            truth: x, y, tx, ty at the end, (B, 4), mm, 1.

        Returns:
            Scalars: `loss`, `data_loss`, and for networks with physics `ic_loss`, `pde_loss` and of RK_PINN
            the parts of the latter, `stage_1` to `stage_4`.
        """
        task, network = self.task, self.network
        parts: dict[str, Tensor] = {}
        if isinstance(network, RkPinn):
            rates = network.stage_rates(tracks)
            parts["data_loss"] = self.distance(network.end(tracks, rates), truth)
            parts["ic_loss"] = torch.zeros_like(parts["data_loss"])  # exact by construction
            parts["pde_loss"] = torch.zeros_like(parts["data_loss"])
            if self.needs_field:
                stages = self._stage_losses(network, tracks, rates)
                parts["pde_loss"] = stages.mean()
                parts |= dict(zip(STAGES, stages.unbind(), strict=True))
        elif isinstance(network, Pinn):
            parts["data_loss"] = self.distance(network(tracks), truth)
            parts["ic_loss"] = torch.zeros_like(parts["data_loss"])
            if task.lambda_ic > 0:
                start = network.at(tracks, torch.zeros_like(tracks[:, LENGTH]))
                parts["ic_loss"] = losses.mse(start, tracks[:, :4], self.end_std)
            parts["pde_loss"] = torch.zeros_like(parts["data_loss"])
            if self.needs_field:
                parts["pde_loss"] = self._path_loss(network, tracks)
        else:
            parts["data_loss"] = self.distance(network(tracks), truth)
        loss = task.lambda_data * parts["data_loss"]
        if "pde_loss" in parts:
            loss = loss + task.lambda_pde * parts["pde_loss"] + task.lambda_ic * parts["ic_loss"]
        return {"loss": loss, **parts}

    def _path_loss(self, network: Pinn, tracks: Tensor) -> Tensor:
        repeated = tracks.repeat_interleave(self.num_collocation, dim=0)
        length = torch.rand_like(repeated[:, LENGTH]) * repeated[:, LENGTH]
        state, rate = network.state_and_rate(repeated, length)
        assert self.field is not None
        expected = losses.lorentz_rate(state, repeated[:, 4], repeated[:, 6] + length, self.field)
        return losses.pde_residual(rate, expected, repeated[:, LENGTH], self.end_std).square().mean()

    def _stage_losses(self, network: RkPinn, tracks: Tensor, rates: Tensor) -> Tensor:
        states = network.stage_states(tracks, rates)
        assert self.field is not None
        found = []
        for number, node in enumerate(NODES):
            z = tracks[:, 6] + node * tracks[:, LENGTH]
            expected = losses.lorentz_rate(states[:, number], tracks[:, 4], z, self.field)
            residual = losses.pde_residual(rates[:, number], expected, tracks[:, LENGTH], self.end_std)
            found.append(residual.square().mean())
        return torch.stack(found)


def build_network(model: ModelConfig, normalization: Normalization) -> Network:
    """Build a network.

    Args:
        model: Section of the configuration.
        normalization: Scales, planes and field.

    Returns:
        The network on the CPU with fresh weights.

    Raises:
        ConfigError: The tracks have variable planes that the network does not see.
    """
    n = normalization
    if not n.fixed_planes and not model.use_planes:
        ranges = f"z0 from {n.z0_mm[0]:g} to {n.z0_mm[1]:g} mm, dz from {n.dz_mm[0]:g} to {n.dz_mm[1]:g} mm"
        if n.z0_mm[0] != n.z0_mm[1] or model.kind == "kick":
            raise ConfigError(
                f"model.use_planes is false, but the tracks have variable planes ({ranges}); "
                "set model.use_planes=true."
            )
    start = (n.start_mean, n.start_std)
    if model.kind == "mlp":
        return Mlp(
            model.hidden, *start, n.end_mean, n.end_std, use_z0=model.use_planes, activation=model.activation
        )
    if model.kind == "pinn":
        longest = max(n.dz_mm, key=abs)
        return Pinn(
            model.hidden, *start, n.end_mean, n.end_std, max_length_mm=longest, use_z0=model.use_planes
        )
    if model.kind == "rk_pinn":
        return RkPinn(model.hidden, *start, n.rate_mean, n.rate_std, use_z0=model.use_planes)
    return KickNet(
        model.hidden,
        n.feature_mean,
        n.feature_std,
        n.correction_mean,
        n.correction_std,
        n.field.table() if n.planes is None or model.use_planes else n.planes.table(),
        flip_x=model.mirror and n.field.flip_x,
        flip_y=model.mirror and n.field.flip_y,
        use_planes=model.use_planes,
        activation=model.activation,
    )


def build_model(config: Config, normalization: Normalization) -> ExtrapolationModule:
    """Build network and losses.

    Args:
        config: The whole configuration.
        normalization: Scales, planes and field.

    Returns:
        The module on the CPU with fresh weights, without a field map; see `attach_field`.
    """
    network = build_network(config.model, normalization)
    collocation = config.model.num_collocation if config.model.kind == "pinn" else 0
    return ExtrapolationModule(network, config.task, normalization.end_std, collocation)


def attach_field(module: ExtrapolationModule, config: Config, device: torch.device) -> None:
    """Give a module the field map that its losses need, if they need one.

    Args:
        module: The module.
        config: The whole configuration.
        device: Where the module is.
    """
    if module.needs_field:
        module.field = losses.FieldTable.of(load_field(config.field), device)


def measure(config: Config, sample: Sample) -> Normalization:
    """Measure scales and planes of training tracks, and check that they crossed the configured field.

    Args:
        config: The whole configuration.
        sample: Training tracks.

    Returns:
        The normalisation.

    Raises:
        ConfigError: A file says that its tracks were simulated in another field.
    """
    found = Normalization.of(sample.batch, sample.z0, load_field(config.field))
    for path in sample.files:
        if not manifest_path(path).exists():
            continue
        theirs = (verify_manifest(path) or {}).get("field_fingerprint")
        if theirs not in (None, found.field.fingerprint):
            raise ConfigError(
                f"{path} was simulated in the field {theirs}, but the section field gives "
                f"{found.field.fingerprint}; use the section field of that simulation."
            )
    return found


def read_split(config: Config, split: Split) -> Sample:
    """Read one split into memory.

    Args:
        config: The whole configuration.
        split: Which part.

    Returns:
        The tracks.

    Raises:
        ConfigError: The configuration names no files.
    """
    data = config.data
    if not data.files:
        raise ConfigError(
            "data.files names no files; give track files, for example --set data.files='[tracks/*.npz]'."
        )
    fractions = (data.train_fraction, data.validation_fraction)
    return read_sample(find_files(data.files, "data.files"), split, fractions, z0_mm=data.z0_mm)


def build_streams(config: Config, world: World) -> tuple[TrackStream, TrackStream]:
    """Open the training and the validation tracks.

    Args:
        config: The whole configuration.
        world: This process and its fellows.

    Returns:
        Shuffled training stream and ordered validation stream of this rank.

    Raises:
        UserError: For files that cannot be used, or too few tracks.
    """
    share = world.size * config.train.accumulation_steps
    if config.data.batch_size % share:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, which {world.size} processes times "
            f"train.accumulation_steps = {config.train.accumulation_steps} do not divide; "
            f"use a multiple of {share}."
        )
    return (
        TrackStream(
            read_split(config, "train"), batch_size=config.data.batch_size, shuffle=True,
            seed=config.train.seed, rank=world.rank, world_size=world.size,
        ),
        TrackStream(
            read_split(config, "validation"), batch_size=4 * config.data.batch_size, rank=world.rank,
            world_size=world.size,
        ),
    )  # fmt: skip


def compute_loss(forward: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped.
        batch: Tracks on the module's device.

    Returns:
        Scalar loss, the mean over the tracks, and the values of all its parts.
    """
    parts: dict[str, Tensor] = forward(batch.tracks, batch.end)
    return parts["loss"], {name: float(value.detach()) for name, value in parts.items()}


@torch.no_grad()
def validate(module: ExtrapolationModule, stream: TrackStream, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation tracks.

    Args:
        module: The averaged module.
        stream: Ordered tracks of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, the distance to the true ends without any physics term so that all networks compare, and
        `track_errors`, over the tracks of all ranks.
    """
    module.eval()
    ends: list[np.ndarray[Any, Any]] = []
    truths: list[np.ndarray[Any, Any]] = []
    total, num_tracks = 0.0, 0
    for batch in stream.batches():
        if not len(batch):
            continue
        moved = batch.to(world.device)
        with amp.autocast():
            end = module.network(moved.tracks).float()
        total += float(module.distance(end, moved.end)) * len(batch)
        num_tracks += len(batch)
        ends.append(end.cpu().numpy())
        truths.append(batch.end.numpy())
    empty = np.zeros((0, 4), np.float32)
    end_all, truth_all = (world.gather_rows(np.concatenate([empty, *parts])) for parts in (ends, truths))
    loss = world.mean({"val_loss": total / max(num_tracks, 1)}, weight=num_tracks)
    return {**loss, **track_errors(end_all, truth_all)}


def stamp(normalization: Normalization) -> dict[str, str]:
    """What must agree between a checkpoint and the run that continues it."""
    return {"normalization": normalization.fingerprint(), "field": normalization.field.fingerprint}


def check_stamp(normalization: Normalization, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that belong to other scales or another field.

    Args:
        normalization: What is at hand.
        found: Stamp of the checkpoint.
        source: Where the checkpoint is from.

    Raises:
        CheckpointError: They differ.
    """
    for name, ours in stamp(normalization).items():
        if found.get(name) != ours:
            raise CheckpointError(
                f"the weights in {source} were trained with {name} {found.get(name)}, but here it is {ours}; "
                f"use the {name} file and the data of that run."
            )


def load_network(config: Config, checkpoint: Mapping[str, Any], run: RunDir) -> tuple[Network, Normalization]:
    """Build what predicts from a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.
        run: The run; its `normalization.json`, where there is one, must belong to the checkpoint.

    Returns:
        The network in evaluation mode, with the averaged weights, on the CPU, and its normalisation.

    Raises:
        CheckpointError: The normalisation file is that of another model.
    """
    normalization = Normalization.model_validate(checkpoint["normalization"])
    file = run.path / NORMALIZATION_FILE
    if file.exists():
        check_stamp(read_normalization(file), checkpoint["stamp"], run.path)
    module = build_model(config, normalization)
    weights = {k.removeprefix("module."): v for k, v in checkpoint["ema"].items() if k.startswith("module.")}
    module.load_state_dict(weights)
    return module.network.eval(), normalization


def read_normalization(file: Path) -> Normalization:
    """Read a normalisation file.

    Args:
        file: `normalization.json` of a run.

    Returns:
        The normalisation.

    Raises:
        InputFileError: It is damaged or something else.
    """
    with reader_boundary(file, remedy="restore the file of this run"):
        return Normalization.model_validate_json(file.read_text())
