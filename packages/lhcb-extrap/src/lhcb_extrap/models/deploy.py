"""From measured states to extrapolated ones in one module: what is exported.

Dimension legend: B tracks.
"""

import torch
from torch import Tensor, nn


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


def _column(z0: Tensor | None) -> Tensor:
    if z0 is None:
        raise ValueError("this network was trained with variable planes and needs z0")
    return z0[:, None]
