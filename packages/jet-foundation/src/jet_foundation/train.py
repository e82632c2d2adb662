"""`jet-foundation train`: the loop, read from top to bottom.

One optimiser step sees `data.batch_size` jets, whatever the number of processes and micro-batches: every
rank takes its share of the global batch, and the share is cut into `train.accumulation_steps` pieces whose
gradients add up; batch normalisation sees each piece by itself. Validation runs on the averaged (EMA)
weights. Everything that decides the next step is in the checkpoint, so a resumed run continues bit by bit.
Under `torchrun` the same code runs on every rank and only rank 0 writes.
"""

import logging
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from hep_shared.amp import Amp, check_loss, explain_oom, resolve_device
from hep_shared.distributed import init_world
from hep_shared.ema import Ema
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.loop import Cursor, open_run, timed
from hep_shared.optim import adamw
from hep_shared.run import RunDir, capture, restore
from hep_shared.schedule import cosine_with_warmup
from hep_shared.seed import seed_everything, seed_step
from hep_shared.signals import StopTraining, stop_flag
from jet_foundation.config import Config
from jet_foundation.data.shards import INDEX_FILE
from jet_foundation.evaluate import evaluate
from jet_foundation.tasks import TASKS
from jet_foundation.tasks.common import ENCODER, build_streams, check_stamp, continued, stamp

log = logging.getLogger(__name__)


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
    config = continued(config)
    settings = config.train
    world = init_world(resolve_device(device))
    seed_everything(settings.seed)  # every rank starts from the same weights
    task = TASKS[config.task.kind]
    if world.is_main:
        config = with_data(config, out)
    world.barrier()
    config = with_data(config, out)  # the other ranks find the files
    train_stream, validation_stream = build_streams(config, world)
    model = task.build_model(config).to(world.device)
    ema = Ema(model, settings.ema_decay)
    factors = config.optim.lr_factors
    if config.start.run is not None and config.start.mode != "frozen":
        factors = {ENCODER.rstrip("."): config.start.lr_factor} | factors
    optimizer = adamw(model, lr=config.optim.lr, weight_decay=config.optim.weight_decay, groups=factors)
    num_steps = settings.epochs * len(train_stream)
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

    run = open_run(config, world, out=out, resume=resume, command=command, sinks=config.train.track)
    if run.has_checkpoint("last"):
        checkpoint = run.load_checkpoint("last", map_location=world.device)
        check_stamp(config, checkpoint["stamp"], run.path)
        check_data(checkpoint["data"], train_stream.signature, run.path)
        restore(checkpoint, **state)
        log.info("resumed %s at epoch %d, batch %d", run.path, cursor.epoch + 1, cursor.batch)

    def save(metric: float | None = None) -> None:
        if world.is_main:
            run.save_checkpoint(
                {
                    **capture(**state),
                    "config": run.config,
                    "stamp": stamp(config),
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
    num_parts, num_batches = settings.accumulation_steps, len(train_stream)
    last_checkpoint = f"{run.path} (--resume)"
    with Progress(console=Console(stderr=True), disable=not world.is_main, transient=True) as progress:
        bar = progress.add_task("training", total=num_steps, completed=cursor.step)
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
                progress.update(bar, completed=cursor.step, description=f"loss {batch_loss:.4f}")
                if cursor.batch < num_batches:  # the end of an epoch saves by itself
                    stop_if_asked()
                    if settings.save_every_steps and cursor.step % settings.save_every_steps == 0:
                        save()

            seconds = time.perf_counter() - started
            world.share_buffers(ema.module)
            validation = task.validate(ema.module, validation_stream, world, amp)
            record = {
                "step": cursor.step,
                "epoch": cursor.epoch + 1,
                "train_loss": cursor.loss_sum / num_batches,
                "lr": schedule.get_last_lr()[0],
                "skipped_steps": amp.num_skipped,
                **validation,
                "system/epoch_duration_sec": seconds,
                "system/throughput_jets_per_sec": num_done * config.data.batch_size / seconds,
                "system/avg_data_load_sec": waited / num_done,
                "system/compute_efficiency": 1.0 - waited / seconds,
            }
            cursor.epoch, cursor.batch, cursor.loss_sum = cursor.epoch + 1, 0, 0.0
            if world.is_main:
                run.log(record)
                log.info(
                    "epoch %d/%d  train %.4f  validation %.4f  %.0f jets/s", cursor.epoch, settings.epochs,
                    record["train_loss"], record["val_loss"], record["system/throughput_jets_per_sec"],
                )  # fmt: skip
            save(metric=validation["val_loss"])
            stop_if_asked()
    run.close()
    world.close()
    return finish(config, run, device) if world.is_main else {}


def check_data(found: str, ours: str, run: Path) -> None:
    """Refuse to resume on other jets or another order: the result would be neither run."""
    if found != ours:
        raise CheckpointError(
            f"{run} was trained on other jets, or with another train.seed, data.batch_size or "
            "data.max_train_jets; resume with the former ones or choose another --out."
        )


def with_data(config: Config, out: Path) -> Config:
    """Fill in a simulated data set when the configuration names none.

    Args:
        config: The whole configuration.
        out: Run directory; files go into its folder `sample`, the data set into `data`.

    Returns:
        A configuration that names a data set.

    Raises:
        ConfigError: There is neither a data set nor one to simulate.
    """
    data = config.data
    if data.path is not None:
        return config
    # What reads ROOT files takes a second to import, here for those who have none.
    from jet_foundation.data.preprocess import preprocess
    from jet_foundation.simulate import simulate, simulate_events

    if data.simulated is None:
        verb, what = ("simulate-events", "events") if config.task.kind == "event" else ("preprocess", "jets")
        raise ConfigError(
            f"data.path names no data set; give one made by `jet-foundation {verb}`, for example --set "
            f"data.path={what}, or set data.simulated.num_{what} to train on simulated {what}."
        )
    folder, wanted = out / "data", data.simulated
    if config.task.kind == "event":
        if not (folder / INDEX_FILE).exists():
            log.info("no data given: simulating %d events into %s", wanted.num_events, folder)
            simulate_events(folder, num_events=wanted.num_events, seed=wanted.seed)
        return config.model_copy(update={"data": data.model_copy(update={"path": folder})})
    if not folder.exists():
        log.info("no data given: simulating %d jets into %s", wanted.num_jets, out / "sample")
    simulate(
        out / "sample", engine=wanted.engine, num_jets=wanted.num_jets, seed=wanted.seed,
        num_workers=wanted.num_workers,
    )  # fmt: skip
    if not (folder / INDEX_FILE).exists():
        preprocess([out / "sample"], folder, seed=wanted.seed)
    return config.model_copy(update={"data": data.model_copy(update={"path": folder})})


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
    task = TASKS[config.task.kind]
    steps = [step for step in config.train.finish if step in task.FINISH]
    if "export" in steps:
        from jet_foundation.export import export  # brings ONNX

        result["onnx"] = export(run.path, run.path / "model.onnx")["output"]
    if "evaluate" in steps:
        evaluation = evaluate(run.path, device=device)
        result |= {name: evaluation["metrics"][name] for name in task.HEADLINE}
        result["figures"] = run.path / "figures"
    return result
