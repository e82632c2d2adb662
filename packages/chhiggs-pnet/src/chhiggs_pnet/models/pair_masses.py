r"""Masses of opposite-sign muon pairs: how far from A → μμ and from Z → μμ is each pair?

    m_ij² = 4 pt_i pt_j [sinh²(Δη/2) + sin²(Δφ/2)],     r(m) = asinh((m − mA) / 1 GeV),     r_Z alike with mZ

The form of m² has no cancellation between large energies, so float32 keeps a mass to 1e-4 GeV. r is linear
within the resolution of the detector, about 1 GeV, and logarithmic far away.

The signal peaks at r = 0 and a Z at r_Z = 0, at every hypothesis. With both, the ratio of their densities is
nearly the same function of the inputs at every mA, so there is less to interpolate.

The pair mass is what the search fits. A classifier that sees r separates far better and shapes the pair mass
of the background at mA, so an analysis that fits the mass should leave it out or decorrelate.

Dimensions: B events, P slots.
"""

import torch
from torch import Tensor, nn

from chhiggs_pnet.data.schema import EXT14
from chhiggs_pnet.physics.constants import Z_MASS

RESOLUTION_GEV = 1.0
NUM_EVENT_INPUTS, NUM_NODE_INPUTS = 6, 3
_PX, _PY, _PZ, _CHARGE, _MUON = (EXT14.index(name) for name in ("px", "py", "pz", "charge", "is_muon"))


def squared_pair_masses(px: Tensor, py: Tensor, pz: Tensor) -> Tensor:
    """Squared masses of all pairs of massless particles.

    Args:
        px: Momenta in GeV, (B, P).
        py: As `px`.
        pz: As `px`.

    Returns:
        GeV², (B, P, P).
    """
    pt = torch.sqrt(px * px + py * py).clamp(min=1e-6)
    eta = torch.asinh(pz / pt)
    x, y = px / pt, py / pt
    half_deta = torch.sinh((eta.unsqueeze(2) - eta.unsqueeze(1)) / 2)
    chord2 = (x.unsqueeze(2) - x.unsqueeze(1)) ** 2 + (y.unsqueeze(2) - y.unsqueeze(1)) ** 2
    return 4 * pt.unsqueeze(2) * pt.unsqueeze(1) * (half_deta * half_deta + chord2 / 4)


class PairMasses(nn.Module):
    """Inputs made of the pair masses and the hypothesis; it has no weights."""

    def forward(self, nodes: Tensor, valid_mask: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        """Compute them.

        Args:
            nodes: Raw features in GeV, (B, P, F).
            valid_mask: Real slots, (B, P) bool.
            masses: Hypotheses (mHc, mA) in GeV, (B, 2).

        Returns:
            For the event, (B, 6): r of the pair nearest to mA, whether there is one, r of the pair farthest
            from it, whether that is another pair, r_Z of both. For each node, (B, P, 3): r of the nearest
            pair that it belongs to, whether it belongs to one, r_Z of that pair. Zero where there is none.
        """
        nodes = nodes * valid_mask.unsqueeze(-1)
        px, py, pz = nodes[..., _PX], nodes[..., _PY], nodes[..., _PZ]
        charge = nodes[..., _CHARGE] * (nodes[..., _MUON] > 0.5)
        opposite = charge.unsqueeze(2) * charge.unsqueeze(1) < -0.5
        mass = torch.sqrt(squared_pair_masses(px, py, pz))
        from_a = torch.asinh((mass - masses[:, 1, None, None]) / RESOLUTION_GEV)
        from_z = torch.asinh((mass - Z_MASS) / RESOLUTION_GEV)
        size = from_a.abs()
        in_pair = opposite.any(dim=2)
        exists = in_pair.any(dim=1)
        none = torch.full_like(size, 1e9)
        near_of_node, partner = torch.where(opposite, size, none).min(dim=2)
        of_node, of_node_z = (
            torch.where(in_pair, torch.gather(r, 2, partner.unsqueeze(2)).squeeze(2), 0.0)
            for r in (from_a, from_z)
        )
        near, muon = near_of_node.min(dim=1)
        nearest, nearest_z = (torch.gather(r, 1, muon.unsqueeze(1)).squeeze(1) for r in (of_node, of_node_z))
        far, place = torch.where(opposite, size, -none).flatten(1).max(dim=1)
        is_other = exists & (far > near)
        farthest, farthest_z = (
            torch.where(is_other, torch.gather(r.flatten(1), 1, place.unsqueeze(1)).squeeze(1), 0.0)
            for r in (from_a, from_z)
        )
        kind = nearest.dtype
        event = [nearest, exists.to(kind), farthest, is_other.to(kind), nearest_z, farthest_z]
        return torch.stack(event, dim=1), torch.stack([of_node, in_pair.to(kind), of_node_z], dim=2)
