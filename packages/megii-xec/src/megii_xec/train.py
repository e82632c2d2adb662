"""`xec train`: the loop, read from top to bottom.

One optimiser step sees `data.batch_size` events, whatever the number of processes and micro-batches: every
rank takes its share of the global batch, and the share is cut into `train.accumulation_steps` pieces whose
gradients add up. Validation runs on the averaged (EMA) weights. Everything that decides the next step is in
the checkpoint, so a resumed run continues bit by bit. Under `torchrun` the same code runs on every rank and
only rank 0 writes.
"""

import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
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
from megii_xec.config import Config
from megii_xec.evaluate import evaluate, headline
from megii_xec.export import export
from megii_xec.simulate import simulate
from megii_xec.tasks import TASKS

log = logging.getLogger(__name__)
NUM_SIMULATED_FILES = 20  # of which 14 are for training, 2 for validation and 4 for the test


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
    prepare = task.preparation(config, train_stream)
    model = task.build_model(config).to(world.device)
    if settings.encoder_from is not None:
        task.load_encoder(model, config, settings.encoder_from)
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

    run = open_run(config, world, out=out, resume=resume, command=command, sinks=config.train.track)
    if run.has_checkpoint("last"):
        checkpoint = run.load_checkpoint("last", map_location=world.device)
        task.check_stamp(config, checkpoint["stamp"], run.path)
        check_data(checkpoint["data"], train_stream.signature, run.path)
        restore(checkpoint, **state)
        log.info("resumed %s at epoch %d, batch %d", run.path, cursor.epoch + 1, cursor.batch)
    else:
        task.calibrate(model, train_stream, world)  # sets buffers, which the average copies at every step

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
        bar = progress.add_task("training", total=num_steps, completed=cursor.step)
        while cursor.epoch < settings.epochs:
            started, waited, num_done = time.perf_counter(), 0.0, num_batches - cursor.batch
            model.train()
            for wait, batch in timed(train_stream.batches(cursor.epoch, start=cursor.batch)):
                waited += wait
                seed_step(settings.seed, cursor.step, world.rank)
                optimizer.zero_grad(set_to_none=True)
                batch_loss = 0.0
                with explain_oom(
                    "raise train.accumulation_steps, which cuts the memory and keeps the result"
                ):
                    for part in batch.split(num_parts):
                        prepared = prepare(part.to(world.device), cursor.epoch)
                        with amp.autocast():
                            loss = task.compute_loss(forward, prepared) / num_parts
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
            validation = task.validate(
                ema.module, validation_stream, world, amp, out=run.path, epoch=cursor.epoch
            )
            record = {
                "step": cursor.step,
                "epoch": cursor.epoch + 1,
                "train_loss": cursor.loss_sum / num_batches,
                "lr": schedule.get_last_lr()[0],
                "skipped_steps": amp.num_skipped,
                **task.training_metrics(model, world),
                **validation,
                "system/epoch_duration_sec": seconds,
                "system/throughput_events_per_sec": num_done * config.data.batch_size / seconds,
                "system/avg_data_load_sec": waited / num_done,
                "system/compute_efficiency": 1.0 - waited / seconds,
                **memory_metrics(world.device),
            }
            cursor.epoch, cursor.batch, cursor.loss_sum = cursor.epoch + 1, 0, 0.0
            if world.is_main:
                run.log(record)
                log.info(
                    "epoch %d/%d  train %.4f  validation %.4f  %.0f events/s", cursor.epoch, settings.epochs,
                    record["train_loss"], record["val_loss"], record["system/throughput_events_per_sec"],
                )  # fmt: skip
            save(metric=validation["val_loss"])
            stop_if_asked()
    run.close()
    world.close()
    return finish(config, run, device) if world.is_main else {}


def check_data(found: str, ours: str, run: Path) -> None:
    """Refuse to resume on other events or another order: the result would be neither run."""
    if found != ours:
        raise CheckpointError(
            f"{run} was trained on other files, or with another seed, data.batch_size, data.chunk_events, "
            "data.mixed_chunks or data.selection; resume with the former ones or choose another --out."
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
    if data.train:
        return config
    if data.simulated is None:
        raise ConfigError(
            "data.train names no files; give ROOT files, for example --set data.train='[photons/*.root]', "
            "or set data.simulated.num_events to train on simulated photons."
        )
    folder, wanted = out / "data", data.simulated
    if not folder.exists():
        log.info("no data given: simulating %d photons into %s", wanted.num_events, folder)
    files = simulate(
        config.simulation, folder, num_events=wanted.num_events, seed=wanted.seed,
        num_workers=wanted.num_workers, events_per_file=-(-wanted.num_events // NUM_SIMULATED_FILES),
    )  # fmt: skip
    names = [str(file) for file in files]
    parts = {"train": names[:-6], "validation": names[-6:-4], "test": names[-4:]}
    update = {split: tuple(part) for split, part in parts.items()}
    return config.model_copy(update={"data": data.model_copy(update=update)})


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
    finish = [verb for verb in TASKS[config.task.kind].FINISH if verb in config.train.finish]
    if "export" in finish:
        result["onnx"] = export(run.path, run.path / "model.onnx")["output"]
    if "evaluate" in finish:
        evaluation = evaluate(run.path, device=device, pictures=config.train.pictures)
        result |= headline(evaluation)
        if config.train.pictures:
            result["figures"] = run.path / "figures"
    return result


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Memory of this process and of its device, in GB, under the names that the trackers show.

    `system/gpu_utilization_pct` is the allocated share of the device, `system/memory_fragmentation` the
    unused share of what PyTorch has reserved.
    """
    # ru_maxrss is in kB on Linux and in bytes on macOS.
    unit = 1.0 if sys.platform == "darwin" else 1024.0
    metrics = {"system/ram_used_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}
    if device.type == "cuda":
        allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        total = torch.cuda.get_device_properties(device).total_memory
        metrics |= {
            "system/memory_allocated_GB": allocated / 1e9,
            "system/memory_reserved_GB": reserved / 1e9,
            "system/memory_peak_GB": torch.cuda.max_memory_allocated(device) / 1e9,
            "system/gpu_utilization_pct": 100.0 * allocated / total,
            "system/memory_fragmentation": 1.0 - allocated / reserved if reserved else 0.0,
        }
    return metrics
