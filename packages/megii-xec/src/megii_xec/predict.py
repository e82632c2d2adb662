"""`xec predict`: ROOT in, ROOT out, in a stream, with a trained run or an exported ONNX file.

Both go through the same door: raw sensors in, physical quantities out (`models/deploy.py`). Real-data
files, which carry no truth, are read alike.

Dimensions: B events, S sensors (4760), K components of a target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.onnx import open_session, read_metadata
from hep_shared.run import RunDir
from megii_xec.config import Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import EVENT, MISSING, RUN, Branch
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TARGETS
from megii_xec.data.writer import TreeWriter
from megii_xec.tasks import TASKS

TREE = "predictions"
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Predictor:
    """Something that reconstructs batches of raw sensors.

    Attributes:
        targets: What it predicts.
        normalization: What it was trained with; names the branches it reads.
        reconstruct: Maps a raw batch to {target: (B, K)} in physical units.
        source: Where it was loaded from.
    """

    targets: tuple[str, ...]
    normalization: Normalization
    reconstruct: Callable[[PhotonBatch], Arrays]
    source: Path

    @property
    def raw(self) -> Normalization:
        """The identity on the branches that the network reads: it normalises by itself."""
        return Normalization(
            scheme="linear",
            npho_input=self.normalization.npho_input,
            time_input=self.normalization.time_input,
            npho_scale=1.0,
            npho_scale2=1.0,
            time_scale_s=1.0,
            time_shift=0.0,
            sentinel_npho=MISSING,
            sentinel_time=MISSING,
            npho_threshold=0.0,
        )


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
    task = TASKS[config.task.kind]
    where = resolve_device(device)
    model = task.load_reconstruction(config, directory.load_checkpoint(checkpoint)).to(where)

    @torch.inference_mode()
    def reconstruct(batch: PhotonBatch) -> Arrays:
        sensors = batch.sensors.to(where)
        with explain_oom("lower --batch-size"):
            outputs = model(sensors[..., 0], sensors[..., 1], batch.time_min_s.float().to(where))
        return {name: value.cpu().numpy() for name, value in zip(model.targets, outputs, strict=True)}

    return Predictor(model.targets, model.normalization, reconstruct, run)


def load_onnx(path: Path, device: str) -> Predictor:
    """Open an exported model.

    Args:
        path: File made by `xec export`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The predictor.

    Raises:
        UserError: The file is damaged or was not made by `xec export`.
    """
    session = open_session(path, device)
    metadata = read_metadata(path)
    if "normalization" not in metadata or "targets" not in metadata:
        raise InputFileError(path, "carries no normalisation and no targets", "export it with `xec export`")
    targets = tuple(metadata["targets"])

    def reconstruct(batch: PhotonBatch) -> Arrays:
        inputs = {
            "npho": np.ascontiguousarray(batch.sensors[..., 0].numpy()),
            "time": np.ascontiguousarray(batch.sensors[..., 1].numpy()),
            "time_min_s": batch.time_min_s.numpy().astype(np.float32),
        }
        return dict(zip(targets, session.run(list(targets), inputs), strict=True))

    return Predictor(targets, Normalization(**metadata["normalization"]), reconstruct, path)


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
        raise UserError(f"--onnx {onnx} should end in .onnx; export one with `xec export`.")
    model = run or onnx
    assert model is not None
    return model


def output_branches(targets: Sequence[str]) -> tuple[Branch, ...]:
    """Branches of a prediction file.

    Args:
        targets: What is predicted.

    Returns:
        Run, event, and one float branch a component, such as `pred_theta`.
    """
    components = [
        Branch(f"pred_{component}", (), "f4", TARGETS[name].unit, "reco", f"predicted {component}")
        for name in targets
        for component in TARGETS[name].components
    ]
    return (RUN, EVENT, *components)


def output_columns(batch: PhotonBatch, predicted: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """Arrange predictions as branches; a value that is not finite is written as missing."""
    columns: Arrays = {RUN.name: batch.run.numpy(), EVENT.name: batch.event.numpy()}
    for name, values in predicted.items():
        for k, component in enumerate(TARGETS[name].components):
            column = values[:, k]
            columns[f"pred_{component}"] = np.where(np.isfinite(column), column, MISSING).astype(np.float32)
    return columns


def predict(
    model: Path,
    inputs: Sequence[str],
    output: Path,
    *,
    device: str = "auto",
    checkpoint: str = "best",
    batch_size: int = 256,
    num_threads: int = 2,
) -> dict[str, object]:
    """Reconstruct every event of some files.

    Args:
        model: Run directory or ONNX file.
        inputs: ROOT files or globs.
        output: ROOT file to write; it appears when it is complete.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Checkpoint of a run directory.
        batch_size: Events at a time.
        num_threads: Threads that decompress.

    Returns:
        Output file, number of events and of events with a missing prediction.

    Raises:
        UserError: A file or the model cannot be used.
    """
    if output.suffix != ".root":
        raise UserError(f"--output {output} should end in .root, for example --output predictions.root.")
    predictor = load_predictor(model, device, checkpoint=checkpoint)
    num_missing = 0
    manifest = {"model": str(predictor.source), "normalization": predictor.normalization.fingerprint()}
    with (
        PhotonStream(inputs, predictor.raw, batch_size=batch_size, num_workers=num_threads) as stream,
        TreeWriter(output, output_branches(predictor.targets), tree=TREE, manifest=manifest) as writer,
    ):
        for batch in stream.batches():
            predicted = predictor.reconstruct(batch)
            finite = [np.isfinite(values).all(axis=1) for values in predicted.values()]
            num_missing += len(batch) - int(np.logical_and.reduce(finite).sum())
            writer.extend(output_columns(batch, predicted))
        num_events = stream.num_events
    return {"output": output, "num_events": num_events, "num_missing": num_missing}
