"""Baseline: gradient-boosted decision trees on quantities of whole events, with the hypothesis among them.

References:
    G. Ke et al., NeurIPS 30 (2017), histograms as in `HistGradientBoostingClassifier`.

Dimensions: N events.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from chhiggs_pnet.data.schema import CLASSES
from chhiggs_pnet.data.summary import NAMES, PAIR_MASSES, summarize
from chhiggs_pnet.physics.events import Array


class BoostedTrees:
    """One parametric classifier for every hypothesis.

    Args:
        max_iter: Number of boosting rounds.
        learning_rate: Shrinkage.
        max_leaf_nodes: Leaves of a tree.
        pair_masses: Whether it sees the muon pair masses.
        seed: Seed.
    """

    def __init__(
        self, *, max_iter: int = 150, learning_rate: float = 0.1, max_leaf_nodes: int = 31,
        pair_masses: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        self._kept = [i for i, name in enumerate(NAMES) if pair_masses or name not in PAIR_MASSES]
        self._trees = HistGradientBoostingClassifier(
            max_iter=max_iter, learning_rate=learning_rate, max_leaf_nodes=max_leaf_nodes, random_state=seed,
            early_stopping=False,
        )  # fmt: skip

    def fit(self, columns: dict[str, Array], masses: Array, label: Array, weight: Array) -> None:
        """Train.

        Args:
            columns: Columns of the store with all features, (N, ...).
            masses: Hypotheses in GeV, (N, 2).
            label: Index into `CLASSES`, (N,).
            weight: Non-negative weights, (N,).
        """
        self._trees.fit(summarize(columns, masses)[:, self._kept], label, sample_weight=weight)

    def log_probabilities(self, columns: dict[str, Array], masses: Array) -> NDArray[np.float64]:
        """Classify.

        Args:
            columns: As in `fit`.
            masses: As in `fit`.

        Returns:
            Logarithm of the class probabilities, (N, classes).
        """
        found = np.full((len(masses), len(CLASSES)), 1e-12)
        found[:, self._trees.classes_.astype(np.int64)] = self._trees.predict_proba(
            summarize(columns, masses)[:, self._kept]
        )
        return np.asarray(np.log(np.maximum(found, 1e-12)))
