r"""Features of a pair of particles, and which pairs exist.

    Δ = √(Δy² + Δφ²)     kT = min(pTᵢ, pTⱼ) Δ     z = min(pTᵢ, pTⱼ)/(pTᵢ + pTⱼ)     m² = (pᵢ + pⱼ)²

in the order ln kT, ln z, ln Δ, ln m² (H. Qu, C. Li, S. Qian, "Particle Transformer for jet tagging",
arXiv:2202.03772, Eq. 3-4). Particles of a jet are almost parallel, so y, φ and E² − |p|² lose most digits
when they are subtracted in float32, and the logarithm shows it. `hep_shared.ops.pairs` takes the differences
of directions in double and m² as a sum of positive terms, so every runtime finds the same numbers; here are
the quantities of one particle, with sinh y = pz/mT and sin φ = py/pT. The mass of one particle counts only
above its rounding error, so that ln m² of a photon with itself is the lower limit and not noise. As the
matrix of pairs is symmetric, only pairs i ≥ j of real particles are computed.

Dimensions: B jets, N particles, P pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hep_shared.ops import pairs
from jet_foundation.physics import fourvectors as fv

NUM_PAIR_FEATURES = pairs.NUM_FEATURES
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
    return pairs.formula(_particles(a), _particles(b), FLOOR, 0.0)


def listed_pair_features(quantities: Kinematics, first: Tensor, second: Tensor) -> Tensor:
    """Features of listed pairs.

    Args:
        quantities: Kinematics of all particles, any shape.
        first: Numbers of the first particles, counted through that shape, (P,).
        second: Numbers of the second particles, (P,).

    Returns:
        As `pair_features`, (P, 4).
    """
    flat = Kinematics(*(values.flatten() for values in quantities))
    return pairs.pair_features(_particles(flat), first, second, floor=FLOOR)


def _particles(single: Kinematics) -> pairs.Particles:
    """With the rapidity, the transverse mass stands for the energy and pT for the momentum."""
    pt, mt, mass2, *directions = single
    return pairs.Particles(pt, mt, pt, mt, mass2, *directions)


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
