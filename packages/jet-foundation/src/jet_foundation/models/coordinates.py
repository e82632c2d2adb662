r"""Particles as numbers of order one, relative to the jet that may be seen, and back.

    (ln pT, Δη sign(η_axis), Δφ, ln E)    ln pT, ln E and Δη normalised as the features are

The axis is the sum of the particles in `axis_mask`: what is hidden must not show in the numbers of the
others. Back from the numbers, particles are massless, E = pT cosh η.

Dimensions: B jets, N particles, F features.
"""

import torch
from torch import Tensor, nn

from jet_foundation.data.features import KIN
from jet_foundation.data.normalization import LIMIT, Normalization
from jet_foundation.models.deploy import kinematic_features
from jet_foundation.physics import fourvectors as fv

_PT, _ENERGY, _ETA, _PHI = (KIN.index(name) for name in ("log_pt", "log_energy", "deta", "dphi"))
_LOG_PT_MAX = 9.0  # 8 TeV, above any particle: keeps an untrained network from overflowing


class Coordinates(nn.Module):
    """Moves between four-vectors and coordinates.

    Args:
        normalization: Of the features.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(normalization.shift), persistent=False)
        self.register_buffer("factor", torch.tensor(normalization.factor), persistent=False)

    def features(self, p4: Tensor, features: Tensor, seen_mask: Tensor) -> Tensor:
        """Compute the kinematic features of the particles that are seen as if there were no others.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features of whole jets, (B, N, F).
            seen_mask: True where a particle is seen, (B, N).

        Returns:
            Normalised features, (B, N, F), zero where nothing is seen.
        """
        num = len(KIN)
        own = (kinematic_features(p4, seen_mask) - self.shift[:num]) * self.factor[:num]
        everything = torch.cat([own.clamp(-LIMIT, LIMIT), features[..., num:]], dim=-1)
        return everything.masked_fill(~seen_mask[..., None], 0.0)

    def encode(self, p4: Tensor, valid_mask: Tensor, axis_mask: Tensor) -> Tensor:
        """Turn particles into coordinates.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            valid_mask: True where a particle is real, (B, N).
            axis_mask: True where a particle counts for the axis, (B, N).

        Returns:
            ln pT, Δη, Δφ, ln E, the third in rad, the others normalised, (B, N, 4).
        """
        values = kinematic_features(p4, valid_mask, axis_mask)
        normalised = (values - self.shift[: len(KIN)]) * self.factor[: len(KIN)]
        columns = [normalised[..., _PT], normalised[..., _ETA], values[..., _PHI], normalised[..., _ENERGY]]
        return torch.stack(columns, dim=-1)

    def scales(self) -> Tensor:
        """Factors that normalised ln pT, Δη and ln E, (3,)."""
        return self.factor[[_PT, _ETA, _ENERGY]]

    def log_pt(self, value: Tensor) -> Tensor:
        """Undo the normalisation of ln pT.

        Args:
            value: Normalised ln pT, any shape.

        Returns:
            ln pT with pT in GeV, same shape.
        """
        return value / self.factor[_PT] + self.shift[_PT]

    def log_energy(self, value: Tensor) -> Tensor:
        """Undo the normalisation of ln E.

        Args:
            value: Normalised ln E, any shape.

        Returns:
            ln E with E in GeV, same shape.
        """
        return value / self.factor[_ENERGY] + self.shift[_ENERGY]

    def eta(self, value: Tensor, axis: Tensor) -> Tensor:
        """Turn the second coordinate into the pseudorapidity.

        Args:
            value: Normalised Δη sign(η_axis), (B, N).
            axis: Four-vectors of the axes, (B, 4) GeV.

        Returns:
            η, (B, N).
        """
        axis_eta = fv.eta(axis)[:, None]
        deta = value / self.factor[_ETA] + self.shift[_ETA]
        eta: Tensor = axis_eta + torch.where(axis_eta < 0, -deta, deta)
        return eta

    def decode(self, coordinates: Tensor, axis: Tensor) -> Tensor:
        """Turn coordinates into massless particles.

        Args:
            coordinates: ln pT, Δη, Δφ, further columns are ignored, (B, N, 3 or more).
            axis: Four-vectors of the axes, (B, 4) GeV.

        Returns:
            Four-vectors (E, px, py, pz), (B, N, 4) GeV.
        """
        pt = self.log_pt(coordinates[..., 0]).clamp_max(_LOG_PT_MAX).exp()
        eta = self.eta(coordinates[..., 1], axis).clamp(-6.0, 6.0)
        phi = coordinates[..., 2] + fv.phi(axis)[:, None]
        return torch.stack([pt * eta.cosh(), pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()], dim=-1)


def axis_of(p4: Tensor, axis_mask: Tensor) -> Tensor:
    """Sum the particles that count for the axis.

    Args:
        p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
        axis_mask: True where a particle counts, (B, N).

    Returns:
        Four-vectors, (B, 4) GeV.
    """
    return p4.masked_fill(~axis_mask[..., None], 0.0).sum(dim=1)
