"""How well a score tells signal from background, with event weights and ties counted half.

With weights w, signal s and background b,

    AUC   P(s > b) + P(s = b)/2
    ε_S   signal efficiency at the loosest cut whose background efficiency is at most ε_B
    LR    p_s / (p_s + Σ_b f_b p_b),   Σ_b f_b = 1: the discriminant of class probabilities p

Legend: N events, R weightings.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


class RankedScores:
    """Scores sorted once, for statistics under many weightings.

    With B(k) the weight of the first k background events in descending order of their scores, and the
    numbers of background events above (lo_s) and not below (hi_s) a signal event s,

        AUC = Σ_s w_s (B(N_b) − (B(lo_s) + B(hi_s)) / 2) / (B(N_b) Σ_s w_s)

    Args:
        scores: Larger is more signal-like, (N,), finite.
        is_signal: Class of each event, (N,).

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """

    def __init__(self, scores: ArrayLike, is_signal: ArrayLike) -> None:
        values, signal = np.asarray(scores, np.float64), np.asarray(is_signal, np.bool_)
        if not np.isfinite(values).all():
            raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are not finite")
        if signal.all() or not signal.any():
            raise ValueError("both signal and background events are needed")
        self._order = order = np.argsort(-values, kind="stable")
        self._last = np.flatnonzero(np.append(values[order][1:] != values[order][:-1], True))  # of each tie
        self._classes = ~signal[order], signal[order]
        self._signal, self._background = order[signal[order]], order[~signal[order]]
        falling_signal, falling = -values[self._signal], -values[self._background]
        self._above = np.searchsorted(falling, falling_signal, side="left")
        self._not_below = np.searchsorted(falling, falling_signal, side="right")
        # Cuts are between distinct background scores: number of background events that each lets pass, and
        # of signal events that pass before the next background event does.
        ends = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) + 1
        self._passing = np.append(0, ends)
        following = np.append(falling[self._passing[:-1]], np.inf)
        self._signal_before = np.searchsorted(falling_signal, following, side="left")

    def _accumulate(self, weights: FloatArray, events: NDArray[np.int64]) -> FloatArray:
        """Weight of the first 0, 1, ... of some events, (R, events + 1)."""
        out = np.zeros((len(weights), len(events) + 1))
        np.cumsum(weights[:, events], axis=1, out=out[:, 1:])
        return out

    def auc(self, weights: FloatArray) -> FloatArray:
        """Area under the ROC curve.

        Args:
            weights: (R, N).

        Returns:
            (R,).
        """
        signal, background = weights[:, self._signal], self._accumulate(weights, self._background)
        total = background[:, -1]
        beaten = total[:, None] - (background[:, self._above] + background[:, self._not_below]) / 2
        return np.asarray((signal * beaten).sum(axis=1) / (total * signal.sum(axis=1)))

    def efficiency(self, weights: FloatArray, background_efficiency: float) -> FloatArray:
        """Signal efficiency at a background efficiency.

        Args:
            weights: (R, N).
            background_efficiency: Largest background efficiency allowed.

        Returns:
            (R,); 0 where even the highest score lets too much background pass.
        """
        background = self._accumulate(weights, self._background)
        share = background[:, self._passing] / background[:, -1:]
        # Negative weights make the curve non-monotonic: stop before the first cut that is too loose.
        allowed = np.maximum.accumulate(share, axis=1) <= background_efficiency + 1e-12
        number = allowed.sum(axis=1) - 1
        signal = self._accumulate(weights, self._signal)
        return np.asarray(signal[np.arange(len(weights)), self._signal_before[number]] / signal[:, -1])

    def curve(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """ROC curve.

        Args:
            weights: (N,).

        Returns:
            Background and signal efficiency from 0 to 1, one point per distinct score and the origin.
        """
        ordered = weights[self._order]
        steps = (np.cumsum(np.where(chosen, ordered, 0.0))[self._last] for chosen in self._classes)
        background, signal = (np.append(0.0, step) / step[-1] for step in steps)
        return background, signal


def _weights_of(is_signal: ArrayLike, weights: ArrayLike | None) -> FloatArray:
    return np.ones(len(np.asarray(is_signal))) if weights is None else np.asarray(weights, np.float64)


def auc(scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Weighted area under the ROC curve, ties counted half.

    Args:
        scores: Larger is more signal-like, (N,).
        is_signal: Class of each event, (N,).
        weights: Event weights, (N,); 1 if None.

    Returns:
        In [0, 1] for positive weights.

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    return float(RankedScores(scores, is_signal).auc(_weights_of(is_signal, weights)[None])[0])


def signal_efficiency(
    scores: ArrayLike, is_signal: ArrayLike, background_efficiency: float, weights: ArrayLike | None = None
) -> float:
    """Weighted signal efficiency at a background efficiency.

    Args:
        scores: Larger is more signal-like, (N,).
        is_signal: Class of each event, (N,).
        background_efficiency: Largest background efficiency allowed.
        weights: Event weights, (N,); 1 if None.

    Returns:
        ε_S.

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    ranked = RankedScores(scores, is_signal)
    return float(ranked.efficiency(_weights_of(is_signal, weights)[None], background_efficiency)[0])


def roc_curve(
    scores: ArrayLike, is_signal: ArrayLike, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Weighted ROC curve.

    Args:
        scores: Larger is more signal-like, (N,).
        is_signal: Class of each event, (N,).
        weights: Event weights, (N,); 1 if None.

    Returns:
        Background and signal efficiency, from (0, 0) to (1, 1).

    Raises:
        ValueError: A score is not finite, or a class is empty.
    """
    return RankedScores(scores, is_signal).curve(_weights_of(is_signal, weights))


def likelihood_ratio(probabilities: ArrayLike, background_yields: ArrayLike) -> FloatArray:
    """Discriminant p_s / (p_s + Σ f_b p_b) with yield fractions f_b, Σ f_b = 1.

    Args:
        probabilities: Class probabilities, signal first, (N, classes).
        background_yields: Expected yield of each background, non-negative, (classes − 1,); a single non-zero
            one gives the discriminant against that background.

    Returns:
        (N,) in [0, 1].
    """
    p, yields = np.asarray(probabilities, np.float64), np.asarray(background_yields, np.float64)
    background = p[:, 1:] @ (yields / yields.sum())
    return np.asarray(p[:, 0] / np.maximum(p[:, 0] + background, 1e-300))
