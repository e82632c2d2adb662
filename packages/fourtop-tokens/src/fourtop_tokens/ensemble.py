r"""Train several members of one shape as one batched model.

The parameters of M members are stacked, and one call of `torch.func.vmap` over `torch.func.grad` gives all
their gradients: for models as small as these a GPU is otherwise idle most of the time. Optimiser, clipping,
schedule and average act on each member as they would alone, so a member equals its stand-alone run up to the
order of floating-point sums (dropout draws other numbers than alone). Members differ in their seed: weights,
order of the events, augmentation, and the codebook where there is one.

M members, B events.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from fourtop_tokens.config import Config
from fourtop_tokens.tasks import classification
from fourtop_tokens.tasks.classification import ClassificationModule
from hep_shared.amp import Amp, check_loss, resolve_device
from hep_shared.distributed import World
from hep_shared.ema import Ema
from hep_shared.errors import ConfigError
from hep_shared.loop import Cursor
from hep_shared.optim import adamw
from hep_shared.run import RunDir, capture, restore
from hep_shared.schedule import cosine_with_warmup
from hep_shared.seed import seed_everything, seed_step
from hep_shared.signals import stop_flag

log = logging.getLogger(__name__)


class Ensemble:
    """Stacked members with one optimiser.

    Args:
        modules: Members of one shape.
        config: Configuration of any of them.
        num_steps: Optimiser steps of the whole training.
        device: Where to compute.
    """

    def __init__(
        self,
        modules: Sequence[ClassificationModule],
        config: Config,
        num_steps: int,
        device: torch.device,
    ) -> None:
        self.modules = [module.to(device) for module in modules]
        self.config, self._device = config, device
        self._template = self.modules[0]
        self._trained = [name for name, p in self._template.named_parameters() if p.requires_grad]
        self._stacked, self._buffers = stack_module_state([*self.modules])
        # Decay is decided by the shape of one member, so the stacked tensors go into groups by hand.
        groups = adamw(
            self._template, lr=config.optim.lr, weight_decay=config.optim.weight_decay
        ).param_groups
        names = {id(p): name for name, p in self._template.named_parameters()}
        stacked_groups = [
            {
                "params": [self._stacked[names[id(p)]] for p in group["params"]],
                "lr": group["lr"],
                "weight_decay": group["weight_decay"],
            }
            for group in groups
        ]
        self.optimizer = torch.optim.AdamW(stacked_groups)
        self.schedule = cosine_with_warmup(
            self.optimizer,
            num_warmup_steps=round(config.optim.warmup_fraction * num_steps),
            num_steps=num_steps,
            min_ratio=config.optim.min_lr_ratio,
        )
        self.averages = [Ema(module, config.train.ema_decay) for module in self.modules]
        for name in self._stacked:
            for index, module in enumerate(self.modules):
                # A view: the members move with the stack, and restoring them restores it.
                module.get_parameter(name).data = self._stacked[name].detach()[index]
        randomness = "different" if config.model.dropout else "error"  # type: ignore[union-attr]
        self._gradients = vmap(grad_and_value(self._loss), randomness=randomness)

    def _loss(
        self, trained: dict[str, Tensor], rest: dict[str, Tensor], inputs: tuple[Tensor, ...], labels: Tensor
    ) -> Tensor:
        loss: Tensor = functional_call(self._template, {**trained, **rest}, (inputs, labels))[0]
        return loss

    def step(self, inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Make one optimiser step of every member.

        Args:
            inputs: As in `EventBatch.inputs`, with the members in front, (M, B, ...).
            labels: (M, B).

        Returns:
            Loss of each member, (M,).
        """
        trained = {name: self._stacked[name] for name in self._trained}
        rest = {name: tensor for name, tensor in self._stacked.items() if name not in trained}
        gradients, losses = self._gradients(trained, {**rest, **self._buffers}, inputs, labels)
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        limit = self.config.optim.max_grad_norm
        factor = torch.ones_like(norms) if limit is None else (limit / (norms + 1e-6)).clamp(max=1.0)
        # The optimiser moves all members or none; one that diverged has to be trained alone.
        finite = norms.isfinite()
        if not bool(finite.all()):
            raise ConfigError(
                f"the gradients of {int((~finite).sum())} of {len(norms)} members are not finite; train "
                "the seeds one by one (without --ensemble), or lower optim.lr."
            )
        for name, gradient in gradients.items():
            self._stacked[name].grad = gradient * factor.view(-1, *[1] * (gradient.ndim - 1))
        self.optimizer.step()
        self.schedule.step()
        for average in self.averages:
            average.update()
        return losses  # type: ignore[no-any-return]


def train_ensemble(
    configs: Sequence[Config], runs: Sequence[Path], *, group: Path, device: str
) -> list[Config]:
    """Train members together; each gets its run directory with its best and last weights.

    Args:
        configs: Configurations that differ in `train.seed` and the run of a VQ-VAE only.
        runs: Run directory of each.
        group: Run directory of the common state, which an interrupted training resumes from.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The resolved configuration of each member.

    Raises:
        UserError: A configuration cannot be used.
        StopTraining: After SIGTERM or SIGUSR1, once the state is saved.
    """
    settings, where = configs[0].train, resolve_device(device)
    if settings.precision != "fp32" or settings.accumulation_steps != 1:
        raise ConfigError(
            f"train.precision is {settings.precision} and train.accumulation_steps "
            f"{settings.accumulation_steps}, but --ensemble trains in fp32 with undivided batches."
        )
    world = World(0, 1, 0, where)
    resolved = [classification.resolve(config) for config in configs]
    streams, modules = [], []
    for config in resolved:
        seed_everything(config.train.seed)
        train_stream, validation_stream = classification.build_streams(config, world)
        module = classification.build_model(config).to(where)
        classification.start(module, config, train_stream)
        streams.append(train_stream)
        modules.append(module.train())
    num_batches = streams[0].num_batches
    ensemble = Ensemble(modules, resolved[0], settings.epochs * num_batches, where)
    amp = Amp(where, "fp32", None)
    cursor = Cursor()
    directory = RunDir.create(group, resolved[0], command="fourtop-tokens sweep --ensemble", resume=True)
    members = [
        RunDir.create(run, config, command="fourtop-tokens sweep --ensemble", resume=True)
        for run, config in zip(runs, resolved, strict=True)
    ]
    state: dict[str, Any] = {
        "optimizer": ensemble.optimizer, "schedule": ensemble.schedule, "cursor": cursor
    }  # fmt: skip
    for index, (module, average) in enumerate(zip(modules, ensemble.averages, strict=True)):
        state |= {f"model{index}": module, f"ema{index}": average}
    signature = " ".join(stream.signature for stream in streams)
    if directory.has_checkpoint("last"):
        checkpoint = directory.load_checkpoint("last", map_location=where)
        if checkpoint["data"] != signature:
            raise ConfigError(
                f"{group} was trained on other events or seeds; remove it or choose another --out."
            )
        restore(checkpoint, **state)
        for member in members:
            member.truncate_history(cursor.step)

    while cursor.epoch < settings.epochs:
        losses = torch.zeros(len(modules), device=where)
        for batches in zip(*(stream.batches(cursor.epoch) for stream in streams), strict=True):
            seed_step(settings.seed, cursor.step)
            moved = [batch.to(where) for batch in batches]
            inputs = tuple(torch.stack(parts) for parts in zip(*(b.inputs for b in moved), strict=True))
            found = ensemble.step(inputs, torch.stack([batch.labels for batch in moved]))
            check_loss(
                found.sum(),
                epoch=cursor.epoch + 1,
                step=cursor.step,
                batch_id=batches[0].name,
                checkpoint=None,
            )
            losses += found.detach()
            cursor.step += 1
        cursor.epoch += 1
        for index, (member, average, config) in enumerate(
            zip(members, ensemble.averages, resolved, strict=True)
        ):
            validation = classification.validate(average.module, validation_stream, world, amp)  # type: ignore[arg-type]
            record = {
                "step": cursor.step, "epoch": cursor.epoch, "train_loss": losses[index].item() / num_batches,
                "lr": ensemble.schedule.get_last_lr()[0], **validation,
            }  # fmt: skip
            member.log(record)
            log.info(
                "seed %d: epoch %d  val_auroc %.4f", config.train.seed, cursor.epoch, validation["val_auroc"]
            )
            member.save_checkpoint(
                {
                    **capture(model=modules[index], ema=average),
                    "config": member.config,
                    "stamp": classification.stamp(config),
                    "data": streams[index].signature,
                },
                step=cursor.step,
                metric=validation[classification.METRIC],
                mode="max",
            )
        directory.save_checkpoint({**capture(**state), "data": signature}, step=cursor.step, keep_last=1)
        if stop_flag().requested:
            raise directory.stop()
    return resolved
