r"""Features of a pair of particles, and which pairs exist.

    Δ = √(Δy² + Δφ²)     kT = min(pTᵢ, pTⱼ) Δ     z = min(pTᵢ, pTⱼ)/(pTᵢ + pTⱼ)     m² = (pᵢ + pⱼ)²

in the order ln kT, ln z, ln Δ, ln m² (H. Qu, C. Li, S. Qian, "Particle Transformer for jet tagging",
arXiv:2202.03772, Eq. 3-4). Particles of a jet are almost parallel, so y, φ and E² − |p|² lose most digits
when they are subtracted in float32, and the logarithm shows it. Here the differences are taken in double,

    sinh Δy = sinh yᵢ cosh yⱼ − cosh yᵢ sinh yⱼ     sin Δφ = sin φᵢ cos φⱼ − cos φᵢ sin φⱼ
    m² = mᵢ² + mⱼ² + 2 (mᵢ² mTⱼ² + pTᵢ² mⱼ²)/(mTᵢ mTⱼ + pTᵢ pTⱼ)
         + 2 mTᵢ mTⱼ (cosh Δy − 1) + 4 pTᵢ pTⱼ sin²(Δφ/2),   cosh Δy − 1 = sinh²Δy/(1 + √(1 + sinh²Δy))

with sinh y = pz/mT and sin φ = py/pT; m² is a sum of positive terms, and every runtime
finds the same numbers. The mass of one particle counts only above its rounding error, so that ln m² of a
photon with itself is the lower limit and not noise. As the matrix of pairs is symmetric, only pairs i ≥ j of
real particles are computed.

Dimensions: B jets, N particles, P pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from jet_foundation.physics import fourvectors as fv

NUM_PAIR_FEATURES = 4
FLOOR = 1e-8  # lower limit before each logarithm, arXiv:2202.03772's reference implementation
# Components rounded to nearest leave E² − |p|² uncertain by 2 ε E²; twice that allows for one more operation.
_ROUNDING = 4


class Kinematics(NamedTuple):
    """What the pair features need of one particle, each of the same shape; directions in float64."""

    pt: Tensor
    mt: Tensor
    mass2: Tensor
    sinh_y: Tensor
    cosh_y: Tensor
    sin_phi: Tensor
    cos_phi: Tensor


class PairIndex(NamedTuple):
    """Pairs of real particles with i ≥ j: jet, first and second particle, each (P,) int64."""

    jet: Tensor
    i: Tensor
    j: Tensor


def kinematics(p4: Tensor) -> Kinematics:
    """Quantities of single particles, computed once and gathered into pairs.

    Args:
        p4: Four-vectors (E, px, py, pz), (..., 4) GeV.

    Returns:
        Kinematics with tensors of shape (...), in GeV and GeV².
    """
    exact = p4.double()
    mt, pt = fv.transverse_mass(exact), fv.pt(exact)
    rounding = _ROUNDING * torch.finfo(p4.dtype).eps * exact[..., 0] ** 2
    mass2 = ((mt - pt) * (mt + pt) - rounding).clamp(min=0)
    sinh_y = exact[..., 3] / mt.clamp(min=fv.TINY_GEV)
    direction = exact[..., 1:3] / pt.clamp(min=fv.TINY_GEV)[..., None]
    cosh_y = torch.sqrt(1 + sinh_y * sinh_y)
    pt, mt, mass2 = (values.to(p4.dtype) for values in (pt, mt, mass2))
    return Kinematics(pt, mt, mass2, sinh_y, cosh_y, sin_phi=direction[..., 1], cos_phi=direction[..., 0])


def pair_features(a: Kinematics, b: Kinematics) -> Tensor:
    """Features of pairs.

    Args:
        a: First particles, any shape.
        b: Second particles, broadcastable with the first.

    Returns:
        ln kT, ln z, ln Δ, ln m² with the arguments in GeV and GeV², clamped below at 1e-8, (..., 4).
    """
    sinh_dy = (a.sinh_y * b.cosh_y - a.cosh_y * b.sinh_y).to(a.pt.dtype)
    sin_dphi = (a.sin_phi * b.cos_phi - a.cos_phi * b.sin_phi).to(a.pt.dtype)
    cos_dphi = (a.cos_phi * b.cos_phi + a.sin_phi * b.sin_phi).to(a.pt.dtype)
    dy, dphi = torch.asinh(sinh_dy), torch.atan2(sin_dphi, cos_dphi)
    delta = torch.sqrt(dy * dy + dphi * dphi)
    pt_min = torch.minimum(a.pt, b.pt)
    mt_product, pt_product = a.mt * b.mt, a.pt * b.pt
    at_rest = (a.mass2 * b.mt * b.mt + a.pt * a.pt * b.mass2) / (mt_product + pt_product).clamp(min=FLOOR)
    square = sinh_dy * sinh_dy
    opening = mt_product * square / (1 + torch.sqrt(1 + square)) + 2 * pt_product * torch.sin(dphi / 2) ** 2
    mass2 = a.mass2 + b.mass2 + 2 * (at_rest + opening)
    values = (pt_min * delta, pt_min / (a.pt + b.pt).clamp(min=FLOOR), delta, mass2)
    return torch.stack(values, dim=-1).clamp(min=FLOOR).log()


def literal_pair_features(p4_a: Tensor, p4_b: Tensor) -> Tensor:
    """The same features by the literal formulas, to compare with programs that use those.

    Args:
        p4_a: Four-vectors of the first particles, (..., 4) GeV.
        p4_b: Four-vectors of the second, (..., 4) GeV.

    Returns:
        As `pair_features`; m² carries the cancellation error of E² − |p|².
    """
    y_a, y_b = (
        0.5 * torch.log(1 + 2 * p4[..., 3] / (p4[..., 0] - p4[..., 3]).clamp(min=1e-20))
        for p4 in (p4_a, p4_b)
    )
    pt_a, pt_b = (torch.sqrt(p4[..., 1] ** 2 + p4[..., 2] ** 2) for p4 in (p4_a, p4_b))
    dphi = fv.wrap_phi(fv.phi(p4_a) - fv.phi(p4_b))
    delta = torch.sqrt((y_a - y_b) ** 2 + dphi**2)
    pt_min = torch.minimum(pt_a, pt_b)
    both = p4_a + p4_b
    mass2 = both[..., 0] ** 2 - (both[..., 1:] ** 2).sum(
        dim=-1
    )  # the rounding depends on the order of the sum
    values = (pt_min * delta, pt_min / (pt_a + pt_b).clamp(min=FLOOR), delta, mass2)
    return torch.stack(values, dim=-1).clamp(min=FLOOR).log()


def valid_pairs(valid_mask: Tensor) -> PairIndex:
    """List the pairs i ≥ j of real particles.

    Args:
        valid_mask: True where a particle is real, (B, N).

    Returns:
        The pairs in the order of jet, i, j.
    """
    pairs = (valid_mask[:, :, None] & valid_mask[:, None, :]).tril()
    return PairIndex(*pairs.nonzero(as_tuple=True))


def gather(quantities: Kinematics, jet: Tensor, particle: Tensor) -> Kinematics:
    """Pick particles of jets.

    Args:
        quantities: Kinematics of all particles, (B, N).
        jet: Jet numbers, (P,).
        particle: Particle numbers, (P,).

    Returns:
        Kinematics of the particles picked, (P,).
    """
    return Kinematics(*(values[jet, particle] for values in quantities))
