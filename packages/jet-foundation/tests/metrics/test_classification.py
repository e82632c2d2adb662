import numpy as np
import pytest

from jet_foundation.metrics.classification import (
    accuracy,
    auc,
    auc_one_vs_one,
    auc_one_vs_rest,
    background_rejection,
    class_rejections,
    classification_metrics,
    confusion_matrix,
    macro_f1,
    roc_curve,
)


@pytest.fixture
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    logits = rng.normal(0, 1, (400, 3)) + 0.7 * np.eye(3)[labels]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), labels


def test_auc_counts_ordered_pairs() -> None:
    rng = np.random.default_rng(1)
    scores, positive = np.round(rng.normal(0, 1, 60), 1), rng.random(60) < 0.4
    a, b = scores[positive][:, None], scores[~positive]
    assert auc(scores, positive) == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    assert np.isnan(auc(scores, np.ones(60, bool)))


def test_macro_aucs_average_binary_ones(scored: tuple[np.ndarray, np.ndarray]) -> None:
    p, labels = scored
    assert auc_one_vs_rest(p, labels) == pytest.approx(np.mean([auc(p[:, c], labels == c) for c in range(3)]))
    pairs = []
    for a in range(3):
        for b in range(3):
            if a != b:
                both = np.isin(labels, (a, b))
                pairs.append(auc(p[both, a], labels[both] == a))
    assert auc_one_vs_one(p, labels) == pytest.approx(np.mean(pairs))


def test_accuracy_top_k_and_ties() -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]])
    labels = np.array([0, 1, 2])
    assert accuracy(p, labels) == pytest.approx(1 / 3)
    assert accuracy(p, labels, top=2) == pytest.approx(2 / 3)
    assert accuracy(np.full((30, 3), 1 / 3), np.arange(30) % 3) == pytest.approx(1 / 3)


def test_confusion_and_f1() -> None:
    predicted, labels = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0])
    assert confusion_matrix(predicted, labels, 3).tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]
    assert macro_f1(predicted, labels, 3) == pytest.approx((0.5 + 2 / 3 + 2 / 3) / 3)


def test_rejection_of_a_known_curve() -> None:
    # Signal uniform on [0, 1], background with density 2 (1 − x): ε_B = ε_S² at the same threshold.
    grid = (np.arange(20000) + 0.5) / 20000
    scores = np.concatenate([grid, 1 - np.sqrt(1 - grid)])
    positive = np.arange(40000) < 20000
    assert background_rejection(scores, positive, 0.5) == pytest.approx(4, rel=1e-2)
    assert background_rejection(scores, positive, 0.3) == pytest.approx(1 / 0.09, rel=1e-2)
    signal, background = roc_curve(scores, positive)
    assert (signal[0], background[0], signal[-1], background[-1]) == (0, 0, 1, 1)
    separated = background_rejection(np.arange(4.0), np.array([False, False, True, True]), 0.5)
    assert separated == np.inf


def test_all_metrics(scored: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = classification_metrics(*scored)
    assert metrics["accuracy"] < metrics["top3_accuracy"] == 1
    assert metrics["rejection_50_1"] == class_rejections(*scored, 0.5)[1]
    assert metrics["rejection_30_2"] > metrics["rejection_50_2"] > 2
