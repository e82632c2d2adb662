r"""What two objects say together: a bias for every attention head from physical quantities.

For a pair with four-momenta p_a, p_b, in GeV and before any scaling,

    ln m²,   ln ΔR,   ln kT = ln(min(pT_a, pT_b) ΔR),   ln z = ln(min(pT_a, pT_b) / (pT_a + pT_b)),
    m² = m_a² + m_b² + 2 [E_a E_b - pT_a pT_b (sinh η_a sinh η_b + cos Δφ)],

as in H. Qu et al., arXiv:2202.03772, eq. 3, go through a small network to one number a head. They enter
centred and scaled by constants that are typical of the pairs of top-quark events. Without E in the input
objects are massless, m² = 2 pT_a pT_b (cosh Δη - cos Δφ). All of it is symmetric, so only the pairs a ≥ b are
evaluated, T = P (P + 1) / 2 of them; the operator that does so is `hep_shared.ops.pairs`.

The Standard-Model option adds what a Feynman rule would: the logarithm of a coupling, and those of the
propagators of the bosons that decay into pairs.

Coupling: that with which the two kinds of object meet in a vertex of the Standard Model, at the scale
Q = max(kT, 1 GeV): the strong coupling for two jets, the electromagnetic one for a photon with anything
charged and for two leptons of one flavour and opposite charge, the weak one otherwise. The idea of such an
interaction matrix is from L. Builtjes et al., SciPost Phys. 19, 028 (2025), arXiv:2211.05143; its entries
here are the rule above. Couplings run with one loop:

    1/α_i(Q) = 1/α_i(m_Z) + b_i / (2π) ln(Q / m_Z).

Propagator: of the boson V that decays into two such objects where it can be seen, W into two jets, Z into two
leptons of one flavour and opposite charge, H into two b-jets or two photons, with the width w that a detector
sees instead of the natural one,

    ln P_V = -1/2 ln(1 + (m - M_V)² / w_V²),

and the same constant, far off the mass shell, for all other pairs. A network of this size does not find so
narrow a structure in ln m² by itself.

B events, P objects, T pairs, H heads.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from fourtop_tokens.data import schema
from fourtop_tokens.physics.constants import HIGGS_MASS, W_MASS, Z_MASS
from hep_shared.ops import pairs

Pairwise = Literal["none", "physics", "physics_sm"]
_FLOOR, _DELTA_FLOOR = 1e-6, 1e-3  # lower limits before each logarithm, and of ΔR
_Q_MIN_GEV = 1.0
# Mean and standard deviation of ln m², ln ΔR, ln kT and ln z over pairs in simulated events, rounded.
_TYPICAL = ((9.9, 1.4), (0.66, 0.52), (4.6, 0.75), (-1.2, 0.44))
_FARTHEST = 5.0  # standard deviations; an object with itself, where ΔR = 0, would lie much farther off
_TYPICAL_LOG_COUPLING = -3.0
# Mass and width in GeV of bosons that are seen as pairs: W and H in jets (10 %), Z in leptons (3 %).
RESONANCES = ((W_MASS, 8.0), (Z_MASS, 2.7), (HIGGS_MASS, 12.5))
_OFF_SHELL = -5.0  # ln P of 150 widths, above all that occurs

# Couplings at the Z mass, PDG (2024): alpha_s, alpha_em (MS-bar), alpha_em / sin²θ_W (MS-bar).
ALPHA_AT_Z = (0.1180, 1 / 127.930, 1 / 127.930 / 0.23129)
# One-loop coefficients with five quarks and three leptons: QCD 11 - 2/3·5, QED -4/3·(3 + 3·(2·4/9 + 3·1/9)),
# weak, above the heavy particles, 19/6. PDG (2024), "Quantum chromodynamics", "Grand unified theories".
ONE_LOOP = (23 / 3, -80 / 9, 19 / 6)
STRONG, ELECTROMAGNETIC, WEAK = range(3)

# Object codes, `schema.OBJECT_IDS`.
_B_JET, _PHOTON = 2, 7
_JETS = (1, _B_JET)
_OPPOSITE = {3: 4, 4: 3, 5: 6, 6: 5}  # leptons of one flavour and opposite charge


def interaction_table() -> Tensor:
    """Which coupling joins two kinds of object.

    Returns:
        STRONG, ELECTROMAGNETIC or WEAK for each pair of ids, padding included, (8, 8) int64.
    """
    table = torch.full((schema.NUM_IDS + 1,) * 2, WEAK)
    for a in schema.OBJECT_IDS:
        for b in schema.OBJECT_IDS:
            if a in _JETS and b in _JETS:
                table[a, b] = STRONG
            elif (a == _PHOTON) != (b == _PHOTON) or _OPPOSITE.get(a) == b:
                table[a, b] = ELECTROMAGNETIC
    return table


def decay_table() -> Tensor:
    """Which boson of `RESONANCES` decays into two kinds of object.

    Returns:
        True for each pair of ids that W, Z and H go to, padding included, (8, 8, 3).
    """
    table = torch.zeros(schema.NUM_IDS + 1, schema.NUM_IDS + 1, len(RESONANCES), dtype=torch.bool)
    for a in schema.OBJECT_IDS:
        for b in schema.OBJECT_IDS:
            table[a, b, 0] = a in _JETS and b in _JETS
            table[a, b, 1] = _OPPOSITE.get(a) == b
            table[a, b, 2] = a == b and a in (_B_JET, _PHOTON)
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


def log_propagators(mass2: Tensor, decays: Tensor) -> Tensor:
    """Logarithms of the propagators of W, Z and H, 0 on the mass shell.

    Args:
        mass2: m² of pairs in GeV², positive, (...).
        decays: Whether the boson decays into such a pair, (..., 3).

    Returns:
        ln P_V, not below `_OFF_SHELL`, (..., 3).
    """
    mass = mass2.sqrt()[..., None]
    masses, widths = (mass.new_tensor(values) for values in zip(*RESONANCES, strict=True))
    found = -0.5 * ((mass - masses) / widths).square().log1p()
    return torch.where(decays, found.clamp(min=_OFF_SHELL), _OFF_SHELL)


class PairwiseBias(nn.Module):
    """Bias of every head from pairs of objects.

    Args:
        num_heads: Heads H.
        hidden_dim: Width of the two hidden layers of the small network.
        with_energy: Whether E may be used.
        couplings: Add the coupling and the propagators of the Standard Model.
    """

    interactions: Tensor
    decays: Tensor

    def __init__(self, num_heads: int, hidden_dim: int, *, with_energy: bool, couplings: bool) -> None:
        super().__init__()
        self.with_energy, self.couplings = with_energy, couplings
        num_inputs = len(_TYPICAL) + (1 + len(RESONANCES) if couplings else 0)
        self.network = nn.Sequential(
            nn.Linear(num_inputs, hidden_dim), nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim), nn.GELU(),
            nn.Linear(hidden_dim, num_heads),
        )  # fmt: skip
        self.register_buffer("interactions", interaction_table(), persistent=False)
        self.register_buffer("decays", decay_table(), persistent=False)

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
        centre, width = (found.new_tensor(values) for values in zip(*_TYPICAL, strict=True))
        inputs = [((found - centre) / width).clamp(-_FARTHEST, _FARTHEST)]
        if self.couplings:
            scale = found[..., 2].exp().clamp(min=_Q_MIN_GEV)
            kind = self.interactions[ids[:, first], ids[:, second]]
            coupling = running_couplings(scale).gather(-1, kind[..., None]).log()
            propagators = log_propagators(found[..., 0].exp(), self.decays[ids[:, first], ids[:, second]])
            inputs += [coupling - _TYPICAL_LOG_COUPLING, propagators - _OFF_SHELL]
        bias = self.network(torch.cat(inputs, dim=-1))[:, square].permute(0, 3, 1, 2)
        return torch.where((valid[:, :, None] & valid[:, None])[:, None], bias, 0.0)
