r"""A toy jet generator in NumPy, so that everything runs without Pythia. It is not a simulation of the LHC.

    decay      phase space of the heavy particle, boosted to the jet's pT
    radiation  dN = (2 αs C / π) dθ/θ dz/z   above kT = z E θ > 1 GeV, Poisson; emissions radiate in turn,
               within the angle of their source, and those of a colour singlet within its opening angle
    hadrons    1 + Poisson(a ln(1 + E/GeV)) of each parton share its energy, with Gaussian transverse kicks;
               pions, kaons, nucleons in fixed shares, a neutral pion is two photons

(R. K. Ellis, W. J. Stirling, B. R. Webber, "QCD and Collider Physics", Section 5, double-logarithmic limit;
each parton's radiation is rescaled to its energy.) Masses, multiplicities and displacements are of the right
size, correlations beyond that are not to be trusted.

Dimensions: J jets, P partons, E emissions, K particles.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.clustering import ETA_MAX, JET_RADIUS, PT_RANGE_GEV, gather_jets
from jet_foundation.physics.detector import detect
from jet_foundation.physics.jet_table import Jets, concatenate
from jet_foundation.physics.particles import Particles
from jet_foundation.physics.processes import CLASSES

Array = NDArray[Any]

# Masses of PDG 2024, GeV; pole mass of the top.
MASS_GEV = {"H": 125.2, "Z": 91.19, "W": 80.37, "t": 172.6, "b": 4.8, "c": 1.5}
_W_STAR_GEV = (12.0, 44.0)  # of the second, virtual W of a Higgs boson: bounds of a flat spectrum
COUPLING = 0.16  # fixed; chosen so that the multiplicities of jets come out right
KT_MIN_GEV = 1.0
_CASIMIR = {"quark": 4 / 3, "gluon": 3.0}
_GENERATIONS = 3
_ANGLE_MAX = 0.8
# Kinds of hadrons, in shares: π±, K±, p, n, K_L, photon pair from π⁰. PDG codes and masses (GeV).
_HADRONS = ((211, 0.13957, 0.50), (321, 0.49368, 0.07), (2212, 0.93827, 0.03), (2112, 0.93957, 0.03),
            (130, 0.49761, 0.05), (111, 0.13498, 0.32))  # fmt: skip
_FLIGHT_MM = {"b": 0.45, "c": 0.2}  # c τ of B and D mesons, PDG 2024
_UNDERLYING_PER_JET, _UNDERLYING_PT_GEV = 8.0, 0.6
_PT_SPECTRUM, _PT_RANGE_GEV = 5.0, (510.0, 1150.0)  # power and range of the falling spectrum
HADRONS_PER_LOG, _KICK_GEV = 1.6, 0.2
_OPENING = 1.5  # opening angle of a two-body decay in units of m/E


class Partons(NamedTuple):
    """Partons and leptons of all jets.

    Attributes:
        jet: Jet number, (P,) int64.
        p4: Four-vectors, (P, 4) GeV.
        gluon: Whether it radiates as a gluon, (P,) bool.
        lepton: PDG code of a charged lepton, 0 for a parton, (P,) int64.
        flight: Mean decay length in its rest frame, (P,) mm.
        angle_max: Largest angle of its emissions, (P,) rad.
    """

    jet: Array
    p4: Array
    gluon: Array
    lepton: Array
    flight: Array
    angle_max: Array


def two_body(rng: np.random.Generator, mother: Array, mass_a: Array, mass_b: Array) -> tuple[Array, Array]:
    """Let moving particles decay isotropically in their rest frames.

    Args:
        rng: Random generator.
        mother: Four-vectors of the decaying particles, (J, 4) GeV.
        mass_a: Masses of the first products, (J,) GeV.
        mass_b: Masses of the second products, (J,) GeV.

    Returns:
        Four-vectors of both products, (J, 4) GeV each.
    """
    mass = fv.mass(mother)
    energy = (mass**2 + mass_a**2 - mass_b**2) / (2 * mass)
    momentum = np.sqrt(np.maximum(energy**2 - mass_a**2, 0.0))
    cos, azimuth = rng.uniform(-1, 1, len(mass)), rng.uniform(-np.pi, np.pi, len(mass))
    sin = np.sqrt(1 - cos**2)
    direction = np.stack([sin * np.cos(azimuth), sin * np.sin(azimuth), cos], axis=-1)
    rest_a = np.column_stack([energy, momentum[:, None] * direction])
    rest_b = np.column_stack([mass - energy, -momentum[:, None] * direction])
    boost = fv.boost_matrix(mother[:, 1:] / mother[:, :1])
    return np.einsum("jab,jb->ja", boost, rest_a), np.einsum("jab,jb->ja", boost, rest_b)


def draw_partons(name: str, num_jets: int, rng: np.random.Generator) -> tuple[Partons, Array]:
    """Draw the decay products of one class.

    Args:
        name: One of the JetClass classes.
        num_jets: Number of jets J.
        rng: Random generator.

    Returns:
        The partons, and the four-vectors of what makes the jet, (J, 4) GeV.
    """
    uniform = rng.random(num_jets)
    low, high = (pt ** (1 - _PT_SPECTRUM) for pt in _PT_RANGE_GEV)
    pt = (low + uniform * (high - low)) ** (1 / (1 - _PT_SPECTRUM))
    mother_name = {"H": "H", "Z": "Z", "W": "W", "T": "t"}.get(name[0], "")
    mass = np.full(num_jets, MASS_GEV.get(mother_name, 0.0))
    mother = fv.from_pt_eta_phi_mass(
        pt, rng.uniform(-1.8, 1.8, num_jets), rng.uniform(-np.pi, np.pi, num_jets), mass
    )
    zero = np.zeros(num_jets)
    lists: list[tuple[Array, str]] = []  # four-vectors and flavour of one decay product of every jet
    if name == "QCD":
        lists = [(mother, "mixed")]
    elif name in ("Hbb", "Hcc", "Hgg", "Zqq", "Wqq"):
        flavour = {"Hbb": "b", "Hcc": "c", "Hgg": "g"}.get(name, "q")
        quark = zero + MASS_GEV.get(flavour, 0.0)
        lists = [(p4, flavour) for p4 in two_body(rng, mother, quark, quark)]
    elif name in ("H4q", "Hqql"):
        real, virtual = two_body(rng, mother, zero + MASS_GEV["W"], rng.uniform(*_W_STAR_GEV, num_jets))
        lists = [(p4, "q") for p4 in two_body(rng, real, zero, zero)]
        last = "q" if name == "H4q" else "l"
        products = two_body(rng, virtual, zero, zero)
        lists += [(products[0], last)] + ([(products[1], "q")] if last == "q" else [])
    else:
        boson, bottom = two_body(rng, mother, zero + MASS_GEV["W"], zero + MASS_GEV["b"])
        products = two_body(rng, boson, zero, zero)
        lists = [(bottom, "b"), (products[0], "q" if name == "Tbqq" else "l")]
        lists += [(products[1], "q")] if name == "Tbqq" else []
    opening = np.minimum(_OPENING * mass / mother[:, 0], _ANGLE_MAX)
    singlet = name[0] in "HZW"
    parts = [
        _partons(p4, flavour, opening if singlet else np.full(num_jets, _ANGLE_MAX), rng)
        for p4, flavour in lists
    ]
    return Partons(*(np.concatenate(columns) for columns in zip(*parts, strict=True))), mother


def _partons(p4: Array, flavour: str, angle_max: Array, rng: np.random.Generator) -> Partons:
    num = len(p4)
    gluon = rng.random(num) < 0.5 if flavour == "mixed" else np.full(num, flavour == "g")
    lepton = rng.choice([11, -11, 13, -13], num) if flavour == "l" else np.zeros(num, np.int64)
    return Partons(np.arange(num), p4, gluon, lepton, np.full(num, _FLIGHT_MM.get(flavour, 0.0)), angle_max)


def radiate(partons: Partons, rng: np.random.Generator) -> Partons:
    """Let partons radiate soft and collinear gluons.

    The number of emissions with kT > KT_MIN from energy E within θ_max is Poisson with mean
    (αs C / π) ln²(E θ_max / KT_MIN), and their (ln θ, ln kT) fill a triangle uniformly.

    Args:
        partons: Partons; leptons pass unchanged.
        rng: Random generator.

    Returns:
        Partons after radiation, each parton's energy shared between it and its emissions.
    """
    current, done = partons, []
    for generation in range(_GENERATIONS):
        energy, angle_max = current.p4[:, 0], current.angle_max
        log = np.log(np.maximum(energy * angle_max / KT_MIN_GEV, 1.0))
        casimir = np.where(current.gluon, _CASIMIR["gluon"], _CASIMIR["quark"])
        mean = np.where(current.lepton != 0, 0.0, COUPLING * casimir / np.pi * log**2)
        number = rng.poisson(mean)
        source = np.repeat(np.arange(len(number)), number)
        # Uniform in the triangle 0 < ln(θmax/θ), 0 < ln(kT/KT_MIN), sum < log.
        a, b = np.sort(rng.random((2, len(source))), axis=0)
        theta = angle_max[source] * np.exp(-a * log[source])
        emitted = KT_MIN_GEV * np.exp((b - a) * log[source]) / theta
        total = np.bincount(source, weights=emitted, minlength=len(number))
        shrink = energy / (energy + total)  # emissions and remnant share the energy
        done.append(current._replace(p4=current.p4 * shrink[:, None]))
        direction = _tilt(current.p4[source, 1:], theta, rng)
        emitted = emitted * shrink[source]
        current = Partons(
            current.jet[source],
            np.column_stack([emitted, emitted[:, None] * direction]),
            np.ones(len(source), bool),
            np.zeros(len(source), np.int64),
            np.zeros(len(source)),
            theta,
        )
        if generation == _GENERATIONS - 1:
            done.append(current)
    return Partons(*(np.concatenate(columns) for columns in zip(*done, strict=True)))


def _tilt(momentum: Array, theta: Array, rng: np.random.Generator) -> Array:
    """Unit vectors at angle θ to given momenta, (E, 3)."""
    axis = momentum / np.linalg.norm(momentum, axis=1, keepdims=True)
    helper = np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    first = np.cross(axis, helper)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(axis, first)
    azimuth = rng.uniform(-np.pi, np.pi, len(theta))[:, None]
    side = np.cos(azimuth) * first + np.sin(azimuth) * second
    tilted: Array = np.cos(theta)[:, None] * axis + np.sin(theta)[:, None] * side
    return tilted


def fragment(partons: Partons, rng: np.random.Generator) -> Partons:
    """Split partons into pieces that become one hadron each.

    Args:
        partons: Partons after radiation.
        rng: Random generator.

    Returns:
        Pieces; leptons stay whole.
    """
    mean = np.where(partons.lepton != 0, 0.0, HADRONS_PER_LOG * np.log1p(partons.p4[:, 0]))
    number = 1 + rng.poisson(mean)
    source = np.repeat(np.arange(len(number)), number)
    weight = rng.exponential(1.0, len(source)) ** 1.5  # a broad sharing, with a leading hadron
    share = weight / np.bincount(source, weight)[source]
    pieces = Partons(*(column[source] for column in partons))
    momentum = pieces.p4[:, 1:] * share[:, None]
    kick = np.where((pieces.lepton == 0)[:, None], rng.normal(0.0, _KICK_GEV, momentum.shape), 0.0)
    momentum = momentum + kick
    p4 = np.column_stack([np.linalg.norm(momentum, axis=1), momentum])
    return pieces._replace(p4=p4)


def hadronise(partons: Partons, rng: np.random.Generator) -> Particles:
    """Turn each piece into a hadron, a photon pair or a lepton.

    Args:
        partons: Pieces of partons.
        rng: Random generator.

    Returns:
        Stable particles, ordered by jet; those of heavy quarks start where the meson decayed.
    """
    codes, masses, shares = (np.array(column) for column in zip(*_HADRONS, strict=True))
    kind = rng.choice(len(codes), len(partons.jet), p=shares)
    lepton = partons.lepton != 0
    pid = np.where(lepton, partons.lepton, codes[kind].astype(np.int64))
    mass = np.where(lepton, 0.0, masses[kind])
    charged = np.isin(np.abs(pid), (211, 321, 2212))
    pid = np.where(charged, pid * rng.choice([-1, 1], len(pid)), pid)
    momentum = np.linalg.norm(partons.p4[:, 1:], axis=1, keepdims=True)
    direction = partons.p4[:, 1:] / np.maximum(momentum, fv.TINY_GEV)
    size = np.sqrt(np.maximum(partons.p4[:, 0] ** 2 - mass**2, 1e-6))
    p4 = np.column_stack([np.hypot(size, mass), size[:, None] * direction])
    gamma = partons.p4[:, 0] / MASS_GEV["b"]
    vertex = (rng.exponential(1.0, len(pid)) * partons.flight * gamma)[:, None] * direction
    # A meson's decay shares its energy over several particles; one in three keeps the direction of flight.
    vertex += rng.normal(0, 1, vertex.shape) * partons.flight[:, None] * 0.3
    pair = pid == 111
    share = rng.random(pair.sum())[:, None]
    photons = np.concatenate([p4[pair] * share, p4[pair] * (1 - share)])
    photons[:, 0] = np.linalg.norm(photons[:, 1:], axis=1)
    twice = np.concatenate([partons.jet[pair]] * 2)
    pid_all = np.concatenate([pid[~pair], np.full(len(twice), 22)])
    event = np.concatenate([partons.jet[~pair], twice])
    charge = np.select(
        [np.isin(np.abs(pid_all), (11, 13)), np.isin(np.abs(pid_all), (211, 321, 2212))],
        [-np.sign(pid_all), np.sign(pid_all)],
    )
    particles = Particles(
        event,
        np.concatenate([p4[~pair], photons]),
        pid_all,
        charge,
        np.concatenate([vertex[~pair], np.concatenate([vertex[pair]] * 2)]),
    )
    return particles[np.argsort(event, kind="stable")]


def _underlying(mother: Array, rng: np.random.Generator) -> Partons:
    """Soft particles spread over the jet's area."""
    number = rng.poisson(_UNDERLYING_PER_JET, len(mother))
    jet = np.repeat(np.arange(len(mother)), number)
    radius, azimuth = JET_RADIUS * np.sqrt(rng.random(len(jet))), rng.uniform(-np.pi, np.pi, len(jet))
    p4 = fv.from_pt_eta_phi_mass(
        rng.exponential(_UNDERLYING_PT_GEV, len(jet)) + 0.2,
        fv.eta(mother)[jet] + radius * np.cos(azimuth),
        fv.phi(mother)[jet] + radius * np.sin(azimuth),
    )
    none = np.zeros(len(jet), np.int64)
    return Partons(jet, p4, np.ones(len(jet), bool), none, np.zeros(len(jet)), np.zeros(len(jet)))


def generate_toy(name: str, num_jets: int, rng: np.random.Generator) -> Jets:
    """Generate toy jets of one class, with the selection of the real ones.

    A jet is everything within ΔR < 0.8 of the direction of what the detector sees of the heavy particle.

    Args:
        name: One of the JetClass classes.
        num_jets: Number of jets to deliver.
        rng: Random generator.

    Returns:
        Labelled jets with identity and displacement, without substructure variables; exactly num_jets.
    """
    parts: list[Jets] = []
    missing = num_jets
    while missing:
        jets = _attempt(name, missing + missing // 2 + 8, rng)
        jets = jets.take(np.arange(min(len(jets), missing)))
        missing -= len(jets)
        parts.append(jets)
    return concatenate(parts)


def _attempt(name: str, num_jets: int, rng: np.random.Generator) -> Jets:
    """Generate jets and keep those that pass the selection."""
    partons, mother = draw_partons(name, num_jets, rng)
    after = [fragment(radiate(partons, rng), rng), _underlying(mother, rng)]
    everything = Partons(*(np.concatenate(columns) for columns in zip(*after, strict=True)))
    flow = detect(hadronise(everything, rng), rng)
    axis_eta, axis_phi = fv.eta(mother), fv.phi(mother)
    for _ in range(2):
        near = fv.delta_r(fv.eta(flow.p4), fv.phi(flow.p4), axis_eta[flow.event], axis_phi[flow.event])
        inside = np.flatnonzero(near < JET_RADIUS)
        total = np.stack(
            [np.bincount(flow.event[inside], flow.p4[inside, n], num_jets) for n in range(4)], axis=-1
        )
        axis_eta, axis_phi = fv.eta(total), fv.phi(total)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(flow.event[inside], minlength=num_jets))])
    pid = {"H": 25.0, "Z": 23.0, "W": 24.0, "T": 6.0}.get(name[0], 0.0)
    genpart = {
        "genpart_pt": fv.pt(mother),
        "genpart_eta": fv.eta(mother),
        "genpart_phi": fv.phi(mother),
        "genpart_pid": np.full(num_jets, pid),
        "truth_match": np.full(num_jets, float(name != "QCD")),
    }
    jets = gather_jets(flow, inside, offsets, genpart)
    low, high = PT_RANGE_GEV
    pt = jets.scalars["pt"]
    jets = jets.take((pt > low) & (pt < high) & (np.abs(jets.scalars["eta"]) < ETA_MAX))
    return replace(jets, labels=np.full(len(jets), CLASSES.index(name)))
