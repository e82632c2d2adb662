"""Tell four tops from their backgrounds.

The task owns what is specific to it: the network with its tokens, the loss and the numbers a validation
reports. The loop in `train.py` knows none of it.

B events, K classes.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from fourtop_tokens import metrics, plots
from fourtop_tokens.config import (
    BinnedTokens,
    ClassificationConfig,
    ClassifierConfig,
    Config,
    IdentityTokens,
    RawTokens,
    VqTokens,
)
from fourtop_tokens.data.schema import LABELS
from fourtop_tokens.data.stream import EventBatch, EventStream
from fourtop_tokens.losses import class_weights, classification_loss
from fourtop_tokens.models.classifier import EventClassifier, mlp_dim_for
from fourtop_tokens.models.deploy import EventProbabilities, TokenProbabilities
from fourtop_tokens.models.embeddings import BinnedEmbedding, DirectEmbedding, TokenEmbedding, VqEmbedding
from fourtop_tokens.models.pairwise import PairwiseBias
from fourtop_tokens.statistics import delong
from fourtop_tokens.tasks import vqvae
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
from hep_shared.errors import CheckpointError, ConfigError
from hep_shared.run import RunDir

__all__ = ["build_stream", "build_streams"]

METRIC, MODE = "val_auroc", "max"
HEADLINE = ("auroc", "auroc_low", "auroc_high", "accuracy", "eff_at_50", "eff_at_100")
Probabilities = EventProbabilities | TokenProbabilities


class ClassificationModule(nn.Module):
    """Network and loss in one module.

    Args:
        network: The classifier.
        weights: Weight of each class in the loss, (K,), or None.
    """

    weights: Tensor | None

    def __init__(self, network: EventClassifier, weights: Tensor | None) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, inputs: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate network and loss.

        Args:
            inputs: As in `EventBatch.inputs`.
            labels: Class from 0 to 4, (B,).

        Returns:
            Scalar loss and logits (B, K).
        """
        logits = self.network(*inputs)
        return classification_loss(logits, labels, self.weights), logits


def resolve(config: Config) -> Config:
    """Fill in what is fitted or trained before: scaling, binning, VQ-VAE.

    Args:
        config: A configuration that names its files.

    Returns:
        A configuration that `build_model` can use.

    Raises:
        UserError: A file or the run of the VQ-VAE cannot be used.
    """
    config = fit_constants(config)
    model = classifier_section(config)
    if not isinstance(model.tokens, VqTokens):
        return config
    run = vqvae_run(model.tokens)
    other = Config.model_validate(run.config)
    if other.model.kind != "vqvae":
        raise ConfigError(
            f"model.tokens.run = {run.path} is no VQ-VAE but a {other.model.kind}; "
            "give the run of `fourtop-tokens train-vqvae`."
        )
    if other.model.vector != model.vector:
        raise ConfigError(
            f"model.tokens.run = {run.path} was trained with model.vector {other.model.vector}, but "
            f"model.vector is {model.vector}; train a VQ-VAE for these features or change model.vector."
        )
    tokens = model.tokens.model_copy(
        update={
            "sha256": vqvae.checkpoint_digest(run),
            "vqvae": other.model,
            "statistics": statistics_of(other.data),
        }
    )
    return config.model_copy(update={"model": model.model_copy(update={"tokens": tokens})})


def classifier_section(config: Config) -> ClassifierConfig:
    """The model section of a classifier."""
    assert isinstance(config.model, ClassifierConfig)  # the root validator sees to it
    return config.model


def vqvae_run(tokens: VqTokens) -> RunDir:
    """Open the run of the VQ-VAE that a classifier names."""
    if tokens.run is None:
        raise ConfigError(
            "model.tokens.kind is vq, but model.tokens.run names no run; train one with "
            "`fourtop-tokens train-vqvae` and give its directory."
        )
    return RunDir.open(tokens.run)


def build_embedding(config: Config) -> nn.Module:
    """Build what turns events into tokens.

    Args:
        config: The whole configuration, resolved.

    Returns:
        The module with fresh weights.
    """
    model, statistics = classifier_section(config), statistics_of(config.data)
    tokens, with_energy = model.tokens, model.vector == "five"
    if isinstance(tokens, IdentityTokens | RawTokens):
        id_dim = tokens.id_dim if isinstance(tokens, IdentityTokens) else 0
        return DirectEmbedding(
            model.dim, statistics, with_energy=with_energy, with_missing=model.met, id_dim=id_dim
        )
    if isinstance(tokens, BinnedTokens):
        shared = tokens.rows == "shared"
        if config.data.tokens is not None:
            return TokenEmbedding(model.dim, tokens.vocabulary, with_missing=model.met, shared=shared)
        assert tokens.binning is not None
        return BinnedEmbedding(model.dim, tokens.binning, with_missing=model.met, shared=shared)
    assert tokens.vqvae is not None
    assert tokens.statistics is not None
    return VqEmbedding(
        model.dim, statistics, tokens.statistics, with_energy=with_energy, with_missing=model.met,
        hidden_dim=tokens.vqvae.hidden_dim, latent_dim=tokens.vqvae.latent_dim,
        num_codes=tokens.vqvae.num_codes,
    )  # fmt: skip


def build_model(config: Config) -> ClassificationModule:
    """Build network and loss.

    Args:
        config: The whole configuration, resolved.

    Returns:
        The module on the CPU with fresh weights.
    """
    model, task = classifier_section(config), config.task
    assert isinstance(task, ClassificationConfig)

    def network(mlp_dim: int) -> EventClassifier:
        pairwise = None
        if model.pairwise != "none":
            pairwise = PairwiseBias(
                model.num_heads, model.pairwise_dim, with_energy=model.vector == "five",
                couplings=model.pairwise == "physics_sm",
            )  # fmt: skip
        return EventClassifier(
            build_embedding(config), dim=model.dim, depth=model.depth, num_heads=model.num_heads,
            mlp_dim=mlp_dim, dropout=model.dropout, pooling=model.pooling, positions=model.positions,
            pairwise=pairwise, num_classes=task.num_classes,
        )  # fmt: skip

    counts = statistics_of(config.data).class_counts
    weights = class_weights(counts, task.num_classes) if task.class_weights else None
    mlp_dim = model.mlp_dim or mlp_dim_for(model.num_parameters, network)
    return ClassificationModule(network(mlp_dim), weights)


def start(module: ClassificationModule, config: Config, stream: EventStream) -> None:
    """Take over what was trained before: encoder and codes of the VQ-VAE.

    Args:
        module: The module whose tokenizer is filled.
        config: The whole configuration, resolved.
        stream: Training events; unused.

    Raises:
        CheckpointError: The run of the VQ-VAE has changed since.
    """
    tokens, embedding = classifier_section(config).tokens, module.network.embedding
    if not isinstance(tokens, VqTokens):
        return
    assert isinstance(embedding, VqEmbedding)
    run = vqvae_run(tokens)
    if (found := vqvae.checkpoint_digest(run)) != tokens.sha256:
        raise CheckpointError(
            f"the best checkpoint of {run.path} has the sha256 {found[:12]}, but {str(tokens.sha256)[:12]} "
            "was recorded; leave model.tokens.sha256 out to take the one that is there."
        )
    weights = averaged_weights(run.load_checkpoint("best"))
    names = {f"encoder.{name}" for name in embedding.tokenizer.encoder.state_dict()}
    prefix = "network."
    state = {name: weights[prefix + name] for name in names}
    embedding.tokenizer.load_state_dict({**state, "codes": weights[f"{prefix}codebook.codes"]})
    embedding.start()


def compute_loss(forward: Callable[..., tuple[Tensor, Tensor]], batch: EventBatch) -> Tensor:
    """Loss of one micro-batch.

    Args:
        forward: The module, possibly wrapped or compiled.
        batch: Events on the module's device.

    Returns:
        Scalar loss, the mean over the events.
    """
    return forward(batch.inputs, batch.labels)[0]


@torch.no_grad()
def validate(module: ClassificationModule, stream: EventStream, world: World, amp: Amp) -> dict[str, float]:
    """Run over all validation events.

    Args:
        module: The averaged module.
        stream: Ordered events of this rank.
        world: This process and its fellows.
        amp: Arithmetic of the forward pass.

    Returns:
        `val_loss`, `val_auroc` and `val_accuracy`, over the events of all ranks.
    """
    module.eval()
    total, num_events = 0.0, 0
    parts: list[NDArray[np.float32]] = []
    for batch in stream.batches():
        moved = batch.to(world.device)
        with amp.autocast():
            loss, logits = module(moved.inputs, moved.labels)
        total += loss.item() * len(batch)
        num_events += len(batch)
        columns = [moved.labels[:, None].float(), logits.float().softmax(1)]
        parts.append(torch.cat(columns, 1).cpu().numpy())
    mean = world.mean({"loss": total / max(num_events, 1)}, weight=num_events)["loss"]
    rows = world.gather_rows(np.concatenate(parts) if parts else np.zeros((0, 3), np.float32))
    labels, probabilities = rows[:, 0].astype(int), rows[:, 1:]
    classes = labels if probabilities.shape[1] > 2 else labels.clip(max=1)
    result = {"val_loss": mean, "val_accuracy": metrics.accuracy(classes, probabilities.argmax(1))}
    if 0 < (labels == 0).sum() < len(labels) and np.isfinite(probabilities).all():
        result["val_auroc"] = metrics.auroc(labels == 0, probabilities[:, 0])
    else:
        result["val_auroc"] = float("nan")
    return result


def stamp(config: Config) -> dict[str, str]:
    """What the weights of a run depend on besides its data order.

    Args:
        config: The whole configuration, resolved.

    Returns:
        Features, constants and tokens.
    """
    model = classifier_section(config)
    tokens = model.tokens
    facts = {
        "model.tokens.kind": tokens.kind,
        "model.vector": model.vector,
        "data.statistics": statistics_of(config.data).fingerprint(),
    }
    if isinstance(tokens, BinnedTokens):
        facts["model.tokens.binning"] = (
            tokens.binning.to_json() if tokens.binning else str(config.data.tokens)
        )
    if isinstance(tokens, VqTokens):
        facts["model.tokens.sha256"] = str(tokens.sha256)
    return facts


def check_stamp(config: Config, found: Mapping[str, str], source: Path) -> None:
    """Refuse weights that were trained on other inputs; see `common.compare_stamps`."""
    compare_stamps(stamp(config), found, source)


def load_probabilities(config: Config, checkpoint: Mapping[str, Any]) -> Probabilities:
    """Build what predicts from a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.

    Returns:
        The classifier in evaluation mode, with the averaged weights, on the CPU.
    """
    module = build_model(config)
    module.load_state_dict(averaged_weights(checkpoint))
    kind = EventProbabilities if config.data.tokens is None else TokenProbabilities
    return kind(module.network).eval()


def evaluate(
    config: Config, checkpoint: Mapping[str, Any], split: str, device: torch.device
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Evaluate a classifier on one split.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.
        split: `train`, `val` or `test`.
        device: Where to compute.

    Returns:
        Metrics with 95 % intervals; labels and probabilities.
    """
    stream = build_stream(config, split)
    model = load_probabilities(config, checkpoint).to(device)
    parts: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for batch in stream.batches():
            parts.append(model(*batch.to(device).inputs).cpu().numpy())
    probabilities, labels = np.concatenate(parts), stream.labels
    result = summarize(labels, probabilities)
    return result, {"labels": labels, "probabilities": probabilities}


def draw(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Figure]:
    """Draw an evaluation.

    Args:
        arrays: What `evaluate` gave.

    Returns:
        Pictures by name.
    """
    labels, scores = arrays["labels"], arrays["probabilities"][:, 0]
    return {"roc": plots.roc_by_background(labels, scores), "scores": plots.score_histogram(labels, scores)}


def summarize(labels: NDArray[np.int8], probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """All figures of merit of a classifier on one sample.

    Args:
        labels: 1 to 5, (N,).
        probabilities: First column for tttt, (N, K).

    Returns:
        Areas with 95 % DeLong intervals, efficiencies at fixed rejections, accuracy, weighted F1; those
        efficiencies that too few background events decide are listed in `unstable`.
    """
    is_signal, scores = labels == 1, probabilities[:, 0]
    area = delong(is_signal, scores[None]).contrast([1.0])
    classes = labels - 1 if probabilities.shape[1] == 5 else (labels > 1).astype(int)
    predicted = probabilities.argmax(1)
    result: dict[str, Any] = {
        "num_events": len(labels),
        "auroc": area.value,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "accuracy": metrics.accuracy(classes, predicted),
        "weighted_f1": metrics.weighted_f1(classes, predicted),
    }
    for label, process in list(LABELS.items())[1:]:
        chosen = is_signal | (labels == label)
        if (labels == label).any():
            result[f"auroc_vs_{process}"] = metrics.auroc(is_signal[chosen], scores[chosen])
    if probabilities.shape[1] == len(LABELS) == len(np.unique(labels)):
        areas = metrics.class_aurocs(labels, probabilities)
        result["class_aurocs"] = {LABELS[label]: area for label, area in areas.items()}
    unstable = []
    for rejection in metrics.REJECTIONS:
        result[f"eff_at_{rejection}"] = metrics.signal_efficiency_at(is_signal, scores, rejection)
        if not metrics.is_stable(int((~is_signal).sum()), rejection):
            unstable.append(f"eff_at_{rejection}")
    return {**result, "unstable": unstable}
