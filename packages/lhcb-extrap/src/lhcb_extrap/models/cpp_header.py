r"""A kick net as a C++ header: weights, baseline, network and decoding in one file without dependencies.

Everything that depends on the two planes alone is a constant: the integral of By at the nodes, the
quadrature, and the polynomials of the field, of which only the terms that the field has are written. The
input scaling is folded into the first layer and the output scaling into the last, so nothing of the network
is computed twice; vectors of tracks go through it together.
"""

from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from lhcb_extrap import __version__
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.physics.kick_baseline import MIN_COSINE_SQUARED, NUM_ITERATIONS
from lhcb_extrap.physics.plane_fields import DEGREE, INTEGRALS, NUM_NODES, TERMS, WEIGHTS, PlaneFields

_PACKS = 2  # vectors of tracks that share each load of a weight
_DIGITS = 9  # of a float32
_PER_LINE = 8


def kick_header(network: KickNet, z0_mm: float, dz_mm: float, name: str) -> str:
    """Write the header.

    Args:
        network: A kick net between fixed planes.
        z0_mm: Where tracks start.
        dz_mm: Length of the path along z.
        name: Name of the run, for the comment.

    Returns:
        Text of the header.
    """
    network = network.double().cpu()
    planes = network.field
    if not isinstance(planes, PlaneFields):
        raise ValueError("a header needs a kick net between two fixed planes")
    layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        weights = [layer.weight.clone() for layer in layers]
        biases = [layer.bias.clone() for layer in layers]
        weights[0] /= network.feature_std
        biases[0] -= weights[0] @ network.feature_mean
        weights[-1] *= network.correction_std[:, None]
        biases[-1] = network.correction_mean + network.correction_std * biases[-1]
    half = NUM_NODES // 2
    near, far = INTEGRALS[:half, :half], INTEGRALS[:half, : half - 1 : -1]
    environment = Environment(
        loader=PackageLoader("lhcb_extrap", "templates"),
        autoescape=False,  # noqa: S701  C++, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("kick.hpp").render(
        name="".join(c if c.isprintable() else "_" for c in name),
        version=__version__,
        z0=numbers([z0_mm]),
        dz=numbers([dz_mm]),
        flip_x=network.flip_x,
        flip_y=network.flip_y,
        num_nodes=NUM_NODES,
        num_iterations=NUM_ITERATIONS,
        packs=_PACKS,
        field_integral=numbers(planes.integral.tolist()),
        weights=numbers((dz_mm * WEIGHTS[:half]).tolist()),
        of_sums=[numbers(row) for row in (dz_mm / 2 * (near + far)).tolist()],
        of_differences=[numbers(row) for row in (dz_mm / 2 * (near - far)).tolist()],
        to_middle=numbers((dz_mm * INTEGRALS[NUM_NODES // 2 - 1 : NUM_NODES // 2 + 1].mean(axis=0)).tolist()),
        inverse_x=numbers((1 / planes.half_mm[0]).tolist()),
        inverse_y=numbers((1 / planes.half_mm[1]).tolist()),
        components=[polynomial(planes, number) for number in range(3)],
        activation=network.activation,
        min_cosine_squared=numbers([MIN_COSINE_SQUARED]),
        layers=[
            {
                "inputs": weight.shape[1],
                "outputs": weight.shape[0],
                "weights": numbers(weight.flatten().tolist()),
                "biases": numbers(bias.tolist()),
            }
            for weight, bias in zip(weights, biases, strict=True)
        ],
        width=max(max(weight.shape) for weight in weights),
    )


def polynomial(planes: PlaneFields, component: int) -> dict[str, Any]:
    """One component of the field: the coefficients it has, and Horner's scheme for them in C++.

    Args:
        planes: The polynomials.
        component: 0 for Bx, 1 for By less its value on the axis, 2 for Bz.

    Returns:
        Name of the array, its rows, and the expression.
    """
    name = f"field_{'xyz'[component]}"
    used = [
        (term, row)
        for term, row in zip(TERMS, planes.coefficients[component], strict=True)
        if row.any() and (component, *term) != (1, 0, 0)
    ]
    places = {term: number for number, (term, _) in enumerate(used)}
    columns = [
        (i, horner([(j, f"{name}[{places[i, j]}][k]") for j in range(DEGREE + 1) if (i, j) in places], "y"))
        for i in range(DEGREE + 1)
        if any((i, j) in places for j in range(DEGREE + 1))
    ]
    formula = horner(columns, "x") if columns else "pack{}"
    return {"name": name, "rows": [numbers(row.tolist()) for _, row in used], "formula": formula}


def horner(terms: list[tuple[int, str]], variable: str) -> str:
    """Write a polynomial, given as powers that rise and their coefficients, with few multiplications."""

    def power(exponent: int) -> str:
        return " * ".join([f"{variable}2"] * (exponent // 2) + [variable] * (exponent % 2))

    (last, text), rest = terms[-1], terms[-2::-1]
    for exponent, coefficient in rest:
        text = f"{coefficient} + {power(last - exponent)} * ({text})"
        last = exponent
    return f"{power(last)} * ({text})" if last else text


def numbers(values: list[float]) -> str:
    """Format numbers as initialisers, a few a line."""
    words = [f"{value:.{_DIGITS}g}" for value in values]
    words = [word if any(c in word for c in ".en") else f"{word}.0" for word in words]
    lines = [
        ", ".join(f"{word}f" for word in words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)
    ]
    return ",\n    ".join(lines)
