r"""The frame of an event: rotated about the beam and mirrored, which leaves the physics as it is.

    φ → φ − φ₀,    φ₀ the azimuth of Σ p_T of the leptons;    φ → −φ if Σ p_y of the jets < 0;
    η → −η if Σ p_z of all objects < 0

Proton beams without polarisation know no azimuth and no direction along the beam, so what differs by these
maps is one event. A network that sees every event in this frame need not learn that the copies are alike.

References:
    L. de Oliveira et al., JHEP 07, 069 (2016), arXiv:1511.05190, sec. 2: rotated and flipped jet images.

Dimensions: B events, P slots, F features.
"""

from typing import Literal

import torch
from torch import Tensor

from chhiggs_pnet.data.schema import EXT14

Frame = Literal["detector", "event"]
_SLOT = {name: index for index, name in enumerate(EXT14)}


def align(nodes: Tensor, valid_mask: Tensor) -> Tensor:
    """Rotate and mirror events.

    Args:
        nodes: Raw features in GeV and rad, the first F of `EXT14`, (B, P, F).
        valid_mask: Real slots, (B, P) bool.

    Returns:
        The nodes in the frame of their event, (B, P, F); empty slots hold anything.
    """
    columns = list(nodes.unbind(-1))
    real = valid_mask.to(nodes.dtype)
    px, py, pz = (columns[_SLOT[name]] for name in ("px", "py", "pz"))
    lepton = real * (columns[_SLOT["is_muon"]] + columns[_SLOT["is_electron"]])
    x, y = (torch.where(lepton > 0, part, 0.0).sum(dim=1, keepdim=True) for part in (px, py))
    size = torch.sqrt(x * x + y * y)
    there = size > 0
    size = torch.where(there, size, 1.0)
    cosine, sine = torch.where(there, x / size, 1.0), y / size
    px, py = px * cosine + py * sine, py * cosine - px * sine
    jet = valid_mask & (columns[_SLOT["is_jet"]] > 0)
    up, forward = _sign(torch.where(jet, py, 0.0)), _sign(torch.where(valid_mask, pz, 0.0))
    py = py * up
    columns[_SLOT["px"]], columns[_SLOT["py"]], columns[_SLOT["pz"]] = px, py, pz * forward
    if len(columns) == len(EXT14):
        columns[_SLOT["eta"]] = columns[_SLOT["eta"]] * forward
        columns[_SLOT["phi"]] = torch.atan2(py, px)
    return torch.stack(columns, dim=-1)


def _sign(values: Tensor) -> Tensor:
    """+1 or −1, the sign of the sum over the slots, (B, 1)."""
    return torch.where(values.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
