"""Intervals against repeated experiments; a worse classifier is called worse."""

import numpy as np
import pytest

from chhiggs_pnet.metrics.discrimination import RankedScores, auc
from chhiggs_pnet.metrics.non_inferiority import bootstrap_weights, compare, holm


def test_bootstrap_resamples_keep_the_classes(scored) -> None:
    _, is_signal, _ = scored()
    sample = bootstrap_weights(is_signal, np.ones(300), 20, np.random.default_rng(0))
    assert (sample[:, is_signal].sum(axis=1) == is_signal.sum()).all()
    assert (sample[:, ~is_signal].sum(axis=1) == (~is_signal).sum()).all()
    assert 0.3 < (sample == 0).mean() < 0.43  # 1/e


def test_the_paired_interval_is_much_narrower_than_the_unpaired(scored) -> None:
    scores, is_signal, weights = scored(2000, ties=False)
    other = scores + 0.05 * np.random.default_rng(1).normal(size=len(scores))
    result = compare(other, scores, is_signal, weights, margin=-0.005, num_resamples=100)
    alone = RankedScores(scores, is_signal).auc(
        bootstrap_weights(is_signal, weights, 100, np.random.default_rng(2))
    )
    assert result.sigma < 0.2 * alone.std()
    assert result.non_inferior
    assert result.lower < result.difference


def test_a_worse_model_is_not_called_non_inferior(scored) -> None:
    scores, is_signal, _ = scored(2000, ties=False)
    worse = scores + np.random.default_rng(1).normal(size=len(scores))
    result = compare(worse, scores, is_signal, margin=-0.005, num_resamples=100)
    assert not result.non_inferior
    assert result.p_value > 0.99
    ratio = compare(worse, scores, is_signal, margin=0.95, background_efficiency=0.1, num_resamples=50)
    assert ratio.difference == pytest.approx(ratio.value / ratio.reference)
    assert not ratio.non_inferior


def test_bootstrap_error_agrees_with_repeated_experiments(scored) -> None:
    def difference(seed: int) -> float:
        scores, is_signal, _ = scored(400, seed, ties=False)
        other = scores + np.random.default_rng(seed + 1000).normal(size=400)
        return auc(other, is_signal) - auc(scores, is_signal)

    spread = np.std([difference(seed) for seed in range(300)])
    scores, is_signal, _ = scored(400, 7, ties=False)
    other = scores + np.random.default_rng(1007).normal(size=400)
    result = compare(other, scores, is_signal, margin=-0.005, num_resamples=400)
    assert result.sigma == pytest.approx(spread, rel=0.2)


def test_seed_variance_widens_the_interval(scored) -> None:
    scores, is_signal, _ = scored(1000, ties=False)
    noise = np.random.default_rng(3).normal(size=(3, 1000)) * np.array([[0.1], [0.5], [1.0]])
    one = compare(scores, scores, is_signal, margin=-0.005, num_resamples=20)
    three = compare(scores + noise, scores, is_signal, margin=-0.005, num_resamples=20)
    aucs = [auc(row, is_signal) for row in scores + noise]
    assert one.sigma == 0.0
    assert three.value == pytest.approx(np.mean(aucs))
    assert three.sigma**2 >= np.var(aucs, ddof=1) / 3


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.2, 0.001]) == [False, True]
