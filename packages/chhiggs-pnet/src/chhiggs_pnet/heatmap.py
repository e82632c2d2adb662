"""`chhiggs-pnet heatmap`: how well one network does at every cell of the mass plane, with simulated signal.

Each physical cell gets a signal of its own; the backgrounds are the test events of the store. A second map
shows mis-specified hypotheses: one true signal, evaluated at the hypothesis of every cell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chhiggs_pnet import plots
from chhiggs_pnet.data.features import node_features
from chhiggs_pnet.data.point_events import PointEvents
from chhiggs_pnet.data.schema import CLASSES, ERAS, FEATURE_SETS
from chhiggs_pnet.evaluate import BACKGROUND_EFFICIENCY
from chhiggs_pnet.metrics.discrimination import auc, likelihood_ratio, signal_efficiency
from chhiggs_pnet.models.calibration import calibrated
from chhiggs_pnet.physics.events import Array, Events, Object
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MAX_CHARGED_HIGGS_MASS, MassPoint
from chhiggs_pnet.physics.processes import CHANNELS, Channel
from chhiggs_pnet.physics.selection import pair_masses
from chhiggs_pnet.predict import Ensemble
from hep_shared.errors import UserError

SEED = 20_000  # far from the seeds of the training samples
# Map: label of the colours, title.
MAPS = {
    "auc": ("AUC", "signal simulated at each cell"),
    "efficiency": (r"$\varepsilon_S$ at $\varepsilon_B$ = 1 %", "signal simulated at each cell"),
    "misspecified_auc": ("AUC", "{truth} under other hypotheses"),
}


def heatmap(
    runs: Sequence[Path],
    *,
    mHc: Sequence[float],
    mA: Sequence[float],
    num_events: int = 500,
    seed: int = SEED,
    truth: MassPoint | None = None,
    device: str = "auto",
    checkpoint: str = "best",
) -> dict[str, Any]:
    """Fill the mass plane and draw it.

    Args:
        runs: Run directories; the results go into the first one.
        mHc: Rows in GeV.
        mA: Columns in GeV.
        num_events: Simulated signal events of each cell and channel, and at most twice as many of each
            background.
        seed: Seed of the simulation.
        truth: True masses of the second map; the first training point if None.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the runs.

    Returns:
        What `heatmap.json` in the first run directory holds: AUC and signal efficiency of each cell, null
        where the masses are unphysical, and the AUC of the mis-specified hypotheses.

    Raises:
        UserError: A run cannot be used, or no cell is physical.
    """
    ensemble = Ensemble(runs, device=device, checkpoint=checkpoint)
    config, task = ensemble.config, ensemble.task
    store = task.open_store(config)
    backgrounds = task.split_events(config, store, None, "test", limit=num_events * 2)
    trained = task.train_points(config, store)
    channels = channels_in(backgrounds, config.data.channel)
    truth = truth or trained[0]

    def signal(point: MassPoint) -> dict[str, Array]:
        return simulated_signal(point, channels, config.data.features, num_events, seed)

    true_signal = signal(truth)
    maps = {name: np.full((len(mHc), len(mA)), np.nan) for name in MAPS}
    for row, column in np.ndindex(len(mHc), len(mA)):
        try:
            point = MassPoint(float(mHc[row]), float(mA[column]))
            own = signal(point)
        except UserError:  # unphysical, or no event passes the selection: the cell stays blank
            continue
        values = (
            *measure(ensemble, own, backgrounds, point),
            measure(ensemble, true_signal, backgrounds, point)[0],
        )
        for name, value in zip(MAPS, values, strict=True):
            maps[name][row, column] = value
    if not np.isfinite(maps["auc"]).any():
        raise UserError(
            f"none of the {len(mHc)} x {len(mA)} cells is physical; choose mA below mHc < "
            f"{MAX_CHARGED_HIGGS_MASS:.1f} GeV."
        )
    result: dict[str, Any] = {
        "mHc": list(mHc), "mA": list(mA), "truth": [truth.mHc, truth.mA], "num_events": num_events,
        "training_points": [[point.mHc, point.mA] for point in trained], **maps,
    }  # fmt: skip
    directory = ensemble.directories[0]
    directory.write_json("heatmap.json", result)
    marks = [(point.mHc, point.mA) for point in trained]
    for name, (label, title) in MAPS.items():
        at_truth = name == "misspecified_auc"
        figure = plots.mass_plane(
            mHc, mA, maps[name], [] if at_truth else marks, label=label, title=title.format(truth=truth.name),
            truth=(truth.mHc, truth.mA) if at_truth else None,
        )  # fmt: skip
        plots.save(figure, directory.figure_path(f"heatmap_{name.removesuffix('_auc')}"))
    return result


def channels_in(backgrounds: PointEvents, channel: Channel | None) -> tuple[Channel, ...]:
    """Channels that a run looks at and the store holds.

    Args:
        backgrounds: Background events of the store.
        channel: The only channel of the run, None for both.

    Returns:
        The channels.
    """
    present = {CHANNELS[int(index)] for index in np.unique(backgrounds.columns["channel"])}
    wanted = CHANNELS if channel is None else (channel,)
    return tuple(name for name in wanted if name in present)


def measure(
    ensemble: Ensemble, signal: dict[str, Array], backgrounds: PointEvents, point: MassPoint
) -> tuple[float, float]:
    """Tell a signal from all backgrounds under a hypothesis.

    Args:
        ensemble: The networks.
        signal: Columns of the signal.
        backgrounds: The backgrounds.
        point: The hypothesis.

    Returns:
        AUC, and signal efficiency at `BACKGROUND_EFFICIENCY`.
    """
    joined = PointEvents({key: np.concatenate([signal[key], backgrounds.columns[key]]) for key in signal})
    logarithms, _ = ensemble.log_probabilities(joined, point)
    yields = np.maximum(ensemble.task.background_yields(backgrounds), 1e-12)
    scores, is_signal = likelihood_ratio(calibrated(logarithms, 1.0), yields), joined.label == 0
    efficiency = signal_efficiency(scores, is_signal, BACKGROUND_EFFICIENCY, joined.weight)
    return auc(scores, is_signal, joined.weight), efficiency


def grid(option: str, text: str) -> list[float]:
    """Read a grid.

    Args:
        option: Name of the option, for the message.
        text: `first,last,step` in GeV, the last one included.

    Returns:
        The values.

    Raises:
        UserError: It is something else, or empty.
    """
    try:
        first, last, step = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{option} is '{text}'; write it as first,last,step in GeV, such as 100,165,5."
        ) from None
    if not (step > 0 and last >= first):
        raise UserError(f"{option} is '{text}'; choose a positive step and a last value not below the first.")
    return [float(value) for value in np.arange(first, last + step / 2, step)]


def simulated_signal(
    point: MassPoint, channels: Sequence[Channel], features: str, num_events: int, seed: int
) -> dict[str, Array]:
    """Simulate a signal as columns like those of the store.

    Args:
        point: Its masses.
        channels: Channels.
        features: Feature set.
        num_events: Selected events of each channel.
        seed: Seed.

    Returns:
        Columns, first axis the events.

    Raises:
        UserError: No event passes the selection.
    """
    parts = []
    for channel in channels:
        sample = generate_events("signal", channel, num_events, seed, point=point)
        scale = sample.cross_section_fb / sample.num_trials
        parts.append(columns_of(sample.events, channel, features, scale))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def columns_of(events: Events, channel: Channel, features: str, scale: float) -> dict[str, Array]:
    """Arrange simulated signal events like the store does."""
    nodes, valid_mask = node_features(events)
    m1, m2 = pair_masses(events.kind == Object.MUON, events.pt, events.eta, events.phi, events.charge)
    num = len(events)
    return {
        "nodes": nodes[..., : len(FEATURE_SETS[features])],
        "valid_mask": valid_mask,
        "label": np.full(num, CLASSES.index("signal"), np.int8),
        "weight": events.weight * scale,
        "channel": np.full(num, CHANNELS.index(channel), np.int8),
        "era": np.full(num, ERAS.index("2018"), np.int8),
        "m1": m1.astype(np.float32),
        "m2": m2.astype(np.float32),
        "run": events.run,
        "lumi": events.lumi,
        "event": events.event,
    }
