"""`lhcb-extrap export`: an ONNX file of any network, or a C++ header of a kick net.

Both take physical units and give physical units, and are written only after they have been compared with
PyTorch; the header is compared by whoever compiles it, `templates/kick.hpp` says how.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text, write_manifest
from hep_shared.onnx import export_onnx
from hep_shared.run import RunDir
from lhcb_extrap import __version__
from lhcb_extrap.config import Config
from lhcb_extrap.data.normalization import Normalization
from lhcb_extrap.models.cpp_header import kick_header
from lhcb_extrap.models.deploy import TrackExtrapolation
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.physics.sampling import TrackSampler
from lhcb_extrap.tasks import TASKS

MAX_DIFFERENCE_MM = 1.0e-3  # 1e-6 m
HEADER_SUFFIXES = (".hpp", ".h", ".hh")


def example_tracks(normalization: Normalization, num_tracks: int = 64, seed: int = 0) -> torch.Tensor:
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
        File and, for ONNX, the largest difference to PyTorch (mm, 1).

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
    return export_network(network, normalization, out)


def export_network(
    network: torch.nn.Module, normalization: Normalization, out: Path, *, name: str = ""
) -> dict[str, Any]:
    """Write an ONNX file of a network.

    Args:
        network: Maps tracks (B, 7) to ends (B, 4).
        normalization: Scales and planes.
        out: File to write.
        name: Name for the metadata.

    Returns:
        File and the largest difference to PyTorch (mm, 1).

    Raises:
        UserError: ONNX Runtime gives other numbers.
    """
    low, high = normalization.z0_mm
    fixed = low == high
    model = TrackExtrapolation(network, low if fixed else None)
    tracks = example_tracks(normalization)
    inputs = {"tracks": tracks[:, :6].contiguous()}
    if not fixed:
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
    with torch.no_grad():
        largest = max(1.0, float(model(**inputs).abs().max()))
    # The check of export_onnx is relative to the largest output; ours is absolute.
    difference = export_onnx(
        model, inputs, out, output_names=["end"], metadata=metadata, atol=MAX_DIFFERENCE_MM / largest
    )
    return {"output": out, "max_abs_diff": difference}
