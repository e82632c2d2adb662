"""Every fast statistic against its definition."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid

from chhiggs_pnet.metrics.discrimination import auc, likelihood_ratio, roc_curve, signal_efficiency


def test_auc_is_the_probability_that_signal_beats_background(scored) -> None:
    scores, is_signal, weights = scored()
    s, b = scores[is_signal][:, None], scores[~is_signal]
    pair = weights[is_signal][:, None] * weights[~is_signal]
    expected = np.sum(pair * ((s > b) + 0.5 * (s == b))) / pair.sum()
    assert auc(scores, is_signal, weights) == pytest.approx(expected, abs=1e-12)


def test_unweighted_auc_is_the_mann_whitney_statistic(scored) -> None:
    scores, is_signal, _ = scored()
    u = stats.mannwhitneyu(scores[is_signal], scores[~is_signal]).statistic
    expected = u / (is_signal.sum() * (~is_signal).sum())
    assert auc(scores, is_signal) == pytest.approx(expected, abs=1e-12)


def test_auc_accepts_negative_weights(scored) -> None:
    scores, is_signal, weights = scored()
    weights[::10] *= -1
    s, b = scores[is_signal][:, None], scores[~is_signal]
    pair = weights[is_signal][:, None] * weights[~is_signal]
    expected = np.sum(pair * ((s > b) + 0.5 * (s == b))) / pair.sum()
    assert auc(scores, is_signal, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("target", [0.01, 0.1, 0.5, 1.0])
def test_efficiency_takes_the_loosest_allowed_cut(scored, target: float) -> None:
    scores, is_signal, weights = scored()
    best = 0.0
    for cut in np.unique(scores):
        passed = scores >= cut
        if weights[passed & ~is_signal].sum() <= target * weights[~is_signal].sum() * (1 + 1e-12):
            best = max(best, weights[passed & is_signal].sum() / weights[is_signal].sum())
    assert signal_efficiency(scores, is_signal, target, weights) == pytest.approx(best, abs=1e-12)


def test_area_under_the_curve_is_the_auc(scored) -> None:
    scores, is_signal, weights = scored()
    background, signal = roc_curve(scores, is_signal, weights)
    assert (background[0], signal[0]) == (0.0, 0.0)
    assert background[-1] == pytest.approx(1.0)
    assert trapezoid(signal, background) == pytest.approx(auc(scores, is_signal, weights), abs=1e-12)


def test_scores_must_be_finite_and_of_two_classes() -> None:
    with pytest.raises(ValueError, match="1 scores are not finite"):
        auc([0.1, np.nan], [True, False])
    with pytest.raises(ValueError, match="both signal and background"):
        auc([0.1, 0.2], [True, True])


def test_likelihood_ratio_weighs_backgrounds_by_yield() -> None:
    p = np.array([[0.4, 0.3, 0.2, 0.1]])
    assert likelihood_ratio(p, [1, 0, 0])[0] == pytest.approx(0.4 / 0.7)
    assert likelihood_ratio(p, [2, 1, 1])[0] == pytest.approx(0.4 / (0.4 + 0.15 + 0.05 + 0.025))
