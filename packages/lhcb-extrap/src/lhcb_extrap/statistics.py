"""What several trainings say together: the five questions of the study, answered from their records.

Everything comes from the runs' `config.json`, `history.json` and `evaluation_test.json`. Errors are compared
only between runs whose tracks span the same momentum range, since slow tracks are many times harder than fast
ones, and two runs that are the same training (a study contains some twice) count once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lhcb_extrap.metrics import epochs_to_converge, overfitting_ratio
from lhcb_extrap.physics.sampling import MOMENTUM_STUDIES_GEV

NAMES = {"mlp": "MLP", "pinn": "PINN", "rk_pinn": "RK_PINN", "kick": "kick net"}
WITH_PHYSICS = ("pinn", "rk_pinn")
STANDARD_WEIGHTS = (1.0, 1.0, 1.0)  # of the distance to the end, the equations of motion, the start
OVERFITTING_RATIO = 1.2
_EDGE = 1e-3  # relative: momenta at the edge of a range may be rounded
_NARROW_FIRST = sorted(MOMENTUM_STUDIES_GEV.items(), key=lambda item: item[1][1] / item[1][0])

Table = list[list[str]]
Answer = tuple[str, Table]


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        name: Directory.
        evaluation: `evaluation_test.json`.
        history: `history.json`.
        config: Resolved configuration.
    """

    name: str
    evaluation: dict[str, Any]
    history: dict[str, Any]
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """Kind of network."""
        return str(self.evaluation["model"])

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(self.evaluation["hidden"])

    @property
    def num_parameters(self) -> int:
        """Trained parameters."""
        return int(self.evaluation["num_parameters"])

    @property
    def error_mm(self) -> float:
        """Mean position error on the test tracks, mm."""
        return number(self.evaluation["network"]["pos_mean_mm"])

    @property
    def study(self) -> str:
        """The narrowest momentum range of the study that holds all test tracks."""
        low, high = self.evaluation["momentum_gev"]
        for name, (lowest, highest) in _NARROW_FIRST:
            if lowest <= low * (1 + _EDGE) and high <= highest * (1 + _EDGE):
                return str(name)
        return "full_range"

    @property
    def weights(self) -> tuple[float, float, float]:
        """Weights of the losses: distance to the end, equations of motion, start."""
        task = self.config["task"]
        return task["lambda_data"], task["lambda_pde"], task["lambda_ic"]

    @property
    def has_physics(self) -> bool:
        """Whether equations of motion were part of the loss."""
        return self.kind in WITH_PHYSICS and self.weights[1] > 0

    @property
    def is_standard(self) -> bool:
        """Whether the weights of the losses are the default ones, or without effect."""
        return self.kind not in WITH_PHYSICS or self.weights == STANDARD_WEIGHTS

    @property
    def curve(self) -> list[float]:
        """Validation position error of every epoch, mm; polish steps are left out."""
        return [number(row["pos_mean_mm"]) for row in self.history["val"]]

    @property
    def end_losses(self) -> tuple[list[float], list[float]]:
        """Training and validation losses of the end, one an epoch; both leave physics out."""
        return (
            [number(row["data_loss"]) for row in self.history["train"]],
            [number(row["loss"]) for row in self.history["val"]],
        )


def number(value: float | None) -> float:
    """A number of a JSON file, which has null for NaN."""
    return float("nan") if value is None else float(value)


def distinct(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out runs that are the same training as one before."""
    found: dict[tuple[object, ...], Entry] = {}
    for entry in entries:
        found.setdefault((entry.kind, entry.widths, entry.weights, entry.study, entry.error_mm), entry)
    return list(found.values())


def base_runs(entries: Sequence[Entry]) -> list[Entry]:
    """Distinct runs with the default weights of the losses, on the widest momentum range that there is."""
    present = {entry.study for entry in entries}
    widest = [str(name) for name, _ in _NARROW_FIRST if name in present][-1:]
    return [entry for entry in distinct(entries) if entry.is_standard and entry.study in widest]


def of_kind(entries: Iterable[Entry], kind: str) -> list[Entry]:
    """Runs of one kind of network, the smallest first."""
    return sorted((entry for entry in entries if entry.kind == kind), key=lambda entry: entry.num_parameters)


def panels(entries: Sequence[Entry], most: int = 8) -> dict[str, list[Entry]]:
    """Arrange runs for pictures in which their curves can be told apart.

    Args:
        entries: The runs.
        most: As many curves fit into one panel.

    Returns:
        Runs by title of the panel: all in one where they fit; otherwise the sizes of each kind of network,
        then the same network with several weights of the losses, with several momentum ranges, and the rest.
    """
    if len(entries) <= most:
        return {"all runs": list(entries)}
    base, unique = base_runs(entries), distinct(entries)
    found = {name: of_kind(base, kind) for kind, name in NAMES.items()}
    ranges = {e.study for e in base}
    for first in base:
        same = [e for e in unique if (e.kind, e.widths) == (first.kind, first.widths)]
        weights = [e for e in same if e.study in ranges]
        if first.kind in WITH_PHYSICS and len({e.weights for e in weights}) > 1:
            found[f"{first.name}, weights of the losses"] = weights
        momenta = [e for e in same if e.is_standard]
        if len({e.study for e in momenta}) > 1:
            found[f"{first.name}, momentum ranges"] = momenta
    placed = {id(entry) for rows in found.values() for entry in rows}
    found["others"] = [entry for entry in unique if id(entry) not in placed]
    return {title: rows for title, rows in found.items() if rows}


def answers(entries: Sequence[Entry]) -> list[tuple[str, str, Table]]:
    """Answer the questions of the study from the data.

    Args:
        entries: The runs.

    Returns:
        Question, answer, and a table whose first line is its head.
    """
    return [
        ("Does the physics loss help?", *does_physics_help(entries)),
        ("How fast do the losses converge?", *how_fast(entries)),
        ("Does the physics loss converge?", *does_physics_converge(entries)),
        ("How does the size change the speed of convergence?", *size_and_speed(entries)),
        ("Is there overfitting?", *is_there_overfitting(entries)),
    ]


def does_physics_help(entries: Sequence[Entry]) -> Answer:
    """Compare networks of the same widths, on the same tracks, with and without physics."""
    table = [["network with physics", "weights", "mean mm", "without physics", "mean mm", "ratio"]]
    over_mlp: list[float] = []
    over_itself: list[float] = []
    unique = distinct(entries)
    for entry in unique:
        if not entry.has_physics:
            continue
        for peer in unique:
            if peer.has_physics or (peer.widths, peer.study) != (entry.widths, entry.study):
                continue
            if peer.kind == "mlp" and entry.is_standard:
                ratios = over_mlp
            elif peer.kind == entry.kind:
                ratios = over_itself
            else:
                continue
            ratios.append(entry.error_mm / peer.error_mm)
            weights = ", ".join(f"{weight:g}" for weight in entry.weights)
            table.append(
                [entry.name, weights, _mm(entry), peer.name, _mm(peer), f"{ratios[-1]:.2f}"]
            )  # fmt: skip
    texts = [
        f"In {sum(ratio < 1 for ratio in ratios)} of {len(ratios)} pairs the network with physics is more "
        f"accurate than {peer}; the median ratio of the errors is {np.median(ratios):.2f}."
        for ratios, peer in (
            (over_mlp, "the MLP of the same widths"),
            (over_itself, "the same network trained without"),
        )
        if ratios
    ]
    if not texts:
        return "Give an MLP and a PINN or RK_PINN of the same widths to answer this.", []
    return " ".join(texts), table


def how_fast(entries: Sequence[Entry]) -> Answer:
    """Epochs to 90 % of the improvement."""
    table = [["run", "epochs", "epochs to 90 %", "best epoch"]]
    found = []
    for entry in entries:
        epochs = epochs_to_converge(entry.curve)
        if epochs is not None:
            found.append(epochs)
        table.append([entry.name, str(len(entry.curve)), _or_dash(epochs), str(entry.history["best_epoch"])])
    if not found:
        return "No run improved; train for more epochs.", table
    text = (
        f"90 % of the improvement of the position error takes {min(found)} to {max(found)} epochs, "
        f"{np.median(found):g} in the median."
    )
    return text, table


def does_physics_converge(entries: Sequence[Entry]) -> Answer:
    """First and last values of the parts of the physics loss."""
    table = [["run", "part", "first epoch", "last epoch", "ratio"]]
    falling = total = 0
    for entry in distinct(entries):
        if not entry.has_physics:
            continue
        for part in ("ic_loss", "pde_loss"):
            values = [row[part] for row in entry.history["train"] if row.get(part)]
            if len(values) < 2:
                continue
            total += 1
            falling += values[-1] < values[0]
            table.append(
                [entry.name, part, f"{values[0]:.3g}", f"{values[-1]:.3g}", f"{values[-1] / values[0]:.3g}"]
            )
    if not total:
        return "Give a PINN or RK_PINN with task.lambda_pde above 0 to answer this.", []
    return f"{falling} of {total} physics losses end below their first epoch.", table


def size_and_speed(entries: Sequence[Entry]) -> Answer:
    """Epochs to 90 % and error of the sizes of each kind."""
    table = [["kind", "weights", "run", "epochs to 90 %", "mean mm"]]
    texts = []
    base = base_runs(entries)
    for kind, name in NAMES.items():
        rows = of_kind(base, kind)
        epochs = [epochs_to_converge(e.curve) for e in rows]
        for entry, number in zip(rows, epochs, strict=True):
            table.append([name, f"{entry.num_parameters:,}", entry.name, _or_dash(number), _mm(entry)])
        if len({e.num_parameters for e in rows}) > 1 and epochs[0] is not None and epochs[-1] is not None:
            small, large = rows[0], rows[-1]
            texts.append(
                f"{name}: {small.num_parameters:,} weights need {epochs[0]} epochs and reach "
                f"{_mm(small)} mm, {large.num_parameters:,} need {epochs[-1]} and reach {_mm(large)} mm."
            )
    return " ".join(texts) or "Give runs of one kind in several sizes to answer this.", table


def is_there_overfitting(entries: Sequence[Entry]) -> Answer:
    """Validation over training loss of the end."""
    table = [["run", "validation / training"]]
    overfitted = []
    for entry in entries:
        ratio = overfitting_ratio(*entry.end_losses)
        table.append([entry.name, f"{ratio:.2f}"])
        if ratio > OVERFITTING_RATIO:
            overfitted.append(entry.name)
    if not overfitted:
        return (
            f"No: the validation loss stays below {OVERFITTING_RATIO} times the training loss in all runs.",
            table,
        )
    return (
        f"Yes, in {', '.join(overfitted)}: the validation loss is more than {OVERFITTING_RATIO} times the "
        "training loss.",
        table,
    )


def three_digits(value: float) -> str:
    """A number in three digits, or more where it is 1000 or larger."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _mm(entry: Entry) -> str:
    return three_digits(entry.error_mm)


def _or_dash(number: int | None) -> str:
    return "–" if number is None else str(number)
