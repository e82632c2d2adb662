"""From raw particles to probabilities in one module: what is exported and what predicts.

    p4 [, identity, displacement] -> features -> normalisation -> network -> softmax

Features and normalisation travel inside the module, so a model file cannot be fed with inputs prepared for
another one. The formulas are those of `data/features.py`.

Dimensions: B jets, N particles, F features, C classes.
"""

import torch
from torch import Tensor, nn

from jet_foundation.data.normalization import LIMIT, Normalization
from jet_foundation.physics import fourvectors as fv

ERROR_MAX_MM = 1.0


class JetClassification(nn.Module):
    """Network with its input and output conventions.

    Args:
        network: Maps four-vectors, normalised features and mask to logits (B, C).
        normalization: What the network was trained with; names the features.
        classes: Names of the classes, in the order of the output.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, network: nn.Module, normalization: Normalization, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.network = network
        self.normalization = normalization
        self.classes = classes
        self.register_buffer("shift", torch.tensor(normalization.shift), persistent=False)
        self.register_buffer("factor", torch.tensor(normalization.factor), persistent=False)

    def forward(
        self,
        p4: Tensor,
        valid_mask: Tensor,
        identity: Tensor | None = None,
        displacement: Tensor | None = None,
    ) -> Tensor:
        """Classify jets.

        Args:
            p4: Four-vectors (E, px, py, pz) by falling pT, zero in padded slots. Shape (B, N, 4), GeV.
            valid_mask: True where a particle is real. Shape (B, N).
            identity: Charge and the five flags, for `kinpid` and `full`. Shape (B, N, 6).
            displacement: d0, its error, dz, its error, for `full`. Shape (B, N, 4), mm.

        Returns:
            Probabilities of the classes, (B, C).
        """
        parts = [kinematic_features(p4, valid_mask)]
        if self.normalization.feature_set != "kin":
            assert identity is not None
            parts.append(identity.to(p4.dtype))
        if self.normalization.feature_set == "full":
            assert displacement is not None
            d0, d0_error, dz, dz_error = displacement.unbind(-1)
            errors = [error.clamp(0.0, ERROR_MAX_MM) for error in (d0_error, dz_error)]
            parts.append(torch.stack([d0.tanh(), errors[0], dz.tanh(), errors[1]], dim=-1))
        features = (torch.cat(parts, dim=-1) - self.shift) * self.factor
        features = features.clamp(-LIMIT, LIMIT) * valid_mask[..., None]
        logits: Tensor = self.network(p4, features, valid_mask)
        return logits.float().softmax(dim=-1)


def kinematic_features(p4: Tensor, valid_mask: Tensor, axis_mask: Tensor | None = None) -> Tensor:
    """Features of the set `kin`, before normalisation.

    Args:
        p4: Four-vectors (E, px, py, pz), zero in padded slots, (B, N, 4) GeV.
        valid_mask: True where a particle is real, (B, N).
        axis_mask: True where a particle counts for the jet, (B, N); None counts all real ones.

    Returns:
        ln pT, ln E, ln pT/pT_jet, ln E/E_jet, ΔR, Δη sign(η_jet), Δφ, (B, N, 7); finite in padded slots.
    """
    p4 = torch.where(valid_mask[..., None], p4, p4.new_tensor([1.0, 1.0, 0.0, 0.0]))
    weight = (valid_mask if axis_mask is None else axis_mask)[..., None].double()
    jet = (p4.double() * weight).sum(dim=1, keepdim=True).to(p4.dtype)  # exact for any order of the particles
    log_pt = fv.pt(p4).clamp_min(fv.TINY_GEV).log()
    log_energy = p4[..., 0].log()
    jet_eta = fv.eta(jet)
    deta = fv.eta(p4) - jet_eta
    dphi = fv.phi(p4) - fv.phi(jet)
    dphi = dphi - 2 * torch.pi * torch.round(dphi / (2 * torch.pi))
    return torch.stack(
        [
            log_pt,
            log_energy,
            log_pt - fv.pt(jet).clamp_min(fv.TINY_GEV).log(),
            log_energy - jet[..., 0].log(),
            torch.sqrt(deta * deta + dphi * dphi),
            torch.where(jet_eta < 0, -deta, deta),
            dphi,
        ],
        dim=-1,
    )
