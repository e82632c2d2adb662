r"""What two objects say together: a bias for every attention head from physical quantities.

For a pair with four-momenta p_a, p_b, in GeV and before any scaling,

    ln m²,   ln ΔR,   ln kT = ln(min(pT_a, pT_b) ΔR),   ln z = ln(min(pT_a, pT_b) / (pT_a + pT_b)),
    m² = m_a² + m_b² + 2 [E_a E_b - pT_a pT_b (sinh η_a sinh η_b + cos Δφ)],

as in H. Qu et al., arXiv:2202.03772, eq. 3, go through a small network to one number a head. Without E in the
input objects are massless, m² = 2 pT_a pT_b (cosh Δη - cos Δφ). All of it is symmetric, so only the pairs
a ≥ b are evaluated, T = P (P + 1) / 2 of them; the operator that does so is `hep_shared.ops.pairs`.

The Standard-Model option adds the logarithm of the coupling with which the two kinds of object meet in a
vertex of the Standard Model, at the scale Q = max(kT, 1 GeV): the strong coupling for two jets, the
electromagnetic one for a photon with anything charged and for two leptons of one flavour and opposite charge,
the weak one otherwise. The idea of such an interaction matrix is from L. Builtjes et al., SciPost Phys. 19,
028 (2025), arXiv:2211.05143; its entries here are the rule above. Couplings run with one loop:

    1/α_i(Q) = 1/α_i(m_Z) + b_i / (2π) ln(Q / m_Z).

B events, P objects, T pairs, H heads.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fourtop_tokens.data import schema
from fourtop_tokens.physics.constants import Z_MASS
from hep_shared.ops import pairs

Pairwise = Literal["none", "physics", "physics_sm"]
_FLOOR, _DELTA_FLOOR = 1e-6, 1e-3  # lower limits before each logarithm, and of ΔR
_Q_MIN_GEV = 1.0

# Couplings at the Z mass, PDG (2024): alpha_s, alpha_em (MS-bar), alpha_em / sin²θ_W (MS-bar).
ALPHA_AT_Z = (0.1180, 1 / 127.930, 1 / 127.930 / 0.23129)
# One-loop coefficients with five quarks and three leptons: QCD 11 - 2/3·5, QED -4/3·(3 + 3·(2·4/9 + 3·1/9)),
# weak, above the heavy particles, 19/6. PDG (2024), "Quantum chromodynamics", "Grand unified theories".
ONE_LOOP = (23 / 3, -80 / 9, 19 / 6)
STRONG, ELECTROMAGNETIC, WEAK = range(3)


def interaction_table() -> Tensor:
    """Which coupling joins two kinds of object.

    Returns:
        STRONG, ELECTROMAGNETIC or WEAK for each pair of ids, padding included, (8, 8) int64.
    """
    table = torch.full((schema.NUM_IDS + 1,) * 2, WEAK)
    jets, photon = (1, 2), 7
    opposite = {3: 4, 4: 3, 5: 6, 6: 5}
    for a in schema.OBJECT_IDS:
        for b in schema.OBJECT_IDS:
            if a in jets and b in jets:
                table[a, b] = STRONG
            elif (a == photon) != (b == photon) or opposite.get(a) == b:
                table[a, b] = ELECTROMAGNETIC
    return table


def running_couplings(scale: Tensor) -> Tensor:
    """Couplings at a scale.

    Args:
        scale: Q in GeV, at least 1, (...).

    Returns:
        Strong, electromagnetic and weak α, (..., 3).
    """
    log = (scale / Z_MASS).log() / (2 * math.pi)
    return torch.stack([1 / (1 / a + b * log) for a, b in zip(ALPHA_AT_Z, ONE_LOOP, strict=True)], dim=-1)


def triangle(num_objects: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pairs a ≥ b of objects.

    Args:
        num_objects: P.
        device: Where to put them.

    Returns:
        a and b, row by row, (2, T) int64, and the place in that list of any two objects, (P, P) int64.
    """
    objects = torch.arange(num_objects, device=device)
    later, earlier = torch.maximum(objects[:, None], objects), torch.minimum(objects[:, None], objects)
    return torch.tril_indices(num_objects, num_objects, device=device), later * (later + 1) // 2 + earlier


def pair_features(features: Tensor, *, with_energy: bool) -> Tensor:
    """Logarithms of m², ΔR, kT and z of the pairs a ≥ b.

    Args:
        features: E, pT, eta, phi, (B, P, 4) in GeV and rad.
        with_energy: Whether E may be used.

    Returns:
        (B, T, 4); m² and kT in GeV² and GeV.
    """
    num_events, num_objects, _ = features.shape
    energy, pt, eta, phi = features.double().flatten(0, 1).unbind(-1)
    growth = eta.exp()  # ONNX Runtime has no hyperbolic functions in double
    sinh, cosh = (growth - 1 / growth) / 2, (growth + 1 / growth) / 2
    momentum = pt * cosh
    energy = energy if with_energy else momentum
    mass2 = (energy - momentum) * (energy + momentum)
    pt, energy, momentum, mass2 = (v.to(features.dtype) for v in (pt, energy, momentum, mass2))
    particles = pairs.Particles(pt, energy, momentum, pt, mass2, sinh, cosh, phi.sin(), phi.cos())
    start = torch.arange(num_events, device=features.device)[:, None] * num_objects
    first, second = ((start + index).flatten() for index in triangle(num_objects, features.device)[0])
    found = pairs.pair_features(particles, first, second, floor=_FLOOR, delta_floor=_DELTA_FLOOR)
    return found.view(num_events, -1, pairs.NUM_FEATURES)[..., [3, 2, 0, 1]]


class PairwiseBias(nn.Module):
    """Bias of every head from pairs of objects.

    Args:
        num_heads: Heads H.
        hidden_dim: Width of the small network.
        with_energy: Whether E may be used.
        couplings: Add the Standard-Model coupling of the pair.
    """

    interactions: Tensor

    def __init__(self, num_heads: int, hidden_dim: int, *, with_energy: bool, couplings: bool) -> None:
        super().__init__()
        self.with_energy, self.couplings = with_energy, couplings
        self.network = nn.Sequential(
            nn.Linear(4 + couplings, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_heads)
        )
        self.register_buffer("interactions", interaction_table(), persistent=False)

    def forward(self, ids: Tensor, features: Tensor) -> Tensor:
        """Evaluate all pairs.

        Args:
            ids: Object codes, 0 for padding, (B, P).
            features: E, pT, eta, phi, (B, P, 4) in GeV and rad.

        Returns:
            0 where one of the two is padding, (B, H, P, P).
        """
        valid = ids != schema.PAD
        features = torch.where(valid[..., None], features, 1.0)  # finite numbers, and finite gradients
        found = pair_features(features, with_energy=self.with_energy)
        (first, second), square = triangle(ids.shape[1], ids.device)
        # Spectra end near e^14 GeV² and e^-7: a fixed scale keeps the input of order one.
        inputs = found / found.new_tensor([6.0, 1.0, 4.0, 2.0])
        if self.couplings:
            scale = found[..., 2].exp().clamp(min=_Q_MIN_GEV)
            kind = self.interactions[ids[:, first], ids[:, second]]
            coupling = running_couplings(scale).gather(-1, kind[..., None]).log()
            inputs = torch.cat([inputs, coupling / 2], dim=-1)
        bias = self.network(inputs)[:, square].permute(0, 3, 1, 2)
        return torch.where((valid[:, :, None] & valid[:, None])[:, None], bias, 0.0)
