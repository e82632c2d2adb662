r"""Features of pairs of particles for attention: ln kT, ln z, ln Delta, ln m^2.

    Delta = sqrt(dy^2 + dphi^2)     kT = min(pT_a, pT_b) Delta     z = min(pT_a, pT_b) / (pT_a + pT_b)
    m^2 = m_a^2 + m_b^2 + 2 [(m_a^2 E_b^2 + p_a^2 m_b^2) / (E_a E_b + p_a p_b)
          + s_a s_b (cosh dy - 1) + pT_a pT_b (1 - cos dphi)]

(H. Qu, C. Li, S. Qian, "Particle Transformer for jet tagging", arXiv:2202.03772, Eq. 3-4). Where y is the
rapidity, E and the stretch s are mT and p is pT; where it is the pseudorapidity, E is the energy, p = |p| and
s = pT. The first term in brackets is E_a E_b - p_a p_b, which would cancel for light particles.

Particles of a jet are almost parallel, and differences of their directions lose most digits in float32. So
directions come in float64, as sinh y, cosh y, sin phi and cos phi, and

    sinh dy = sinh y_a cosh y_b - cosh y_a sinh y_b,     cosh dy - 1 = sinh^2 dy / (1 + sqrt(1 + sinh^2 dy)),
    sin dphi = sin phi_a cos phi_b - cos phi_a sin phi_b,     1 - cos dphi = sin^2 dphi / (1 + cos dphi),

are rounded once to the dtype of the rest; behind a right angle 1 - cos dphi is taken as it stands.

As the matrix of pairs is symmetric, callers list the pairs a >= b of particles that exist.

Dimension legend: M particles, P pairs.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hep_shared.ops._backend import must_use_reference, recomputing, register, require, under_autocast

NUM_FEATURES = 4
LEAST_FLOOR = 1e-30
_OP = "pair_features"


class Particles(NamedTuple):
    """What pairs need of one particle, each of the same shape; energies in GeV, directions in float64.

    Where y is the rapidity, `energy` and `stretch` are mT and `momentum` is pT; where it is the
    pseudorapidity, they are the energy, pT and the absolute value of the momentum.
    """

    pt: Tensor
    energy: Tensor
    momentum: Tensor
    stretch: Tensor
    mass2: Tensor
    sinh_y: Tensor
    cosh_y: Tensor
    sin_phi: Tensor
    cos_phi: Tensor


def pair_features(
    particles: Particles, first: Tensor, second: Tensor, *, floor: float, delta_floor: float = 0.0
) -> Tensor:
    """Features of listed pairs; differentiable in the particles, by recomputing.

    Args:
        particles: Quantities of the particles, each (M,), float32 or float64 and the directions float64.
        first: Numbers of the first particles, from 0 to M - 1, (P,) int64.
        second: Numbers of the second particles, (P,) int64.
        floor: Lower limit of kT, z, Delta and m^2, in GeV, 1 and GeV^2.
        delta_floor: Lower limit of Delta, also in kT; above 0 it keeps the derivative at Delta = 0 finite.

    Returns:
        ln kT, ln z, ln Delta, ln m^2, (P, 4), in the dtype of pT.

    Raises:
        ValueError: A shape, a dtype, a device or a limit does not fit.
    """
    particles = Particles(*under_autocast(*particles))
    pt = particles.pt
    require(pt.dim() == 1, _OP, f"the particles must have the shape (M,), not {tuple(pt.shape)}")
    require(pt.dtype in (torch.float32, torch.float64), _OP, f"pt must be float32 or float64, not {pt.dtype}")
    for name, values in particles._asdict().items():
        dtype = torch.float64 if name in Particles._fields[5:] else pt.dtype
        require(
            values.shape == pt.shape and values.dtype == dtype and values.device == pt.device,
            _OP,
            f"{name} must be {tuple(pt.shape)} {dtype} on {pt.device}, "
            f"not {tuple(values.shape)} {values.dtype} on {values.device}",
        )
    for name, index in (("first", first), ("second", second)):
        require(
            index.dim() == 1
            and index.shape == first.shape
            and index.dtype == torch.long
            and index.device == pt.device,
            _OP,
            f"{name} must be a list of int64 on {pt.device} as long as first, "
            f"not {tuple(index.shape)} {index.dtype} on {index.device}",
        )
    require(
        floor >= LEAST_FLOOR and delta_floor >= 0,
        _OP,
        f"floor must be at least {LEAST_FLOOR} and delta_floor at least 0, not {floor} and {delta_floor}",
    )
    if must_use_reference():
        return _of_listed(particles, first, second, floor, delta_floor)
    scales, directions = torch.stack(particles[:5], dim=1), torch.stack(particles[5:], dim=1)
    return operator(first, second, scales, directions, floor, delta_floor)


def formula(a: Particles, b: Particles, floor: float, delta_floor: float) -> Tensor:
    """Features of pairs in plain PyTorch.

    Args:
        a: First particles, any shape.
        b: Second particles, broadcastable with the first.
        floor: Lower limit of the four quantities.
        delta_floor: Lower limit of Delta, also in kT.

    Returns:
        ln kT, ln z, ln Delta, ln m^2, (..., 4).
    """
    dtype = a.pt.dtype
    sinh = (a.sinh_y * b.cosh_y - a.cosh_y * b.sinh_y).to(dtype)
    sin = (a.sin_phi * b.cos_phi - a.cos_phi * b.sin_phi).to(dtype)
    cos = (a.cos_phi * b.cos_phi + a.sin_phi * b.sin_phi).to(dtype)
    dy, dphi = torch.asinh(sinh), torch.atan2(sin, cos)
    delta = torch.sqrt((dy * dy + dphi * dphi).clamp(min=delta_floor**2))
    pt_min = torch.minimum(a.pt, b.pt)
    total = (a.energy * b.energy + a.momentum * b.momentum).clamp(min=floor)
    at_rest = (a.mass2 * b.energy * b.energy + a.momentum * a.momentum * b.mass2) / total
    square = sinh * sinh
    around = torch.where(cos < 0, 1 - cos, sin * sin / (1 + cos.clamp(min=0)))
    opening = a.stretch * b.stretch * square / (1 + torch.sqrt(1 + square)) + a.pt * b.pt * around
    mass2 = a.mass2 + b.mass2 + 2 * (at_rest + opening)
    values = (pt_min * delta, pt_min / (a.pt + b.pt).clamp(min=floor), delta, mass2)
    return torch.stack(values, dim=-1).clamp(min=floor).log()


def _of_listed(
    particles: Particles, first: Tensor, second: Tensor, floor: float, delta_floor: float
) -> Tensor:
    a, b = (Particles(*(values[index] for values in particles)) for index in (first, second))
    return formula(a, b, floor, delta_floor)


def reference(
    first: Tensor, second: Tensor, scales: Tensor, directions: Tensor, floor: float, delta_floor: float
) -> Tensor:
    """Features of pairs of rows of `scales` (M, 5) and `directions` (M, 4), the columns of `Particles`."""
    a, b = (Particles(*scales[index].unbind(1), *directions[index].unbind(1)) for index in (first, second))
    return formula(a, b, floor, delta_floor)


def _like_pairs(
    first: Tensor, second: Tensor, scales: Tensor, directions: Tensor, floor: float, delta_floor: float
) -> Tensor:
    return scales.new_empty(first.shape[0], NUM_FEATURES)


operator = register(
    _OP,
    "(Tensor first, Tensor second, Tensor scales, Tensor directions, float floor, float delta_floor)"
    " -> Tensor",
    reference,
    fake=_like_pairs,
    num_rows=2,
    backward=recomputing(reference),
)
