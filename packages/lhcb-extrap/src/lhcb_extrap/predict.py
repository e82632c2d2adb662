"""`lhcb-extrap predict`: npz in, npz out, in pieces, with a trained run or an exported ONNX file.

Both take physical units and give physical units. A row that cannot be extrapolated ends the command with a
sentence, or becomes NaN and is counted with `--on-error mark`.

Dimension legend: N tracks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import write_manifest
from hep_shared.onnx import open_session, read_metadata
from hep_shared.run import RunDir
from lhcb_extrap.config import Config
from lhcb_extrap.data.inputs import check_inputs, invalid_inputs, read_inputs
from lhcb_extrap.data.npz import map_array, npz_members, write_npz
from lhcb_extrap.data.schema import END, PLANES, START
from lhcb_extrap.physics.arrays import BoolArray, FloatArray
from lhcb_extrap.tasks import TASKS

OnError = Literal["stop", "mark"]
VALID_MASK = "valid_mask"
_CHUNK = 65_536
_PLANE_TOLERANCE_MM = 1.0e-3
_Z0 = 6  # column of the tracks that a network gets


@dataclass(frozen=True)
class Predictor:
    """Something that extrapolates tracks.

    Attributes:
        extrapolate: Maps x, y, tx, ty, q/p, dz, z0 (N, 7) to x, y, tx, ty (N, 4), mm, 1, 1/MeV.
        z0_mm: Lowest and highest start it was trained for.
        dz_mm: Shortest and longest path it was trained for.
        source: Where it was loaded from.
    """

    extrapolate: Callable[[FloatArray], FloatArray]
    z0_mm: tuple[float, float]
    dz_mm: tuple[float, float]
    source: Path

    @property
    def allows_backward(self) -> bool:
        """Whether it was trained on paths against the beam."""
        return self.dz_mm[0] < 0

    def outside(self, tracks: FloatArray) -> BoolArray:
        """Mark tracks between planes it was not trained for, (N,)."""
        wrong = np.zeros(len(tracks), bool)
        for column, (low, high) in ((5, self.dz_mm), (_Z0, self.z0_mm)):
            wrong |= ~(
                (tracks[:, column] >= low - _PLANE_TOLERANCE_MM)
                & (tracks[:, column] <= high + _PLANE_TOLERANCE_MM)
            )
        return wrong


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
    network, normalization = task.load_network(config, directory.load_checkpoint(checkpoint), directory)
    network = network.to(where)

    @torch.inference_mode()
    def extrapolate(tracks: FloatArray) -> FloatArray:
        with explain_oom("predict in smaller files"):
            end = [
                network(torch.from_numpy(part.astype(np.float32)).to(where)).cpu().numpy()
                for part in np.array_split(tracks, max(1, -(-len(tracks) // _CHUNK)))
            ]
        return np.concatenate(end)

    return Predictor(extrapolate, normalization.z0_mm, normalization.dz_mm, run)


def load_onnx(path: Path, device: str) -> Predictor:
    """Open an exported model.

    Args:
        path: File made by `lhcb-extrap export`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The predictor.

    Raises:
        UserError: The file is damaged or was not made by `lhcb-extrap export`.
    """
    session = open_session(path, device)
    metadata = read_metadata(path)
    if not {"z0_mm", "dz_mm", "input_names"} <= metadata.keys():
        raise InputFileError(path, "does not say its planes", "export it with `lhcb-extrap export`")

    def extrapolate(tracks: FloatArray) -> FloatArray:
        inputs = {"tracks": tracks[:, :6].astype(np.float32), "z0": tracks[:, _Z0].astype(np.float32)}
        wanted = {name: inputs[name] for name in metadata["input_names"]}
        end: FloatArray = session.run(["end"], wanted)[0]
        return end

    return Predictor(extrapolate, tuple(metadata["z0_mm"]), tuple(metadata["dz_mm"]), path)


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
        raise UserError(f"--onnx {onnx} should end in .onnx; export one with `lhcb-extrap export`.")
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
    on_error: OnError = "stop",
) -> dict[str, object]:
    """Extrapolate every track of a file.

    Args:
        model: Run directory or ONNX file.
        input_: npz file with the array X, and Z where tracks start on different planes.
        output: npz file to write: Y (N, 4), NaN where a track cannot be extrapolated, and `valid_mask` (N,).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Checkpoint of a run directory.
        on_error: `stop` at the first row that cannot be extrapolated, or `mark` all of them.

    Returns:
        Output file, numbers of tracks and of marked tracks.

    Raises:
        UserError: A file or the model cannot be used, or a row with `stop`.
    """
    if output.suffix != ".npz":
        raise UserError(f"--output {output} should end in .npz, for example --output ends.npz.")
    if on_error not in ("stop", "mark"):
        raise UserError(f"--on-error is '{on_error}'; choose stop or mark.")
    if output.resolve() == input_.resolve():
        raise UserError(f"--output {output} is also the input; choose another file.")
    predictor = load_predictor(model, device, checkpoint=checkpoint)
    inputs = read_inputs(input_)
    z0 = read_starts(input_, len(inputs), predictor)
    valid_mask = np.ones(len(inputs), bool)
    for rows in chunks(len(inputs)):
        tracks = np.column_stack([inputs[rows], z0[rows]])
        wrong = invalid_inputs(tracks[:, :_Z0], allow_backward=predictor.allows_backward)
        wrong |= predictor.outside(tracks)
        if wrong.any() and on_error == "stop":
            refuse(predictor, tracks, input_, rows.start)
        valid_mask[rows] = ~wrong

    def ends() -> Iterator[NDArray[np.float32]]:
        for rows in chunks(len(inputs)):
            tracks = np.column_stack([inputs[rows], z0[rows]])
            end = np.full((len(tracks), 4), np.nan, np.float32)
            good = valid_mask[rows]
            if good.any():
                end[good] = predictor.extrapolate(tracks[good])
            yield end

    arrays = {
        END.key: ((len(inputs), 4), np.float32, ends()),
        VALID_MASK: ((len(inputs),), np.bool_, [valid_mask]),
    }
    write_npz(output, arrays)
    num_marked = int((~valid_mask).sum())
    write_manifest(output, num_tracks=len(inputs), num_marked=num_marked, model=str(predictor.source))
    return {"output": output, "num_tracks": len(inputs), "num_marked": num_marked}


def refuse(predictor: Predictor, tracks: FloatArray, path: Path, first_row: int) -> None:
    """Raise the sentence of the first row that cannot be extrapolated.

    Args:
        predictor: What was to extrapolate it.
        tracks: x, y, tx, ty, q/p, dz, z0, (N, 7), at least one of which is wrong.
        path: Their file.
        first_row: Row of the first track in the file.

    Raises:
        InputFileError: Always.
    """
    check_inputs(tracks[:, :_Z0], path, allow_backward=predictor.allows_backward)
    row = int(np.argmax(predictor.outside(tracks)))
    dz, z0 = tracks[row, 5], tracks[row, _Z0]
    raise InputFileError(
        path,
        f"goes from z = {z0:g} mm over dz = {dz:g} mm, but {predictor.source} was trained for z0 from "
        f"{predictor.z0_mm[0]:g} to {predictor.z0_mm[1]:g} mm and dz from {predictor.dz_mm[0]:g} to "
        f"{predictor.dz_mm[1]:g} mm",
        "use a model of these planes, or --on-error mark",
        branch=START.key,
        entry=first_row + row,
    )


def read_starts(path: Path, num_tracks: int, predictor: Predictor) -> FloatArray:
    """Where the tracks of a file start: its array Z, or the one plane the model knows.

    Args:
        path: The file.
        num_tracks: Its number of tracks N.
        predictor: The model.

    Returns:
        z0, (N,), mm.

    Raises:
        InputFileError: There is no Z, and the model knows many planes, or Z has another shape.
    """
    members = npz_members(path)
    if PLANES.key in members:
        member = members[PLANES.key]
        if member.shape != PLANES.shape(num_tracks) or member.dtype.kind != "f":
            raise InputFileError(
                path, f"has shape {member.shape} in {member.dtype}", "store z of start and end of each track",
                branch=PLANES.key,
            )  # fmt: skip
        return np.asarray(map_array(path, PLANES.key, member)[:, 0], np.float64)
    if predictor.z0_mm[0] != predictor.z0_mm[1]:
        raise InputFileError(
            path, f"has no array '{PLANES.key}'", "store z of start and end, which this model needs"
        )
    return np.full(num_tracks, predictor.z0_mm[0])


def chunks(num: int) -> Iterator[slice]:
    """Cut `num` rows into pieces."""
    for start in range(0, num, _CHUNK):
        yield slice(start, min(start + _CHUNK, num))
