r"""What a network sees of a node: standardised logarithms, or each event normalised by itself.

    standard    x = (f(raw) − mean) / std,   f = sign(p) ln(1 + |p| / 20 GeV) for energies and momenta, else 1
    graph       GraphNorm: x = γ (raw − α μ) / √(⟨(raw − α μ)²⟩ + ε) + β, μ and ⟨·⟩ over the nodes of an event

Mean and standard deviation are taken from training events and stored with the weights. GraphNorm is what the
CMS analysis uses; it removes the energy scale of the event, so it is not the default.
Before that, events may be brought into a frame of their own (`frame`).

References:
    T. Cai et al., arXiv:2009.03294 (GraphNorm).

Dimensions: B events, P slots, V rows (real nodes), F features.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from chhiggs_pnet.data.schema import EXT14
from chhiggs_pnet.models.frame import Frame, align
from chhiggs_pnet.models.graph import Packing

InputNorm = Literal["standard", "graph"]
SCALE_GEV = 20.0  # the softest jets: below it f is linear
COMPRESSED = ("energy", "px", "py", "pz", "pt", "mass")
EPS = 1e-5


def compress(raw: Tensor) -> Tensor:
    """Logarithms of energies and momenta; other features stay.

    Args:
        raw: Features, GeV where they are energies, (..., F).

    Returns:
        (..., F).
    """
    columns = [
        torch.sign(column) * torch.log1p(column.abs() / SCALE_GEV) if name in COMPRESSED else column
        for name, column in zip(EXT14, raw.unbind(-1), strict=False)
    ]
    return torch.stack(columns, dim=-1)


def statistics(nodes: Tensor, valid_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the compressed features of real nodes.

    Args:
        nodes: Features, (B, P, F).
        valid_mask: Real slots, (B, P).

    Returns:
        (F,) each; a constant feature has standard deviation 1.
    """
    real = compress(nodes[valid_mask].double())
    std = real.std(dim=0, unbiased=False)
    return real.mean(dim=0).float(), torch.where(std > 1e-6, std, 1.0).float()


class NodeInputs(nn.Module):
    """Normalise the features of nodes.

    Args:
        num_features: Features F, the first ones of `EXT14`.
        norm: `standard` or `graph`.
        frame: `event` rotates and mirrors every event into its own frame, `detector` leaves it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int, norm: InputNorm = "standard", frame: Frame = "event") -> None:
        super().__init__()
        self.norm, self.frame = norm, frame
        if norm == "standard":
            self.register_buffer("mean", torch.zeros(num_features))
            self.register_buffer("std", torch.ones(num_features))
        else:
            self.weight = nn.Parameter(torch.ones(num_features))
            self.bias = nn.Parameter(torch.zeros(num_features))
            self.mean_scale = nn.Parameter(torch.ones(num_features))

    def set_statistics(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        """Store mean and standard deviation; GraphNorm needs none.

        Args:
            mean: Of the compressed features, (F,).
            std: As `mean`.
        """
        if self.norm == "standard":
            self.mean.copy_(torch.as_tensor(mean))
            self.std.copy_(torch.as_tensor(std))

    def forward(self, nodes: Tensor, graph: Packing) -> Tensor:
        """Normalise and pack.

        Args:
            nodes: Raw features, (B, P, F).
            graph: The packing.

        Returns:
            (V, F).
        """
        raw = graph.pack(align(nodes, graph.valid_mask) if self.frame == "event" else nodes)
        if self.norm == "standard":
            return (compress(raw) - self.mean) / self.std
        centred = raw - self.mean_scale * graph.mean(raw).index_select(0, graph.event)
        variance = graph.mean(centred * centred).index_select(0, graph.event)
        return self.weight * centred / torch.sqrt(variance + EPS) + self.bias
