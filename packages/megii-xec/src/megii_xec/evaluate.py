"""`xec evaluate`: resolutions of a run beside the conventional reconstruction, with intervals and pictures.

Both look at the same events. The conventional direction is that from the centre of the target to the
conventional position; the limit of the unseen vertex is what a perfect position measurement would reach
with it.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hep_shared.run import RunDir
from megii_xec import event_display, metrics, plots
from megii_xec.config import Config
from megii_xec.data.schema import (
    ENERGY_RECO,
    INVALID_ABOVE,
    TIME_RECO,
    UVW_RECO_LC,
)
from megii_xec.data.stream import PhotonStream
from megii_xec.data.targets import NS_PER_S
from megii_xec.physics.coordinates import angles_to_vector, opening_angle_deg, uvw_to_xyz, vector_to_angles
from megii_xec.predict import Predictor, load_run
from megii_xec.tasks import TASKS

NETWORK, CONVENTIONAL = "network", "conventional"
NUM_RESAMPLES = 400
SIGNED_STATISTIC: Literal["width68"] = "width68"
DISTANCE_STATISTIC: Literal["percentile68"] = "percentile68"
Arrays = dict[str, NDArray[Any]]

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
    **dict.fromkeys(("theta", "phi", "opening_angle"), ("theta", "phi", "energy", "w")),
    **dict.fromkeys(("energy_relative", "timing", "u", "v", "w"), ("energy", "u", "v", "w")),
}


def evaluate(
    run: Path, *, split: str = "test", device: str = "auto", checkpoint: str = "best"
) -> dict[str, Any]:
    """Evaluate a run and draw its pictures.

    Args:
        run: Run directory.
        split: `train`, `validation` or `test`; a run without test files falls back to `validation` for
            `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the run.

    Returns:
        What `evaluation_<split>.json` in the run directory holds: metrics of the network and of the
        conventional reconstruction, and the ratio of their widths, all with 68 % intervals.

    Raises:
        UserError: The run or its data cannot be used.
    """
    directory = RunDir.open(run)
    config = Config.model_validate(directory.config)
    if split == "test" and not config.data.test:
        split = "validation"
    predictor = load_run(run, device, checkpoint=checkpoint)
    extra = (ENERGY_RECO, TIME_RECO, UVW_RECO_LC)
    task = TASKS[config.task.kind]
    with task.build_stream(config, split, normalization=predictor.raw, extra=extra) as stream:
        predicted, truth, columns, display = collect(stream, predictor)

    reconstructions = {NETWORK: predicted, CONVENTIONAL: conventional(columns, truth)}
    summaries = {
        name: metrics.regression_summary(values, truth, num_resamples=NUM_RESAMPLES)
        for name, values in reconstructions.items()
    }
    residuals = {name: metrics.residuals(values, truth) for name, values in reconstructions.items()}
    result: dict[str, Any] = {
        "split": split,
        "checkpoint": checkpoint,
        "files": [path.name for path in stream.files],
        **summaries,
        "ratio": width_ratios(residuals),
    }
    floor = None
    if "uvwFI" in truth and "angle" in truth:
        floor = unseen_vertex_limit_deg(truth)
        result["unseen_vertex_limit_deg"] = floor
    directory.write_json(f"evaluation_{split}.json", result)
    draw(directory, split, truth, reconstructions, residuals, floor)
    for number, event in enumerate(display):
        figure = event_display.event_display(**event)
        plots.save(figure, directory.figure_path(f"{split}_event_{number}"))
    return result


def collect(
    stream: PhotonStream, predictor: Predictor, num_displays: int = 2
) -> tuple[Arrays, Arrays, Arrays, list[dict[str, Any]]]:
    """Predict all events of a stream.

    Args:
        stream: Raw events with truth.
        predictor: What reconstructs them.
        num_displays: Events to keep for a display, the first ones.

    Returns:
        Predictions and truth by target, (N, K) in the units of the files, timing relative to the first
        sensor; the extra columns; the events for `event_display`.
    """
    predicted: dict[str, list[NDArray[Any]]] = {name: [] for name in predictor.targets}
    truth: dict[str, list[NDArray[Any]]] = {name: [] for name in predictor.targets}
    columns: dict[str, list[NDArray[Any]]] = {"time_min_ns": []}
    display: list[dict[str, Any]] = []
    for batch in stream.batches():
        found = predictor.reconstruct(batch)
        time_min_ns = batch.time_min_s.numpy()[:, None] * NS_PER_S
        if "timing" in found:
            found["timing"] = (found["timing"] - time_min_ns).astype(np.float32)
        for name in predictor.targets:
            predicted[name].append(found[name])
            truth[name].append(batch.targets[name].numpy())
        columns["time_min_ns"].append(time_min_ns)
        for name, values in batch.extra.items():
            columns.setdefault(name, []).append(values.numpy())
        for k in range(min(len(batch), num_displays - len(display))):
            display.append(
                {
                    "npho": batch.sensors[k, :, 0].numpy(),
                    "time": batch.sensors[k, :, 1].numpy(),
                    "truth": {name: batch.targets[name][k].numpy() for name in predictor.targets},
                    "reco": {name: found[name][k] for name in predictor.targets},
                    "title": f"run {int(batch.run[k])}, event {int(batch.event[k])}",
                }
            )
    joined = [
        {name: np.concatenate(parts) for name, parts in group.items()}
        for group in (predicted, truth, columns)
    ]
    return joined[0], joined[1], joined[2], display


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
    return {name: values[name] for name in truth}


def unseen_vertex_limit_deg(truth: Arrays) -> float:
    """68th percentile of the angle between emission and the line from target centre to true position."""
    emission = angles_to_vector(truth["angle"][:, 0], truth["angle"][:, 1])
    return float(metrics.percentile68(opening_angle_deg(emission, uvw_to_xyz(truth["uvwFI"]))))


def width_ratios(residuals: dict[str, dict[str, NDArray[np.float64]]]) -> dict[str, dict[str, float]]:
    """Network over conventional, paired event by event; below 1 the network is better."""
    ratios = {}
    for name, ours in residuals[NETWORK].items():
        distance = name in ("opening_angle", "distance")
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
        name: {kind: residuals[kind][name] for kind in reconstructions} for name in residuals[NETWORK]
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
        statistic = DISTANCE_STATISTIC if name == "opening_angle" else SIGNED_STATISTIC
        profiles = {
            variable: {
                kind: metrics.profile(variables[variable], residual, EDGES[variable], statistic=statistic)
                for kind, residual in compared.items()
            }
            for variable in PROFILED[name]
            if variable in variables
        }
        if profiles:
            limit = floor if name == "opening_angle" else None
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
