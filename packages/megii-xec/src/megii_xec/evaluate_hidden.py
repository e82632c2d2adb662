"""How well hidden sensors are guessed, beside the conventional guesses, on the same sensors.

For an inpainter they are hidden at random (1, 5 and 10 % of the live ones), in clusters, and by the map of
the run if it is a file; for an autoencoder as in its training. Sums are added up batch by batch, so memory
does not grow with the number of hidden sensors.

Dimensions: B events, S sensors (4760), K bins of the hidden count.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hep_shared.amp import resolve_device
from hep_shared.run import RunDir
from megii_xec import event_display, figures, plots
from megii_xec.config import Config, InpaintConfig, PretrainConfig
from megii_xec.data.masking import ClusteredDead, DeadChannels, RandomDead
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import INVALID_ABOVE, MISSING
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.models.mae import sensors_of_places
from megii_xec.physics.geometry import FACES, sensor_face
from megii_xec.physics.inpainting import neighbor_mean, solid_angle_guess
from megii_xec.tasks import inpaint, pretrain

METHODS = ("network", "neighbor_mean", "solid_angle")
NPHO_EDGES = (1.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)  # photons
BRIGHTEST = 1e5  # photons that a relative count of 1 stands for in the edges
NUM_RESAMPLES = 400
NOT_DRAWN = {"random_1_percent", "random_10_percent"}  # look like the one with 5 %
Values = NDArray[np.float64]
# Hides sensors of a normalised batch; guesses all sensors (B, S, 2) of a batch with hidden ones.
Hide = Callable[[PhotonBatch], PhotonBatch]
Guess = Callable[[PhotonBatch], Tensor]


@dataclass
class Errors:
    """Sums over hidden sensors of one method; counts are in the unit of the edges.

    Attributes:
        edges: Edges of the bins of the hidden count, shape (K + 1,).
        count: Sensors, sum of errors, of |errors| and of squares by face, shape (6, 4).
        time: The same for times of sensors that have one, shape (4,), ns.
        by_npho: Sensors and sum of |errors| by bin of the hidden count, shape (K, 2).
        per_event: Mean |error| of each event that has hidden sensors.
    """

    edges: Values
    count: Values = field(default_factory=lambda: np.zeros((len(FACES), 4)))
    time: Values = field(default_factory=lambda: np.zeros(4))
    by_npho: Values = field(init=False)
    per_event: list[Values] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.by_npho = np.zeros((len(self.edges) - 1, 2))

    def add(self, hidden: NDArray[np.bool_], guess: Values, truth: Values) -> None:
        """Add counts of a batch, arrays of shape (B, S); truth is finite where hidden."""
        difference = np.where(hidden, guess - truth, 0.0)
        face = np.broadcast_to(sensor_face(), hidden.shape)[hidden]
        d = difference[hidden]
        for column, term in enumerate((np.ones_like(d), d, np.abs(d), d * d)):
            self.count[:, column] += np.bincount(face, term, minlength=len(FACES))
        bins = np.digitize(truth[hidden], self.edges) - 1
        inside = (bins >= 0) & (bins < len(self.by_npho))
        for column, term in enumerate((np.ones_like(d), np.abs(d))):
            self.by_npho[:, column] += np.bincount(bins[inside], term[inside], minlength=len(self.by_npho))
        number = hidden.sum(1)
        self.per_event.append(np.abs(difference).sum(1)[number > 0] / number[number > 0])

    def add_times(self, difference_ns: Values) -> None:
        """Add errors of times, any shape, ns."""
        d = difference_ns[np.isfinite(difference_ns)]
        self.time += [len(d), d.sum(), np.abs(d).sum(), (d * d).sum()]

    def summary(self) -> dict[str, Any]:
        """Return `mae_*`, `rmse_*` and `bias_*` of counts and of times (ns), NaN without any."""
        total = self.count.sum(0)
        result: dict[str, Any] = {"num_sensors": int(total[0])}
        named = {"npho": total, **{f"{face}_npho": row for face, row in zip(FACES, self.count, strict=True)}}
        for name, (num, first, absolute, square) in {**named, "time_ns": self.time}.items():
            n = num if num else np.nan
            result[f"mae_{name}"], result[f"rmse_{name}"] = absolute / n, float(np.sqrt(square / n))
            result[f"bias_{name}"] = first / n
        result["npho_edges"] = self.edges.tolist()
        with np.errstate(invalid="ignore"):
            result["mae_by_npho"] = (self.by_npho[:, 1] / self.by_npho[:, 0]).tolist()
        return result


def dead_maps(task: InpaintConfig) -> dict[str, DeadChannels]:
    """Maps to evaluate: random ones, clusters, and that of the training if it is from a file."""
    maps: dict[str, DeadChannels] = {
        f"random_{percent}_percent": RandomDead(fraction=percent / 100) for percent in (1, 5, 10)
    }
    maps["clusters_5_percent"] = ClusteredDead(fraction=0.05)
    if task.dead.kind == "file":
        maps["map_of_the_run"] = task.dead
    return maps


def evaluate_hidden(
    directory: RunDir,
    config: Config,
    *,
    split: str,
    name: str,
    device: str,
    checkpoint: str,
    pictures: bool = True,
) -> dict[str, Any]:
    """Evaluate an inpainter or an autoencoder.

    Args:
        directory: The run.
        config: Its configuration.
        split: `train`, `validation` or `test`.
        name: What the result is called; `split`, unless other files are evaluated.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.
        pictures: Draw the errors, and events before and after.

    Returns:
        What `evaluation_<name>.json` holds: for each map and method the errors, and for each map the ratio
        of the network's mean error to that of each conventional guess with its 68 % interval.
    """
    state = directory.load_checkpoint(checkpoint)
    hides, guess = (
        _inpainter(config, state, device)
        if config.task.kind == "inpaint"
        else _autoencoder(config, state, device)
    )
    with inpaint.build_stream(config, split) as stream:
        errors, shown = collect(stream, config.data.normalization, hides, guess)
        num_events = stream.num_events
    result: dict[str, Any] = {
        "kind": config.task.kind,
        "split": name,
        "checkpoint": checkpoint,
        "num_events": num_events,
        "npho_unit": config.data.normalization.npho_unit,
        "maps": {way: {m: e.summary() for m, e in methods.items()} for way, methods in errors.items()},
        "ratio": {way: ratios(methods) for way, methods in errors.items()},
    }
    directory.write_json(f"evaluation_{name}.json", result)
    if pictures:
        if history := directory.history():
            plots.save(plots.training_curves(history), directory.figure_path("training_curves"))
        figure = figures.inpainting_errors(result["maps"], result["npho_unit"])
        plots.save(figure, directory.figure_path(f"{name}_inpainting"))
        for way in set(shown) - NOT_DRAWN:
            figure = event_display.hidden_display(**shown[way])
            plots.save(figure, directory.figure_path(f"{name}_filled_{way}"))
    return result


def _inpainter(config: Config, state: dict[str, Any], device: str) -> tuple[dict[str, Hide], Guess]:
    """What hides sensors and what fills them in, of an inpainter."""
    where = resolve_device(device)
    module = inpaint.load_inpainter(config, state).to(where)
    assert isinstance(config.task, InpaintConfig)

    def hide(dead: DeadChannels) -> Hide:
        return lambda batch: inpaint.hide(batch.to(where), 0, dead, module.normalization, module.seed)

    def guess(batch: PhotonBatch) -> Tensor:
        assert batch.mask is not None
        filled: Tensor = module.network(batch.sensors, batch.mask)
        return filled

    return {name: hide(dead) for name, dead in dead_maps(config.task).items()}, guess


def _autoencoder(config: Config, state: dict[str, Any], device: str) -> tuple[dict[str, Hide], Guess]:
    """What hides sensors and what guesses them, of an autoencoder."""
    where = resolve_device(device)
    module = pretrain.load_autoencoder(config, state).to(where)
    assert isinstance(config.task, PretrainConfig)

    def hide(batch: PhotonBatch) -> PhotonBatch:
        return pretrain.hide(batch.to(where), 0, module.settings, module.normalization, module.seed)

    def guess(batch: PhotonBatch) -> Tensor:
        assert batch.mask is not None
        return sensors_of_places(module.network.encoder, module.network(batch.sensors, batch.mask))

    return {f"masked_{100 * config.task.mask_ratio:.0f}_percent": hide}, guess


@torch.no_grad()
def collect(
    stream: PhotonStream, normalization: Normalization, hides: dict[str, Hide], guess: Guess
) -> tuple[dict[str, dict[str, Errors]], dict[str, dict[str, Any]]]:
    """Run over all events.

    Args:
        stream: Normalised events, nothing hidden.
        normalization: What they were normalised with.
        hides: Ways to hide sensors.
        guess: The network.

    Returns:
        For each way and method the errors; for each way the first event, for `event_display.hidden_display`.
    """
    scale = 1.0 if normalization.npho_input == "npho" else 1 / BRIGHTEST
    edges = np.array(NPHO_EDGES) * scale
    errors = {name: {method: Errors(edges) for method in METHODS} for name in hides}
    shown: dict[str, dict[str, Any]] = {}
    for batch in stream.batches():
        if not len(batch):
            continue
        for name, hide in hides.items():
            hidden = hide(batch)
            assert hidden.mask is not None
            mask, found = hidden.mask.cpu().numpy(), guess(hidden).float().cpu().numpy()
            compare(errors[name], batch.sensors.numpy(), mask, found, normalization)
            if name not in shown:
                shown[name] = describe(batch, mask[0], found[0], normalization, name)
    return errors, shown


def describe(
    batch: PhotonBatch,
    mask: NDArray[np.bool_],
    guess: NDArray[np.float32],
    normalization: Normalization,
    name: str,
) -> dict[str, Any]:
    """The first event of a batch: what was measured, what the network saw, and what it made of it."""
    measured = normalization.invert(batch.sensors[0].numpy())[0]
    filled = np.maximum(normalization.denormalize_npho(guess[..., 0]), 0)
    return {
        "measured": measured,
        "seen": np.where(mask, np.float32(MISSING), measured),
        "filled": np.where(mask, filled, measured),
        "unit": "photons" if normalization.npho_input == "npho" else "fraction of the brightest sensor",
        "title": f"run {int(batch.run[0])}, event {int(batch.event[0])}: {name.replace('_', ' ')}",
    }


def compare(
    errors: dict[str, Errors],
    sensors: NDArray[np.float32],
    mask: NDArray[np.bool_],
    guess: NDArray[np.float32],
    normalization: Normalization,
) -> None:
    """Add the errors of all methods on a batch.

    Args:
        errors: Sums of each method.
        sensors: Normalised counts and times, nothing hidden, (B, S, 2).
        mask: Hidden sensors, (B, S).
        guess: The network's normalised counts and times, (B, S, 2).
        normalization: What they were normalised with.
    """
    npho, time = normalization.invert(sensors)
    seen_npho = np.where(mask | (npho > INVALID_ABOVE), np.nan, npho).astype(np.float32)
    seen_time = np.where(mask | (time > INVALID_ABOVE), np.nan, time).astype(np.float32)
    optical_npho, optical_time_ns = solid_angle_guess(seen_npho, seen_time * np.float32(1e9))
    times = {
        "network": (guess[..., 1] + normalization.time_shift) * normalization.time_scale_s,
        "neighbor_mean": neighbor_mean(seen_time),
        "solid_angle": optical_time_ns * 1e-9,
    }
    counts = {
        "network": normalization.denormalize_npho(guess[..., 0]),
        "neighbor_mean": neighbor_mean(seen_npho),
        # The optical model gives photons; what counts is only how they are shared out.
        "solid_angle": optical_npho,
    }
    truth = npho.astype(np.float64)
    usable = mask & np.isfinite(counts["neighbor_mean"]) & np.isfinite(counts["solid_angle"])
    timed = usable & (time < INVALID_ABOVE)
    for found in times.values():
        timed &= np.isfinite(found)
    for method in METHODS:
        errors[method].add(usable, counts[method].astype(np.float64), truth)
        errors[method].add_times(1e9 * (times[method][timed].astype(np.float64) - time[timed]))


def ratios(methods: dict[str, Errors]) -> dict[str, dict[str, float]]:
    """Network over each conventional guess: mean errors of the same events, below 1 the network is better.

    Args:
        methods: Errors of each method.

    Returns:
        For each conventional guess `ratio`, `low` and `high`, the bootstrap interval over events; empty
        without events that have hidden sensors.
    """
    per_event = {name: np.concatenate(errors.per_event) for name, errors in methods.items()}
    if not len(per_event["network"]):
        return {}
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    resampled: dict[str, list[float]] = {name: [] for name in METHODS[1:]}
    for _ in range(NUM_RESAMPLES):  # one at a time: all at once would be resamples x events numbers
        rows = rng.integers(len(per_event["network"]), size=len(per_event["network"]))
        ours = per_event["network"][rows].mean()
        for name, values in resampled.items():
            values.append(float(ours / per_event[name][rows].mean()))
    for name, values in resampled.items():
        low, high = np.quantile(values, [0.1587, 0.8413])
        ratio = per_event["network"].mean() / per_event[name].mean()
        found[name] = {"ratio": float(ratio), "low": float(low), "high": float(high)}
    return found
