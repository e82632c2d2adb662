"""`chhiggs-pnet heatmap`: how well one network does at every cell of the mass plane, with simulated signal.

Each physical cell gets a signal of its own; the backgrounds are the test events of the store. A second map
shows mis-specified hypotheses: one true signal, evaluated at the hypothesis of every cell.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chhiggs_pnet import metrics, plots
from chhiggs_pnet.data.features import node_features
from chhiggs_pnet.data.schema import CLASSES, ERAS, FEATURE_SETS
from chhiggs_pnet.data.stream import PointEvents
from chhiggs_pnet.evaluate import BACKGROUND_EFFICIENCY
from chhiggs_pnet.models.calibration import calibrated
from chhiggs_pnet.physics.events import Array, Events, Object
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import CHANNELS, Channel
from chhiggs_pnet.physics.selection import pair_masses
from chhiggs_pnet.predict import Ensemble
from hep_shared.errors import UserError

SEED = 20_000  # far from the seeds of the training samples


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
        num_events: Simulated signal events of each cell and channel, and at most so many of each background.
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
    yields = task.background_yields(backgrounds)
    trained = task.train_points(config, store)
    channels = CHANNELS if config.data.channel is None else (config.data.channel,)
    present = {CHANNELS[int(index)] for index in np.unique(backgrounds.columns["channel"])}
    channels = tuple(channel for channel in channels if channel in present)
    truth = truth or trained[0]

    def signal(point: MassPoint) -> dict[str, Array]:
        return simulated_signal(point, channels, config.data.features, num_events, seed)

    true_signal = signal(truth)
    shape = (len(mHc), len(mA))
    maps = {name: np.full(shape, np.nan) for name in ("auc", "efficiency", "misspecified_auc")}
    for row, first in enumerate(mHc):
        for column, second in enumerate(mA):
            try:
                point = MassPoint(float(first), float(second))
                own = signal(point)
            except UserError:  # unphysical, or no event passes the selection: the cell stays blank
                continue
            for name, events in (("auc", own), ("misspecified_auc", true_signal)):
                joined = PointEvents(
                    {key: np.concatenate([events[key], backgrounds.columns[key]]) for key in events}
                )
                logarithms, _ = ensemble.log_probabilities(joined, point)
                scores = metrics.likelihood_ratio(calibrated(logarithms, 1.0), np.maximum(yields, 1e-12))
                is_signal = joined.label == 0
                maps[name][row, column] = metrics.auc(scores, is_signal, joined.weight)
                if name == "auc":
                    maps["efficiency"][row, column] = metrics.signal_efficiency(
                        scores, is_signal, BACKGROUND_EFFICIENCY, joined.weight
                    )
    if not np.isfinite(maps["auc"]).any():
        raise UserError(
            f"none of the {shape[0]} x {shape[1]} cells is physical; choose mA below mHc < 167.8 GeV."
        )
    result: dict[str, Any] = {
        "mHc": list(mHc), "mA": list(mA), "truth": [truth.mHc, truth.mA], "num_events": num_events,
        "training_points": [[point.mHc, point.mA] for point in trained], **maps,
    }  # fmt: skip
    directory = ensemble.directories[0]
    directory.write_json("heatmap.json", result)
    marks = [(point.mHc, point.mA) for point in trained]
    for name, label, title in (
        ("auc", "AUC", "signal simulated at each cell"),
        ("efficiency", r"$\varepsilon_S$ at $\varepsilon_B$ = 1 %", "signal simulated at each cell"),
    ):
        figure = plots.mass_plane(mHc, mA, maps[name], marks, label=label, title=title)
        plots.save(figure, directory.figure_path(f"heatmap_{name}"))
    figure = plots.mass_plane(
        mHc, mA, maps["misspecified_auc"], [], label="AUC", title=f"{truth.name} under other hypotheses",
        truth=(truth.mHc, truth.mA),
    )  # fmt: skip
    plots.save(figure, directory.figure_path("heatmap_misspecified"))
    return result


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
