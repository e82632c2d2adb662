import numpy as np
import pytest

from jet_foundation.metrics.anomaly import fit_known, mahalanobis
from jet_foundation.metrics.classification import auc


def test_distance_in_units_of_the_known_spread() -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(20_000, 3)) * [1.0, 5.0, 0.1] + [2.0, 0.0, -1.0]
    described = fit_known(known, shrinkage=0.0)
    far = np.array([[3.0, 0.0, -1.0], [2.0, 5.0, -1.0], [2.0, 0.0, -0.9], [2.0, 0.0, -1.0]])
    assert mahalanobis(far, *described) == pytest.approx([1.0, 1.0, 1.0, 0.0], abs=0.03)


def test_strange_jets_stand_out_along_a_narrow_direction() -> None:
    rng = np.random.default_rng(1)
    known, ordinary = rng.normal(size=(2, 2000, 4)) * [1, 1, 1, 0.05]
    strange = ordinary + np.array([0, 0, 0, 0.3])
    scores = mahalanobis(np.concatenate([ordinary, strange]), *fit_known(known, shrinkage=1e-4))
    assert auc(scores, np.arange(4000) >= 2000) > 0.95


def test_fewer_jets_than_numbers() -> None:
    rng = np.random.default_rng(2)
    assert np.isfinite(mahalanobis(rng.normal(size=(5, 16)), *fit_known(rng.normal(size=(3, 16))))).all()
