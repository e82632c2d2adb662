"""`xec predict`: ROOT in, ROOT out, in a stream, with a trained run or an exported ONNX file.

Both go through the same door: raw sensors in, physical quantities out (`models/deploy.py`). Real-data
files, which carry no truth, are read alike.

Dimensions: B events, S sensors (4760), K components of a target.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_path
from hep_shared.onnx import open_session, read_metadata
from hep_shared.run import RunDir
from megii_xec.config import Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import EVENT, MISSING, RUN, Branch
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TARGETS
from megii_xec.data.writer import TreeWriter, write_tree
from megii_xec.models.deploy import PhotonReconstruction
from megii_xec.models.readout import SIGMA
from megii_xec.tasks import TASKS

TREE = "predictions"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Predictor:
    """Something that reconstructs batches of raw sensors.

    Attributes:
        targets: What it predicts.
        outputs: The targets, and `sigma_<target>` for those whose uncertainty it tells.
        normalization: What it was trained with; names the branches it reads.
        reconstruct: Maps a raw batch to {output: (B, K)} in physical units.
        source: Where it was loaded from.
    """

    targets: tuple[str, ...]
    outputs: tuple[str, ...]
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


def load_model(run: Path, *, checkpoint: str = "best") -> PhotonReconstruction:
    """Load the averaged weights of a training.

    Args:
        run: Run directory.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        The reconstruction in evaluation mode, on the CPU.

    Raises:
        UserError: The run or its checkpoint cannot be used.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    if not hasattr(task, "load_reconstruction"):
        raise UserError(
            f"{run} is a {config.task.kind} run, which reconstructs no photons; give a run of `xec train`."
        )
    model: PhotonReconstruction = task.load_reconstruction(config, directory.load_checkpoint(checkpoint))
    return model


def load_run(run: Path, device: str, *, checkpoint: str = "best") -> Predictor:
    """Make a predictor of a training.

    Args:
        run: Run directory.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        The predictor.

    Raises:
        UserError: The run or its checkpoint cannot be used.
    """
    where = resolve_device(device)
    model = load_model(run, checkpoint=checkpoint).to(where)

    @torch.inference_mode()
    def reconstruct(batch: PhotonBatch) -> Arrays:
        return run_model(model, batch, where)

    return Predictor(model.targets, model.outputs, model.normalization, reconstruct, run)


def run_model(model: PhotonReconstruction, batch: PhotonBatch, where: torch.device) -> Arrays:
    """Evaluate a model on a raw batch.

    Args:
        model: The reconstruction, on the device.
        batch: Raw events.
        where: The device.

    Returns:
        Outputs in physical units by name, (B, K).
    """
    sensors = batch.sensors.to(where)
    with explain_oom("lower --batch-size"):
        outputs = model(sensors[..., 0], sensors[..., 1], batch.time_min_s.float().to(where))
    return {name: value.float().cpu().numpy() for name, value in zip(model.outputs, outputs, strict=True)}


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
    outputs = tuple(metadata["output_names"])

    def reconstruct(batch: PhotonBatch) -> Arrays:
        inputs = {
            "npho": np.ascontiguousarray(batch.sensors[..., 0].numpy()),
            "time": np.ascontiguousarray(batch.sensors[..., 1].numpy()),
            "time_min_s": batch.time_min_s.numpy().astype(np.float32),
        }
        return dict(zip(outputs, session.run(list(outputs), inputs), strict=True))

    return Predictor(targets, outputs, Normalization(**metadata["normalization"]), reconstruct, path)


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


def output_branches(outputs: Sequence[str]) -> tuple[Branch, ...]:
    """Branches of a prediction file.

    Args:
        outputs: What is predicted, see `Predictor`.

    Returns:
        Run, event, and one float branch a component, such as `pred_theta` or `sigma_energy`.
    """
    components = [
        Branch(name, (), "f4", TARGETS[output.removeprefix(SIGMA)].unit, "reco", f"predicted {name}")
        for output in outputs
        for name in component_names(output)
    ]
    return (RUN, EVENT, *components)


def component_names(output: str) -> list[str]:
    """Names of the branches of one output."""
    prefix = SIGMA if output.startswith(SIGMA) else "pred_"
    return [prefix + component for component in TARGETS[output.removeprefix(SIGMA)].components]


def output_columns(batch: PhotonBatch, predicted: Mapping[str, NDArray[np.float32]]) -> Arrays:
    """Arrange predictions as branches; a value that is not finite is written as missing."""
    columns: Arrays = {RUN.name: batch.run.numpy(), EVENT.name: batch.event.numpy()}
    for output, values in predicted.items():
        for k, name in enumerate(component_names(output)):
            columns[name] = finite_or_missing(values[:, k])
    return columns


def write_with_truth(
    path: Path,
    identity: tuple[NDArray[Any], NDArray[Any]],
    predicted: Mapping[str, NDArray[Any]],
    truth: Mapping[str, NDArray[Any]],
    opening_angle_deg: NDArray[np.float64] | None,
) -> None:
    """Write every event of an evaluation, as a ROOT tree and as a table of text.

    Args:
        path: ROOT file; the text goes to the same name with `.csv`.
        identity: Run and event numbers, (N,) each.
        predicted: Outputs by name, (N, K), see `Predictor`.
        truth: Targets by name, (N, K).
        opening_angle_deg: Angle between true and predicted direction, (N,), or None.
    """
    branches = [*output_branches(tuple(predicted))]
    columns: Arrays = {RUN.name: identity[0], EVENT.name: identity[1]}
    for output, values in predicted.items():
        for k, name in enumerate(component_names(output)):
            columns[name] = finite_or_missing(values[:, k])
    for target, values in truth.items():
        for k, component in enumerate(TARGETS[target].components):
            name = f"true_{component}"
            branches.append(Branch(name, (), "f4", TARGETS[target].unit, "truth", f"true {component}"))
            columns[name] = finite_or_missing(values[:, k])
    if opening_angle_deg is not None:
        branches.append(Branch("opening_angle", (), "f4", "deg", "reco", "true to predicted direction"))
        columns["opening_angle"] = finite_or_missing(opening_angle_deg)
    write_tree(path, columns, tuple(branches), tree=TREE)
    with atomic_path(path.with_suffix(".csv")) as temporary:
        table = np.stack([columns[branch.name].astype(np.float64) for branch in branches], axis=1)
        names = ",".join(branch.name for branch in branches)
        np.savetxt(temporary, table, fmt="%.9g", delimiter=",", header=names, comments="")


def finite_or_missing(column: NDArray[Any]) -> NDArray[np.float32]:
    """Values as they are stored, (N,): what is not finite is missing."""
    return np.where(np.isfinite(column), column, MISSING).astype(np.float32)


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
        TreeWriter(output, output_branches(predictor.outputs), tree=TREE, manifest=manifest) as writer,
    ):
        for batch in stream.batches():
            predicted = predictor.reconstruct(batch)
            finite = [np.isfinite(values).all(axis=1) for values in predicted.values()]
            num_missing += len(batch) - int(np.logical_and.reduce(finite).sum())
            writer.extend(output_columns(batch, predicted))
        num_events = stream.num_events
    return {"output": output, "num_events": num_events, "num_missing": num_missing}
