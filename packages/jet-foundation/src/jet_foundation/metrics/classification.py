r"""Metrics of classifiers.

    background rejection = 1 / ε_B at the threshold where ε_S = 0.3 or 0.5, of p_S / (p_S + p_QCD)
    AUC one-vs-rest, one-vs-one: unweighted means (D. Hand, R. Till, Machine Learning 45 (2001) 171)

Dimensions: J jets, C classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def accuracy(probabilities: Array, labels: Array, *, top: int = 1) -> float:
    """Share of jets whose class is among the most probable.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).
        top: How many classes count as hits.

    Returns:
        Accuracy in [0, 1].
    """
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    # Of tied classes half count as better, so that a constant answer is as good as guessing.
    ties = (probabilities == own).sum(axis=1) - 1
    rank = (probabilities > own).sum(axis=1)
    hits = np.clip((top - rank) / (ties + 1), 0.0, 1.0)
    return float(hits.mean())


def confusion_matrix(predicted: Array, labels: Array, num_classes: int) -> Array:
    """Count jets by true and predicted class.

    Args:
        predicted: Predicted class numbers, (J,).
        labels: True class numbers, (J,).
        num_classes: Number of classes C.

    Returns:
        Counts with true classes as rows, (C, C) int64.
    """
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def macro_f1(predicted: Array, labels: Array, num_classes: int) -> float:
    """Mean over classes of the harmonic mean of precision and recall.

    Args:
        predicted: Predicted class numbers, (J,).
        labels: True class numbers, (J,).
        num_classes: Number of classes C.

    Returns:
        Macro F1; a class that neither occurs nor is predicted counts 0.
    """
    matrix = confusion_matrix(predicted, labels, num_classes)
    hits = np.diag(matrix)
    return float((2 * hits / np.maximum(matrix.sum(axis=0) + matrix.sum(axis=1), 1)).mean())


def auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve, ties counted half.

    Args:
        scores: Larger means more positive, (J,).
        positive: True for the positive class, (J,) bool.

    Returns:
        Area; NaN when one of the classes is absent.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, number, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = last - (counts - 1) / 2  # mean rank of tied scores
    total = rank[number][positive].sum()
    return float((total - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def auc_one_vs_rest(probabilities: Array, labels: Array) -> float:
    """Mean over classes of the AUC against all others.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).

    Returns:
        Macro AUC; NaN when a class is absent.
    """
    return float(np.mean([auc(probabilities[:, c], labels == c) for c in range(probabilities.shape[1])]))


def auc_one_vs_one(probabilities: Array, labels: Array) -> float:
    """Mean over ordered pairs of classes of the AUC between the two.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).

    Returns:
        Macro AUC; NaN when a class is absent.
    """
    num_classes = probabilities.shape[1]
    by_class = [probabilities[labels == c] for c in range(num_classes)]
    areas = []
    for a in range(num_classes):
        for b in range(num_classes):
            if a != b:
                scores = np.concatenate([by_class[a][:, a], by_class[b][:, a]])
                areas.append(auc(scores, np.arange(len(scores)) < len(by_class[a])))
    return float(np.mean(areas))


def roc_curve(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Efficiencies at every threshold.

    Args:
        scores: Larger means more signal, (J,).
        positive: True for signal, (J,) bool.

    Returns:
        Signal and background efficiency, both rising from 0 to 1.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(positive[order])[last]
    signal = np.concatenate([[0], hits]) / max(positive.sum(), 1)
    background = np.concatenate([[0], last + 1 - hits]) / max((~positive).sum(), 1)
    return signal, background


def background_rejection(scores: Array, positive: Array, signal_efficiency: float) -> float:
    """Inverse background efficiency at a signal efficiency.

    Args:
        scores: Larger means more signal, (J,).
        positive: True for signal, (J,) bool.
        signal_efficiency: Working point.

    Returns:
        1 / ε_B, interpolated between thresholds; infinite when no background passes.
    """
    signal, background = roc_curve(scores, positive)
    efficiency = float(np.interp(signal_efficiency, signal, background))
    return 1 / efficiency if efficiency > 0 else float("inf")


def class_rejections(
    probabilities: Array, labels: Array, signal_efficiency: float, *, background: int = 0
) -> dict[int, float]:
    """Rejection of one background class for each signal class.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).
        signal_efficiency: Working point, 0.5 and 0.3 are customary.
        background: Class number of the background, QCD.

    Returns:
        1 / ε_B by signal class, with the score p_S / (p_S + p_B).
    """
    rejections = {}
    for signal in range(probabilities.shape[1]):
        if signal == background:
            continue
        chosen = np.isin(labels, (signal, background))
        p = probabilities[chosen]
        score = p[:, signal] / np.maximum(p[:, signal] + p[:, background], 1e-300)
        rejections[signal] = background_rejection(score, labels[chosen] == signal, signal_efficiency)
    return rejections


def classification_metrics(probabilities: Array, labels: Array) -> dict[str, float]:
    """All scalar metrics.

    Args:
        probabilities: (J, C).
        labels: Class numbers, (J,).

    Returns:
        Metric by name.
    """
    predicted = probabilities.argmax(axis=1)
    num_classes = probabilities.shape[1]
    metrics = {
        "accuracy": accuracy(probabilities, labels),
        "top3_accuracy": accuracy(probabilities, labels, top=3),
        "macro_f1": macro_f1(predicted, labels, num_classes),
        "auc_ovr": auc_one_vs_rest(probabilities, labels),
        "auc_ovo": auc_one_vs_one(probabilities, labels),
    }
    for efficiency in (0.3, 0.5):
        rejections = class_rejections(probabilities, labels, efficiency)
        for signal, value in rejections.items():
            metrics[f"rejection_{round(efficiency * 100)}_{signal}"] = value
    return metrics
