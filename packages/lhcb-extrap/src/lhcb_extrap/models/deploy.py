"""From measured states to extrapolated ones in one module: what is exported.

Dimension legend: B tracks, F features.
"""

import copy

import torch
from torch import Tensor, nn

from lhcb_extrap.models.mlp import Mlp
from lhcb_extrap.models.rk_pinn import RkPinn


class TrackExtrapolation(nn.Module):
    """A network with its planes.

    Args:
        network: Maps tracks (B, 7) to ends (B, 4), in physical units.
        z0_mm: Where tracks start, for a network between fixed planes; None makes z0 an input.
        double: Whether the network is in double precision; ends have the precision of the tracks.
    """

    def __init__(self, network: nn.Module, z0_mm: float | None, *, double: bool = False) -> None:
        super().__init__()
        self.network = network
        self.z0_mm = z0_mm
        self.double_precision = double

    def forward(self, tracks: Tensor, z0: Tensor | None = None) -> Tensor:
        """Extrapolate.

        Args:
            tracks: x, y, tx, ty, q/p, dz, (B, 6), mm, 1, 1/MeV.
            z0: Where the states are, (B,), mm; only for networks trained with variable planes.

        Returns:
            x, y, tx, ty at z0 + dz, (B, 4), mm, 1.
        """
        start = torch.full_like(tracks[:, :1], self.z0_mm) if self.z0_mm is not None else _column(z0)
        states = torch.cat([tracks, start], dim=1)
        end: Tensor = self.network(states.double() if self.double_precision else states)
        return end.to(tracks.dtype)


class DoubleLinear(nn.Module):
    """A dense layer in double precision after layers in single precision.

    Args:
        layer: The layer; it is copied.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer).double()

    def forward(self, values: Tensor) -> Tensor:
        """Apply to (B, F) of any precision; (B, outputs) float64."""
        result: Tensor = self.layer(values.double())
        return result


def with_double_output(network: nn.Module) -> nn.Module:
    """Copy a network, with the last layer and the scales of its outputs in double precision.

    There a number of order one becomes metres, which loses more digits than all layers before; it takes
    hardly any of the time. A kick net adds millimetres to what is exact already and stays as it is.

    Args:
        network: A network in single precision.

    Returns:
        The copy; it maps float32 to float64, a kick net to float32.
    """
    network = copy.deepcopy(network)
    if isinstance(network, Mlp):
        network.layers[-1] = DoubleLinear(network.layers[-1])
        network.end_mean, network.end_std = network.end_mean.double(), network.end_std.double()
    elif isinstance(network, RkPinn):
        for head in network.heads:
            assert isinstance(head, nn.Sequential)
            head[-1] = DoubleLinear(head[-1])
        network.rate_mean, network.rate_std = network.rate_mean.double(), network.rate_std.double()
    return network


def _column(z0: Tensor | None) -> Tensor:
    if z0 is None:
        raise ValueError("this network was trained with variable planes and needs z0")
    return z0[:, None]
