"""Learn a codebook of objects.

The network sees the scaled features of every object with its id; the loss is that of the objects that exist
and of the event's missing momentum.

B events, P objects, N objects of a batch that exist.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from fourtop_tokens import plots
from fourtop_tokens.config import Config, ReconstructionConfig, VqVaeConfig
from fourtop_tokens.data import schema
from fourtop_tokens.data.stream import EventBatch, EventStream
from fourtop_tokens.losses import vqvae_losses
from fourtop_tokens.models.embeddings import FeatureScaler, MissingScaler
from fourtop_tokens.models.vqvae import Quantised, VqVae
from fourtop_tokens.tasks.common import (
    averaged_weights,
    build_stream,
    build_streams,
    compare_stamps,
    fit_constants,
    statistics_of,
)
from hep_shared.amp import Amp
from hep_shared.distributed import World
from hep_shared.errors import UserError
from hep_shared.run import RunDir

__all__ = ["build_stream", "build_streams"]

METRIC, MODE = "val_loss", "min"
HEADLINE = ("loss", "codebook_use", "perplexity", "id_accuracy")
_START_VECTORS = 20_000  # objects that k-means sees


class ReconstructionModule(nn.Module):
    """Scaling, VQ-VAE and loss in one module.

    Args:
        network: The VQ-VAE.
        scaler: Scaling of the features.
        missing_scaler: Scaling of the missing momentum.
        weights: Weight of each part of the loss.
    """

    def __init__(
        self,
        network: VqVae,
        scaler: FeatureScaler,
        missing_scaler: MissingScaler,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.network, self.scaler, self.missing_scaler = network, scaler, missing_scaler
        self.weights = dict(weights)

    def forward(
        self, inputs: tuple[Tensor, ...], labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Quantised]:
        """Evaluate network and loss.

        Args:
            inputs: ids (B, 18), features (B, 18, 4), missing (B, 2).
            labels: Unused.

        Returns:
            Scalar loss, its parts, and what the network made.
        """
        ids, features, missing = inputs
        valid = ids != schema.PAD
        scaled = self.scaler(features, valid)
        found = self.network(scaled, ids)
        parts = vqvae_losses(
            features=scaled[valid], found_features=found.features, ids=ids[valid], id_logits=found.id_logits,
            latent=found.latent, codes=found.codes, missing=self.missing_scaler(missing),
            found_missing=found.missing,
        )  # fmt: skip
        loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return loss, parts, found


def resolve(config: Config) -> Config:
    """Fill in the constants of the train split.

    Args:
        config: A configuration that names its files.

    Returns:
        A configuration that `build_model` can use.
    """
    return fit_constants(config)


def build_model(config: Config) -> ReconstructionModule:
    """Build network and loss.

    Args:
        config: The whole configuration, resolved.

    Returns:
        The module on the CPU with fresh weights.
    """
    model, task, statistics = config.model, config.task, statistics_of(config.data)
    assert isinstance(model, VqVaeConfig)
    assert isinstance(task, ReconstructionConfig)
    scaler = FeatureScaler(statistics, with_energy=model.vector == "five")
    network = VqVae(num_features=scaler.num_features, **model.model_dump(exclude={"kind", "vector"}))
    weights = {
        "features": 1.0, "ids": task.id_weight, "commitment": task.commitment_weight,
        "missing": task.missing_weight,
    }  # fmt: skip
    return ReconstructionModule(network, scaler, MissingScaler(statistics), weights)


@torch.no_grad()
def start(module: ReconstructionModule, config: Config, stream: EventStream) -> None:
    """Put the codes onto k-means clusters of what the fresh encoder gives.

    Args:
        module: The module whose codebook is filled.
        config: The whole configuration; unused.
        stream: Training events.
    """
    device = module.network.codebook.codes.device
    found: list[Tensor] = []
    for batch in stream.batches():
        ids, features, _ = batch.to(device).inputs
        valid = ids != schema.PAD
        found.append(module.network.encoder(module.scaler(features, valid)[valid], ids[valid]))
        if sum(len(part) for part in found) >= _START_VECTORS:
            break
    module.network.codebook.start(torch.cat(found)[:_START_VECTORS])


def compute_loss(forward: Callable[..., tuple[Tensor, Any, Any]], batch: EventBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events on the module's device.

    Returns:
        Scalar loss.
    """
    return forward(batch.inputs, batch.labels)[0]


@torch.no_grad()
def validate(module: ReconstructionModule, stream: EventStream, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation events.

    Args:
        module: The averaged module.
        stream: Ordered events of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, its parts, `val_codebook_use` and `val_perplexity`, over the events of all ranks.
    """
    result, _ = _measure(module, stream, world, amp)
    return {f"val_{name}": value for name, value in result.items()}


@torch.no_grad()
def _measure(
    module: ReconstructionModule, stream: EventStream, world: World, amp: Amp
) -> tuple[dict[str, float], NDArray[np.float64]]:
    module.eval()
    sums: dict[str, float] = {}
    num_events = 0
    counts = np.zeros((1, len(module.network.codebook.codes)))
    for batch in stream.batches():
        moved = batch.to(world.device)
        with amp.autocast():
            loss, parts, found = module(moved.inputs, moved.labels)
        ids = moved.inputs[0]
        right = (found.id_logits.argmax(1) + 1 == ids[ids != schema.PAD]).float().mean()
        named = {"loss": loss, **{f"loss_{name}": part for name, part in parts.items()}, "id_accuracy": right}
        for name, value in named.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(batch)
        counts += np.bincount(found.indices.cpu().numpy(), minlength=counts.shape[1])
        num_events += len(batch)
    means = world.mean({name: total / num_events for name, total in sums.items()}, weight=num_events)
    use = world.gather_rows(counts).sum(axis=0)
    shares = use[use > 0] / use.sum()
    means["codebook_use"] = float((use > 0).mean())
    means["perplexity"] = float(np.exp(-(shares * np.log(shares)).sum()))
    return means, use


def stamp(config: Config) -> dict[str, str]:
    """What the weights of a run depend on besides its data order.

    Args:
        config: The whole configuration, resolved.

    Returns:
        Features and constants.
    """
    model = config.model
    assert isinstance(model, VqVaeConfig)
    return {"model.vector": model.vector, "data.statistics": statistics_of(config.data).fingerprint()}


def check_stamp(config: Config, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs; see `common.compare_stamps`."""
    compare_stamps(stamp(config), found, source)


def checkpoint_digest(run: RunDir) -> str:
    """The sha256 of the best checkpoint of a run.

    Args:
        run: Run of a VQ-VAE.

    Returns:
        Hexadecimal digits.

    Raises:
        CheckpointError: The run has none.
    """
    run.load_checkpoint("best")  # checks the file against its digest
    index = json.loads((run.path / "checkpoints" / "index.json").read_text())
    return str(index["best"]["sha256"])


def load_probabilities(config: Config, checkpoint: Mapping[str, Any]) -> nn.Module:
    """A VQ-VAE classifies nothing.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Raises:
        UserError: Always.
    """
    raise UserError(
        "this run is a VQ-VAE, which classifies nothing; train a classifier with "
        "--set model.tokens.kind=vq --set model.tokens.run=RUN and give that run."
    )


def evaluate(
    config: Config, checkpoint: Mapping[str, Any], split: str, device: torch.device
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Evaluate a VQ-VAE on one split.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.
        split: `train`, `val` or `test`.
        device: Where to compute.

    Returns:
        Losses and use of the codebook; how often each code occurs.
    """
    stream = build_stream(config, split)
    module = build_model(config)
    module.load_state_dict(averaged_weights(checkpoint))
    result, use = _measure(module.to(device), stream, World(0, 1, 0, device), Amp(device, "fp32", None))
    return {"num_events": stream.num_events, **result}, {"code_counts": use}


def draw(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Figure]:
    """Draw an evaluation.

    Args:
        arrays: What `evaluate` gave.

    Returns:
        Pictures by name.
    """
    return {"codebook_use": plots.codebook_use(arrays["code_counts"])}
