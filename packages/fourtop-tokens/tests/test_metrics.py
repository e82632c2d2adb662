import numpy as np
import pytest
from sklearn import metrics as sk

from fourtop_tokens import metrics


def scores(seed, n=800, ties=False):
    rng = np.random.default_rng(seed)
    is_signal = rng.random(n) < 0.4
    values = rng.normal(is_signal * 1.2, 1)
    return is_signal, np.round(values, 1) if ties else values


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_auroc_equals_sklearn(seed, ties):
    is_signal, values = scores(seed, ties=ties)
    assert metrics.auroc(is_signal, values) == pytest.approx(sk.roc_auc_score(is_signal, values), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_roc_curve_equals_sklearn(ties):
    is_signal, values = scores(2, ties=ties)
    fpr, tpr, _ = sk.roc_curve(is_signal, values, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(is_signal, values), (fpr, tpr), atol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("rejection", [1.5, 10, 50, 100, 1e6])
def test_signal_efficiency_is_the_best_point_allowed(rejection, ties):
    is_signal, values = scores(3, ties=ties)
    fpr, tpr, _ = sk.roc_curve(is_signal, values, drop_intermediate=False)
    expected = tpr[fpr <= 1 / rejection].max()
    assert metrics.signal_efficiency_at(is_signal, values, rejection) == pytest.approx(expected, abs=1e-12)


def test_useless_scores():
    is_signal, values = scores(0)
    assert metrics.auroc(is_signal, np.zeros_like(values)) == 0.5
    assert metrics.signal_efficiency_at(is_signal, np.zeros_like(values), 10) == 0


def test_multiclass_scores_equal_sklearn():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 6, 500)
    probabilities = rng.random((500, 5)) + 0.5 * np.eye(5)[labels - 1]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1) + 1
    expected = sk.roc_auc_score(labels, probabilities, multi_class="ovr", average=None)
    np.testing.assert_allclose(list(metrics.class_aurocs(labels, probabilities).values()), expected)
    assert metrics.weighted_f1(labels, predicted) == pytest.approx(
        sk.f1_score(labels, predicted, average="weighted")
    )
    assert metrics.accuracy(labels, predicted) == pytest.approx(sk.accuracy_score(labels, predicted))


def test_stability_needs_a_hundred_events():
    assert metrics.is_stable(14_832, 100)
    assert not metrics.is_stable(14_832, 1000)


@pytest.mark.parametrize(
    ("is_signal", "values", "message"),
    [([1, 1], [0, 1], "both signal and background"), ([1, 0], [np.nan, 1], "finite")],
)
def test_what_cannot_be_scored(is_signal, values, message):
    with pytest.raises(ValueError, match=message):
        metrics.auroc(is_signal, values)


def test_a_rejection_below_one():
    with pytest.raises(ValueError, match=r"above 1, not 0\.5"):
        metrics.signal_efficiency_at([1, 0], [1, 0], 0.5)


def test_columns_must_match_classes():
    with pytest.raises(ValueError, match="3 columns do not match 2 classes"):
        metrics.class_aurocs([1, 2], np.ones((2, 3)))
