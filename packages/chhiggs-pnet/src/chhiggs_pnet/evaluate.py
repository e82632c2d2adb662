"""`chhiggs-pnet evaluate`: discrimination at every mass point, calibration and dependence on the pair mass.

The signal of a point and the backgrounds are all evaluated at that point's hypothesis. A discriminant is the
likelihood ratio against one background, or against all with their expected yields. Points that took no part
in the training show interpolation (inside the hull of the training points) and extrapolation (outside).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet import plots
from chhiggs_pnet.data.point_events import PointEvents
from chhiggs_pnet.data.schema import CLASSES
from chhiggs_pnet.data.store import Store
from chhiggs_pnet.metrics.calibration import expected_calibration_error, reliability
from chhiggs_pnet.metrics.dependence import distance_correlation
from chhiggs_pnet.metrics.discrimination import RankedScores, likelihood_ratio, roc_curve
from chhiggs_pnet.metrics.non_inferiority import bootstrap_weights
from chhiggs_pnet.models.calibration import calibrated, fit_temperature
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.predict import Ensemble
from hep_shared.errors import UserError
from hep_shared.run import RunDir

NUM_RESAMPLES = 100
BACKGROUND_EFFICIENCY = 0.01
CUT_EFFICIENCY = 0.1  # of the background, where the shape of the pair mass is looked at
SPLITS = ("train", "validation", "test")
FloatArray = NDArray[np.float64]


def evaluate(
    runs: Sequence[Path],
    *,
    split: str = "test",
    device: str = "auto",
    checkpoint: str = "best",
    mc_dropout: int = 0,
) -> dict[str, Any]:
    """Evaluate a run, or an ensemble of runs, and draw its pictures.

    Args:
        runs: Run directories; the results go into the first one.
        split: `train`, `validation` or `test`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        checkpoint: `best`, `last` or a file name of the runs.
        mc_dropout: Passes with dropout switched on; 0 for one pass without.

    Returns:
        What `evaluation_<split>.json` in the first run directory holds; the name of an ensemble's file and
        that of Monte Carlo dropout say so.

    Raises:
        UserError: A run or its store cannot be used.
    """
    if split not in SPLITS:
        raise UserError(f"--split is '{split}'; choose one of {', '.join(SPLITS)}.")
    ensemble = Ensemble(runs, device=device, checkpoint=checkpoint, mc_dropout=mc_dropout)
    config, task, directory = ensemble.config, ensemble.task, ensemble.directories[0]
    store = task.open_store(config)
    temperature = calibrate(ensemble, store)
    name = (
        split
        + (f"_ensemble{len(runs)}" if len(runs) > 1 else "")
        + (f"_mc{mc_dropout}" if mc_dropout else "")
    )
    if name == split and checkpoint == "best":  # what predicts is this very network
        directory.write_json(task.CALIBRATION_FILE, {"temperature": temperature})
    trained = set(task.train_points(config, store))
    entries, seen = [], {}
    for point in points_of(store, trained):
        events = task.split_events(config, store, point, split)
        logarithms, spread = ensemble.log_probabilities(events, point)
        weight, yields = task.balanced_weights(events), task.background_yields(events)
        probabilities = calibrated(logarithms, temperature)
        seen[point.name] = Seen(probabilities, events, yields, weight)
        entries.append(
            {
                "name": point.name, "mHc": point.mHc, "mA": point.mA,
                "role": "train" if point in trained else role_of(store, point),
                "in_hull": store.table.in_hull(point), "trained": point in trained,
                **discrimination(probabilities, events, yields),
                **calibration(logarithms, temperature, events, weight),
                "signal_rate_fb": float(events.weight[events.label == 0].sum()),
                "mean_score_spread": float(np.average(spread, weights=weight)),
            }
        )  # fmt: skip
    result: dict[str, Any] = {
        "split": split, "checkpoint": checkpoint, "num_members": len(runs), "mc_dropout": mc_dropout,
        "temperature": temperature, "background_efficiency": BACKGROUND_EFFICIENCY,
        "num_trained_points": len(trained), "points": entries,
    }  # fmt: skip
    directory.write_json(f"evaluation_{name}.json", result)
    draw(directory, name, entries, seen)
    return result


def headline(result: Mapping[str, Any]) -> dict[str, Any]:
    """What goes to the terminal: AUC and signal efficiency at each point, of the rest what is one number."""
    short = {key: value for key, value in result.items() if key != "points"}
    for name in ("auc", "efficiency"):
        short[name] = {entry["name"]: entry[name] for entry in result["points"]}
    return short


@dataclass(frozen=True)
class Seen:
    """Events of a point as a network sees them.

    Attributes:
        probabilities: Calibrated class probabilities, (N, classes).
        events: The events.
        yields: Expected rate of each background, (classes − 1,).
        weight: Event weights with the same sum for every class, (N,).
    """

    probabilities: FloatArray
    events: PointEvents
    yields: FloatArray
    weight: FloatArray


def draw(
    directory: RunDir, name: str, entries: Sequence[Mapping[str, Any]], seen: Mapping[str, Seen]
) -> None:
    """Draw the pictures of an evaluation; scores and pair mass for the first trained point alone.

    Args:
        directory: Run directory they go into.
        name: What their names begin with.
        entries: Points of the evaluation.
        seen: Events of each point by its name.
    """

    def save(figure: Any, what: str) -> None:
        plots.save(figure, directory.figure_path(what))

    if history := directory.history():
        save(plots.training_curves(history), "training_curves")
    curves = {point: roc(part.probabilities, part.events, part.yields) for point, part in seen.items()}
    reliabilities = {
        point: reliability(np.clip(part.probabilities[:, 0], 0.0, 1.0), part.events.label == 0, part.weight)
        for point, part in seen.items()
    }
    save(plots.roc_curves(curves, {entry["name"]: entry["role"] for entry in entries}), f"{name}_roc")
    save(plots.values_by_point(entries), f"{name}_auc_by_point")
    save(plots.reliability(reliabilities), f"{name}_reliability")
    chosen = next((entry["name"] for entry in entries if entry["trained"]), entries[0]["name"])
    events, weight = seen[chosen].events, seen[chosen].weight
    scores = likelihood_ratio(seen[chosen].probabilities, seen[chosen].yields)
    save(plots.score_histograms(scores, events.label, weight, chosen), f"{name}_scores")
    save(plots.pair_mass(scores, events.columns["m1"], events.label, weight, chosen), f"{name}_pair_mass")


def points_of(store: Store, trained: set[MassPoint]) -> list[MassPoint]:
    """Points that have a signal in the store: those of the table in the order of its roles, then others."""
    available = set(store.signal_points)
    listed = [point for point in store.table.all_points if point in available]
    return [*listed, *sorted(point for point in trained if point not in listed)]


def role_of(store: Store, point: MassPoint) -> str:
    """Role of a point that this network was not trained on.

    Args:
        store: The store.
        point: The point.

    Returns:
        Its role in the table; `untrained` for a training point of the table that was left out.
    """
    role = store.table.role(point)
    return "untrained" if role == "train" else role


def calibrate(ensemble: Ensemble, store: Store) -> float:
    """Temperature that fits the validation events of all validation points together.

    Args:
        ensemble: The networks.
        store: The store.

    Returns:
        The temperature.
    """
    config, task = ensemble.config, ensemble.task
    parts = []
    for point in task.validation_points(config, store):
        events = task.split_events(config, store, point, "validation", limit=config.data.validation_events)
        logarithms, _ = ensemble.log_probabilities(events, point)
        parts.append((logarithms, events.label, task.balanced_weights(events)))
    joined = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return fit_temperature(*joined)


def discrimination(probabilities: FloatArray, events: PointEvents, yields: FloatArray) -> dict[str, Any]:
    """AUC and signal efficiency against each background and against all.

    Args:
        probabilities: Class probabilities, (N, classes).
        events: The events.
        yields: Expected rate of each background, (classes − 1,).

    Returns:
        `auc`, `efficiency` with 68 % bootstrap intervals, the same with `_<background>` appended, and the
        dependence of the score on the pair masses.
    """
    found: dict[str, Any] = {}
    label, weight = events.label, events.weight
    for suffix, fractions in discriminants(yields).items():
        kept = (label == 0) | np.isin(label, 1 + np.flatnonzero(fractions))
        scores = likelihood_ratio(probabilities[kept], fractions)
        ranked = RankedScores(scores, label[kept] == 0)
        base = weight[kept]
        samples = bootstrap_weights(label[kept] == 0, base, NUM_RESAMPLES, np.random.default_rng(0))
        for name, statistic in (
            ("auc", ranked.auc),
            ("efficiency", lambda w, r=ranked: r.efficiency(w, BACKGROUND_EFFICIENCY)),
        ):
            low, high = np.percentile(statistic(samples), [16, 84])
            key = f"{name}{suffix}"
            found |= {key: float(statistic(base[None])[0]), f"{key}_low": low, f"{key}_high": high}
    background = label > 0
    scores = likelihood_ratio(probabilities, yields)[background]
    size = np.abs(weight[background])
    for name in ("m1", "m2"):
        values = events.columns[name][background]
        there = values >= 0
        enough = there.sum() > 1
        found[f"dcor_{name}"] = (
            distance_correlation(scores[there], values[there], size[there]) if enough else None
        )
    found["jsd_m1"] = shape_change(scores, events.columns["m1"][background], size)
    found["num_signal"], found["num_background"] = int((~background).sum()), int(background.sum())
    return found


def discriminants(yields: FloatArray) -> dict[str, FloatArray]:
    """Yield fractions of each discriminant by the suffix of its name, empty for all backgrounds."""
    single = {f"_{name}": np.eye(len(CLASSES) - 1)[k] for k, name in enumerate(CLASSES[1:])}
    return {"": np.maximum(yields, 1e-12), **single}


def roc(probabilities: FloatArray, events: PointEvents, yields: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ROC curve of the likelihood ratio with expected yields."""
    scores = likelihood_ratio(probabilities, np.maximum(yields, 1e-12))
    return roc_curve(scores, events.label == 0, events.weight)


def shape_change(scores: FloatArray, values: FloatArray, weight: FloatArray, num_bins: int = 20) -> float:
    """Jensen-Shannon divergence of a distribution before and after a cut, in bits.

    Args:
        scores: Score of each event, (N,).
        values: What is histogrammed, (N,).
        weight: Non-negative weights, (N,).
        num_bins: Bins between the 1st and 99th percentile.

    Returns:
        In [0, 1].
    """
    order = np.argsort(-scores, kind="stable")
    passes = np.zeros(len(scores), np.bool_)
    passes[order[np.cumsum(weight[order]) <= CUT_EFFICIENCY * weight.sum()]] = True
    low, high = np.percentile(values, [1, 99])
    if not passes.any() or high <= low:
        return 0.0
    edges = np.linspace(low, high, num_bins + 1)
    p, q = (
        np.histogram(np.clip(values[kept], low, high), edges, weights=weight[kept])[0]
        for kept in (np.ones_like(passes), passes)
    )
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = 0.0
    for one in (p, q):
        filled = one > 0
        divergence += 0.5 * float(np.sum(one[filled] * np.log2(one[filled] / middle[filled])))
    return divergence


def calibration(
    logarithms: FloatArray, temperature: float, events: PointEvents, weight: FloatArray
) -> dict[str, float]:
    """Expected calibration error of the signal probability, before and after the temperature."""
    return {
        name: expected_calibration_error(
            np.clip(calibrated(logarithms, value)[:, 0], 0.0, 1.0), events.label == 0, weight
        )
        for name, value in (("ece_raw", 1.0), ("ece", temperature))
    }
