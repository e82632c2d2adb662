import numpy as np
import pytest

from fourtop_tokens.physics.partons import density, luminosity

X = np.array([0.01, 0.05, 0.1, 0.3])


@pytest.mark.parametrize("state", ["gg", "qqbar", "u dbar", "d ubar"])
def test_protons_may_be_exchanged(state):
    np.testing.assert_allclose(luminosity(state, X, X[::-1]), luminosity(state, X[::-1], X))


def test_the_proton_has_more_up_than_down_than_sea():
    assert (density("up", X) > density("down", X)).all()
    assert (density("down", X) > density("sea", X)).all()


def test_gluons_dominate_at_small_x_and_quarks_at_large_x():
    assert density("gluon", X)[0] > 5 * density("up", X)[0]
    assert density("gluon", X)[-1] < density("up", X)[-1]
