"""`jet-foundation export`: one ONNX file that takes raw particles and gives probabilities.

Features and normalisation are part of the graph; units, constants and versions are in the file's metadata.
The number of jets and the number of particles are free. The file is written after ONNX Runtime has reproduced
PyTorch's numbers at several of both.

Dimensions: B jets, N particles, C classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hep_shared.errors import UserError
from hep_shared.onnx import export_onnx
from hep_shared.run import RunDir
from jet_foundation import __version__
from jet_foundation.config import Config, StartConfig
from jet_foundation.data.loader import pad_jets
from jet_foundation.data.normalization import Normalization
from jet_foundation.data.schema import DISPLACEMENT, IDENTITY, FeatureSet
from jet_foundation.models.deploy import JetClassification
from jet_foundation.physics.jet_table import Jets, concatenate
from jet_foundation.physics.toy_shower import generate_toy
from jet_foundation.tasks import classification

OUTPUT = "probabilities"
CHECKED_PARTICLES = (128, 1, 17)


def model_inputs(jets: Jets, feature_set: FeatureSet, *, pad_to: int | None = None) -> dict[str, Tensor]:
    """Arrange jets as the arguments of `JetClassification`.

    Args:
        jets: Jets that carry what the feature set needs.
        feature_set: `kin`, `kinpid` or `full`.
        pad_to: Number of slots N; None takes the longest jet, rounded up to a multiple of 4.

    Returns:
        `p4` (B, N, 4) GeV, `valid_mask` (B, N) and, where needed, `identity` (B, N, 6) and `displacement`
        (B, N, 4) mm.
    """
    batch = pad_jets(jets, Normalization.part("kin"), pad_to=pad_to)
    inputs = {"p4": batch.p4, "valid_mask": batch.valid_mask}
    for name, values in (("identity", jets.pid), ("displacement", jets.displacement)):
        if feature_set == "full" or (feature_set == "kinpid" and name == "identity"):
            assert values is not None
            padded = torch.zeros(*batch.valid_mask.shape, values.shape[1])
            padded[batch.valid_mask] = torch.from_numpy(np.asarray(values, np.float32))
            inputs[name] = padded
    return inputs


def example_inputs(feature_set: FeatureSet, num_jets: int = 4, num_particles: int = 128) -> dict[str, Tensor]:
    """Make toy jets to check an export with.

    Args:
        feature_set: `kin`, `kinpid` or `full`.
        num_jets: Number of jets B.
        num_particles: Number of slots N; longer jets lose their softest particles.

    Returns:
        Arguments of `JetClassification`.
    """
    rng = np.random.default_rng(0)
    jets = concatenate([generate_toy(name, -(-num_jets // 2), rng) for name in ("QCD", "Tbqq")])
    jets = jets.take(np.arange(num_jets)).truncated(num_particles)
    return model_inputs(jets, feature_set, pad_to=num_particles)


def export(run: Path, out: Path, *, checkpoint: str = "best", atol: float = 1e-5) -> dict[str, object]:
    """Export the averaged weights of a training.

    Args:
        run: Run directory.
        out: File to write, ending in `.onnx`.
        checkpoint: `best`, `last` or a file name of the run.
        atol: Largest difference to PyTorch.

    Returns:
        File and largest difference of a probability.

    Raises:
        UserError: The run cannot be used, or ONNX Runtime gives other numbers.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    model = load_model(config, directory.load_checkpoint(checkpoint), run)
    return {"output": out, "max_abs_diff": export_model(model, out, atol=atol)}


def load_model(config: Config, checkpoint: dict[str, Any], run: Path) -> JetClassification:
    """Build what predicts from a checkpoint.

    Args:
        config: Configuration of the run.
        checkpoint: A checkpoint of the run.
        run: Run directory, for the message.

    Returns:
        The classification, in evaluation mode on the CPU.

    Raises:
        UserError: The run does not classify.
    """
    if config.task.kind != "classification":
        raise UserError(
            f"{run} was trained for the task '{config.task.kind}', which is evaluated with `jet-foundation "
            "evaluate`; give a run of the task 'classification'."
        )
    config = config.model_copy(update={"start": StartConfig()})  # the weights are in the checkpoint
    return classification.load_classification(config, checkpoint)


def export_model(model: JetClassification, out: Path, *, atol: float = 1e-5) -> float:
    """Export a model, check it and write it with its manifest.

    Args:
        model: The model; a copy is exported in evaluation mode on the CPU.
        out: File to write.
        atol: Largest difference to PyTorch.

    Returns:
        Largest difference of a probability.

    Raises:
        UserError: The model cannot be converted, or ONNX Runtime gives other numbers.
    """
    feature_set = model.normalization.feature_set
    inputs, *others = (example_inputs(feature_set, 4, num) for num in CHECKED_PARTICLES)
    differences = export_onnx(
        model,
        inputs,
        out,
        output_names=[OUTPUT],
        metadata=conventions(model, list(inputs)),
        atol=atol,
        dynamic_axes=dict.fromkeys(inputs, (1,)),
        further_examples=others,
    )
    return differences[OUTPUT]


def conventions(model: JetClassification, input_names: list[str]) -> dict[str, object]:
    """Write down what the reader of a file must know.

    Args:
        model: The model.
        input_names: Names of its inputs.

    Returns:
        Metadata of the file.
    """
    inputs = {
        "p4": "E, px, py, pz of the particles by falling pT, GeV; 0 in padded slots",
        "valid_mask": "true where a particle is real",
        "identity": ", ".join(branch.name for branch in IDENTITY),
        "displacement": ", ".join(f"{branch.name} [{branch.unit}]" for branch in DISPLACEMENT),
    }
    return {
        "producer": f"jet-foundation {__version__}",
        "classes": list(model.classes),
        "inputs": {name: inputs[name] for name in input_names},
        "normalization": model.normalization.model_dump(mode="json"),
    }
