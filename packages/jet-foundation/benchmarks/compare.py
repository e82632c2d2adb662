"""Compare two groups of classification runs, one run a seed, on the same test jets.

    python compare.py --ours runs/a-1 runs/a-2 runs/a-3 --peer runs/b-1 runs/b-2 runs/b-3

The difference is paired: run by run in the order given, jet by jet. Its 95 % interval is a bootstrap over the
test jets and over the pairs of runs together.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hep_shared.run import RunDir
from jet_foundation.evaluate import open_module
from jet_foundation.metrics.classification import accuracy, auc_one_vs_rest
from jet_foundation.tasks.common import build_stream

Array = NDArray[Any]
NUM_BOOTSTRAPS = 400
METRICS = {"accuracy": accuracy, "AUC": auc_one_vs_rest}


@torch.no_grad()
def probabilities(run: Path) -> tuple[Array, Array]:
    """Probabilities (J, C) of the test jets by a run's averaged weights, and their classes (J,)."""
    config, module, normalization = open_module(RunDir.open(run), "best")
    found, labels = [], []
    for batch in build_stream(config, "test", normalization=normalization).batches():
        found.append(module(batch.p4, batch.features, batch.valid_mask, batch.labels)[1].numpy())
        labels.append(batch.labels.numpy())
    return np.concatenate(found), np.concatenate(labels)


def main() -> None:
    """Print both groups and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for group in ("ours", "peer"):
        parser.add_argument(f"--{group}", nargs="+", type=Path, required=True)
    arguments = parser.parse_args()
    if len(arguments.ours) != len(arguments.peer):
        parser.error("give as many runs to --ours as to --peer")
    groups = {name: [probabilities(run) for run in getattr(arguments, name)] for name in ("ours", "peer")}
    labels = groups["ours"][0][1]
    if any(not np.array_equal(labels, found[1]) for group in groups.values() for found in group):
        parser.error("the runs have different test jets")
    values = {name: np.stack([found[0] for found in group]) for name, group in groups.items()}
    rng = np.random.default_rng(0)
    num_runs, num_jets = len(arguments.ours), len(labels)
    draws = [
        (rng.integers(num_runs, size=num_runs), rng.integers(num_jets, size=num_jets))
        for _ in range(NUM_BOOTSTRAPS)
    ]
    for metric, measure in METRICS.items():
        scores = {name: [measure(one, labels) for one in group] for name, group in values.items()}
        for name, found in scores.items():
            print(f"{metric} {name}: {np.mean(found):.4f} of", " ".join(f"{score:.4f}" for score in found))
        moved = []
        for runs, jets in draws:
            seen = dict.fromkeys(runs)
            gain = {
                run: measure(values["ours"][run][jets], labels[jets])
                - measure(values["peer"][run][jets], labels[jets])
                for run in seen
            }
            moved.append(np.mean([gain[run] for run in runs]))
        low, high = np.quantile(moved, [0.025, 0.975])
        difference = np.mean(scores["ours"]) - np.mean(scores["peer"])
        print(f"{metric} difference: {difference:+.4f} ({low:+.4f} to {high:+.4f})")


if __name__ == "__main__":
    main()
