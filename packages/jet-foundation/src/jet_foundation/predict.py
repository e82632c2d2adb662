"""`jet-foundation predict`: jets in, ROOT out, in a stream, with a trained run or an exported ONNX file.

Both go through the same door: raw particles in, probabilities out (`models/deploy.py`). JetClass files, the
shards of a data set and the other layouts that `preprocess` reads are recognised; labels are not needed.

Dimensions: B jets, N particles, C classes.
"""

import glob
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uproot
from numpy.typing import NDArray

from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_path, manifest_path, reader_boundary, write_boundary, write_manifest
from hep_shared.onnx import open_session, read_metadata
from hep_shared.run import RunDir
from jet_foundation.config import Config
from jet_foundation.data.foreign import available_features
from jet_foundation.data.normalization import Normalization
from jet_foundation.data.preprocess import find_source, iter_jets
from jet_foundation.data.schema import FEATURE_SETS, MAX_PARTICLES, FeatureSet
from jet_foundation.data.shards import open_shard
from jet_foundation.export import OUTPUT, load_model, model_inputs
from jet_foundation.physics.jet_table import Jets

TREE = "predictions"
Array = NDArray[Any]


@dataclass(frozen=True)
class Predictor:
    """Something that classifies jets.

    Attributes:
        classes: What it tells apart.
        feature_set: What it reads of a particle.
        classify: Maps jets to probabilities (B, C).
        source: Where it was loaded from.
    """

    classes: tuple[str, ...]
    feature_set: FeatureSet
    classify: Callable[[Jets], Array]
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
    model = load_model(config, directory.load_checkpoint(checkpoint), run).to(where)
    feature_set = model.normalization.feature_set

    @torch.inference_mode()
    def classify(jets: Jets) -> Array:
        inputs = model_inputs(jets, feature_set)
        with explain_oom("lower --batch-size"):
            probabilities = model(**{name: tensor.to(where) for name, tensor in inputs.items()})
        found: Array = probabilities.cpu().numpy()
        return found

    return Predictor(model.classes, feature_set, classify, run)


def load_onnx(path: Path, device: str) -> Predictor:
    """Open an exported model.

    Args:
        path: File made by `jet-foundation export`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The predictor.

    Raises:
        UserError: The file is damaged or was not made by `jet-foundation export`.
    """
    session = open_session(path, device)
    metadata = read_metadata(path)
    if "normalization" not in metadata or "classes" not in metadata:
        raise InputFileError(
            path, "carries no normalisation and no classes", "export it with `jet-foundation export`"
        )
    feature_set = Normalization(**metadata["normalization"]).feature_set

    def classify(jets: Jets) -> Array:
        inputs = {name: tensor.numpy() for name, tensor in model_inputs(jets, feature_set).items()}
        found: Array = session.run([OUTPUT], inputs)[0]
        return found

    return Predictor(tuple(metadata["classes"]), feature_set, classify, path)


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
        raise UserError(f"--onnx {onnx} should end in .onnx; export one with `jet-foundation export`.")
    model = run or onnx
    assert model is not None
    return model


def find_files(inputs: Sequence[str]) -> list[Path]:
    """Expand globs.

    Args:
        inputs: Files or globs.

    Returns:
        The files, those of a glob in alphabetical order.

    Raises:
        UserError: An input matches no file.
    """
    files: list[Path] = []
    for name in inputs:
        found = sorted(glob.glob(name, recursive=True))
        if not found:
            raise UserError(f"--input {name} matches no file; check the path.")
        files += map(Path, found)
    return files


def read_jets(path: Path, feature_set: FeatureSet) -> Iterator[Jets]:
    """Read a file of any layout that is known.

    Args:
        path: JetClass ROOT file, shard of a data set, or another layout that `preprocess` reads.
        feature_set: What is needed of the particles.

    Yields:
        Jets, cut to the length that trainings see.

    Raises:
        InputFileError: The file is damaged, or lacks what is needed.
    """
    is_shard = False
    if path.suffix == ".npz":
        with (
            reader_boundary(path, remedy="give a complete npz file"),
            zipfile.ZipFile(path) as archive,
        ):
            is_shard = "offsets.npy" in archive.namelist()
    parts = (
        iter([open_shard(path)]) if is_shard else iter_jets(find_source([path]), feature_set, labels=False)
    )
    for jets in parts:
        offered = available_features(jets)
        if FEATURE_SETS.index(offered) < FEATURE_SETS.index(feature_set):
            raise InputFileError(
                path,
                f"offers the feature set '{offered}', but the model was trained with '{feature_set}'",
                f"use a model trained with --set data.feature_set={offered}",
            )
        yield jets.truncated(MAX_PARTICLES)


def slices(jets: Jets, batch_size: int) -> Iterator[Jets]:
    """Cut jets into batches.

    Args:
        jets: Any jets.
        batch_size: Jets at a time.

    Yields:
        Consecutive jets.
    """
    for start in range(0, len(jets), batch_size):
        yield jets.take(np.arange(start, min(start + batch_size, len(jets))))


def predict(
    model: Path,
    inputs: Sequence[str],
    output: Path,
    *,
    device: str = "auto",
    checkpoint: str = "best",
    batch_size: int = 256,
) -> dict[str, object]:
    """Classify every jet of some files.

    Args:
        model: Run directory or ONNX file.
        inputs: Files or globs.
        output: ROOT file to write; it appears when it is complete.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Checkpoint of a run directory.
        batch_size: Jets at a time.

    Returns:
        Output file, number of jets and of files.

    Raises:
        UserError: A file or the model cannot be used.
    """
    if output.suffix != ".root":
        raise UserError(f"--output {output} should end in .root, for example --output predictions.root.")
    files = find_files(inputs)
    predictor = load_predictor(model, device, checkpoint=checkpoint)
    types = {"file": "i4", "entry": "i8", **{f"prob_{name}": "f4" for name in predictor.classes}}
    num_jets = 0
    with atomic_path(output) as temporary, write_boundary(output):
        with uproot.recreate(temporary, compression=uproot.LZ4(1)) as root:
            tree = root.mktree(TREE, {name: np.dtype(kind) for name, kind in types.items()})
            for number, path in enumerate(files):
                entry = 0
                for jets in read_jets(path, predictor.feature_set):
                    found = np.concatenate(
                        [predictor.classify(part) for part in slices(jets, batch_size)]
                    ).astype(np.float32)
                    columns: dict[str, Array] = {
                        "file": np.full(len(jets), number, np.int32),
                        "entry": np.arange(entry, entry + len(jets)),
                        **{f"prob_{name}": found[:, c] for c, name in enumerate(predictor.classes)},
                    }
                    tree.extend(columns)
                    entry += len(jets)
                num_jets += entry
        manifest_path(output).unlink(missing_ok=True)
    write_manifest(
        output, model=str(predictor.source), files=[path.name for path in files], num_jets=num_jets
    )
    return {"output": output, "num_jets": num_jets, "num_files": len(files)}
