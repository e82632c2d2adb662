"""`fourtop-tokens predict`: HDF5 in, HDF5 out, with a trained run or an exported ONNX file.

Both go through the same door: events as they lie on disk in, probabilities out (`models/deploy.py`). Files
without labels, and files with some of the splits only, are read alike.

B events, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from fourtop_tokens.config import BinnedTokens, ClassifierConfig, Config
from fourtop_tokens.data.events import Units, read_events, splits_in
from fourtop_tokens.data.stream import event_inputs
from fourtop_tokens.data.tokenizer import Vocabulary
from fourtop_tokens.data.tokens import read_tokens
from fourtop_tokens.tasks import TASKS
from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_path, sha256_of, write_manifest
from hep_shared.onnx import open_session, read_metadata
from hep_shared.run import RunDir

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Predictor:
    """Something that classifies batches.

    Attributes:
        classify: Maps inputs by name, each (B, ...), to probabilities (B, K).
        vocabulary: Numbering of the tokens it takes; None when it takes events.
        num_classes: K.
        source: Where it was loaded from.
    """

    classify: Callable[[Arrays], NDArray[np.float32]]
    vocabulary: Vocabulary | None
    num_classes: int
    source: Path


def load_run(run: Path, device: str, *, checkpoint: str = "best") -> Predictor:
    """Load the averaged weights of a training.

    Args:
        run: Run directory.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        The predictor.

    Raises:
        UserError: The run or its checkpoint cannot be used.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    where = resolve_device(device)
    task = TASKS[config.task.kind]
    model = task.load_probabilities(config, directory.load_checkpoint(checkpoint)).to(where)

    @torch.inference_mode()
    def classify(inputs: Arrays) -> NDArray[np.float32]:
        tensors = [torch.from_numpy(array).to(where) for array in inputs.values()]
        with explain_oom("lower --batch-size"):
            return np.asarray(model(*tensors).cpu().numpy())

    vocabulary = vocabulary_of(config.model.model_dump(mode="json")) if config.data.tokens else None
    return Predictor(classify, vocabulary, config.task.num_classes, run)  # type: ignore[union-attr]


def load_onnx(path: Path, device: str) -> Predictor:
    """Open an exported model.

    Args:
        path: File made by `fourtop-tokens export`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The predictor.

    Raises:
        UserError: The file is damaged or was not made by `fourtop-tokens export`.
    """
    session = open_session(path, device)
    metadata = read_metadata(path)
    if "classes" not in metadata or "model" not in metadata:
        raise InputFileError(path, "names no classes and no model", "export it with `fourtop-tokens export`")

    def classify(inputs: Arrays) -> NDArray[np.float32]:
        return np.asarray(session.run(["probabilities"], inputs)[0])

    vocabulary = vocabulary_of(metadata["model"]) if "tokens" in metadata["input_names"] else None
    return Predictor(classify, vocabulary, len(metadata["classes"]), path)


def vocabulary_of(model: dict[str, Any]) -> Vocabulary:
    """Numbering of the tokens of a model section."""
    tokens = ClassifierConfig.model_validate(model).tokens
    assert isinstance(tokens, BinnedTokens)
    return tokens.vocabulary


def load_predictor(model: Path, device: str, *, checkpoint: str = "best") -> Predictor:
    """Load a run directory or an ONNX file.

    Args:
        model: Run directory, or file ending in `.onnx`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Checkpoint of a run directory.

    Returns:
        The predictor.
    """
    if model.suffix == ".onnx":
        return load_onnx(model, device)
    return load_run(model, device, checkpoint=checkpoint)


def choose_model(run: Path | None, onnx: Path | None) -> Path:
    """Pick the one model that was given.

    Args:
        run: Value of `--run`.
        onnx: Value of `--onnx`.

    Returns:
        The run directory or the file.

    Raises:
        UserError: Both or none was given, or the ONNX file has another suffix.
    """
    if (run is None) == (onnx is None):
        raise UserError("give either --run DIRECTORY or --onnx FILE to say which model predicts.")
    if onnx is not None and onnx.suffix != ".onnx":
        raise UserError(f"--onnx {onnx} should end in .onnx; export one with `fourtop-tokens export`.")
    model = run or onnx
    assert model is not None
    return model


def predict(
    model: Path,
    input_: Path,
    output: Path,
    *,
    device: str = "auto",
    checkpoint: str = "best",
    batch_size: int = 512,
    units: Units = "gev",
) -> dict[str, object]:
    """Classify every event of a file.

    Args:
        model: Run directory or ONNX file.
        input_: File in the public format, or a binned one for a model of tokens; labels are not needed.
        output: HDF5 file to write, `score_<split>` (N,) and `probabilities_<split>` (N, K); it appears when
            it is complete.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Checkpoint of a run directory.
        batch_size: Events at a time.
        units: Unit of energies in the input.

    Returns:
        Output file and number of events.

    Raises:
        UserError: A file or the model cannot be used.
    """
    if output.suffix != ".h5":
        raise UserError(f"--output {output} should end in .h5, for example --output scores.h5.")
    predictor = load_predictor(model, device, checkpoint=checkpoint)
    tables: dict[str, Arrays] = {}
    if predictor.vocabulary is None:
        for split in splits_in(input_):
            events = read_events(input_, (split,), units=units, with_labels=False)[split]
            tables[split] = {**event_inputs(events), "ids": events.ids.astype(np.int64)}
    else:
        found = read_tokens(input_, predictor.vocabulary)
        tables = {name: {"tokens": tokens} for name, tokens in found.items()}
    num_events = 0
    with atomic_path(output) as temporary, h5py.File(temporary, "w") as file:
        for name, inputs in tables.items():
            size = len(next(iter(inputs.values())))
            probabilities = np.empty((size, predictor.num_classes), np.float32)
            for first in range(0, size, batch_size):
                rows = slice(first, first + batch_size)
                batch = {key: np.ascontiguousarray(array[rows]) for key, array in inputs.items()}
                probabilities[rows] = predictor.classify(batch)
            file.create_dataset(f"score_{name}", data=probabilities[:, 0], fletcher32=True)
            file.create_dataset(f"probabilities_{name}", data=probabilities, fletcher32=True)
            num_events += size
        file.attrs["model"] = str(predictor.source)
    write_manifest(output, model=str(predictor.source), input=str(input_), input_sha256=sha256_of(input_))
    return {"output": output, "num_events": num_events}
