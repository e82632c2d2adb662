r"""The plain network and the physics-informed one: a multilayer perceptron between normalised states.

    end = mean + std * net((start - mean) / std)

`Mlp` maps a start and the length dz of the path to the end. `Pinn` is the same network with the length l
travelled so far in the place of dz: it predicts the state anywhere on the way, so its derivative by l can be
compared with the equations of motion, and its value at l = 0 with the start. The end is its value at l = dz.

References:
    M. Raissi, P. Perdikaris, G. E. Karniadakis, J. Comput. Phys. 378 (2019) 686.

Dimension legend: B tracks, F inputs (6, or 7 with z0).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["silu", "tanh", "relu", "isru"]


class InverseSquareRoot(nn.Module):
    """v / sqrt(1 + v^2): smooth and bounded like the hyperbolic tangent, without an exponential."""

    def forward(self, v: Tensor) -> Tensor:
        """Apply to every element."""
        return v / torch.sqrt(1.0 + v * v)


_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "silu": nn.SiLU, "tanh": nn.Tanh, "relu": nn.ReLU, "isru": InverseSquareRoot
}  # fmt: skip
LENGTH = 5  # column of dz


def dense(sizes: Sequence[int], activation: Activation) -> nn.Sequential:
    """Fully connected layers with an activation between them, Xavier weights and zero biases.

    Args:
        sizes: Inputs, hidden widths and outputs.
        activation: What is between the layers.

    Returns:
        The layers.
    """
    layers: list[nn.Module] = []
    for number, (size_in, size_out) in enumerate(pairwise(sizes)):
        if number:
            layers.append(_ACTIVATIONS[activation]())
        linear = nn.Linear(size_in, size_out)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
    return nn.Sequential(*layers)


class Mlp(nn.Module):
    """End of a track from its start.

    Args:
        hidden: Widths of the hidden layers.
        start_mean: Means of x, y, tx, ty, q/p, dz, z0.
        start_std: Standard deviations of them.
        end_mean: Means of x, y, tx, ty at the end.
        end_std: Standard deviations of them.
        use_z0: Whether z0 enters the network.
        activation: Activation of the hidden layers.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        start_mean: Sequence[float],
        start_std: Sequence[float],
        end_mean: Sequence[float],
        end_std: Sequence[float],
        *,
        use_z0: bool = False,
        activation: Activation = "silu",
    ) -> None:
        super().__init__()
        self.num_inputs = 7 if use_z0 else 6
        self.layers = dense((self.num_inputs, *hidden, 4), activation)
        self.start_mean: Tensor
        self.start_std: Tensor
        self.end_mean: Tensor
        self.end_std: Tensor
        self.register_buffer("start_mean", torch.tensor(start_mean[: self.num_inputs]))
        self.register_buffer("start_std", torch.tensor(start_std[: self.num_inputs]))
        self.register_buffer("end_mean", torch.tensor(end_mean))
        self.register_buffer("end_std", torch.tensor(end_std))

    def forward(self, tracks: Tensor) -> Tensor:
        """Extrapolate.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            x, y, tx, ty at z0 + dz, (B, 4), mm, 1.
        """
        inputs = (tracks[:, : self.num_inputs] - self.start_mean) / self.start_std
        end: Tensor = self.end_mean + self.end_std * self.layers(inputs)
        return end


class Pinn(Mlp):
    """State anywhere on the way; arguments of `Mlp`, with hyperbolic tangents, which are smooth.

    The length is scaled from [0, longest dz] to a mean of 0 and a standard deviation of 1.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        start_mean: Sequence[float],
        start_std: Sequence[float],
        end_mean: Sequence[float],
        end_std: Sequence[float],
        *,
        max_length_mm: float,
        use_z0: bool = False,
    ) -> None:
        mean, std = list(start_mean), list(start_std)
        mean[LENGTH], std[LENGTH] = max_length_mm / 2, abs(max_length_mm) / 12**0.5
        super().__init__(hidden, mean, std, end_mean, end_std, use_z0=use_z0, activation="tanh")

    def at(self, tracks: Tensor, length: Tensor) -> Tensor:
        """State after a part of the path.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.
            length: Way along z since the start, (B,), mm.

        Returns:
            x, y, tx, ty at z0 + length, (B, 4), mm, 1.
        """
        return self.forward(torch.cat([tracks[:, :LENGTH], length[:, None], tracks[:, LENGTH + 1 :]], dim=1))

    def state_and_rate(self, tracks: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """State and its derivative by z, carried forward through the layers together.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.
            length: Way along z since the start, (B,), mm.

        Returns:
            x, y, tx, ty, (B, 4), mm, 1, and their derivatives, (B, 4), 1, 1/mm.
        """
        inputs = torch.cat([tracks[:, :LENGTH], length[:, None], tracks[:, LENGTH + 1 :]], dim=1)
        value = (inputs[:, : self.num_inputs] - self.start_mean) / self.start_std
        rate = torch.zeros_like(value)
        rate[:, LENGTH] = 1.0 / self.start_std[LENGTH]
        for layer in self.layers:
            value = layer(value)
            rate = rate @ layer.weight.T if isinstance(layer, nn.Linear) else (1.0 - value * value) * rate
        return self.end_mean + self.end_std * value, self.end_std * rate
