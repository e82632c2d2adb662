"""`lhcb-extrap export`: an ONNX file of any network, or a C++ header of a kick net.

Both take physical units and give physical units. An ONNX file is written only if ONNX Runtime gives

    |x - x'|, |y - y'| <= 1e-3 mm,    |tx - tx'|, |ty - ty'| <= 1e-3 mm / 3 m,

x' and so on being what PyTorch gives in double precision: single precision itself is off by about as much, in
PyTorch as in ONNX Runtime, where a wide network spreads its ends over metres. The last layer of such networks
is therefore exported in double precision, and all layers where that is not enough. The header is compared by
whoever compiles it, `templates/kick.hpp` says how.

Dimension legend: B tracks.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hep_shared.errors import UserError
from hep_shared.files import atomic_write_bytes, atomic_write_text, write_manifest
from hep_shared.onnx import export_onnx, open_session
from hep_shared.run import RunDir
from lhcb_extrap import __version__
from lhcb_extrap.config import Config
from lhcb_extrap.data.normalization import Normalization
from lhcb_extrap.models.cpp_header import kick_header
from lhcb_extrap.models.deploy import TrackExtrapolation, with_double_output
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.physics.constants import SLOPE_ARM_MM
from lhcb_extrap.physics.sampling import TrackSampler
from lhcb_extrap.tasks import TASKS

MAX_DIFFERENCE_MM = 1.0e-3  # 1e-6 m
MAX_DIFFERENCE = {"position_mm": MAX_DIFFERENCE_MM, "slope": MAX_DIFFERENCE_MM / SLOPE_ARM_MM}
_NUM_TRACKS = 1024  # on which an export is compared
_BATCHES = (1, 7, _NUM_TRACKS)
HEADER_SUFFIXES = (".hpp", ".h", ".hh")


def example_tracks(
    normalization: Normalization, num_tracks: int = _NUM_TRACKS, seed: int = 0
) -> torch.Tensor:
    """Make tracks to check an export with.

    Args:
        normalization: Planes of the model.
        num_tracks: How many.
        seed: Seed of the random numbers.

    Returns:
        x, y, tx, ty, q/p, dz, z0, (N, 7) float32, mm, 1, 1/MeV; momenta from 2 to 100 GeV.
    """
    low = normalization.z0_mm[0]
    sampler = TrackSampler(
        momentum_gev=(2.0, 100.0), z0_mm=normalization.z0_mm, dz_mm=normalization.dz_mm,
        slopes="pointing" if low > 0 else "flat",
    )  # fmt: skip
    drawn = sampler.draw(np.random.Generator(np.random.Philox(seed)), num_tracks)
    tracks = np.column_stack([drawn.start, drawn.qop, drawn.dz, drawn.z0])
    return torch.from_numpy(tracks.astype(np.float32))


def export(run: Path, out: Path, *, checkpoint: str = "best") -> dict[str, Any]:
    """Export the averaged weights of a training.

    Args:
        run: Run directory.
        out: File to write, ending in `.onnx`, or in `.hpp` for a kick net.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        File and, for ONNX, what `export_network` says.

    Raises:
        UserError: The run cannot be used, the suffix is unknown, or ONNX Runtime gives other numbers.
    """
    if out.suffix not in (".onnx", *HEADER_SUFFIXES):
        raise UserError(f"--out {out} should end in .onnx, or in .hpp for the C++ header of a kick net.")
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    network, normalization = task.load_network(config, directory.load_checkpoint(checkpoint), directory)
    if out.suffix in HEADER_SUFFIXES:
        if not isinstance(network, KickNet) or not normalization.fixed_planes:
            raise UserError(
                f"--out {out} is a C++ header, for kick nets between two fixed planes, but {run} "
                f"is a {config.model.kind}; export it to .onnx."
            )
        atomic_write_text(out, kick_header(network, normalization.z0_mm[0], normalization.dz_mm[0], run.name))
        write_manifest(out)
        return {"output": out}
    return export_network(network, normalization, out, name=run.name)


def export_network(
    network: nn.Module, normalization: Normalization, out: Path, *, name: str = ""
) -> dict[str, Any]:
    """Write an ONNX file of a network, with hidden layers in single precision if that is exact enough.

    Args:
        network: Maps tracks (B, 7) to ends (B, 4).
        normalization: Scales and planes.
        out: File to write.
        name: Name for the metadata.

    Returns:
        File, precision of the hidden layers, and the largest differences to PyTorch in double precision:
        `position_mm` (mm) and `slope` (1).

    Raises:
        UserError: ONNX Runtime gives other numbers.
    """
    low, high = normalization.z0_mm
    tracks = example_tracks(normalization)
    inputs = {"tracks": tracks[:, :6].contiguous()}
    if low != high:
        inputs["z0"] = tracks[:, 6].contiguous()
    metadata = {
        "producer": f"lhcb-extrap {__version__}",
        "name": name,
        "inputs": {"tracks": "x mm, y mm, tx, ty, q/p 1/MeV, dz mm", "z0": "mm, where it is an input"},
        "outputs": {"end": "x mm, y mm, tx, ty"},
        "z0_mm": list(normalization.z0_mm),
        "dz_mm": list(normalization.dz_mm),
        "normalization_fingerprint": normalization.fingerprint(),
        "field_fingerprint": normalization.field.fingerprint,
    }
    z0 = low if low == high else None
    double = TrackExtrapolation(copy.deepcopy(network).double().cpu(), z0, double=True).eval()
    single = TrackExtrapolation(with_double_output(network), z0).eval()
    for model, precision in ((single, "single"), (double, "double")):
        with tempfile.TemporaryDirectory(prefix="lhcb-extrap-") as scratch:
            file = Path(scratch) / "model.onnx"
            facts = {**metadata, "precision": precision}
            # Without a limit of its own: ours is in physical units and leads to the next precision.
            export_onnx(model, inputs, file, output_names=["end"], metadata=facts, atol=float("inf"))
            difference = largest_difference(double, inputs, file)
            if all(difference[key] <= limit for key, limit in MAX_DIFFERENCE.items()):
                atomic_write_bytes(out, file.read_bytes())
                write_manifest(out)
                return {"output": out, "precision": precision, "max_abs_diff": difference}
    raise UserError(
        f"ONNX Runtime differs from PyTorch by {difference['position_mm']:.3g} mm and "
        f"{difference['slope']:.3g} in slope, more than {MAX_DIFFERENCE['position_mm']:g} mm and "
        f"{MAX_DIFFERENCE['slope']:.2g}; no file was written, look for weights that have no sensible size."
    )


def largest_difference(model: TrackExtrapolation, inputs: dict[str, Tensor], file: Path) -> dict[str, float]:
    """Compare an ONNX file with a model, at several batch sizes.

    Args:
        model: The model in double precision, on the CPU.
        inputs: `tracks` (B, 6) and, for variable planes, `z0` (B,); mm, 1, 1/MeV.
        file: The ONNX file.

    Returns:
        Largest difference of x and y, `position_mm` (mm), and of tx and ty, `slope` (1); NaN if one is.
    """
    session = open_session(file, "cpu")
    found = []
    for size in _BATCHES:
        rows = {key: value[:size] for key, value in inputs.items()}
        with torch.no_grad():
            expected = model(**{key: value.double() for key, value in rows.items()}).numpy()
        ours = session.run(["end"], {key: value.numpy() for key, value in rows.items()})[0]
        found.append(np.abs(ours - expected).max(axis=0))
    worst = np.max(found, axis=0)
    return {"position_mm": float(worst[:2].max()), "slope": float(worst[2:].max())}
