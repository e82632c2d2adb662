r"""A kick net as a C++ header: weights, features, network and decoding in one file without dependencies.

Everything that depends on the two planes alone is a constant: F(z) - F(z0) at the six nodes of the quadrature
and at the end. The input scaling is folded into the first layer and the output scaling into the last, so
nothing of the network is computed twice; the tracks come in chunks of `lanes`, which the compiler turns
into vector instructions.
"""

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from lhcb_extrap import __version__
from lhcb_extrap.models.kick import KickNet
from lhcb_extrap.physics.field_properties import FieldIntegral
from lhcb_extrap.physics.kick_baseline import GAUSS_NODES, GAUSS_WEIGHTS, MIN_COSINE_SQUARED

_DIGITS = 9  # of a float32
_PER_LINE = 8


def kick_header(network: KickNet, z0_mm: float, dz_mm: float, name: str) -> str:
    """Write the header.

    Args:
        network: A kick net between fixed planes with hyperbolic tangents.
        z0_mm: Where tracks start.
        dz_mm: Length of the path along z.
        name: Name of the run, for the comment.

    Returns:
        Text of the header.
    """
    network = network.double().cpu()
    table = FieldIntegral(network._z_min_mm, network._step_mm, network.integral.numpy(), network.by.numpy())
    nodes = [z0_mm + dz_mm / 2 * (half + node) for half in (0, 1) for node in GAUSS_NODES]
    f0 = float(table(np.array([z0_mm]))[0])
    values = [float(table(np.array([z]))[0]) - f0 for z in (*nodes, z0_mm + dz_mm)]
    layers = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        weights = [layer.weight.clone() for layer in layers]
        biases = [layer.bias.clone() for layer in layers]
        weights[0] /= network.feature_std
        biases[0] -= weights[0] @ network.feature_mean
        weights[-1] *= network.correction_std[:, None]
        biases[-1] = network.correction_mean + network.correction_std * biases[-1]
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
        field_integral=numbers(values),
        quadrature=numbers([weight * dz_mm / 2 for _ in range(2) for weight in GAUSS_WEIGHTS]),
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


def numbers(values: list[float]) -> str:
    """Format numbers as initialisers, a few a line."""
    words = [f"{value:.{_DIGITS}g}" for value in values]
    words = [word if any(c in word for c in ".en") else f"{word}.0" for word in words]
    lines = [
        ", ".join(f"{word}f" for word in words[i : i + _PER_LINE]) for i in range(0, len(words), _PER_LINE)
    ]
    return ",\n    ".join(lines)
