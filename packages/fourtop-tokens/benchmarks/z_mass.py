"""How much of the mass of lepton pairs a trained network has not used; the table in `quality.md`.

    python z_mass.py EVENTS.h5 RUN [RUN ...]

A gradient-boosted tree gets the logit of a finished run and numbers of leptons, b-jets and jets, without and
with the mass of the pair of leptons of one flavour and opposite charge nearest to the Z. It is fitted in
five folds of the test events. Needs scikit-learn.

N events.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_predict

from fourtop_tokens.data import schema
from fourtop_tokens.data.events import EventSet, read_events
from fourtop_tokens.metrics import auroc
from fourtop_tokens.physics.constants import Z_MASS

OPPOSITE = ((3, 4), (4, 3), (5, 6), (6, 5))
NO_PAIR = -200.0  # GeV


def distance_to_z(events: EventSet) -> NDArray[np.float64]:
    """Mass of the best pair minus that of the Z, `NO_PAIR` without one, (N,) in GeV."""
    energy, pt, eta, phi = np.moveaxis(events.features.astype(np.float64), 2, 0)
    momenta = np.stack([energy, pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
    best = np.full(len(events), NO_PAIR)
    for i in range(schema.NUM_OBJECTS):
        for j in range(i + 1, schema.NUM_OBJECTS):
            kinds = np.stack([events.ids[:, i], events.ids[:, j]])
            pairs = np.any([(kinds == np.array(pair)[:, None]).all(axis=0) for pair in OPPOSITE], axis=0)
            total = momenta[:, :, i] + momenta[:, :, j]
            mass = np.sqrt(np.maximum(total[0] ** 2 - (total[1:] ** 2).sum(axis=0), 0))
            better = pairs & (np.abs(mass - Z_MASS) < np.abs(best))
            best[better] = mass[better] - Z_MASS
    return best


def refit(columns: list[NDArray[np.float64]], is_signal: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Score of a tree on events that it was not fitted on, (N,)."""
    tree = HistGradientBoostingClassifier(max_depth=4, max_iter=120, learning_rate=0.08)
    probabilities = cross_val_predict(
        tree, np.stack(columns, axis=1), is_signal, cv=5, method="predict_proba"
    )
    return np.asarray(probabilities[:, 1])


def main(file: Path, runs: list[Path]) -> None:
    """Print the areas of every run."""
    events = read_events(file, ("test",))["test"]
    is_signal, distance = events.is_signal, distance_to_z(events)
    for label, name in schema.LABELS.items():
        share = (np.abs(distance[events.labels == label]) < 10).mean()
        print(f"{name}: {share:.3f} have a pair within 10 GeV of the Z")
    counts = [np.isin(events.ids, kinds).sum(axis=1).astype(float) for kinds in ((3, 4, 5, 6), (2,), (1, 2))]
    versus_ttz = is_signal | (events.labels == 5)
    for run in runs:
        with np.load(run / "scores_test.npz", allow_pickle=False) as arrays:
            score = arrays["probabilities"][: len(events), 0].astype(np.float64)
        logit = np.log(score / (1 - score))
        columns = [logit, *counts]
        found = {
            "network": score,
            "tree": refit(columns, is_signal),
            "tree with mass": refit([*columns, distance], is_signal),
        }
        areas = [
            f"{name} {auroc(is_signal, s):.4f} (ttZ {auroc(is_signal[versus_ttz], s[versus_ttz]):.4f})"
            for name, s in found.items()
        ]
        print(run.name, "; ".join(areas))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
