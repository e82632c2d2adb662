"""`xec export`: one ONNX file that takes raw sensors and gives physical quantities.

The normalisation is part of the graph, and units, constants and versions are in the file's metadata. The
file is written after ONNX Runtime has reproduced PyTorch's numbers at several batch sizes.
"""

from pathlib import Path

import numpy as np
import torch

from hep_shared.errors import UserError
from hep_shared.onnx import export_onnx
from hep_shared.run import RunDir
from megii_xec import __version__
from megii_xec.config import Config
from megii_xec.data.schema import MISSING
from megii_xec.data.targets import TARGETS
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.simulator import iter_events
from megii_xec.tasks import TASKS


def example_inputs(num_events: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Simulate events to check an export with, with dead sensors and sensors without time.

    Args:
        num_events: Number of events B.
        seed: Seed of the random numbers.

    Returns:
        `npho` (B, 4760) photons, `time` (B, 4760) s after the earliest sensor, `time_min_s` (B,) s.
    """
    detector = SimulationConfig(dead_fraction=0.02)
    events = list(iter_events(detector, num_events, np.random.default_rng(seed)))
    npho, time_ns = (
        np.concatenate([getattr(chunk.readout, name) for chunk in events]) for name in ("npho", "time_ns")
    )
    first_ns = np.nanmin(time_ns, axis=1, keepdims=True)
    columns = {"npho": npho, "time": (time_ns - first_ns) * 1e-9, "time_min_s": first_ns[:, 0] * 1e-9}
    return {
        name: torch.from_numpy(np.where(np.isfinite(values), values, MISSING).astype(np.float32))
        for name, values in columns.items()
    }


def export(run: Path, out: Path, *, checkpoint: str = "best", atol: float = 1e-5) -> dict[str, object]:
    """Export the averaged weights of a training.

    Args:
        run: Run directory.
        out: File to write, ending in `.onnx`.
        checkpoint: `best`, `last` or a file name of the run.
        atol: Largest difference to PyTorch, relative to the largest output where that exceeds 1.

    Returns:
        File and largest difference by target, in the unit of the target.

    Raises:
        UserError: The run cannot be used, or ONNX Runtime gives other numbers.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    if "export" not in task.FINISH:
        raise UserError(
            f"{run} is a {config.task.kind} run, which is not exported; train a network on its encoder with "
            f"`xec train --set train.encoder_from={run}` and export that."
        )
    model = task.load_reconstruction(config, directory.load_checkpoint(checkpoint))
    normalization = model.normalization
    metadata = {
        "producer": f"megii-xec {__version__}",
        "targets": list(model.targets),
        "units": {name: TARGETS[name].unit for name in model.targets},
        "components": {name: list(TARGETS[name].components) for name in model.targets},
        "inputs": {
            "npho": f"branch {normalization.npho_input}; 1e10 where missing",
            "time": f"branch {normalization.time_input}, seconds; 1e10 where missing",
            "time_min_s": "branch time_min_used, seconds",
        },
        "normalization": normalization.model_dump(mode="json"),
        "normalization_fingerprint": normalization.fingerprint(),
        "layout": config.model.layout,
    }
    inputs = example_inputs()
    if normalization.npho_input == "relative_npho":
        largest = inputs["npho"].where(inputs["npho"] < MISSING, 0.0).amax(1, keepdim=True)
        inputs["npho"] = inputs["npho"].where(inputs["npho"] >= MISSING, inputs["npho"] / largest)
    differences = export_onnx(model, inputs, out, output_names=model.outputs, metadata=metadata, atol=atol)
    return {"output": out, "max_abs_diff": differences}
