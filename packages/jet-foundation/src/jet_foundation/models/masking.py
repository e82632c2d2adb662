r"""Which particles are hidden in masked-particle training.

    random   any k particles of a jet
    biased   k drawn without replacement with weights pT: the k largest ln(u)/pT, u uniform
             (P. Efraimidis, P. Spirakis, Inf. Process. Lett. 97 (2006) 181)
    block    the particles nearest to one of them, at most k, inside a window of 0.4 × 0.4 in (η, φ)

with k a fixed share of the particles, at least 1, and one particle always left to see.

Dimensions: B jets, N particles.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from jet_foundation.physics import fourvectors as fv

Masking = Literal["random", "biased", "block"]
BLOCK_HALF_WIDTH = 0.2


def choose_hidden(
    p4: Tensor,
    valid_mask: Tensor,
    *,
    masking: Masking,
    ratio: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the particles to hide.

    Args:
        p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
        valid_mask: True where a particle is real, (B, N).
        masking: `random`, `biased` or `block`.
        ratio: Share of the particles of a jet.
        generator: Source of random numbers on the device of p4; None takes torch's own.

    Returns:
        True where a real particle is hidden, (B, N); no particle of a jet that has one only.

    Raises:
        ValueError: `masking` has an unknown value.
    """
    if masking not in get_args(Masking):
        raise ValueError(f"masking is {masking!r}; use one of {', '.join(get_args(Masking))}")
    uniform = torch.rand(valid_mask.shape, generator=generator, device=p4.device).clamp_min(1e-12)
    score, allowed = uniform, valid_mask
    if masking == "biased":
        score = uniform.log() / fv.pt(p4).clamp_min(fv.TINY_GEV)
    elif masking == "block":
        centre = torch.where(valid_mask, uniform, 0.0).argmax(dim=1, keepdim=True)
        eta, phi = fv.eta(p4), fv.phi(p4)
        deta = eta - eta.gather(1, centre)
        dphi = fv.wrap_phi(phi - phi.gather(1, centre))
        distance = torch.maximum(deta.abs(), dphi.abs())
        score, allowed = -distance, valid_mask & (distance <= BLOCK_HALF_WIDTH)
    num = valid_mask.sum(dim=1)
    num_hidden = torch.minimum((ratio * num).round().clamp_min(1), num - 1)
    order = score.masked_fill(~allowed, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return allowed & (rank < num_hidden[:, None])
