"""`fourtop-tokens export`: one ONNX file that takes events as they lie on disk and gives probabilities.

Scaling, binning and codebook are part of the graph, and units, constants and versions are in the file's
metadata. The file is written after ONNX Runtime has reproduced PyTorch's numbers at several batch sizes.
"""

from pathlib import Path

import torch
from torch import Tensor

from fourtop_tokens import __version__
from fourtop_tokens.config import BinnedTokens, ClassifierConfig, Config
from fourtop_tokens.data import schema
from fourtop_tokens.data.schema import LABELS
from fourtop_tokens.tasks import TASKS
from hep_shared.onnx import export_onnx
from hep_shared.run import RunDir

INPUTS = {
    "ids": "18 object codes, 0 where there is no object",
    "features": "E [GeV], pT [GeV], eta, phi [rad] of each object",
    "missing": "missing transverse momentum [GeV] and its azimuth [rad]",
    "tokens": "18 object tokens, missing momentum, its azimuth",
}


def example_events(num_events: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Make events to check an export with: every id, full and nearly empty events.

    Args:
        num_events: Number of events B.
        seed: Seed of the random numbers.

    Returns:
        `ids` (B, 18), `features` (B, 18, 4) in GeV and rad, `missing` (B, 2) in GeV and rad.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (num_events, schema.NUM_OBJECTS)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    ids = torch.randint(1, schema.NUM_IDS + 1, shape, generator=generator)
    ids[torch.arange(schema.NUM_OBJECTS) >= torch.randint(2, 19, (num_events, 1), generator=generator)] = 0
    pt, eta, phi = uniform(3, 6, *shape).exp(), uniform(-2.5, 2.5, *shape), uniform(-3.1, 3.1, *shape)
    features = torch.stack([1.01 * pt * eta.cosh(), pt, eta, phi], dim=2) * (ids > 0)[..., None]
    missing = torch.stack([uniform(2, 6, num_events).exp(), uniform(-3.1, 3.1, num_events)], dim=1)
    return {"ids": ids, "features": features, "missing": missing}


def example_tokens(vocab_size: int, num_bins: int, num_events: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Make binned events to check an export with.

    Args:
        vocab_size: Number of tokens, padding included.
        num_bins: Bins of each quantity.
        num_events: Number of events B.
        seed: Seed of the random numbers.

    Returns:
        `tokens` (B, 20).
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, vocab_size - 2 * num_bins, (num_events, schema.NUM_TOKENS), generator=generator)
    tokens[1:, 4:18] = 0
    tokens[:, -2], tokens[:, -1] = vocab_size - num_bins - 1, vocab_size - 1
    return {"tokens": tokens}


def export(run: Path, out: Path, *, checkpoint: str = "best", atol: float = 1e-5) -> dict[str, object]:
    """Export the averaged weights of a classifier.

    Args:
        run: Run directory.
        out: File to write, ending in `.onnx`.
        checkpoint: `best`, `last` or a file name of the run.
        atol: Largest difference to PyTorch.

    Returns:
        File and largest difference.

    Raises:
        UserError: The run cannot be used, or ONNX Runtime gives other numbers.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    model = TASKS[config.task.kind].load_probabilities(config, directory.load_checkpoint(checkpoint))
    section = config.model
    assert isinstance(section, ClassifierConfig)
    assert config.data.statistics is not None
    inputs = example_events()
    if config.data.tokens is not None:
        assert isinstance(section.tokens, BinnedTokens)
        inputs = example_tokens(section.tokens.vocabulary.size, section.tokens.num_bins)
    classes = list(LABELS.values()) if config.task.num_classes == len(LABELS) else ["tttt", "background"]  # type: ignore[union-attr]
    metadata = {
        "producer": f"fourtop-tokens {__version__}",
        "classes": classes,
        "inputs": {name: INPUTS[name] for name in inputs},
        "model": section.model_dump(mode="json"),
        "statistics_fingerprint": config.data.statistics.fingerprint(),
    }
    differences = export_onnx(
        model, inputs, out, output_names=["probabilities"], metadata=metadata, atol=atol
    )
    return {"output": out, "max_abs_diff": differences}
