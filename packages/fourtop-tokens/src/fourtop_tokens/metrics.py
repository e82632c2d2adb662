"""Figures of merit of a classifier.

The area under the ROC curve is the probability that a signal event scores above a background event, ties
counting one half (Mann-Whitney). The signal efficiency at 1/ε_B = R is the largest that a threshold reaches
with ε_B ≤ 1/R, without interpolation between thresholds.

N events.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

REJECTIONS = (10, 50, 100, 1000)  # 1/ε_B at which efficiencies are quoted
STABLE_ABOVE = 100  # background events above the threshold, for a relative error of ε_B below 10 %


def auroc(is_signal: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve.

    Args:
        is_signal: True for signal, (N,).
        scores: Larger for signal, (N,).

    Returns:
        Area in [0, 1].

    Raises:
        ValueError: One of the two classes is empty.
    """
    from scipy.stats import rankdata  # a second to import, which no training needs to begin

    signal, background = split_scores(is_signal, scores)
    ranks = rankdata(np.concatenate([signal, background]))[: signal.size]
    above = ranks.sum() - signal.size * (signal.size + 1) / 2
    return float(above / (signal.size * background.size))


def split_scores(is_signal: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores of signal and background.

    Args:
        is_signal: True for signal, (N,).
        scores: (..., N).

    Returns:
        Signal scores (..., S) and background scores (..., B).

    Raises:
        ValueError: One of the two classes is empty, or a score is not finite.
    """
    mask, values = np.asarray(is_signal, bool), np.asarray(scores, np.float64)
    if not 0 < mask.sum() < mask.size:
        raise ValueError("both signal and background are needed")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    return values[..., mask], values[..., ~mask]


def roc_curve(is_signal: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ROC curve, one point for each different score.

    Args:
        is_signal: True for signal, (N,).
        scores: Larger for signal, (N,).

    Returns:
        Background and signal efficiencies, ascending from 0 to 1.

    Raises:
        ValueError: One of the two classes is empty.
    """
    signal, background = split_scores(is_signal, scores)
    thresholds = np.unique(np.concatenate([signal, background]))[::-1]
    passed = [
        np.concatenate([[0.0], 1 - np.searchsorted(np.sort(values), thresholds) / values.size])
        for values in (background, signal)
    ]
    return passed[0], passed[1]


def signal_efficiency_at(is_signal: ArrayLike, scores: ArrayLike, rejection: float) -> float:
    """Signal efficiency at a background rejection.

    Args:
        is_signal: True for signal, (N,).
        scores: Larger for signal, (N,).
        rejection: 1/ε_B.

    Returns:
        ε_S in [0, 1].

    Raises:
        ValueError: One of the two classes is empty, or the rejection is not above 1.
    """
    signal, background = split_scores(is_signal, scores)
    if rejection <= 1:
        raise ValueError(f"the rejection 1/ε_B must be above 1, not {rejection}")
    allowed = int(np.floor(background.size / rejection))
    threshold = np.partition(background, background.size - 1 - allowed)[background.size - 1 - allowed]
    return float((signal > threshold).mean())


def is_stable(num_background: int, rejection: float) -> bool:
    """Whether enough background events lie above the threshold to quote an efficiency.

    Args:
        num_background: Background events in the sample.
        rejection: 1/ε_B.

    Returns:
        Whether at least `STABLE_ABOVE` are expected above it.
    """
    return num_background / rejection >= STABLE_ABOVE


def class_aurocs(labels: ArrayLike, probabilities: ArrayLike) -> dict[int, float]:
    """Area under the ROC curve of each class against all others.

    Args:
        labels: Class of each event, (N,).
        probabilities: A column for each class in ascending order of labels, (N, number of classes).

    Returns:
        Area for each label.

    Raises:
        ValueError: The number of columns is not that of the labels that occur.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    classes = np.unique(labels)
    if probabilities.shape[1] != classes.size:
        raise ValueError(f"{probabilities.shape[1]} columns do not match {classes.size} classes")
    return {int(c): auroc(labels == c, probabilities[:, i]) for i, c in enumerate(classes)}


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Fraction of events that are classified right.

    Args:
        labels: True classes, (N,).
        predicted: Predicted classes, (N,).

    Returns:
        Fraction in [0, 1].
    """
    return float((np.asarray(labels) == np.asarray(predicted)).mean())


def weighted_f1(labels: ArrayLike, predicted: ArrayLike) -> float:
    """F1 of each class, averaged with the number of its events.

    Args:
        labels: True classes, (N,).
        predicted: Predicted classes, (N,).

    Returns:
        Score in [0, 1].
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    total = 0.0
    for c in np.unique(labels):
        support = int((labels == c).sum())
        hits = int(((labels == c) & (predicted == c)).sum())
        total += support * 2 * hits / (support + int((predicted == c).sum()))
    return total / labels.size
