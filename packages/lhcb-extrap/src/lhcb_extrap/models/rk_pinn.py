r"""A network shaped like one Runge-Kutta step.

A shared backbone and four heads predict the derivative k_i = ds/dz at the stages z0 + c_i dz,
c = (1/4, 1/2, 3/4, 1), each head fed with its c_i, and

    end = start + dz sum_i w_i k_i,

with learnable weights that begin at exactly (1, 2, 2, 1)/6. The stages are compared with the equations of
motion at the states that the same derivatives imply: with the polynomial through the four k_i,

    s_i = start + dz sum_j a_ij k_j,    a_ij = integral from 0 to c_i of the j-th Lagrange polynomial,

which is the collocation method on these nodes, and residual_i = k_i - f(s_i, B(z0 + c_i dz)). Start plus
increment is exact at dz = 0, so there is no loss on the initial condition.

References:
    E. Hairer, S. P. Norsett, G. Wanner, Solving Ordinary Differential Equations I, section II.7.

Dimension legend: B tracks, 4 stages.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor, nn

from lhcb_extrap.models.mlp import LENGTH, dense

NODES = (0.25, 0.5, 0.75, 1.0)
INITIAL_WEIGHTS = (1 / 6, 2 / 6, 2 / 6, 1 / 6)


def collocation_matrix(nodes: Sequence[float] = NODES) -> list[list[float]]:
    """The matrix a of the module's formula.

    Args:
        nodes: Stages c on [0, 1].

    Returns:
        a, one row a stage.
    """
    columns = []
    for j, node in enumerate(nodes):
        others = [other for i, other in enumerate(nodes) if i != j]
        basis = Polynomial.fromroots(others)
        integral = (basis / basis(node)).integ()
        columns.append([float(integral(c) - integral(0.0)) for c in nodes])
    return np.array(columns).T.tolist()  # type: ignore[no-any-return]


class RkPinn(nn.Module):
    """Four predicted derivatives and their weighted sum.

    Activations are hyperbolic tangents, which are smooth.

    Args:
        hidden: Widths of the backbone and, last, of the heads.
        start_mean: Means of x, y, tx, ty, q/p, dz, z0.
        start_std: Standard deviations of them.
        rate_mean: Means of (end - start)/dz.
        rate_std: Standard deviations of them.
        use_z0: Whether z0 enters the network.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        start_mean: Sequence[float],
        start_std: Sequence[float],
        rate_mean: Sequence[float],
        rate_std: Sequence[float],
        *,
        use_z0: bool = False,
    ) -> None:
        super().__init__()
        self.num_inputs = 7 if use_z0 else 6
        self.backbone = dense((self.num_inputs, *hidden[:-1]), "tanh")
        self.heads = nn.ModuleList(dense((hidden[-2] + 1, hidden[-1], 4), "tanh") for _ in NODES)
        self.weights = nn.Parameter(torch.tensor(INITIAL_WEIGHTS))
        self.start_mean: Tensor
        self.start_std: Tensor
        self.rate_mean: Tensor
        self.rate_std: Tensor
        self.collocation: Tensor
        self.register_buffer("start_mean", torch.tensor(start_mean[: self.num_inputs]))
        self.register_buffer("start_std", torch.tensor(start_std[: self.num_inputs]))
        self.register_buffer("rate_mean", torch.tensor(rate_mean))
        self.register_buffer("rate_std", torch.tensor(rate_std))
        self.register_buffer("collocation", torch.tensor(collocation_matrix()))

    def stage_rates(self, tracks: Tensor) -> Tensor:
        """Derivatives at the stages.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            k, (B, 4 stages, 4), 1, 1/mm.
        """
        inputs = (tracks[:, : self.num_inputs] - self.start_mean) / self.start_std
        hidden = torch.tanh(self.backbone(inputs))
        outputs = [
            head(torch.cat([hidden, torch.full_like(hidden[:, :1], node)], dim=1))
            for node, head in zip(NODES, self.heads, strict=True)
        ]
        return self.rate_mean + self.rate_std * torch.stack(outputs, dim=1)

    def stage_states(self, tracks: Tensor, rates: Tensor) -> Tensor:
        """States at the stages that the derivatives imply.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.
            rates: k of `stage_rates`, (B, 4, 4).

        Returns:
            x, y, tx, ty, (B, 4 stages, 4), mm, 1.
        """
        dz = tracks[:, LENGTH, None, None]
        return tracks[:, None, :4] + dz * torch.einsum("ij,bjk->bik", self.collocation, rates)

    def end(self, tracks: Tensor, rates: Tensor) -> Tensor:
        """Weighted sum of the derivatives; arguments of `stage_states`, returns (B, 4), mm, 1."""
        increment = (self.weights[:, None] * rates).sum(dim=1)
        return tracks[:, :4] + tracks[:, LENGTH, None] * increment

    def forward(self, tracks: Tensor) -> Tensor:
        """Extrapolate.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            x, y, tx, ty at z0 + dz, (B, 4), mm, 1.
        """
        return self.end(tracks, self.stage_rates(tracks))
