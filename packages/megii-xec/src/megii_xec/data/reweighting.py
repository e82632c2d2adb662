r"""Weights of training events: rare ones up, and difficult ones not before their time.

Histogram weights. The truth of a target is binned in one, two or three dimensions; an event in a bin with n
of the N events gets

    w = N / (n · occupied bins),     limited to `max_weight`

so that every occupied bin weighs the same. Weights of several targets multiply.

Curriculum. At epoch e of the first `num_epochs`, with x = e / num_epochs, events count only if

    E ≥ E_start (1 − x)    and    distance to the edge of the acceptance ≥ d_start (1 − x)

Dimensions: N events of the data set, B events, K components of a target.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hep_shared.config import StrictModel
from megii_xec.data.schema import ENERGY_TRUTH, UVW_TRUTH, Branch
from megii_xec.physics.geometry import FIDUCIAL_U_CM, FIDUCIAL_V_CM

MAX_WEIGHT = 10.0  # a bin with a few events must not dominate a batch


class HistogramWeights:
    """Inverse-frequency weights of one target.

    Args:
        values: The target for all training events, (N, K).
        bins: Number of bins of each component.
        max_weight: Largest weight.

    Raises:
        ValueError: There is not one number of bins a component.
    """

    def __init__(
        self, values: NDArray[np.float32], bins: Sequence[int], *, max_weight: float = MAX_WEIGHT
    ) -> None:
        if values.ndim != 2 or values.shape[1] != len(bins):
            raise ValueError(f"{len(bins)} numbers of bins for values of shape {values.shape}")
        edges = []
        for column, num in zip(values.T.astype(np.float64), bins, strict=True):
            low, high = float(column.min()), float(column.max())
            edges.append(np.linspace(low, high if high > low else low + 1.0, num + 1))
        self._edges = [torch.from_numpy(edge[1:-1].copy()) for edge in edges]
        self._shape = tuple(bins)
        content = torch.zeros(int(np.prod(bins)), dtype=torch.float64)
        content.index_add_(
            0, self._bin(torch.from_numpy(values)), torch.ones(len(values), dtype=torch.float64)
        )
        occupied = int((content > 0).sum())
        weights = len(values) / (content.clamp_min(1) * occupied)
        self._weights = weights.clamp_max(max_weight).float()

    def _bin(self, values: Tensor) -> Tensor:
        """Number of the bin, (B, K) to (B,); values beyond the edges go to the outermost bins."""
        number = torch.zeros(len(values), dtype=torch.int64, device=values.device)
        for k, (edge, num) in enumerate(zip(self._edges, self._shape, strict=True)):
            column = values[:, k].double().contiguous()
            number = number * num + torch.searchsorted(edge.to(values.device), column, right=True)
        return number

    def __call__(self, values: Tensor) -> Tensor:
        """Return the weights of events with these values, (B, K) to (B,)."""
        return self._weights.to(values.device)[self._bin(values)]


class Curriculum(StrictModel):
    """Begin with events of high energy far from the edges, and let the others in step by step."""

    num_epochs: int = Field(5, ge=1, description="Epochs until all events count.")
    energy_start_gev: float = Field(0.045, ge=0, description="Smallest energy in the first epoch.")
    edge_start_cm: float = Field(8.0, ge=0, description="Smallest distance to the edge in the first epoch.")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """Truth that decides."""
        return (ENERGY_TRUTH, UVW_TRUTH)

    def weights(self, columns: Mapping[str, Tensor], epoch: int) -> Tensor:
        """Tell which events count.

        Args:
            columns: Values of `branches` by name, (B,) and (B, 3).
            epoch: Epoch, from 0.

        Returns:
            1 for events that count, else 0, (B,) float32.
        """
        left = max(0.0, 1.0 - epoch / self.num_epochs)
        energy, uvw = columns[ENERGY_TRUTH.name], columns[UVW_TRUTH.name]
        edge = torch.minimum(FIDUCIAL_U_CM - uvw[:, 0].abs(), FIDUCIAL_V_CM - uvw[:, 1].abs())
        if left == 0:
            return torch.ones_like(energy)
        counts = (energy >= self.energy_start_gev * left) & (edge >= self.edge_start_cm * left)
        return counts.float()
