"""`chhiggs-pnet predict`: ROOT in, ROOT out, in a stream, with a trained run or an exported ONNX file.

Every event of the input is in the output, in its order, with the class probabilities under each hypothesis
asked for. Real files are read through the same branch map as the training's.

The members of an ensemble, and the passes of Monte Carlo dropout, are averaged; their spread is the model's
own uncertainty.

References:
    B. Lakshminarayanan et al., arXiv:1612.01474 (ensembles); Y. Gal, Z. Ghahramani, arXiv:1506.02142 (Monte
    Carlo dropout).

Dimensions: B events, P slots, F features, K members.
"""

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uproot
from numpy.typing import NDArray
from torch import nn

from chhiggs_pnet.config import Config
from chhiggs_pnet.data.branch_map import BranchMap
from chhiggs_pnet.data.features import node_features
from chhiggs_pnet.data.point_events import PointEvents
from chhiggs_pnet.data.reader import EventReader
from chhiggs_pnet.data.schema import CLASSES, ERAS, FEATURE_SETS
from chhiggs_pnet.physics.events import Array, Events
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import CHANNELS
from chhiggs_pnet.tasks import TASKS
from hep_shared.amp import explain_oom, resolve_device
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import atomic_path, write_manifest
from hep_shared.onnx import open_session, read_metadata
from hep_shared.run import RunDir
from hep_shared.seed import seed_everything

TREE = "predictions"
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Predictor:
    """Something that gives class probabilities for raw nodes.

    Attributes:
        features: Feature set that it reads.
        classify: Maps (nodes (B, P, F), valid_mask (B, P), masses (B, 2) in GeV, channel (B,), era (B,)) to
            class probabilities (B, classes).
        source: Where it was loaded from.
        points: Training points, names.
    """

    features: str
    classify: Callable[[Array, Array, Array, Array, Array], Array]
    source: Path
    points: tuple[str, ...]

    @property
    def num_features(self) -> int:
        """Number of features F."""
        return len(FEATURE_SETS[self.features])


def load_run(run: Path, device: str, *, checkpoint: str = "best") -> Predictor:
    """Load the averaged weights of a training, calibrated if it was evaluated.

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
    state = directory.load_checkpoint(checkpoint)
    task = TASKS[config.task.kind]
    model = task.load_classifier(config, state, task.read_temperature(run)).to(where)

    @torch.inference_mode()
    def classify(*arrays: Array) -> Array:
        with explain_oom("lower --batch-size"):
            found: Array = model(*(torch.from_numpy(array).to(where) for array in arrays)).cpu().numpy()
        return found

    points = config.data.train_points or config.masses.train
    return Predictor(config.data.features, classify, run, tuple(point.name for point in points))


def load_onnx(path: Path, device: str) -> Predictor:
    """Open an exported model.

    Args:
        path: File made by `chhiggs-pnet export`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The predictor.

    Raises:
        UserError: The file is damaged or was not made by `chhiggs-pnet export`.
    """
    session = open_session(path, device)
    metadata = read_metadata(path)
    if "feature_set" not in metadata or "training_points" not in metadata:
        raise InputFileError(
            path, "carries no feature set and no training points", "export it with `chhiggs-pnet export`"
        )
    names: list[str] = metadata["input_names"]

    def classify(*arrays: Array) -> Array:
        given = dict(zip(("nodes", "valid_mask", "masses", "channel", "era"), arrays, strict=True))
        found: Array = session.run(None, {name: given[name] for name in names})[0]
        return found

    return Predictor(metadata["feature_set"], classify, path, tuple(metadata["training_points"]))


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
        raise UserError(f"--onnx {onnx} should end in .onnx; export one with `chhiggs-pnet export`.")
    model = run or onnx
    assert model is not None
    return model


class Ensemble:
    """Networks of several runs that look at the same data, or one network many times with dropout.

    Args:
        runs: Run directories; all must read the same features, channel and fold.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the runs.
        mc_dropout: Passes of each network with dropout switched on; 0 for one pass without.

    Raises:
        UserError: A run cannot be used, or differs from the first one.
    """

    def __init__(
        self, runs: Sequence[Path], *, device: str = "auto", checkpoint: str = "best", mc_dropout: int = 0
    ) -> None:
        if not runs:
            raise UserError("no run was given; name a run directory with --run.")
        self.device = resolve_device(device)
        self.directories = [RunDir.open(run) for run in runs]
        self.config = Config.model_validate(self.directories[0].config)
        self.mc_dropout = mc_dropout
        self.networks: list[nn.Module] = []
        for directory in self.directories:
            config = Config.model_validate(directory.config)
            for name in ("store", "features", "channel", "fold"):
                ours, theirs = getattr(self.config.data, name), getattr(config.data, name)
                if ours != theirs:
                    raise UserError(
                        f"{directory.path} has data.{name} = {theirs}, but {runs[0]} has {ours}; "
                        "combine runs that look at the same data."
                    )
            network = TASKS[config.task.kind].load_network(config, directory.load_checkpoint(checkpoint))
            self.networks.append(network.to(self.device))

    @property
    def task(self) -> Any:
        """The task of the first run."""
        return TASKS[self.config.task.kind]

    def log_probabilities(self, events: PointEvents, point: MassPoint) -> tuple[FloatArray, FloatArray]:
        """Evaluate events, all at one hypothesis.

        Args:
            events: The events.
            point: The hypothesis.

        Returns:
            Logarithm of the mean class probabilities, (N, classes), and the standard deviation of the signal
            probability among members and passes, (N,).
        """
        passes: list[FloatArray] = []
        for network in self.networks:
            if self.mc_dropout:
                seed_everything(0)
                for part in network.modules():
                    if isinstance(part, nn.Dropout):
                        part.train()
            for _ in range(max(self.mc_dropout, 1)):
                logits = self.task.logits_of(network, events, point, self.device)
                passes.append(torch.softmax(logits.double(), dim=1).numpy())
        members = np.stack(passes)
        return np.log(np.maximum(members.mean(axis=0), 1e-300)), members[..., 0].std(axis=0)


def predict(
    model: Path,
    inputs: Sequence[str],
    output: Path,
    *,
    points: Sequence[MassPoint],
    branch_map: BranchMap,
    channel: str = CHANNELS[0],
    era: str = "2018",
    device: str = "auto",
    checkpoint: str = "best",
    batch_size: int = 2048,
) -> dict[str, object]:
    """Classify every event of some files.

    Args:
        model: Run directory or ONNX file.
        inputs: ROOT files or globs.
        output: ROOT file to write; it appears when it is complete.
        points: Hypotheses.
        branch_map: Which branch holds what.
        channel: Channel of the events; matters to a network that sees it.
        era: Era of the events; matters to a network that sees it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: Checkpoint of a run directory.
        batch_size: Events at a time.

    Returns:
        Output file, number of events and of hypotheses.

    Raises:
        UserError: A file or the model cannot be used.
    """
    if output.suffix != ".root":
        raise UserError(f"--output {output} should end in .root, for example --output predictions.root.")
    for name, value, allowed in (("channel", channel, CHANNELS), ("era", era, ERAS)):
        if value not in allowed:
            raise UserError(f"--{name} is '{value}'; choose one of {', '.join(allowed)}.")
    if not points:
        raise UserError("no hypothesis was given; name mass points with --points, such as '130,90'.")
    files = find_files(inputs)
    predictor = load_predictor(model, device, checkpoint=checkpoint)
    labels = (CHANNELS.index(channel), ERAS.index(era))
    types: dict[str, Any] = dict.fromkeys(("run", "lumi", "event"), np.dtype("i8"))
    types |= {f"{point.name}_{name}": np.dtype("f4") for point in points for name in CLASSES}
    num_events = 0
    with atomic_path(output) as temporary, uproot.recreate(temporary, compression=uproot.LZ4(1)) as root:
        tree = root.mktree(TREE, types)
        for file in files:
            with EventReader(file, branch_map) as reader:
                if reader.num_entries == 0:
                    raise InputFileError(file, "holds no events", "leave it out or make it again")
                for events in reader:
                    for start in range(0, len(events), batch_size):
                        part = events.take(slice(start, start + batch_size))
                        tree.extend(classify(predictor, part, points, *labels))
                    num_events += len(events)
    write_manifest(output, model=str(predictor.source), num_events=num_events)
    return {"output": output, "num_events": num_events, "num_points": len(points)}


def classify(
    predictor: Predictor, events: Events, points: Sequence[MassPoint], channel: int, era: int
) -> dict[str, Array]:
    """Evaluate events under every hypothesis.

    Args:
        predictor: What classifies.
        events: B events.
        points: Hypotheses.
        channel: Index into `CHANNELS`.
        era: Index into `ERAS`.

    Returns:
        Event numbers, and one column `<point>_<class>` a hypothesis and class, (B,) each.
    """
    nodes, valid_mask = node_features(events)
    nodes = np.ascontiguousarray(nodes[..., : predictor.num_features])
    num = len(events)
    columns: dict[str, Array] = {"run": events.run, "lumi": events.lumi, "event": events.event}
    fixed = np.full(num, channel, np.int64), np.full(num, era, np.int64)
    for point in points:
        masses = np.tile(np.array([point.mHc, point.mA], np.float32), (num, 1))
        found = predictor.classify(nodes, valid_mask, masses, *fixed)
        columns |= {f"{point.name}_{name}": found[:, k] for k, name in enumerate(CLASSES)}
    return columns


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Expand globs.

    Args:
        patterns: Files or globs.

    Returns:
        Files in order, each once.

    Raises:
        UserError: A pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(Path(name) for name in glob.glob(pattern))
        if not matches:
            raise UserError(f"--input {pattern} matches no file; check the path.")
        found += [match for match in matches if match not in found]
    return found
