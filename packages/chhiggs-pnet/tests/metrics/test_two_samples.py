"""The Kolmogorov-Smirnov test against that of SciPy."""

import numpy as np
import pytest
from scipy import stats

from chhiggs_pnet.metrics.two_samples import kolmogorov_smirnov


def test_kolmogorov_smirnov_is_that_of_scipy_and_knows_weights() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=400), rng.normal(0.2, size=300)
    distance, p_value = kolmogorov_smirnov(x, y)
    expected = stats.ks_2samp(x, y, method="asymp")
    assert distance == pytest.approx(expected.statistic)
    assert p_value == pytest.approx(expected.pvalue, rel=0.01)
    # A weight of 2 is the same event twice, with less to say than two events.
    counts = rng.integers(1, 3, len(x))
    weighted = kolmogorov_smirnov(x, y, counts)
    repeated = kolmogorov_smirnov(np.repeat(x, counts), y)
    assert weighted[0] == pytest.approx(repeated[0])
    assert weighted[1] > repeated[1]
    assert kolmogorov_smirnov([1, 1, 2], [1, 2, 1])[0] == 0.0


@pytest.mark.parametrize("weights", [[-1.0, 2.0], [0.0, 0.0]])
def test_kolmogorov_smirnov_refuses_weights_without_meaning(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="non-negative weights with a positive sum"):
        kolmogorov_smirnov([1.0, 2.0], [1.0], weights)
