"""Scores, classes and weights of some events."""

import numpy as np
import pytest


def scored_events(num: int = 300, seed: int = 0, *, ties: bool = True):
    rng = np.random.default_rng(seed)
    is_signal = rng.random(num) < 0.4
    scores = rng.normal(size=num) + is_signal
    if ties:
        scores = np.round(scores, 1)
    return scores, is_signal, rng.exponential(1.0, num)


@pytest.fixture
def scored():
    """Function that gives scores, classes and weights of some events."""
    return scored_events
