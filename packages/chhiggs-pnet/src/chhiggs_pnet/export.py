"""`chhiggs-pnet export`: one ONNX file that takes raw nodes and a hypothesis and gives class probabilities.

Normalisation, nearest neighbours (a matrix product and TopK) and temperature are part of the graph; features,
classes, training points and versions are in the file's metadata. The file is written after ONNX Runtime has
reproduced PyTorch's numbers at several batch sizes.
"""

from pathlib import Path

import torch

from chhiggs_pnet import __version__
from chhiggs_pnet.config import Config
from chhiggs_pnet.data.schema import CLASSES, ERAS, EXT14, FEATURE_SETS, NUM_NODES
from chhiggs_pnet.physics.processes import CHANNELS
from chhiggs_pnet.tasks import TASKS
from hep_shared.errors import UserError
from hep_shared.onnx import export_onnx
from hep_shared.run import RunDir

UNITS = {
    "energy": "GeV", "px": "GeV", "py": "GeV", "pz": "GeV", "charge": "e", "is_muon": "0 or 1",
    "is_electron": "0 or 1", "is_jet": "0 or 1", "is_bjet": "0 or 1", "pt": "GeV", "eta": "1", "phi": "rad",
    "mass": "GeV", "btag": "0 to 1",
}  # fmt: skip


def example_inputs(num_features: int, num_events: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    """Make events to check an export with: 6 to 12 nodes of plausible momenta, the last one without η.

    Args:
        num_features: Features F of a node.
        num_events: Number of events B.
        seed: Seed of the random numbers.

    Returns:
        The inputs of `EventClassifier.forward` by name.
    """
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(6, 13, (num_events, 1), generator=generator)
    slot = torch.arange(NUM_NODES)
    valid_mask = slot < count
    shape = (num_events, NUM_NODES)
    pt = 15.0 + 60.0 * torch.rand(shape, generator=generator)
    eta = torch.randn(shape, generator=generator).clamp(-2.5, 2.5) * (slot != count - 1)
    phi = (2 * torch.rand(shape, generator=generator) - 1) * torch.pi
    kind = torch.where(slot < 3, 0, torch.where(slot == count - 1, 2, 1))
    charge = torch.where(kind == 0, torch.sign(torch.randn(shape, generator=generator)), 0.0)
    btag = torch.rand(shape, generator=generator) * (kind == 1)
    flags = [kind == 0, torch.zeros(shape), kind == 1, btag > 0.7]
    columns = {
        "energy": pt * torch.cosh(eta), "px": pt * torch.cos(phi), "py": pt * torch.sin(phi),
        "pz": pt * torch.sinh(eta), "charge": charge, "is_muon": flags[0], "is_electron": flags[1],
        "is_jet": flags[2], "is_bjet": flags[3], "pt": pt, "eta": eta, "phi": phi,
        "mass": torch.full(shape, 0.1), "btag": btag,
    }  # fmt: skip
    nodes = torch.stack([columns[name].float() for name in EXT14[:num_features]], dim=-1)
    steps = torch.linspace(0.0, 1.0, num_events)
    return {
        "nodes": nodes * valid_mask.unsqueeze(-1),
        "valid_mask": valid_mask,
        "masses": torch.stack([100 + 60 * steps, 85 + 10 * steps], dim=1),
        "channel": torch.arange(num_events) % len(CHANNELS),
        "era": torch.arange(num_events) % len(ERAS),
    }


def export(run: Path, out: Path, *, checkpoint: str = "best", atol: float = 1e-5) -> dict[str, object]:
    """Export the averaged weights of a training.

    Args:
        run: Run directory.
        out: File to write, ending in `.onnx`.
        checkpoint: `best`, `last` or a file name of the run.
        atol: Largest difference to PyTorch allowed.

    Returns:
        File and largest difference by output.

    Raises:
        UserError: The run cannot be used, or ONNX Runtime gives other numbers.
    """
    if out.suffix != ".onnx":
        raise UserError(f"--out {out} should end in .onnx, for example --out model.onnx.")
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    temperature = task.read_temperature(run)
    model = task.load_classifier(config, directory.load_checkpoint(checkpoint), temperature)
    features = FEATURE_SETS[config.data.features]
    store = task.open_store(config)
    metadata = {
        "producer": f"chhiggs-pnet {__version__}",
        "feature_set": config.data.features,
        "features": list(features),
        "units": {name: UNITS[name] for name in features},
        "classes": list(CLASSES),
        "channels": list(CHANNELS),
        "eras": list(ERAS),
        "training_points": [point.name for point in task.train_points(config, store)],
        "temperature": temperature,
        "inputs": {
            "nodes": f"(B, {NUM_NODES}, {len(features)}): muons, electrons, jets by falling pt, then MET",
            "valid_mask": f"(B, {NUM_NODES}), true for a real node",
            "masses": "(B, 2): mHc, mA in GeV",
            "channel": "(B,): index into channels",
            "era": "(B,): index into eras",
        },
    }
    inputs = example_inputs(len(features))
    differences = export_onnx(
        model, inputs, out, output_names=["probabilities"], metadata=metadata, atol=atol
    )
    return {"output": out, "max_abs_diff": differences}
