"""`xec evaluate`: resolutions of a run beside the conventional reconstruction, with intervals and pictures.

Both look at the same events. The conventional direction is that from the centre of the target to the
conventional position; the limit of the unseen vertex is what a perfect position measurement would reach
with it.
"""

import heapq
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hep_shared.amp import resolve_device
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_text
from hep_shared.run import RunDir
from megii_xec import event_display, event_page, figures, metrics, plots
from megii_xec.config import Config
from megii_xec.data.schema import (
    ENERGY_RECO,
    EVENT,
    INVALID_ABOVE,
    RUN,
    TIME_RECO,
    UVW_RECO_LC,
)
from megii_xec.data.stream import PhotonBatch, PhotonStream
from megii_xec.data.targets import NS_PER_S, TargetScaling
from megii_xec.evaluate_hidden import evaluate_hidden
from megii_xec.models.readout import SIGMA
from megii_xec.physics.coordinates import angles_to_vector, opening_angle_deg, uvw_to_xyz, vector_to_angles
from megii_xec.physics.geometry import FACES
from megii_xec.predict import Predictor, load_model, load_run, write_with_truth
from megii_xec.saliency import saliency
from megii_xec.tasks import TASKS
from megii_xec.uncertainty import calibration, ensemble, mc_dropout

NETWORK, CONVENTIONAL = "network", "conventional"
NUM_RESAMPLES = 400
SIGNED_STATISTIC: Literal["width68"] = "width68"
DISTANCE_STATISTIC: Literal["percentile68"] = "percentile68"
Arrays = dict[str, NDArray[Any]]

# The metrics that a finished training prints; all of them are in the run directory.
HEADLINE = (
    "val_resolution_deg", "energy_resolution_percent", "timing_width68", "u_width68", "v_width68", "w_width68"
)  # fmt: skip

# Bin edges of the profiles, in the units of the data files.
EDGES: dict[str, NDArray[np.float64]] = {
    "theta": np.linspace(60.0, 120.0, 9),
    "phi": np.linspace(-60.0, 60.0, 9),
    "energy": np.linspace(0.015, 0.060, 10),
    "u": np.linspace(-24.0, 24.0, 9),
    "v": np.linspace(-68.0, 68.0, 9),
    "w": np.array([0.0, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0]),
}

# Against what a resolution is drawn: directions against directions, everything against energy and depth.
PROFILED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("theta", "phi", "opening_angle", "opening_angle_vec"), ("theta", "phi", "energy", "w")),
    **dict.fromkeys(("energy_relative", "timing", "u", "v", "w"), ("energy", "u", "v", "w")),
}


def evaluate(
    run: Path,
    *,
    split: str = "test",
    device: str = "auto",
    checkpoint: str = "best",
    inputs: Sequence[str] = (),
    mc_passes: int = 0,
    members: Sequence[Path] = (),
    pictures: bool = True,
) -> dict[str, Any]:
    """Evaluate a run and draw its pictures.

    Args:
        run: Run directory.
        split: `train`, `validation` or `test`; a run without test files falls back to `validation` for
            `test`. With `inputs` just a name.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.
        inputs: Other files with truth to evaluate on, such as a sample with pile-up.
        mc_passes: Passes with dropout on, for uncertainties; 0 for none.
        members: Further runs that make an ensemble with this one.
        pictures: Draw figures and the page of events.

    Returns:
        What `evaluation_<split>.json` in the run directory holds (`<split>_mc` with passes,
        `<split>_ensemble` with members): metrics of the network and of the conventional reconstruction, and
        the ratio of their widths, all with 68 % intervals. Every event is in `predictions_<split>.root` and
        `.csv`: `pred_*`, `true_*`, timing relative to the first sensor.

    Raises:
        UserError: The run or its data cannot be used, or its task has nothing to evaluate.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    task = TASKS[config.task.kind]
    if inputs:
        config = config.model_copy(update={"data": config.data.model_copy(update={"test": tuple(inputs)})})
    elif split == "test" and not config.data.test:
        split = "validation"
    source = "test" if inputs else split
    if config.task.kind != "regression":
        if mc_passes or members:
            raise UserError(
                f"--mc-dropout and --ensemble are for runs of `xec train`, and {run} is a "
                f"{config.task.kind} run; leave them out."
            )
        return evaluate_hidden(
            directory,
            config,
            split=source,
            name=split,
            device=device,
            checkpoint=checkpoint,
            pictures=pictures,
        )
    if mc_passes and members:
        raise UserError("give either --mc-dropout or --ensemble, not both.")
    if members:
        split = f"{split}_ensemble"
        predictor = ensemble([run, *members], device, checkpoint=checkpoint)
    elif mc_passes:
        split = f"{split}_mc"
        predictor = mc_dropout(run, device, num_passes=mc_passes, checkpoint=checkpoint)
    else:
        predictor = load_run(run, device, checkpoint=checkpoint)
    extra = (ENERGY_RECO, TIME_RECO, UVW_RECO_LC)
    assert config.task.kind == "regression"
    with task.build_stream(config, source, normalization=predictor.raw, extra=extra) as stream:
        predicted, truth, columns, worst, shown = collect(stream, predictor, config.task.scaling)
        where = resolve_device(device)
        sensitivity = saliency(load_model(run, checkpoint=checkpoint).to(where), stream, where)

    plain = {name: values for name, values in predicted.items() if not name.startswith(SIGMA)}
    known = dict(truth)
    truth = {name: np.asarray(values) for name, values in metrics.with_angles(truth).items()}
    plain = {name: np.asarray(values) for name, values in metrics.with_angles(plain).items()}
    reconstructions = {NETWORK: plain, CONVENTIONAL: conventional(columns, truth)}
    summaries = {
        name: metrics.regression_summary(values, truth, num_resamples=NUM_RESAMPLES)
        for name, values in reconstructions.items()
    }
    residuals = {name: metrics.residuals(values, truth) for name, values in reconstructions.items()}
    write_with_truth(
        directory.path / f"predictions_{split}.root", (columns[RUN.name], columns[EVENT.name]), predicted,
        known, residuals[NETWORK].get("opening_angle"),
    )  # fmt: skip
    result: dict[str, Any] = {
        "kind": "regression",
        "split": split,
        "checkpoint": checkpoint,
        "files": [path.name for path in stream.files],
        **summaries,
        "ratio": width_ratios(residuals),
        "saliency": {
            name: {
                face: dict(zip(("npho", "time"), row, strict=True))
                for face, row in zip(FACES, by_face, strict=True)
            }
            for name, by_face in sensitivity.items()
        },
        "worst_events": [event["title"] for event in worst],
    }
    if uncertain := calibration(predicted, truth):
        result["uncertainty"] = uncertain
    floor = None
    if "uvwFI" in truth and "angle" in truth:
        floor = unseen_vertex_limit_deg(truth)
        result["unseen_vertex_limit_deg"] = floor
    directory.write_json(f"evaluation_{split}.json", result)
    if not pictures:
        return result
    if uncertain:
        plots.save(figures.calibration_curves(uncertain), directory.figure_path(f"{split}_calibration"))
    draw(directory, split, truth, reconstructions, residuals, floor)
    plots.save(plots.saliency_profile(sensitivity, FACES), directory.figure_path(f"{split}_saliency_profile"))
    for name, events in (("event", shown), ("worst_event", worst)):
        for number, event in enumerate(events):
            figure = event_display.event_display(**event)
            plots.save(figure, directory.figure_path(f"{split}_{name}_{number}"))
    page = event_page.event_page([*shown, *worst], title=f"{run.name}: {split}")
    atomic_write_text(directory.figure_path(f"{split}_events.html"), page)
    return result


class WorstEvents:
    """The events with the largest errors seen so far.

    Args:
        num: How many to keep.
    """

    def __init__(self, num: int) -> None:
        self._num = num
        # The root of the heap is the best of the worst: it goes when a worse one comes.
        self._heap: list[tuple[float, int, dict[str, Any]]] = []
        self._seen = 0

    def offer(self, badness: float, make: Any) -> None:
        """Take an event if it belongs here.

        Args:
            badness: Its error; one that is not a number is not kept.
            make: Called without arguments for what to keep.
        """
        self._seen += 1  # breaks ties, so that events themselves are never compared
        if len(self._heap) < self._num and np.isfinite(badness):
            heapq.heappush(self._heap, (badness, -self._seen, make()))
        elif self._heap and badness > self._heap[0][0]:
            heapq.heapreplace(self._heap, (badness, -self._seen, make()))

    def events(self) -> list[dict[str, Any]]:
        """What was kept, the worst first."""
        return [event for _, _, event in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def collect(
    stream: PhotonStream,
    predictor: Predictor,
    scaling: TargetScaling,
    *,
    num_displays: int = 1,
    num_worst: int = 2,
) -> tuple[Arrays, Arrays, Arrays, list[dict[str, Any]], list[dict[str, Any]]]:
    """Predict all events of a stream.

    Args:
        stream: Raw events with truth.
        predictor: What reconstructs them.
        scaling: Scales that make the errors of different targets comparable.
        num_displays: Events to keep for a display, the first ones.
        num_worst: Events to keep for their error.

    Returns:
        Predictions and truth by target, (N, K) in the units of the files, timing relative to the first
        sensor; run, event and the extra columns; the worst events and the first events, for `event_display`.
    """
    predicted: dict[str, list[NDArray[Any]]] = {name: [] for name in predictor.outputs}
    truth: dict[str, list[NDArray[Any]]] = {name: [] for name in predictor.targets}
    columns: dict[str, list[NDArray[Any]]] = {"time_min_ns": [], RUN.name: [], EVENT.name: []}
    shown: list[dict[str, Any]] = []
    worst = WorstEvents(num_worst)
    for batch in stream.batches():
        found = predictor.reconstruct(batch)
        time_min_ns = batch.time_min_s.numpy()[:, None] * NS_PER_S
        if "timing" in found:
            found["timing"] = (found["timing"] - time_min_ns).astype(np.float32)
        for name in predictor.outputs:
            predicted[name].append(found[name])
        for name in predictor.targets:
            truth[name].append(batch.targets[name].numpy())
        columns["time_min_ns"].append(time_min_ns)
        columns[RUN.name].append(batch.run.numpy())
        columns[EVENT.name].append(batch.event.numpy())
        for name, values in batch.extra.items():
            columns.setdefault(name, []).append(values.numpy())
        badness = np.sum(
            [
                np.square(
                    scaling.scale(name, found[name]) - scaling.scale(name, batch.targets[name].numpy())
                ).mean(1)
                for name in predictor.targets
            ],
            axis=0,
        )
        for k in range(len(batch)):
            worst.offer(float(badness[k]), lambda k=k: describe(batch, found, k))  # noqa: B023  called at once
        shown += [describe(batch, found, k) for k in range(min(len(batch), num_displays - len(shown)))]
    joined = [
        {name: np.concatenate(parts) for name, parts in group.items()}
        for group in (predicted, truth, columns)
    ]
    return joined[0], joined[1], joined[2], worst.events(), shown


def describe(batch: PhotonBatch, found: Arrays, k: int) -> dict[str, Any]:
    """One event of a batch as `event_display` wants it; copies, so that the batch can go."""
    return {
        "npho": batch.sensors[k, :, 0].numpy().copy(),
        "time": batch.sensors[k, :, 1].numpy().copy(),
        "truth": {name: values[k].numpy().copy() for name, values in batch.targets.items()},
        "reco": {name: found[name][k].copy() for name in batch.targets},
        "title": f"run {int(batch.run[k])}, event {int(batch.event[k])}",
    }


def conventional(columns: Arrays, truth: Arrays) -> Arrays:
    """The reconstruction that is stored in the files, arranged like a prediction.

    Args:
        columns: `energyReco` (N,), `timeReco` (N,), `uvwRecoLC` (N, 3), `time_min_ns` (N, 1).
        truth: The targets; others are left out.

    Returns:
        Values by target, (N, K), NaN where the file has none.
    """
    clean = {
        name: np.where(np.abs(values) <= INVALID_ABOVE, values, np.nan) for name, values in columns.items()
    }
    uvw = clean[UVW_RECO_LC.name]
    values = {
        "angle": vector_to_angles(uvw_to_xyz(uvw)),
        "energy": clean[ENERGY_RECO.name].reshape(-1, 1),
        "timing": clean[TIME_RECO.name].reshape(-1, 1) - clean["time_min_ns"],
        "uvwFI": uvw,
    }
    return {name: values[name] for name in truth if name in values}


def unseen_vertex_limit_deg(truth: Arrays) -> float:
    """68th percentile of the angle between emission and the line from target centre to true position."""
    emission = angles_to_vector(truth["angle"][:, 0], truth["angle"][:, 1])
    return float(metrics.percentile68(opening_angle_deg(emission, uvw_to_xyz(truth["uvwFI"]))))


def width_ratios(residuals: dict[str, dict[str, NDArray[np.float64]]]) -> dict[str, dict[str, float]]:
    """Network over conventional, paired event by event; below 1 the network is better."""
    ratios = {}
    for name, ours in residuals[NETWORK].items():
        if name not in residuals[CONVENTIONAL]:
            continue
        distance = name in plots.DISTANCES
        statistic = metrics.percentile68 if distance else metrics.width68
        comparison = metrics.compare_widths(ours, residuals[CONVENTIONAL][name], statistic=statistic)
        ratios[name] = asdict(comparison)
    return ratios


def draw(
    directory: RunDir,
    split: str,
    truth: Arrays,
    reconstructions: dict[str, Arrays],
    residuals: dict[str, dict[str, NDArray[np.float64]]],
    floor: float | None,
) -> None:
    """Write training curves, residuals, profiles, truth against prediction and energy resolution."""

    def save(figure: Any, name: str) -> None:
        plots.save(figure, directory.figure_path(f"{split}_{name}"))

    if history := directory.history():
        plots.save(plots.training_curves(history), directory.figure_path("training_curves"))
    variables = {
        name: truth[quantity.task][:, quantity.column]
        for name, quantity in metrics.QUANTITIES.items()
        if quantity.task in truth and name in EDGES
    }
    by_quantity = {
        name: {kind: residuals[kind][name] for kind in reconstructions if name in residuals[kind]}
        for name in residuals[NETWORK]
    }
    signed = {name: by_quantity[name] for name in metrics.QUANTITIES if name in by_quantity}
    widths = {
        name: {kind: float(metrics.width68(values[np.isfinite(values)])) for kind, values in compared.items()}
        for name, compared in signed.items()
    }
    save(plots.residual_histograms(signed, widths), "residuals")
    for name, compared in by_quantity.items():
        if name not in PROFILED:
            continue
        statistic = DISTANCE_STATISTIC if name in plots.DISTANCES else SIGNED_STATISTIC
        profiles = {
            variable: {
                kind: metrics.profile(variables[variable], residual, EDGES[variable], statistic=statistic)
                for kind, residual in compared.items()
            }
            for variable in PROFILED[name]
            if variable in variables
        }
        if profiles:
            limit = floor if name.startswith("opening_angle") else None
            save(plots.resolution_profiles(name, profiles, floor=limit), f"profile_{name}")
        if name == "energy_relative":
            save(
                plots.energy_resolution(profiles["energy"], energy_fits(profiles["energy"])),
                "energy_resolution",
            )
        if name == "opening_angle":
            resolutions = {
                kind: float(metrics.percentile68(values[np.isfinite(values)]))
                for kind, values in compared.items()
            }
            save(plots.opening_angle(compared, resolutions, floor_deg=floor), "opening_angle")
    pairs = {
        name: (values, reconstructions[NETWORK][quantity.task][:, quantity.column])
        for name, values in variables.items()
        if (quantity := metrics.QUANTITIES[name])
    }
    save(plots.truth_vs_prediction(pairs), "truth_vs_prediction")


def energy_fits(profiles: dict[str, metrics.Profile]) -> dict[str, metrics.EnergyFit]:
    """Fit sigma_E / E of every reconstruction that has enough filled bins."""
    fits = {}
    for kind, profile in profiles.items():
        filled = np.isfinite(profile.width)
        if filled.sum() >= 4:
            error = (profile.width_high - profile.width_low) / 2
            fits[kind] = metrics.fit_energy_resolution(
                profile.centers[filled], profile.width[filled] / 100, error[filled] / 100
            )
    return fits


def headline(evaluation: dict[str, Any]) -> dict[str, Any]:
    """The few numbers of an evaluation that a finished training prints."""
    if "maps" in evaluation:  # of an inpainter: mean errors of filled-in sensors, photons
        return {
            name: {method: values["mae_npho"] for method, values in methods.items()}
            for name, methods in evaluation["maps"].items()
        }
    return {
        kind: {name: evaluation[kind][name] for name in HEADLINE if name in evaluation[kind]}
        for kind in ("network", "conventional")
    }


def brief(run: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What goes to the terminal of an evaluation, and where the rest of it is."""
    uncertain = {
        name: {"within_sigma_percent": 100 * facts["coverage68"], "pull_width68": facts["pull_width68"]}
        for name, facts in evaluation.get("uncertainty", {}).items()
    }
    return {
        "run": run,
        **headline(evaluation),
        **({"uncertainty": uncertain} if uncertain else {}),
        "all_numbers": run / f"evaluation_{evaluation['split']}.json",
    }
