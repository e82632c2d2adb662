"""Tables reproduce the densities they were made of."""

import numpy as np
from scipy import stats

from chhiggs_pnet.physics.sampling import InverseCdf


def test_draws_follow_the_density() -> None:
    x = np.linspace(0.0, 2.0, 2001)
    draws = InverseCdf(x, x).draw(np.random.default_rng(0), 50_000)
    assert stats.kstest(draws, lambda v: v**2 / 4).pvalue > 1e-3


def test_rows_are_interpolated_in_density() -> None:
    x = np.linspace(0.0, 1.0, 1001)
    table = InverseCdf(np.stack([x, x]), np.stack([np.ones_like(x), 2 * x]), np.array([10.0, 20.0]))
    draws = table.draw(np.random.default_rng(0), 50_000, at=15.0)
    assert stats.kstest(draws, lambda v: (v + v**2) / 2).pvalue > 1e-3
    beyond = table.draw(np.random.default_rng(0), 50_000, at=99.0)
    assert stats.kstest(beyond, lambda v: v**2).pvalue > 1e-3
