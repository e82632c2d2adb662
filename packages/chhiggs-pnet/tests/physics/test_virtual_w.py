"""The W* spectrum against numerical integration and against the notes' means."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.virtual_w import mass_density, mass_spectrum, open_fraction

POINTS = [(130.0, 90.0), (160.0, 85.0), (100.0, 95.0), (165.0, 60.0)]


@pytest.mark.parametrize(("mHc", "mA"), POINTS)
def test_draws_follow_the_integral_of_the_width(mHc: float, mA: float) -> None:
    def width(q2: float) -> float:  # written out independently, in q²
        a, b = mHc**2, mA**2
        kallen = a * a + b * b + q2 * q2 - 2 * (a * b + b * q2 + q2 * a)
        return max(kallen, 0.0) ** 1.5 / ((q2 - c.W_MASS**2) ** 2 + (c.W_MASS * c.W_WIDTH) ** 2)

    num = 100_000
    draws = mass_spectrum(mHc, mA).draw(np.random.default_rng(1), num)
    edges = np.linspace(0.0, mHc - mA, 21)
    expected = np.array([integrate.quad(width, low**2, high**2)[0] for low, high in pairwise(edges)])
    expected *= num / expected.sum()
    counts, _ = np.histogram(draws, edges)
    used = expected > 10
    chi2 = np.sum((counts[used] - expected[used]) ** 2 / expected[used])
    assert chi2 < used.sum() + 4 * np.sqrt(2 * used.sum())
    assert counts.sum() == num


@pytest.mark.parametrize(("point", "mean"), [((130, 90), 20.5), ((160, 85), 47.5), ((100, 95), 2.5)])
def test_means_agree_with_independent_numbers(point: tuple[int, int], mean: float) -> None:
    draws = mass_spectrum(*point).draw(np.random.default_rng(0), 50_000)
    assert draws.mean() == pytest.approx(mean, abs=0.1)


def test_above_the_w_threshold_the_w_is_on_its_mass_shell() -> None:
    draws = mass_spectrum(165.0, 60.0).draw(np.random.default_rng(0), 20_000)
    assert np.median(draws) == pytest.approx(c.W_MASS, abs=1.0)


def test_density_vanishes_outside_and_thresholds_open() -> None:
    assert mass_density([-1.0, 41.0], 130.0, 90.0).tolist() == [0.0, 0.0]
    assert open_fraction(c.TAU_MASS, [1.0, c.TAU_MASS]).tolist() == [0.0, 0.0]
    assert open_fraction(c.TAU_MASS, 50.0) == pytest.approx(1.0, abs=2e-3)
    assert open_fraction(0.0, 0.1) == 1.0
