"""`chhiggs-pnet train`: three stages and the loop they share, read from top to bottom.

Stage 1 trains one network at each mass point, each a run of its own in `<run>/stage1`, which also measures
how hard each point is. Stage 2 makes one network of them (`average.method`), logs the loss barrier and picks
the start with the lowest loss. Stage 3 trains on all points together, in the tiers of the curriculum.

One optimiser step sees `data.batch_size` events, whatever the number of processes and micro-batches: every
rank takes its share of the global batch, and the share is cut into `train.accumulation_steps` pieces whose
gradients add up. Validation runs on the averaged (EMA) weights. Everything that decides the next step is in
the checkpoint, so a resumed run continues bit by bit, in whichever stage it was. Under `torchrun` the same
code runs on every rank and only rank 0 writes.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from chhiggs_pnet.config import Config, MassScaling
from chhiggs_pnet.data.branch_map import load_branch_map
from chhiggs_pnet.data.samples import SAMPLES_FILE
from chhiggs_pnet.evaluate import evaluate
from chhiggs_pnet.export import export
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.prepare import prepare
from chhiggs_pnet.simulate import simulate_samples
from chhiggs_pnet.tasks import TASKS
from chhiggs_pnet.tasks.stages import State, average, curriculum, fresh_model, tiers_of
from hep_shared.amp import Amp, check_loss, explain_oom, resolve_device
from hep_shared.distributed import World, init_world
from hep_shared.ema import Ema
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.files import reader_boundary
from hep_shared.loop import Cursor, open_run, timed
from hep_shared.optim import adamw
from hep_shared.run import RunDir, capture, restore
from hep_shared.schedule import cosine_with_warmup
from hep_shared.seed import seed_everything, seed_step
from hep_shared.signals import StopTraining, stop_flag

log = logging.getLogger(__name__)
STAGES_FILE = "stages.json"


def train(config: Config, *, out: Path, resume: bool, device: str, command: str) -> dict[str, Any]:
    """Train a model in its stages, evaluate it and export it; the run directory holds everything.

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
    world = init_world(resolve_device(device))
    if world.is_main:
        config = with_data(config, out)
    world.barrier()
    config = with_data(config, out)  # the other ranks find the files
    TASKS[config.task.kind].build_streams(config, world)  # before anything is written
    run = open_run(config, world, out=out, resume=resume, command=command, sinks=config.train.track)
    start, tiers = None, None
    if config.pretrain.epochs:
        try:
            members, dedicated_auc = pretrain(config, world, out=out, command=command)
        except StopTraining:
            if world.is_main:
                (out / "CHECKPOINTED").write_text("stage1\n")
            raise
        tiers = tiers_of(dedicated_auc)
        if not run.has_checkpoint("last"):
            start, record = average(config, world, members)
            if world.is_main:
                stages = {"dedicated_auc": dedicated_auc, "tiers": tiers, "average": record}
                run.write_json(STAGES_FILE, stages)
    fit(config, world, run, start=start, tiers=tiers)
    run.close()
    world.close()
    return finish(config, run, device) if world.is_main else {}


def fit(
    config: Config,
    world: World,
    run: RunDir,
    *,
    start: State | None = None,
    tiers: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Train on all points of a configuration together; stage 3, and what stages 1 and 2 call.

    Args:
        config: The whole configuration.
        world: This process and its fellows.
        run: Run directory.
        start: Weights to start from; fresh ones if None.
        tiers: Names of the points of each tier of the curriculum.

    Raises:
        UserError: For a checkpoint of another run, or a diverged loss.
        StopTraining: After SIGTERM or SIGUSR1, once the state is saved.
    """
    settings = config.train
    seed_everything(settings.seed)  # every rank starts from the same weights
    task = TASKS[config.task.kind]
    streams = task.build_streams(config, world)
    train_stream = streams.train
    train_stream.active = curriculum(config, [point.name for point in train_stream.points], tiers)
    model = fresh_model(config, streams).to(world.device)
    if start is not None:
        model.load_state_dict(start)
    ema = Ema(model, settings.ema_decay)
    optimizer = adamw(
        model, lr=config.optim.lr, weight_decay=config.optim.weight_decay, groups=config.optim.lr_factors
    )
    num_steps = settings.epochs * train_stream.num_batches
    schedule = cosine_with_warmup(
        optimizer,
        num_warmup_steps=round(config.optim.warmup_fraction * num_steps),
        num_steps=num_steps,
        min_ratio=config.optim.min_lr_ratio,
    )
    amp = Amp(world.device, settings.precision, config.optim.max_grad_norm)
    cursor = Cursor()
    state = {
        "model": model, "ema": ema, "optimizer": optimizer, "schedule": schedule, "amp": amp, "cursor": cursor
    }  # fmt: skip

    if run.has_checkpoint("last"):
        checkpoint = run.load_checkpoint("last", map_location=world.device)
        task.check_stamp(config, checkpoint["stamp"], run.path)
        check_data(checkpoint["data"], train_stream.signature, run.path)
        restore(checkpoint, **state)
        log.info("resumed %s at epoch %d, batch %d", run.path, cursor.epoch + 1, cursor.batch)

    def save(metric: float | None = None) -> None:
        if world.is_main:
            run.save_checkpoint(
                {
                    **capture(**state),
                    "config": run.config,
                    "stamp": task.stamp(config),
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

    if settings.compile:
        model.compile()
    forward = world.wrap(model)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    num_parts, num_batches = settings.accumulation_steps, train_stream.num_batches
    last_checkpoint = f"{run.path} (--resume)"
    with Progress(console=Console(stderr=True), disable=not world.is_main, transient=True) as progress:
        bar = progress.add_task(run.path.name, total=num_steps, completed=cursor.step)
        while cursor.epoch < settings.epochs:
            started, waited, num_done = time.perf_counter(), 0.0, num_batches - cursor.batch
            model.train()
            for wait, batch in timed(train_stream.batches(cursor.epoch, start=cursor.batch)):
                waited += wait
                seed_step(settings.seed, cursor.step, world.rank)
                optimizer.zero_grad(set_to_none=True)
                batch_loss = 0.0
                with explain_oom("raise train.accumulation_steps, which cuts the memory"):
                    for part in batch.split(num_parts):
                        with amp.autocast():
                            loss = task.compute_loss(forward, part.to(world.device)) / num_parts
                        amp.backward(loss)
                        batch_loss += check_loss(
                            loss, epoch=cursor.epoch + 1, step=cursor.step, batch_id=part.name,
                            checkpoint=last_checkpoint if cursor.step else None,
                        )  # fmt: skip
                if not amp.step(optimizer, parameters).skipped:
                    ema.update()
                    schedule.step()
                cursor.loss_sum += world.mean({"loss": batch_loss})["loss"]
                cursor.batch += 1
                cursor.step += 1
                progress.update(bar, completed=cursor.step, description=f"{run.path.name} {batch_loss:.4f}")
                if cursor.batch < num_batches:  # the end of an epoch saves by itself
                    stop_if_asked()
                    if settings.save_every_steps and cursor.step % settings.save_every_steps == 0:
                        save()

            seconds = time.perf_counter() - started
            world.share_buffers(ema.module)
            validation = task.validate(ema.module, streams.validation, world, amp)
            record = {
                "step": cursor.step,
                "epoch": cursor.epoch + 1,
                "train_loss": cursor.loss_sum / num_batches,
                "lr": schedule.get_last_lr()[0],
                "num_points": len(train_stream.active(cursor.epoch)),
                "skipped_steps": amp.num_skipped,
                **validation,
                "system/epoch_duration_sec": seconds,
                "system/throughput_events_per_sec": num_done * config.data.batch_size / seconds,
                "system/avg_data_load_sec": waited / num_done,
                "system/compute_efficiency": 1.0 - waited / seconds,
            }
            cursor.epoch, cursor.batch, cursor.loss_sum = cursor.epoch + 1, 0, 0.0
            if world.is_main:
                run.log(record)
                log.info(
                    "%s  epoch %d/%d  train %.4f  validation %.4f  AUC %.4f  %.0f events/s",
                    run.path.name, cursor.epoch, settings.epochs, record["train_loss"], record["val_loss"],
                    record["val_auc"], record["system/throughput_events_per_sec"],
                )  # fmt: skip
            save(metric=validation["val_loss"])
            stop_if_asked()


# Stage 1


def pretrain(
    config: Config, world: World, *, out: Path, command: str
) -> tuple[dict[str, State], dict[str, float]]:
    """Train one network at each point; finished ones are taken from their run directories.

    Args:
        config: The whole configuration.
        world: This process and its fellows.
        out: Run directory of the whole training.
        command: Command line, for the record.

    Returns:
        Averaged weights, and AUC on validation events, of the network of each point.
    """
    task = TASKS[config.task.kind]
    store = task.open_store(config)
    points = task.train_points(config, store)
    method = config.average.method
    seed_everything(config.train.seed)
    start: State = fresh_model(config, task.build_streams(config, world)).state_dict()
    folder = out / "stage1"
    if method == "branch":
        joint = stage_config(config, points, epochs=config.average.branch_epochs, joint=points)
        start, _ = train_member(joint, world, folder / "joint", start, command)
    members: dict[str, State] = {}
    dedicated_auc: dict[str, float] = {}
    for point in points:
        own = stage_config(config, (point,), epochs=config.pretrain.epochs, joint=points)
        weights, found = train_member(own, world, folder / point.name, start, command)
        members[point.name], dedicated_auc[point.name] = weights, found
        if method == "sequential":
            start = weights
    return members, dedicated_auc


def stage_config(
    config: Config, points: Sequence[MassPoint], *, epochs: int, joint: Sequence[MassPoint]
) -> Config:
    """Configuration of a training at some of the points, with the inputs of the joint one."""
    none = config.average.model_copy(update={"method": "none"})
    return config.model_copy(
        update={
            "data": config.data.model_copy(
                update={"train_points": tuple(points), "validation_points": tuple(points)}
            ),
            "task": config.task.model_copy(
                update={"mass_scaling": config.task.mass_scaling or MassScaling.of(tuple(joint))}
            ),
            "optim": config.optim.model_copy(update={"lr": config.pretrain.lr}),
            "pretrain": config.pretrain.model_copy(update={"epochs": 0}),
            "average": none,
            "train": config.train.model_copy(update={"epochs": epochs, "curriculum": (), "finish": ()}),
        }
    )


def train_member(config: Config, world: World, out: Path, start: State, command: str) -> tuple[State, float]:
    """Train from a copy of some weights in a run directory of its own, or take what is there.

    Args:
        config: Configuration of this training.
        world: This process and its fellows.
        out: Its run directory.
        start: Weights to start from; they are not changed.
        command: Command line, for the record.

    Returns:
        Averaged weights of the best epoch, and their AUC on validation events.
    """
    copy = {name: tensor.clone() for name, tensor in start.items()}
    run = open_run(config, world, out=out, resume=True, command=command, sinks=config.train.track)
    fit(config, world, run, start=copy)
    run.close()
    history = run.history()
    best = min(history, key=lambda record: record["val_loss"])
    weights = run.load_checkpoint("best")["ema"]
    state = {
        k.removeprefix("module."): v.to(world.device) for k, v in weights.items() if k.startswith("module.")
    }
    return state, float(best["val_auc"])


# Around the stages


def check_data(found: str, ours: str, run: Path) -> None:
    """Refuse to resume on other events or another order: the result would be neither run."""
    if found != ours:
        raise CheckpointError(
            f"{run} was trained on another store or fold, or with another seed, data.batch_size, "
            "data.events_per_point or data.channel; resume with the former ones or choose another --out."
        )


def with_data(config: Config, out: Path) -> Config:
    """Fill in the store of simulated samples when the configuration names none.

    Args:
        config: The whole configuration.
        out: Run directory; samples and store go into its folder `data`.

    Returns:
        A configuration that names a store.

    Raises:
        ConfigError: There is neither a store nor samples to simulate.
    """
    data = config.data
    if data.store is not None:
        return config
    if data.simulated is None:
        raise ConfigError(
            "data.store names no store; give one made by `chhiggs-pnet prepare`, for example "
            "--set data.store=data/store, or set data.simulated.num_events to train on simulated samples."
        )
    samples, store = out / "data" / "samples", out / "data" / "store"
    if not (store / "store.json").exists():
        log.info("no data given: simulating samples into %s", samples)
        simulate_samples(config, samples, num_workers=data.simulated.num_workers)
        prepare(
            samples / SAMPLES_FILE, store, branch_map=load_branch_map("flat"), table=config.masses,
            selection=config.selection,
        )  # fmt: skip
    return config.model_copy(update={"data": data.model_copy(update={"store": store})})


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
    stages = run.path / STAGES_FILE
    if stages.exists():
        with reader_boundary(stages):
            result["average"] = {
                key: value
                for key, value in json.loads(stages.read_text())["average"].items()
                if key != "losses"
            }
    if "evaluate" in config.train.finish:
        evaluation = evaluate([run.path], device=device)
        result["auc"] = {entry["name"]: entry["auc"] for entry in evaluation["points"]}
        result["figures"] = run.path / "figures"
    if "export" in config.train.finish:
        result["onnx"] = export(run.path, run.path / "model.onnx")["output"]
    return result
