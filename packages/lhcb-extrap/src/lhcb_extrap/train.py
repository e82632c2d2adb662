"""`lhcb-extrap train`: the loop, read from top to bottom.

Two stages: AdamW over epochs with early stopping, then, where `train.polish` asks for it, Levenberg-Marquardt
steps on the averaged weights. One optimiser step of the first stage sees `data.batch_size` tracks, whatever
the number of processes and micro-batches. Validation runs on the averaged (EMA) weights. Everything that
decides the next step is in the checkpoint, so a resumed run continues bit by bit. Under `torchrun` the same
code runs on every rank and only rank 0 writes.
"""

import copy
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from hep_shared.amp import Amp, check_loss, explain_oom, resolve_device
from hep_shared.distributed import init_world
from hep_shared.ema import Ema
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.loop import open_run
from hep_shared.optim import adamw
from hep_shared.run import RunDir, capture, restore
from hep_shared.schedule import cosine_with_warmup
from hep_shared.seed import epoch_permutation, seed_everything, seed_step
from hep_shared.signals import StopTraining, stop_flag
from lhcb_extrap.config import Config, TrainConfig
from lhcb_extrap.data.history import HISTORY_FILE, arrange_history
from lhcb_extrap.data.stream import TrackStream
from lhcb_extrap.evaluate import evaluate
from lhcb_extrap.export import export
from lhcb_extrap.levenberg_marquardt import LayeredFit, LevenbergMarquardt, TrackFit, flatten, unflatten
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.simulate import simulate
from lhcb_extrap.tasks import TASKS
from lhcb_extrap.tasks.extrapolation import NORMALIZATION_FILE

log = logging.getLogger(__name__)
# The metrics that a finished training prints; all of them are in the run directory.
HEADLINE = ("pos_mean_mm", "pos_95_mm", "slope_mean", "num_failed")
_POLISH_EPOCH = (
    1_000_000  # the subsets of the polish are permutations of epochs that the first stage never has
)


@dataclass
class Cursor:
    """Where a training stands.

    Attributes:
        epoch: Current epoch, from 0.
        batch: Next global batch of this epoch.
        step: Optimiser steps since the start, skipped ones included, and after them polish steps.
        polish_step: Levenberg-Marquardt steps taken.
        best_loss: Lowest validation loss that counted as an improvement; None before the first epoch.
        bad_epochs: Epochs since then.
        sums: Sums of this epoch's batch losses and their parts, for their means.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    polish_step: int = 0
    best_loss: float | None = None
    bad_epochs: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return the fields as plain numbers."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the fields from `state`."""
        for name, value in state.items():
            setattr(self, name, copy.copy(value))

    def judge(self, loss: float, min_delta: float) -> None:
        """Count an epoch with its validation loss."""
        if self.best_loss is None or loss < self.best_loss - min_delta:
            self.best_loss, self.bad_epochs = loss, 0
        else:
            self.bad_epochs += 1


@dataclass
class Clock:
    """Seconds of training, pauses between two starts left out; no part of the result."""

    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the seconds."""
        self.seconds = state["seconds"]


def train(config: Config, *, out: Path, resume: bool, device: str, command: str) -> dict[str, Any]:
    """Train a model, evaluate it and export it; the run directory holds everything.

    Args:
        config: The whole configuration.
        out: Run directory; it must not hold another run.
        resume: Continue the run in `out` from its last checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        command: Command line, for the record.

    Returns:
        Run directory, best validation loss and what `train.finish` gave; empty on ranks other than 0.

    Raises:
        UserError: For a configuration, an input file or a checkpoint that cannot be used.
        StopTraining: After SIGTERM or SIGUSR1, once the state is saved.
    """
    settings = config.train
    world = init_world(resolve_device(device))
    seed_everything(settings.seed)  # every rank starts from the same weights
    task = TASKS[config.task.kind]
    if world.is_main:
        config = with_data(config, out)
    world.barrier()
    config = with_data(config, out)  # the other ranks find the files
    train_stream, validation_stream = task.build_streams(config, world)
    normalization = task.measure(config, train_stream.sample)
    model = task.build_model(config, normalization).to(world.device)
    ema = Ema(model, settings.ema_decay)
    task.attach_field(model, config, world.device)
    optimizer = adamw(model, lr=config.optim.lr, weight_decay=config.optim.weight_decay)
    num_steps = settings.epochs * train_stream.num_batches
    schedule = cosine_with_warmup(
        optimizer,
        num_warmup_steps=round(config.optim.warmup_fraction * num_steps),
        num_steps=num_steps,
        min_ratio=config.optim.min_lr_ratio,
    )
    amp = Amp(world.device, settings.precision, config.optim.max_grad_norm)
    polish = settings.polish
    solver = LevenbergMarquardt(
        flatten(ema.module.get_submodule("network")),
        damping=polish.damping if polish else 1.0,
        max_trials=polish.max_trials if polish else 1,
    )
    cursor, clock = Cursor(), Clock()
    state = {
        "model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule, "amp": amp,
        "solver": solver, "cursor": cursor, "clock": clock,
    }  # fmt: skip

    run = open_run(config, world, out=out, resume=resume, command=command, sinks=config.train.track)
    if run.has_checkpoint("last"):
        checkpoint = run.load_checkpoint("last", map_location=world.device)
        task.check_stamp(normalization, checkpoint["stamp"], run.path)
        check_data(checkpoint["data"], train_stream.signature, run.path)
        restore(checkpoint, **state)
        log.info("resumed %s at epoch %d, batch %d", run.path, cursor.epoch + 1, cursor.batch)
    if world.is_main:
        run.write_json(NORMALIZATION_FILE, normalization.model_dump(mode="json"))

    def save(metric: float | None = None) -> None:
        if world.is_main:
            run.save_checkpoint(
                {
                    **capture(**state),
                    "config": run.config,
                    "normalization": normalization.model_dump(mode="json"),
                    "stamp": task.stamp(normalization),
                    "data": train_stream.signature,
                },
                step=cursor.step,
                metric=metric,
                keep_every=settings.keep_checkpoint_every_steps,
            )
        world.barrier()

    def stop_if_asked() -> None:
        if world.any(stop_flag().requested):
            save()
            raise run.stop() if world.is_main else StopTraining(run.path)

    def record_and_save(**values: Any) -> None:
        validation = task.validate(ema.module, validation_stream, world, amp)
        record = {"step": cursor.step, **values, "system/training_time_sec": clock.seconds, **validation}
        if world.is_main:
            run.log(record)
            run.write_json(HISTORY_FILE, arrange_history(run.history()))
            log.info(
                "%s %d  train %.4g  validation %.4g  position %.4g mm", record["stage"],
                cursor.polish_step or cursor.epoch, record["train_loss"], record["val_loss"],
                record["pos_mean_mm"],
            )  # fmt: skip
        if not cursor.polish_step:
            cursor.judge(validation["val_loss"], settings.min_delta)
        save(metric=validation["val_loss"])
        stop_if_asked()

    forward = world.wrap(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_parts, num_batches = settings.accumulation_steps, train_stream.num_batches
    last_checkpoint = f"{run.path} (--resume)"
    with Progress(console=Console(stderr=True), disable=not world.is_main, transient=True) as progress:
        bar = progress.add_task("training", total=num_steps, completed=cursor.step)
        while wants_epoch(cursor, settings):
            started, num_done = time.perf_counter(), num_batches - cursor.batch
            model.train()
            for batch in train_stream.batches(cursor.epoch, start=cursor.batch):
                seed_step(settings.seed, cursor.step, world.rank)
                optimizer.zero_grad(set_to_none=True)
                found: dict[str, float] = {}
                with explain_oom(
                    "raise train.accumulation_steps, which cuts the memory and keeps the result"
                ):
                    for part in batch.split(num_parts):
                        with amp.autocast():
                            loss, pieces = task.compute_loss(forward, part.to(world.device))
                        amp.backward(loss / num_parts)
                        check_loss(
                            loss, epoch=cursor.epoch + 1, step=cursor.step, batch_id=part.name,
                            checkpoint=last_checkpoint if cursor.step else None,
                        )  # fmt: skip
                        for name, value in pieces.items():
                            found[name] = found.get(name, 0.0) + value / num_parts
                if not amp.step(optimizer, parameters).skipped:
                    ema.update()
                    schedule.step()
                for name, value in world.mean(found).items():
                    cursor.sums[name] = cursor.sums.get(name, 0.0) + value
                cursor.batch += 1
                cursor.step += 1
                progress.update(bar, completed=cursor.step, description=f"loss {found['loss']:.4g}")
                if cursor.batch < num_batches:  # the end of an epoch saves by itself
                    stop_if_asked()
                    if settings.save_every_steps and cursor.step % settings.save_every_steps == 0:
                        save()

            seconds = time.perf_counter() - started
            means = {f"train_{name}": total / num_batches for name, total in cursor.sums.items()}
            if "train_pde_loss" in means:
                means["train_physics_loss"] = means["train_pde_loss"] + means["train_ic_loss"]
            cursor.epoch, cursor.batch, cursor.sums = cursor.epoch + 1, 0, {}
            clock.seconds += seconds
            record_and_save(
                stage="adamw",
                epoch=cursor.epoch,
                **means,
                lr=schedule.get_last_lr()[0],
                skipped_steps=amp.num_skipped,
                **{
                    "system/epoch_duration_sec": seconds,
                    "system/throughput_tracks_per_sec": num_done * config.data.batch_size / seconds,
                },
            )
            if cursor.bad_epochs >= settings.patience:
                log.info("no improvement in %d epochs: stopping early", cursor.bad_epochs)

    if polish is not None:
        polish_stage(config, train_stream, ema, solver, cursor, clock, record_and_save)
    run.close()
    world.close()
    return finish(config, run, device) if world.is_main else {}


def wants_epoch(cursor: Cursor, settings: TrainConfig) -> bool:
    """Whether the first stage goes on: epochs are left, it did not stop early, the second has not begun."""
    return cursor.epoch < settings.epochs and cursor.bad_epochs < settings.patience and not cursor.polish_step


def polish_stage(
    config: Config,
    stream: TrackStream,
    ema: Ema,
    solver: LevenbergMarquardt,
    cursor: Cursor,
    clock: Clock,
    record_and_save: Any,
) -> None:
    """Take Levenberg-Marquardt steps on the averaged weights, each on its own random subset of the tracks.

    Every rank takes the same steps on the same tracks.

    Args:
        config: The whole configuration.
        stream: Training tracks.
        ema: Holds the weights.
        solver: Weights in double precision and damping.
        cursor: Counts the steps.
        clock: Counts the seconds.
        record_and_save: Called after each step with what to log.
    """
    polish = config.train.polish
    assert polish is not None
    network = ema.module.get_submodule("network")
    device = next(network.parameters()).device
    if cursor.polish_step == 0:
        solver.weights = flatten(network)
    double = copy.deepcopy(network).double()
    tracks, ends = stream.sample.tensors(torch.float64)
    options: Any = {
        "delta_mm": config.task.huber_delta_mm, "slope_arm_mm": config.task.slope_arm_mm,
        "chunk_tracks": polish.chunk_tracks,
    }  # fmt: skip
    for number in range(cursor.polish_step, polish.num_steps):
        started = time.perf_counter()
        rows = torch.from_numpy(epoch_permutation(config.train.seed, _POLISH_EPOCH + number, len(tracks)))
        rows = rows[: polish.num_tracks]
        with explain_oom("lower train.polish.chunk_tracks"):
            sample = tracks[rows].to(device), ends[rows].to(device)
            problem = (
                LayeredFit(double, *sample, **options)
                if isinstance(double, KickNet)
                else TrackFit(double, *sample, **options)
            )
            info = solver.step(problem)
        with torch.no_grad():
            for name, value in unflatten(double, solver.weights).items():
                network.get_parameter(name).copy_(value)
        cursor.polish_step, cursor.step = number + 1, cursor.step + 1
        clock.seconds += time.perf_counter() - started
        record_and_save(
            stage="polish",
            epoch=cursor.epoch + cursor.polish_step,
            polish_step=cursor.polish_step,
            train_loss=info.after,
            damping=info.damping,
            trials=info.trials,
        )


def check_data(found: str, ours: str, run: Path) -> None:
    """Refuse to resume on other tracks or another order: the result would be neither run."""
    if found != ours:
        raise CheckpointError(
            f"{run} was trained on other tracks, or with another seed or data.batch_size; "
            "resume with the former ones or choose another --out."
        )


def with_data(config: Config, out: Path) -> Config:
    """Fill in the files of a simulated data set when the configuration names none.

    Args:
        config: The whole configuration.
        out: Run directory; the data set goes into its folder `data`.

    Returns:
        A configuration that names files.

    Raises:
        ConfigError: There are neither files nor a data set to simulate.
    """
    data = config.data
    if data.files:
        return config
    if data.simulated is None:
        raise ConfigError(
            "data.files names no files; give track files, for example --set data.files='[tracks/*.npz]', "
            "or set data.simulated.num_tracks to train on simulated tracks."
        )
    folder = out / "data"
    if not folder.exists():
        log.info("no data given: simulating %d tracks into %s", data.simulated.num_tracks, folder)
    simulate(
        config.simulation, config.field, folder, num_tracks=data.simulated.num_tracks,
        seed=data.simulated.seed, num_workers=data.simulated.num_workers,
    )  # fmt: skip
    return config.model_copy(update={"data": data.model_copy(update={"files": (f"{folder}/batch_*.npz",)})})


def finish(config: Config, run: RunDir, device: str) -> dict[str, Any]:
    """Evaluate and export the best weights, as `train.finish` says.

    Args:
        config: The whole configuration.
        run: The finished run.
        device: Where to evaluate.

    Returns:
        What goes to the terminal.
    """
    result: dict[str, Any] = {"run": run.path, "best_val_loss": run.best_metric}
    test_final = None
    if "export" in config.train.finish:
        result["onnx"] = export(run.path, run.path / "model.onnx")["output"]
    if "evaluate" in config.train.finish:
        evaluation = evaluate(run.path, device=device)
        test_final = evaluation["network"]
        result["network"] = {name: test_final[name] for name in HEADLINE}
        result["figures"] = run.path / "figures"
    run.write_json(HISTORY_FILE, arrange_history(run.history(), test_final))
    return result
