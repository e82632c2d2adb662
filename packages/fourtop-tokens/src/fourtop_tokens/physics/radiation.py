"""Partons radiated from the initial state, and the recoil they give to the heavy system.

The number follows a Poisson distribution whose mean depends on the initial state only, transverse momenta
follow

    dN/dpT ∝ 1 / pT / (1 + (pT / Q)²) ,   pT > pT_min ,

rapidities scatter around that of the heavy system. The constants are set by hand to the order of magnitude of
additional-jet multiplicities in top-quark pair production at 13 TeV; there is no parton shower, and nothing
radiates from the decay products.

R radiated partons, N events; momenta are (4, ..., N) in GeV.
"""

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics.decay_modes import Kind
from fourtop_tokens.physics.decays import Particles
from fourtop_tokens.physics.kinematics import Array, boost, four_momentum, mass

MEAN_RADIATED = {"gg": 2.0, "qqbar": 1.2, "u dbar": 1.2, "d ubar": 1.2}
MAX_RADIATED = 8
PT_MIN, PT_TURN, PT_MAX = 15.0, 120.0, 2000.0  # GeV; PT_TURN is Q
RAPIDITY_WIDTH, ETA_MAX = 1.8, 4.9
PHOTON_SHARE = 0.01  # of radiated partons that are a photon: α / α_s, rounded

_pt_grid = np.geomspace(PT_MIN, PT_MAX, 2049)
# In ln pT the density is 1 / (1 + (pT/Q)²), whose integral is elementary.
_pt_cumulative = -0.5 * np.log1p((PT_TURN / _pt_grid) ** 2)
_pt_cumulative = (_pt_cumulative - _pt_cumulative[0]) / (_pt_cumulative[-1] - _pt_cumulative[0])


def radiate(system: Array, num_radiated: NDArray[np.int8], rng: np.random.Generator) -> Particles:
    """Draw the radiated partons of each event.

    Args:
        system: Momentum of the heavy system, (4, N) in GeV.
        num_radiated: How many partons each event radiates, (N,).
        rng: Generator.

    Returns:
        Light partons and photons in `MAX_RADIATED` slots, filled from the first.
    """
    shape = (MAX_RADIATED, system.shape[1])
    present = np.arange(MAX_RADIATED)[:, None] < num_radiated
    rapidity = np.arctanh(system[3] / system[0])
    pt = np.interp(rng.random(shape), _pt_cumulative, _pt_grid)
    eta = np.clip(rapidity + RAPIDITY_WIDTH * rng.standard_normal(shape), -ETA_MAX, ETA_MAX)
    phi = rng.uniform(-np.pi, np.pi, shape)
    kinds = np.where(rng.random(shape) < PHOTON_SHARE, Kind.PHOTON, Kind.LIGHT)
    kinds = np.where(present, kinds, Kind.NONE).astype(np.int8)
    return Particles(four_momentum(pt, eta, phi) * present, kinds, np.zeros(shape, np.int8))


def recoil(heavy: Array, radiated: Array) -> Array:
    """Give the heavy particles the transverse momentum that balances the radiation.

    The mass and the rapidity of the heavy system stay.

    Args:
        heavy: Momenta without net transverse momentum, (4, L, N) in GeV.
        radiated: Momenta of the radiation, (4, R, N) in GeV.

    Returns:
        Momenta of the heavy particles, (4, L, N) in GeV.
    """
    system = heavy.sum(axis=1)
    system_mass = mass(system)
    at_rest = boost(heavy, (system * np.array([1, -1, -1, -1])[:, None])[:, None])
    px, py = -radiated[1].sum(axis=0), -radiated[2].sum(axis=0)
    mt = np.sqrt(system_mass**2 + px**2 + py**2)
    rapidity = np.arctanh(system[3] / system[0])
    moving = np.stack([mt * np.cosh(rapidity), px, py, mt * np.sinh(rapidity)])
    return boost(at_rest, moving[:, None])
