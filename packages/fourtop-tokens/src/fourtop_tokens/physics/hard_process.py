r"""Phase space of the heavy particles by importance sampling and unweighting.

With transverse momenta and rapidities as variables the conservation of E and pz fixes x1 and x2, so

    dσ ∝ x1 f(x1) x2 f(x2) / ŝ² · |M|² · ∏ d²pT_i dy_i · δ²(Σ pT_i)                       (exact)
    x1,2 = Σ mT_i exp(±y_i) / √s

and, in place of a matrix element, the scale-free form |M|² = ŝ² r^k ∏ 1/mT_i² with r = (Σ mT_i)² / ŝ ≤ 1:
k = 2 (s-channel, qq̄) and k = 1 (t-channel exchange, gg) give the pT and rapidity behaviour of leading-order
heavy pair production far from threshold. There are no spin correlations.

Transverse momenta are drawn from 1/(pT² + c²)^(1+a), the first one, a top, balances; rapidities from a
Gaussian around a Gaussian centre. Weights above a ceiling count as the ceiling; `pilot` says what fraction of
the cross-section is lost that way.

L heavy particles, N events; momenta are (4, L, N).
"""

import functools
from dataclasses import dataclass

import numpy as np

from fourtop_tokens.physics import constants
from fourtop_tokens.physics.kinematics import Array
from fourtop_tokens.physics.partons import luminosity

BEAM_ENERGY = 13_000.0  # √s in GeV
MASSES = {
    "t": constants.TOP_MASS,
    "tbar": constants.TOP_MASS,
    "W+": constants.W_MASS,
    "W-": constants.W_MASS,
    "Z": constants.Z_MASS,
    "H": constants.HIGGS_MASS,
}
_EXPONENT = {"gg": 1, "qqbar": 2, "u dbar": 2, "d ubar": 2}

_PT_SCALE, _PT_POWER = 1.2, 0.8  # proposal: c in units of the mass, a
_CENTRE_WIDTH, _SPREAD_WIDTH = 0.8, 1.0  # proposal: rapidity of the centre and around it
_PILOT_TRIALS, _PILOT_SEED = 100_000, 1
_CEILING_QUANTILE = 0.9995


@dataclass(frozen=True)
class HardProcess:
    """One initial state and its heavy particles.

    Attributes:
        initial_state: `gg`, `qqbar`, `u dbar` or `d ubar`.
        legs: The heavy particles, names of `MASSES`.
        share: Share of the physics process that comes from this initial state, before any selection.
    """

    initial_state: str
    legs: tuple[str, ...]
    share: float

    @property
    def masses(self) -> Array:
        """Masses of the legs, (L,) in GeV."""
        return np.array([MASSES[leg] for leg in self.legs])

    def trial(self, rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
        """Draw weighted points of phase space.

        Args:
            rng: Generator.
            n: How many.

        Returns:
            Momenta (4, L, n) in GeV without net transverse momentum; the weight of the surrogate density,
            (n,); that of the bare measure ∏ d²pT dy δ²(Σ pT), (n,) in GeV^(2L-2). Both are relative to the
            proposal, and 0 where x1 or x2 would exceed 1.
        """
        num_legs = len(self.legs)
        masses = self.masses[:, None]
        scale2 = (_PT_SCALE * masses[1:]) ** 2
        pt2 = scale2 * (rng.random((num_legs - 1, n)) ** (-1 / _PT_POWER) - 1)
        azimuth = rng.uniform(-np.pi, np.pi, (num_legs - 1, n))
        px, py = np.sqrt(pt2) * np.cos(azimuth), np.sqrt(pt2) * np.sin(azimuth)
        px, py = (np.concatenate([-a.sum(axis=0, keepdims=True), a]) for a in (px, py))
        proposal = np.prod(_PT_POWER / np.pi / scale2 * (1 + pt2 / scale2) ** (-1 - _PT_POWER), axis=0)

        spread = _SPREAD_WIDTH * rng.standard_normal((num_legs, n))
        y = spread + _CENTRE_WIDTH * rng.standard_normal(n)
        proposal *= _rapidity_density(y)

        mt = np.sqrt(px**2 + py**2 + masses**2)
        energy, pz = mt * np.cosh(y), mt * np.sinh(y)
        total_energy, total_pz = energy.sum(axis=0), pz.sum(axis=0)
        x_1, x_2 = (total_energy + total_pz) / BEAM_ENERGY, (total_energy - total_pz) / BEAM_ENERGY
        inside = (x_1 < 1) & (x_2 < 1)
        x_1, x_2 = np.where(inside, x_1, 0.5), np.where(inside, x_2, 0.5)
        measure = inside / proposal
        mass_ratio = mt.sum(axis=0) ** 2 / (x_1 * x_2 * BEAM_ENERGY**2)
        surrogate = luminosity(self.initial_state, x_1, x_2) * mass_ratio ** _EXPONENT[self.initial_state]
        return np.stack([energy, px, py, pz]), measure * surrogate / np.prod(mt**2, axis=0), measure

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw unweighted events.

        Args:
            rng: Generator.
            n: How many.

        Returns:
            Momenta, (4, L, n) in GeV.
        """
        ceiling, efficiency, _ = pilot(self)
        accepted: list[Array] = []
        missing = n
        while missing > 0:
            momenta, weight, _ = self.trial(rng, int(missing / efficiency * 1.1) + 64)
            kept = momenta[:, :, weight > ceiling * rng.random(weight.size)][:, :, :missing]
            accepted.append(kept)
            missing -= kept.shape[2]
        return np.concatenate(accepted, axis=2) if accepted else np.zeros((4, len(self.legs), 0))


def _rapidity_density(y: Array) -> Array:
    """Density of y_i = centre + spread_i, a Gaussian with covariance σd² 1 + σc² 11ᵀ; (L, N) to (N,)."""
    num_legs = y.shape[0]
    var_d, var_c = _SPREAD_WIDTH**2, _CENTRE_WIDTH**2
    var_total = var_d + num_legs * var_c
    chi2 = ((y**2).sum(axis=0) - var_c / var_total * y.sum(axis=0) ** 2) / var_d
    norm = (2 * np.pi) ** (num_legs / 2) * np.sqrt(var_d ** (num_legs - 1) * var_total)
    return np.asarray(np.exp(-chi2 / 2) / norm)


@functools.cache
def pilot(process: HardProcess) -> tuple[float, float, float]:
    """Find the ceiling of the weights in a run with its own fixed seed.

    Args:
        process: The process.

    Returns:
        The ceiling in the units of the weight, the unweighting efficiency, and the fraction of the
        cross-section above the ceiling.
    """
    _, weight, _ = process.trial(np.random.default_rng(_PILOT_SEED), _PILOT_TRIALS)
    ceiling = float(np.quantile(weight, _CEILING_QUANTILE))
    clipped = np.minimum(weight, ceiling).mean()
    return ceiling, float(clipped / ceiling), float(1 - clipped / weight.mean())


# Shares of the initial states, rounded by hand from what leading order gives at 13 TeV.
PROCESSES: dict[str, tuple[HardProcess, ...]] = {
    "tttt": (
        HardProcess("gg", ("t", "tbar", "t", "tbar"), 0.90),
        HardProcess("qqbar", ("t", "tbar", "t", "tbar"), 0.10),
    ),
    "ttH": (
        HardProcess("gg", ("t", "tbar", "H"), 0.70),
        HardProcess("qqbar", ("t", "tbar", "H"), 0.30),
    ),
    "ttW": (
        HardProcess("u dbar", ("t", "tbar", "W+"), 0.66),
        HardProcess("d ubar", ("t", "tbar", "W-"), 0.34),
    ),
    "ttWW": (
        HardProcess("gg", ("t", "tbar", "W+", "W-"), 0.60),
        HardProcess("qqbar", ("t", "tbar", "W+", "W-"), 0.40),
    ),
    "ttZ": (
        HardProcess("gg", ("t", "tbar", "Z"), 0.70),
        HardProcess("qqbar", ("t", "tbar", "Z"), 0.30),
    ),
}
