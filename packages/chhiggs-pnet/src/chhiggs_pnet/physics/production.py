r"""Hard production with a toy proton, and radiation from the initial state.

The mass M of the produced system follows dσ/dM ∝ (2/M) L(M²/s) σ̂(M²) with the parton luminosity

    L(τ) = ∫ dy  x₁f(x₁) x₂f(x₂),    x₁,₂ = √τ e^{±y},    x f(x) = x^{−a} (1 − x)^b ,

its rapidity follows the integrand. For tt̄ the leading-order matrix elements are used: with ρ = 4m²/ŝ,
β = √(1 − ρ), c = cosθ and τ₁,₂ = (1 ∓ βc)/2 (P. Nason, S. Dawson, R. K. Ellis, Nucl. Phys. B 303, 607 (1988))

    gg:   (1/(6 τ₁τ₂) − 3/8) (τ₁² + τ₂² + ρ − ρ²/(4 τ₁τ₂))        qq̄:   τ₁² + τ₂² + ρ/2

and σ̂ ∝ β/ŝ ∫ dc |M|². Three-body systems are flat in phase space; vector-boson pairs peak forward like a
t-channel exchange. The exponents a and b are set by hand to the size of the luminosities at a few hundred
GeV.

The number of radiated partons is Poisson distributed, their transverse momenta follow
dN/dpt ∝ 1/pt /(1 + (pt/Q)²), pseudorapidities are normal around 0; the system recoils against them.

N events, R radiated partons; momenta are (4, ..., N) in GeV.
"""

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.decays import two_body_rest
from chhiggs_pnet.physics.kinematics import (
    Array,
    azimuths,
    boost,
    breakup_momentum,
    direction,
    four_momentum,
    isotropic_directions,
    system_momentum,
)
from chhiggs_pnet.physics.particles import Kind
from chhiggs_pnet.physics.sampling import InverseCdf

_GLUON, _QUARK = (0.45, 10.0), (0.15, 4.5)  # a, b of x f(x)
_GLUON_SHARE_TT = 0.88  # of tt production at 13 TeV
_MAX_MASS = 2500.0  # GeV, upper end of all mass spectra
MAX_RADIATED = 5
PT_MIN, PT_TURN, PT_MAX = 12.0, 90.0, 800.0  # GeV; PT_TURN is Q
_RAPIDITY_WIDTH, _ETA_MAX = 1.6, 4.7
# Flavours of radiated partons: gluons split to heavy quarks that share one jet.
_BOTTOM_SHARE, _CHARM_SHARE = 0.012, 0.045


@dataclass(frozen=True)
class Radiation:
    """Partons radiated by the initial state.

    Attributes:
        momenta: (4, R, N) in GeV; 0 in empty slots.
        kinds: `Kind`, (R, N) int8.
    """

    momenta: Array
    kinds: NDArray[np.int8]


def integral(density: Array, x: Array) -> Array:
    """Integrate by trapezoids over the last axis.

    Args:
        density: Values on a grid, (..., G).
        x: The grid, (G,) or (..., G).

    Returns:
        Integrals, (...).
    """
    from scipy.integrate import trapezoid  # a second to import, and this module is read for its names, too

    return np.asarray(trapezoid(density, x))


def _luminosity(shape: tuple[float, float], mass: Array) -> tuple[Array, Array]:
    """Rapidity grid (M, G) and integrand of the luminosity on it for each mass."""
    a, b = shape
    root_tau = mass[:, None] / c.BEAM_ENERGY_SUM
    y = np.linspace(-1.0, 1.0, 257) * -np.log(root_tau)
    x1, x2 = np.minimum(root_tau * np.exp(y), 1.0), np.minimum(root_tau * np.exp(-y), 1.0)
    return y, (x1 * x2) ** -a * ((1 - x1) * (1 - x2)) ** b


@dataclass(frozen=True)
class MassAndRapidity:
    """Tables of the mass of a produced system and of its rapidity at given mass."""

    mass: InverseCdf
    rapidity: InverseCdf

    @classmethod
    def build(cls, shape: tuple[float, float], masses: Array, cross_section: Array) -> "MassAndRapidity":
        """Tabulate.

        Args:
            shape: a and b of the parton density.
            masses: Uniform grid in GeV, (M,).
            cross_section: σ̂ on the grid up to a constant, (M,).

        Returns:
            The tables.
        """
        y, integrand = _luminosity(shape, masses)
        density = cross_section / masses * integral(integrand, y)
        return cls(InverseCdf(masses, density), InverseCdf(y, integrand, masses))

    def draw(self, rng: np.random.Generator, num: int, recoil: Array) -> tuple[Array, Array]:
        """Draw systems that recoil against the radiation.

        Args:
            rng: Generator.
            num: Number of events.
            recoil: Transverse momentum px, py of the system, (2, N) in GeV.

        Returns:
            Momenta (4, N) and masses (N,) in GeV.
        """
        mass = self.mass.draw(rng, num)
        rapidity = self.rapidity.draw(rng, num, at=mass)
        return system_momentum(mass, rapidity, *recoil), mass


def _matrix_element(initial: str, beta: Array, cosine: Array) -> Array:
    rho = 1 - beta**2
    t1, t2 = (1 - beta * cosine) / 2, (1 + beta * cosine) / 2
    if initial == "gg":
        return np.asarray((1 / (6 * t1 * t2) - 3 / 8) * (t1**2 + t2**2 + rho - rho**2 / (4 * t1 * t2)))
    return np.asarray(t1**2 + t2**2 + rho / 2)


@functools.cache
def _top_pair_tables(initial: str) -> tuple[MassAndRapidity, InverseCdf]:
    masses = np.linspace(2 * c.TOP_MASS, _MAX_MASS, 400)
    beta, cosine = np.linspace(0.0, 1.0, 65)[:, None], np.linspace(-1.0, 1.0, 257)
    element = _matrix_element(initial, np.minimum(beta, 0.999), cosine)
    velocity = np.sqrt(1 - (2 * c.TOP_MASS / masses) ** 2)
    elements = integral(_matrix_element(initial, velocity[:, None], cosine), cosine)
    shape = _GLUON if initial == "gg" else _QUARK
    pairs = MassAndRapidity.build(shape, masses, velocity / masses**2 * elements)
    return pairs, InverseCdf(np.broadcast_to(cosine, element.shape), element, beta[:, 0])


def top_pair(rng: np.random.Generator, recoil: Array) -> tuple[Array, Array]:
    """Produce tt̄.

    Args:
        rng: Generator.
        recoil: Transverse momentum of the system, (2, N) in GeV.

    Returns:
        Momenta of t and t̄, each (4, N) in GeV.
    """
    num = recoil.shape[1]
    num_gluon = rng.binomial(num, _GLUON_SHARE_TT)
    parts = []
    for initial, part in (("gg", recoil[:, :num_gluon]), ("qq", recoil[:, num_gluon:])):
        pairs, angles = _top_pair_tables(initial)
        system, mass = pairs.draw(rng, part.shape[1], part)
        beta = np.sqrt(np.maximum(1 - (2 * c.TOP_MASS / mass) ** 2, 0.0))
        cosine = angles.draw(rng, part.shape[1], at=beta)
        along = direction(cosine, azimuths(rng, part.shape[1]))
        top = boost(two_body_rest(mass, c.TOP_MASS, c.TOP_MASS, along), system, mass)
        parts.append((top, system - top))
    return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts], axis=1)


@functools.cache
def _boson_pair_tables(mass_1: float, mass_2: float) -> MassAndRapidity:
    masses = np.linspace(mass_1 + mass_2 + 0.5, _MAX_MASS, 500)
    momentum = breakup_momentum(masses, mass_1, mass_2)
    return MassAndRapidity.build(_QUARK, masses, momentum / masses**3)


def boson_pair(
    mass_1: float, mass_2: float, rng: np.random.Generator, recoil: Array, actual_mass_1: Array
) -> tuple[Array, Array]:
    """Produce two vector bosons from quarks, forward like a t-channel exchange.

    Args:
        mass_1: Nominal mass of the first boson in GeV.
        mass_2: Mass of the second boson in GeV.
        rng: Generator.
        recoil: Transverse momentum of the system, (2, N) in GeV.
        actual_mass_1: Mass of the first boson in each event, (N,) in GeV.

    Returns:
        Momenta of both bosons, each (4, N) in GeV.
    """
    num = recoil.shape[1]
    system, mass = _boson_pair_tables(mass_1, mass_2).draw(rng, num, recoil)
    mass = np.maximum(mass, actual_mass_1 + mass_2 + 0.5)
    system = system_momentum(mass, np.arctanh(system[3] / system[0]), *recoil)
    # Density 1/(1 - βc) + 1/(1 + βc): cosθ = tanh(u atanh β)/β with u uniform in [-1, 1].
    beta = 2 * breakup_momentum(mass, actual_mass_1, mass_2) / mass
    cosine = np.tanh(rng.uniform(-1, 1, num) * np.arctanh(beta)) / np.maximum(beta, 1e-9)
    along = direction(np.clip(cosine, -1, 1), azimuths(rng, num))
    first = boost(two_body_rest(mass, actual_mass_1, mass_2, along), system, mass)
    return first, system - first


@functools.cache
def _three_body_tables(mass_1: float, mass_2: float, mass_3: float) -> tuple[MassAndRapidity, InverseCdf]:
    threshold = mass_1 + mass_2 + mass_3
    masses = np.linspace(threshold + 1.0, _MAX_MASS, 400)
    share = np.linspace(0.0, 1.0, 129)  # of the free energy that goes into the pair (2, 3)
    pair = mass_2 + mass_3 + share * (masses[:, None] - threshold)
    density = breakup_momentum(masses[:, None], mass_1, pair) * breakup_momentum(pair, mass_2, mass_3)
    phase_space = integral(density, pair) / masses
    tables = MassAndRapidity.build(_GLUON, masses, phase_space / masses**4)
    return tables, InverseCdf(np.broadcast_to(share, density.shape), density, masses)


def three_body(
    masses: tuple[float, float, float], rng: np.random.Generator, recoil: Array, actual_mass_3: Array
) -> tuple[Array, Array, Array]:
    """Produce three bodies, flat in phase space at each mass of the system.

    Args:
        masses: Nominal masses in GeV.
        rng: Generator.
        recoil: Transverse momentum of the system, (2, N) in GeV.
        actual_mass_3: Mass of the third body in each event, (N,) in GeV.

    Returns:
        Momenta of the three bodies, each (4, N) in GeV.
    """
    num = recoil.shape[1]
    tables, shares = _three_body_tables(*masses)
    system, mass = tables.draw(rng, num, recoil)
    mass += actual_mass_3 - masses[2]  # the free energy stays above zero
    system = system_momentum(mass, np.arctanh(system[3] / system[0]), *recoil)
    free = mass - masses[0] - masses[1] - actual_mass_3
    pair_mass = masses[1] + actual_mass_3 + shares.draw(rng, num, at=mass) * free
    first = two_body_rest(mass, masses[0], pair_mass, isotropic_directions(rng, num))
    first = boost(first, system, mass)
    pair = system - first
    second = two_body_rest(pair_mass, masses[1], actual_mass_3, isotropic_directions(rng, num))
    second = boost(second, pair, pair_mass)
    return first, second, pair - second


_grid = np.geomspace(PT_MIN, PT_MAX, 4097)
_RADIATED_PT = InverseCdf(np.log(_grid), 1 / (1 + (_grid / PT_TURN) ** 2))


def radiate(mean: float, min_number: int, rng: np.random.Generator, num: int) -> tuple[Radiation, float]:
    """Draw radiation.

    Args:
        mean: Mean number of partons with pt > `PT_MIN`.
        min_number: Fewest partons of interest; events with less are not made.
        rng: Generator.
        num: Number of events.

    Returns:
        The radiation, filled from the first slot, and the probability of at least `min_number` partons.
    """
    number = np.arange(MAX_RADIATED + 1)
    factorial = np.cumprod(np.maximum(number, 1)).astype(float)
    chance = np.exp(-mean) * mean**number / factorial
    chance[-1] = 1 - chance[:-1].sum()
    chance[:min_number] = 0.0
    fraction = float(chance.sum())
    drawn = np.searchsorted(np.cumsum(chance) / fraction, rng.random(num), side="right")
    shape = (MAX_RADIATED, num)
    present = number[:-1, None] < np.minimum(drawn, MAX_RADIATED)
    momenta = np.zeros((4, *shape))
    index = np.nonzero(present)
    total = len(index[0])
    pt = np.exp(_RADIATED_PT.draw(rng, total))
    eta = np.clip(_RAPIDITY_WIDTH * rng.standard_normal(total), -_ETA_MAX, _ETA_MAX)
    momenta[:, index[0], index[1]] = four_momentum(pt, eta, azimuths(rng, total))
    flavour = rng.random(total)
    kinds = np.zeros(shape, np.int8)
    kinds[index] = np.select(
        [flavour < _BOTTOM_SHARE, flavour < _BOTTOM_SHARE + _CHARM_SHARE],
        [Kind.BOTTOM, Kind.CHARM],
        Kind.LIGHT,
    )
    return Radiation(momenta, kinds), fraction
