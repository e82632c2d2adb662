"""Between the stages of a training: one network of several, the tiers of the curriculum.

The loss barrier of an average is L(average) − mean_k L(member k), over all validation points.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chhiggs_pnet.config import Config
from chhiggs_pnet.models.averaging import mean_state, rebasin, reset_norms, restore_norm_momentum
from chhiggs_pnet.tasks import TASKS
from hep_shared.amp import Amp
from hep_shared.distributed import World
from hep_shared.seed import seed_everything

log = logging.getLogger(__name__)
State = Mapping[str, Tensor]


def fresh_model(config: Config, streams: Any) -> Any:
    """Build the module with fresh weights and the statistics of its inputs."""
    model = TASKS[config.task.kind].build_model(config, streams.train.points)
    model.network.inputs.set_statistics(*streams.statistics)
    return model


def average(
    config: Config, world: World, members: Mapping[str, State]
) -> tuple[State | None, dict[str, Any]]:
    """Make one network of several and measure the loss barrier between them.

    Args:
        config: The whole configuration.
        world: This process and its fellows; all of them compute the same.
        members: Weights by name.

    Returns:
        Weights to start from, None for fresh ones; losses over all validation points, of the average, the
        members and fresh weights, the barrier, and what was chosen.
    """
    task = TASKS[config.task.kind]
    alone = World(0, 1, 0, world.device)
    streams = task.build_streams(config, alone)
    amp = Amp(world.device, config.train.precision, None)
    seed_everything(config.train.seed)
    model = fresh_model(config, streams).to(world.device)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def loss_of(state: State) -> float:
        model.load_state_dict(state)
        return float(task.validate(model, streams.validation, alone, amp)["val_loss"])

    method, states = config.average.method, list(members.values())
    candidates: dict[str, State] = {"fresh": fresh, **members}
    losses = {name: loss_of(state) for name, state in candidates.items()}
    record: dict[str, Any] = {"method": method, "losses": losses, "barrier": None, "chosen": "fresh"}
    if method == "none":
        return None, record
    if method == "sequential":
        mean = states[-1]
    elif method == "rebasin":
        prefix = "network."
        bare = [{k.removeprefix(prefix): v.cpu() for k, v in state.items()} for state in states]
        mean = {prefix + k: v.to(world.device) for k, v in rebasin(bare, model.network).items()}
    else:
        mean = mean_state(states)
    model.load_state_dict(mean)
    if method != "sequential" and config.average.norm_batches:
        estimate_norms(model, streams.train, config.average.norm_batches, world)
    candidates["average"] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses["average"] = loss_of(candidates["average"])
    record["barrier"] = losses["average"] - sum(losses[name] for name in members) / len(members)
    lowest = min(losses, key=lambda name: losses[name])
    record["chosen"] = lowest if config.average.keep_lowest else "average"
    log.info(
        "stage 2 (%s): loss of the average %.4f, barrier %+.4f, starting from %s",
        method, losses["average"], record["barrier"], record["chosen"],
    )  # fmt: skip
    return candidates[record["chosen"]], record


@torch.no_grad()
def estimate_norms(model: nn.Module, stream: Any, num_batches: int, world: World) -> None:
    """Measure the statistics of the batch normalisations again: those of the members do not fit the mean."""
    reset_norms(model)
    model.train()
    for _, batch in zip(range(num_batches), stream.batches(0), strict=False):
        model(batch.to(world.device))
    restore_norm_momentum(model)


def tiers_of(dedicated_auc: Mapping[str, float]) -> dict[str, list[str]]:
    """Sort mass points by how well a network of their own tells them from the backgrounds.

    Args:
        dedicated_auc: Measured AUC by point.

    Returns:
        Points of the tiers `easy` (largest third), `medium` (two thirds) and `all`.
    """
    ordered = sorted(dedicated_auc, key=lambda name: (-dedicated_auc[name], name))
    third = -(-len(ordered) // 3)
    return {"easy": ordered[:third], "medium": ordered[: 2 * third], "all": ordered}


def curriculum(
    config: Config, names: Sequence[str], tiers: Mapping[str, Sequence[str]] | None
) -> Callable[[int], Sequence[int]]:
    """Which points an epoch trains on.

    Args:
        config: The whole configuration.
        names: Names of the training points.
        tiers: Names of the points of each tier.

    Returns:
        Function of the epoch, from 0, that gives indices into `names`.
    """
    steps, epochs = config.train.curriculum, config.train.epochs

    def active(epoch: int) -> Sequence[int]:
        end = 0.0
        for step in steps if tiers is not None else ():
            end += step.fraction
            if epoch + 0.5 < end * epochs + 1e-9:
                chosen = set(tiers[step.tier]) if tiers is not None else set()
                return [index for index, name in enumerate(names) if name in chosen]
        return range(len(names))

    return active
