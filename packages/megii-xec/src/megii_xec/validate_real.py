"""`xec validate-real`: recorded data through an exported model, event by event.

Predictions stand beside the conventional values.
The normalisation comes out of the model file and nowhere else. A file whose constants were changed after the
export, or that belongs to another run than the one named, is refused.

Dimensions: B events, K components of a target.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import InputFileError
from hep_shared.onnx import read_metadata
from hep_shared.run import RunDir
from megii_xec import figures, plots
from megii_xec.config import Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import ENERGY_RECO, INVALID_ABOVE, MISSING, TIME_RECO, UVW_RECO_LC, Branch
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import TARGETS
from megii_xec.data.writer import TreeWriter
from megii_xec.metrics import width68
from megii_xec.physics.coordinates import uvw_to_xyz, vector_to_angles
from megii_xec.predict import TREE, Predictor, load_onnx, output_branches, output_columns

RECO = (ENERGY_RECO, TIME_RECO, UVW_RECO_LC)
COMPARED = ("angle", "energy", "timing", "uvwFI")  # targets that have a conventional value
Arrays = dict[str, NDArray[Any]]


def validate_real(
    onnx: Path,
    inputs: Sequence[str],
    output: Path,
    *,
    run: Path | None = None,
    device: str = "auto",
    batch_size: int = 256,
    num_threads: int = 2,
) -> dict[str, Any]:
    """Reconstruct recorded events and compare with the conventional reconstruction.

    Args:
        onnx: Model made by `xec export`.
        inputs: ROOT files or globs in the layout of recorded data.
        output: ROOT file to write: `run`, `event`, `pred_*` and `reco_*`. The differences are drawn into
            `<output>_differences.png` and `.pdf` beside it.
        run: Training that the model must agree with in normalisation and layout.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: Events at a time.
        num_threads: Threads that decompress.

    Returns:
        Output file, number of events, normalisation, and median and 68 % width of the difference network -
        conventional for each component.

    Raises:
        UserError: A file cannot be used, or the model's normalisation is not what it should be.
    """
    check_model(onnx, run)
    predictor = load_onnx(onnx, device)
    compared = [name for name in predictor.targets if name in COMPARED]
    reco = [
        Branch(f"reco_{component}", (), "f4", TARGETS[name].unit, "reco", f"conventional {component}")
        for name in compared
        for component in TARGETS[name].components
    ]
    differences: dict[str, list[NDArray[np.float64]]] = {branch.name: [] for branch in reco}
    branches = (*output_branches(predictor.outputs), *reco)
    manifest = {"model": str(onnx), "normalization": predictor.normalization.fingerprint()}
    with (
        PhotonStream(
            inputs, predictor.raw, batch_size=batch_size, num_workers=num_threads, extra=RECO
        ) as stream,
        TreeWriter(output, branches, tree=TREE, manifest=manifest) as writer,
    ):
        for batch in stream.batches():
            columns = event_columns(batch, predictor, compared)
            writer.extend(columns)
            for branch in reco:
                pred, conventional = columns[branch.name.replace("reco_", "pred_")], columns[branch.name]
                both = (np.abs(pred) < INVALID_ABOVE) & (np.abs(conventional) < INVALID_ABOVE)
                differences[branch.name].append((pred[both] - conventional[both]).astype(np.float64))
        num_events = stream.num_events
    joined = {branch: np.concatenate(differences[branch.name]) for branch in reco}
    picture = output.with_name(f"{output.stem}_differences")
    if reco:
        drawn = {
            branch.name.removeprefix("reco_"): (values, branch.unit) for branch, values in joined.items()
        }
        plots.save(figures.differences(drawn), picture)
    return {
        "output": output,
        "num_events": num_events,
        "normalization": predictor.normalization.fingerprint(),
        "difference": {
            branch.name.removeprefix("reco_"): describe(values, branch.unit)
            for branch, values in joined.items()
        },
    }


def check_model(onnx: Path, run: Path | None) -> None:
    """Refuse a model whose normalisation is not the one it was trained with.

    Args:
        onnx: The model.
        run: Training it must agree with; None to compare only with its own fingerprint.

    Raises:
        InputFileError: Constants and fingerprint differ, or the run has others.
    """
    metadata = read_metadata(onnx)
    remedy = "export the model again with `xec export`"
    if not {"normalization", "normalization_fingerprint", "layout"} <= metadata.keys():
        raise InputFileError(onnx, "carries no normalisation, so its inputs are unknown", remedy)
    normalization = Normalization(**metadata["normalization"])
    if normalization.fingerprint() != metadata["normalization_fingerprint"]:
        problem = (
            f"has constants {normalization.fingerprint()} but was exported with "
            f"{metadata['normalization_fingerprint']}"
        )
        raise InputFileError(onnx, problem, remedy)
    if run is None:
        return
    config = Config.model_validate(RunDir.open(run).config)
    wanted = {
        "normalization": (normalization.fingerprint(), config.data.normalization.fingerprint()),
        "layout": (metadata["layout"], config.model.layout),
    }
    for name, (found, ours) in wanted.items():
        if found != ours:
            raise InputFileError(
                onnx,
                f"has {name} {found}, but the run {run} has {ours}",
                f"export that run with `xec export --run {run}`",
            )


def event_columns(batch: PhotonBatch, predictor: Predictor, compared: Sequence[str]) -> Arrays:
    """Predictions and conventional values of a batch as branches."""
    columns: Arrays = dict(output_columns(batch, predictor.reconstruct(batch)))
    clean = {
        name: np.where(np.abs(values.numpy()) <= INVALID_ABOVE, values.numpy(), np.nan)
        for name, values in batch.extra.items()
    }
    uvw = clean[UVW_RECO_LC.name]
    values = {
        "angle": vector_to_angles(uvw_to_xyz(uvw.astype(np.float64))),
        "energy": clean[ENERGY_RECO.name].reshape(-1, 1),
        "timing": clean[TIME_RECO.name].reshape(-1, 1),
        "uvwFI": uvw,
    }
    for name in compared:
        for k, component in enumerate(TARGETS[name].components):
            column = values[name][:, k]
            columns[f"reco_{component}"] = np.where(np.isfinite(column), column, MISSING).astype(np.float32)
    return columns


def describe(difference: NDArray[np.float64], unit: str) -> dict[str, Any]:
    """Median and width of a difference; NaN without events."""
    if not len(difference):
        return {"median": float("nan"), "width68": float("nan"), "unit": unit, "num_events": 0}
    return {
        "median": float(np.median(difference)),
        "width68": float(width68(difference)),
        "unit": unit,
        "num_events": len(difference),
    }
