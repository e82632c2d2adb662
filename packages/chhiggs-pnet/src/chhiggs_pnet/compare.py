"""`chhiggs-pnet compare`: the parametric network against networks of one mass point, or other classifiers.

All look at the same test events. Runs with different seeds on one fold give the variance over seeds; runs on
different folds are joined, so that every event is tested once. The claim is non-inferiority: the one-sided
95 % bound of AUC − AUC(reference) is above −0.005 and that of the ratio of signal efficiencies above 0.95,
after Holm's correction over points and backgrounds.

References:
- `dedicated`   a network trained at that very point, untrained points included
- `nearest`     the dedicated network of the nearest training point, evaluated at its own masses
- `bdt`         boosted decision trees on the same folds, with the hypothesis and its distance to the pair
                masses among their inputs
- `bdt_blind`   the same without the pair masses: the peer of a network with model.pair_masses false
- a directory   another run on the same fold, for example with model.kind deepsets
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet import plots
from chhiggs_pnet.config import Config, MassScaling
from chhiggs_pnet.data.point_events import PointEvents
from chhiggs_pnet.data.schema import CLASSES, EXT14
from chhiggs_pnet.data.store import Store, part_name
from chhiggs_pnet.data.stream import EventStream, usable_rows
from chhiggs_pnet.evaluate import BACKGROUND_EFFICIENCY, discriminants, points_of
from chhiggs_pnet.losses import event_weights
from chhiggs_pnet.metrics import non_inferiority
from chhiggs_pnet.metrics.dependence import distance_correlation
from chhiggs_pnet.metrics.discrimination import likelihood_ratio
from chhiggs_pnet.models.boosting import BoostedTrees
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.predict import Ensemble
from chhiggs_pnet.train import fit
from hep_shared.amp import resolve_device
from hep_shared.distributed import World
from hep_shared.errors import UserError
from hep_shared.files import atomic_write_json, make_directory
from hep_shared.loop import open_run

REFERENCES = ("dedicated", "nearest", "bdt", "bdt_blind")
AUC_MARGIN, RATIO_MARGIN = -0.005, 0.95
NUM_RESAMPLES = 200
BDT_EVENTS = 50_000  # of each class, at most
FloatArray = NDArray[np.float64]


def compare(
    runs: Sequence[Path],
    *,
    out: Path,
    against: str = "dedicated",
    points: Sequence[MassPoint] | None = None,
    budget: str = "updates",
    device: str = "auto",
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """Compare runs with a reference at some points.

    Args:
        runs: Runs of the parametric network: seeds, folds or both.
        out: Directory for the result and for dedicated networks, which are trained where missing.
        against: One of `REFERENCES`, or a run directory.
        points: Points to compare at; all of the store if None.
        budget: Steps of a dedicated network: as many `updates` as the parametric one, or as many `events` at
            its own point, so that the networks of all training points together make as many updates.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        num_resamples: Bootstrap resamples.

    Returns:
        What `compare_<reference>.json` in `out` holds.

    Raises:
        UserError: A run cannot be used, or the folds have different numbers of seeds.
    """
    if budget not in ("updates", "events"):
        raise UserError(f"--budget is '{budget}'; choose updates or events.")
    if against not in REFERENCES and not Path(against).is_dir():
        known = ", ".join(REFERENCES)
        raise UserError(f"--against is '{against}'; choose one of {known}, or a run directory.")
    by_fold = group_by_fold(runs)
    make_directory(out)  # before the work, not after it
    first = next(iter(by_fold.values()))[0]
    store = first.task.open_store(first.config)
    trained = first.task.train_points(first.config, store)
    references = References(against, trained, out, budget=budget, device=device)
    rows: list[dict[str, Any]] = []
    dependences: list[dict[str, Any]] = []
    for point in points or points_of(store, set(trained)):
        tested = evaluate_point(point, by_fold, references)
        role = "train" if point in trained else store.table.role(point)
        place = {"name": point.name, "role": role, "in_hull": store.table.in_hull(point)}
        rows += [{**place, **row} for row in compare_point(tested, num_resamples)]
        own, other = (dependence(tested, group) for group in (tested.ours, tested.theirs))
        dependences.append({"name": point.name, "role": role, "dcor_m1": own, "reference_dcor_m1": other})
    apply_holm(rows)
    name = Path(against).name if Path(against).is_dir() else against
    result: dict[str, Any] = {
        "against": name, "budget": budget, "runs": [str(run) for run in runs], "folds": sorted(by_fold),
        "auc_margin": AUC_MARGIN, "ratio_margin": RATIO_MARGIN, "rows": rows,
        "dependence": dependences,
    }  # fmt: skip
    atomic_write_json(out / f"compare_{name}.json", result)
    overall = [row for row in rows if row["statistic"] == "auc" and row["background"] == "all"]
    plots.save(plots.differences(overall, AUC_MARGIN, name), out / f"compare_{name}")
    return result


def group_by_fold(runs: Sequence[Path]) -> dict[int, list[Ensemble]]:
    """Open runs and sort them by test fold; every fold needs the same number of seeds."""
    if not runs:
        raise UserError("no run was given; name run directories with --run.")
    grouped: dict[int, list[Ensemble]] = defaultdict(list)
    for run in runs:
        ensemble = Ensemble([run])
        grouped[ensemble.config.data.fold].append(ensemble)
    if len({len(members) for members in grouped.values()}) > 1:
        counts = ", ".join(f"fold {fold}: {len(members)}" for fold, members in sorted(grouped.items()))
        raise UserError(f"the folds have different numbers of runs ({counts}); give every fold the same.")
    return dict(grouped)


@dataclass(frozen=True)
class Tested:
    """Test events of one point, all folds together, as both sides see them.

    Attributes:
        ours: Logarithms of class probabilities of the runs, (seeds, N, classes).
        theirs: The same of the reference.
        label: Index into `CLASSES`, (N,).
        weight: Rates, (N,).
        pair_mass: Largest pair mass in GeV, (N,).
        yields: Expected rate of each background, (classes − 1,).
    """

    ours: FloatArray
    theirs: FloatArray
    label: Any
    weight: Any
    pair_mass: Any
    yields: FloatArray


def evaluate_point(
    point: MassPoint, by_fold: Mapping[int, Sequence[Ensemble]], references: "References"
) -> Tested:
    """Evaluate the test events of every fold, each with the networks that were not trained on it.

    Args:
        point: The hypothesis.
        by_fold: Runs, one a seed, by the fold that they test on.
        references: What they are compared with.

    Returns:
        The events of all folds.
    """
    parts: list[Tested] = []
    for members in by_fold.values():
        task, config = members[0].task, members[0].config
        events = task.split_events(config, task.open_store(config), point, "test")
        ours = [member.log_probabilities(events, point)[0] for member in members]
        theirs = [
            references.log_probabilities(member.config, number, events, point)
            for number, member in enumerate(members)
        ]
        parts.append(
            Tested(
                np.stack(ours), np.stack(theirs), events.label, events.weight, events.columns["m1"],
                task.background_yields(events),
            )
        )  # fmt: skip

    def join(name: str, axis: int) -> Any:
        return np.concatenate([getattr(part, name) for part in parts], axis=axis)

    return Tested(
        join("ours", 1), join("theirs", 1), join("label", 0), join("weight", 0), join("pair_mass", 0),
        np.sum([part.yields for part in parts], axis=0),
    )  # fmt: skip


class References:
    """What runs are compared with; a classifier is loaded or trained when it is first asked for.

    Args:
        against: One of `REFERENCES`, or a run directory.
        trained: Training points of the parametric runs.
        out: Where dedicated networks go.
        budget: Steps of a dedicated network.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    def __init__(
        self, against: str, trained: Sequence[MassPoint], out: Path, *, budget: str, device: str
    ) -> None:
        self._against, self._trained, self._out = against, tuple(trained), out
        self._budget, self._device = budget, device
        self._found: dict[tuple[int, int, MassPoint | None], Ensemble | BoostedTrees] = {}

    def log_probabilities(
        self, config: Config, number: int, events: PointEvents, point: MassPoint
    ) -> FloatArray:
        """Evaluate events with the peer of a run.

        Args:
            config: Configuration of the run: gives fold, seed, architecture.
            number: Which one of the runs of its fold it is.
            events: The events.
            point: The hypothesis.

        Returns:
            Logarithms of class probabilities, (N, classes).

        Raises:
            UserError: The decision trees lack features that the run was trained without.
        """
        source = nearest(point, self._trained) if self._against == "nearest" else point
        own = self._against in ("dedicated", "nearest")  # one classifier a point
        key = (config.data.fold, number, source if own else None)
        if key not in self._found:
            self._found[key] = self._make(config, source)
        reference = self._found[key]
        if isinstance(reference, BoostedTrees):
            if events.columns["nodes"].shape[-1] < len(EXT14):
                raise UserError("the decision trees need data.features ext14; train the run with it.")
            masses = np.tile(np.array([source.mHc, source.mA]), (len(events.weight), 1))
            return reference.log_probabilities(events.columns, masses)
        return reference.log_probabilities(events, source)[0]

    def _make(self, config: Config, point: MassPoint) -> Ensemble | BoostedTrees:
        if self._against in ("bdt", "bdt_blind"):
            return train_trees(config, self._trained, pair_masses=self._against == "bdt")
        if self._against not in REFERENCES:
            return Ensemble([Path(self._against)], device=self._device)
        folder = f"fold{config.data.fold}_seed{config.train.seed}_{self._budget}"
        path = self._out / "dedicated" / folder / point.name
        train_dedicated(config, point, len(self._trained), path, budget=self._budget, device=self._device)
        return Ensemble([path], device=self._device)


def nearest(point: MassPoint, trained: Sequence[MassPoint]) -> MassPoint:
    """Training point closest to a point, in units of the spread of the training masses."""
    scale = MassScaling.of(tuple(trained))

    def distance(other: MassPoint) -> float:
        return ((point.mHc - other.mHc) / scale.mHc_std_gev) ** 2 + (
            (point.mA - other.mA) / scale.mA_std_gev
        ) ** 2

    return min(trained, key=distance)


def train_dedicated(
    config: Config, point: MassPoint, num_trained: int, out: Path, *, budget: str, device: str
) -> None:
    """Train a network at one point like the parametric one, from fresh weights; a finished one is kept."""
    epochs = config.train.epochs * (num_trained if budget == "updates" else 1)
    own = {"train_points": (point,), "validation_points": (point,)}
    update = {
        "data": config.data.model_copy(update=own),
        "pretrain": config.pretrain.model_copy(update={"epochs": 0}),
        "average": config.average.model_copy(update={"method": "none"}),
        "train": config.train.model_copy(update={"epochs": epochs, "curriculum": (), "finish": ()}),
    }
    dedicated = config.model_copy(update=update)
    world = World(0, 1, 0, resolve_device(device))
    run = open_run(dedicated, world, out=out, resume=True, command="compare", sinks=dedicated.train.track)
    fit(dedicated, world, run)
    run.close()


def train_trees(config: Config, trained: Sequence[MassPoint], *, pair_masses: bool) -> BoostedTrees:
    """Fit the decision trees to the training folds, balanced like the network's events."""
    from chhiggs_pnet.tasks import TASKS

    task = TASKS[config.task.kind]
    store: Store = task.open_store(config)
    folds = task.folds_of(config, store.num_folds, "train")
    channel = config.data.channel
    available = min(
        len(usable_rows(store.part(part_name("signal", point)), folds, channel)) for point in trained
    )
    stream = EventStream(
        store, trained, folds, features="ext14", channel=channel, batch_size=len(CLASSES) * len(trained),
        seed=config.train.seed, events_per_point=min(available, BDT_EVENTS // len(trained)),
        weighting=lambda weight, masses: event_weights(weight, masses, negative="abs"),
    )  # fmt: skip
    batches = list(stream.batches(0))
    width = max(batch.nodes.shape[1] for batch in batches)

    def join(name: str) -> NDArray[Any]:
        parts = [getattr(batch, name).numpy() for batch in batches]
        if name in ("nodes", "valid_mask"):
            pads = [[(0, 0), (0, width - p.shape[1]), *[(0, 0)] * (p.ndim - 2)] for p in parts]
            parts = [np.pad(p, pad) for p, pad in zip(parts, pads, strict=True)]
        return np.concatenate(parts)

    pairs = join("pair_masses")
    columns = {
        "nodes": join("nodes"), "valid_mask": join("valid_mask"), "m1": pairs[:, 0], "m2": pairs[:, 1]
    }  # fmt: skip
    trees = BoostedTrees(pair_masses=pair_masses, seed=config.train.seed)
    trees.fit(columns, join("masses"), join("label"), join("weight"))
    return trees


def compare_point(tested: Tested, num_resamples: int) -> list[dict[str, Any]]:
    """Compare AUC and signal efficiency against each background and all.

    Args:
        tested: The events of a point.
        num_resamples: Bootstrap resamples.

    Returns:
        One row a statistic and background.
    """
    rows: list[dict[str, Any]] = []
    for suffix, fractions in discriminants(tested.yields).items():
        kept = (tested.label == 0) | np.isin(tested.label, 1 + np.flatnonzero(fractions))
        ours, theirs = (
            np.stack([likelihood_ratio(np.exp(member[kept]), fractions) for member in group])
            for group in (tested.ours, tested.theirs)
        )
        for statistic, efficiency, margin in (
            ("auc", None, AUC_MARGIN),
            ("efficiency", BACKGROUND_EFFICIENCY, RATIO_MARGIN),
        ):
            found = non_inferiority.compare(
                ours, theirs, tested.label[kept] == 0, tested.weight[kept], background_efficiency=efficiency,
                margin=margin, num_resamples=num_resamples,
            )  # fmt: skip
            background = suffix.removeprefix("_") or "all"
            rows.append({"statistic": statistic, "background": background, **asdict(found)})
    return rows


def dependence(tested: Tested, logarithms: FloatArray) -> float:
    """How much a score depends on the pair mass that is fitted: distance correlation for the background.

    Args:
        tested: The events of a point.
        logarithms: Logarithms of class probabilities, (seeds, N, classes).

    Returns:
        Mean over the seeds, in [0, 1].
    """
    background = tested.label > 0
    values, size = tested.pair_mass[background], np.abs(tested.weight[background])
    found = [
        distance_correlation(
            likelihood_ratio(np.exp(member[background]), np.maximum(tested.yields, 1e-12)), values, size
        )
        for member in logarithms
    ]
    return float(np.mean(found))


def apply_holm(rows: list[dict[str, Any]]) -> None:
    """Add to every row whether it stays non-inferior after Holm's correction over all rows."""
    for row, kept in zip(rows, non_inferiority.holm([row["p_value"] for row in rows]), strict=True):
        row["non_inferior_holm"] = kept


def headline(result: dict[str, Any]) -> dict[str, Any]:
    """What goes to the terminal: the AUC difference at each point, and how many claims hold."""
    overall = [r for r in result["rows"] if r["statistic"] == "auc" and r["background"] == "all"]
    return {
        "against": result["against"],
        "auc_difference": {row["name"]: row["difference"] for row in overall},
        "lower_bound": {row["name"]: row["lower"] for row in overall},
        "non_inferior": f"{sum(row['non_inferior'] for row in overall)} of {len(overall)} points",
    }
