"""Momentum densities of the partons, simple shapes instead of a fitted set.

    x f(x) = A x^a (1 - x)^b

with exponents set by hand to resemble a proton probed at a few hundred GeV for 0.01 < x < 0.5. They do not
evolve with the scale and carry no uncertainty; the provenance of a simulated file says so.
"""

import numpy as np

from fourtop_tokens.physics.kinematics import Array

_SHAPES = {  # A, a, b
    "gluon": (0.69, -0.52, 6.9),
    "up_valence": (3.75, 0.65, 4.0),
    "down_valence": (2.10, 0.65, 5.0),
    "sea": (0.093, -0.40, 8.0),  # one light antiquark flavour, equally the sea part of u and d
}

# Pairs of densities whose products add up to the luminosity of an initial state.
_PAIRS = {
    "gg": (("gluon", "gluon"),),
    "qqbar": (("up", "sea"), ("down", "sea")),
    "u dbar": (("up", "sea"),),
    "d ubar": (("down", "sea"),),
}


def density(parton: str, x: Array) -> Array:
    """Momentum density x f(x).

    Args:
        parton: `gluon`, `sea`, `up`, `down`, or one of the valence parts.
        x: Momentum fractions in (0, 1).

    Returns:
        x f(x) with the shape of `x`.
    """
    if parton in ("up", "down"):
        return density(f"{parton}_valence", x) + density("sea", x)
    norm, low, high = _SHAPES[parton]
    return norm * np.exp(low * np.log(x) + high * np.log1p(-x))


def luminosity(initial_state: str, x_1: Array, x_2: Array) -> Array:
    """Product of the densities of both protons, summed over who gives which parton.

    Args:
        initial_state: `gg`, `qqbar`, `u dbar` or `d ubar`.
        x_1: Momentum fraction in the first proton, in (0, 1).
        x_2: Momentum fraction in the second proton, in (0, 1).

    Returns:
        Σ x1 f(x1) x2 f(x2) with the inputs' shape.
    """
    total = np.zeros_like(x_1)
    for a, b in _PAIRS[initial_state]:
        total += density(a, x_1) * density(b, x_2)
        if a != b:
            total += density(b, x_1) * density(a, x_2)
    return total
