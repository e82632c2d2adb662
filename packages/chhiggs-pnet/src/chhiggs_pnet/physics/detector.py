"""Response of a general-purpose detector: resolutions, efficiencies, isolation, b-tagging, missing momentum.

    muons      σ(pt)/pt = 1.2 % ⊕ 1e-4 pt   efficiency 0.96 (1 − 0.25 e^{−(pt − 10)/8})
    electrons  σ(E)/E   = 10 % / √E ⊕ 1.5 %   efficiency 0.88 (1 − 0.40 e^{−(pt − 15)/15})
    jets       σ(pt)/pt = 80 % / √pt ⊕ 5 %, 0.02 in direction

with E and pt in GeV: figures of the size CMS publishes, not a fit. A lepton is tight when the hadronic
activity around it, from its own jet and from pile-up, is below 0.1 of its pt, and loose below 0.6. Jets are
tagged with the probability of `tag_probability`, of the size of the DeepJet medium working point. Nothing
is misidentified and no charge flips; what is not measured well ends up in the missing momentum.

P slots, N events; momenta are (4, P, N) in GeV.
"""

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics.kinematics import Array, eta, mass, phi, pt, wrap_phi
from chhiggs_pnet.physics.particles import Kind, Mask, Particles

TIGHT_ISOLATION, LOOSE_ISOLATION = 0.1, 0.6
PILE_UP_ISOLATION = 0.025  # mean activity around a prompt lepton
# Fragments of jets near a prompt lepton: how often there are any, and their activity a with P(> a) as a^-1/k,
# least a and k. Set by hand to top pairs of Pythia: 6 % of the leptons above 0.1, 3 % above 0.6.
FRAGMENT_SHARE, FRAGMENT_MIN, FRAGMENT_POWER = 0.13, 0.02, 2.2
BTAG_WORKING_POINT = 0.2783  # DeepJet medium, 2018 (CMS b-tagging recommendations)
SOFT_TERM = 15.0  # GeV, noise of each missing-momentum component from what is in no object
JET_ANGLE = 0.02
# A jet has mass even when its parton has none: median m/pt and width of its logarithm.
JET_MASS_MEDIAN, JET_MASS_WIDTH = 0.104, 0.35
# Mean share of a parton's momentum outside the cone or in neutrinos; set by hand to jets of Pythia.
JET_LOSS = {Kind.LIGHT: 0.07, Kind.CHARM: 0.09, Kind.BOTTOM: 0.12}
JET_LOSS_MAX = 0.6
# Shape of the discriminant above and below the working point: exponents of a uniform number.
_TAGGED_SHAPE = {Kind.BOTTOM: 0.25, Kind.CHARM: 0.9, Kind.LIGHT: 1.5, Kind.TAU_JET: 1.5}
_UNTAGGED_SHAPE = {Kind.BOTTOM: 1.0, Kind.CHARM: 1.6, Kind.LIGHT: 3.0, Kind.TAU_JET: 2.5}


def _table(values: dict[Kind, float]) -> Array:
    return np.array([values.get(kind, 1.0) for kind in Kind])


def measure_leptons(
    particles: Particles, rng: np.random.Generator, *, are_partons: bool = True
) -> tuple[Array, Mask, Mask]:
    """Measure the lepton slots.

    Args:
        particles: Final states.
        rng: Generator.
        are_partons: Whether jets are bare partons, so that their fragments near leptons are drawn here.

    Returns:
        Measured momenta (4, L, N) in GeV, and which are loose and which are tight, (L, N).
    """
    num = particles.num_lepton_slots
    momenta, kinds = particles.momenta[:, :num], particles.kinds[:num]
    is_muon, is_electron = kinds == Kind.MUON, kinds == Kind.ELECTRON
    true_pt, energy = pt(momenta), np.maximum(momenta[0], 1e-3)
    width = np.where(is_muon, np.hypot(0.012, 1e-4 * true_pt), np.sqrt(0.01 / energy + 0.015**2))
    measured = momenta * np.maximum(1 + width * rng.standard_normal(kinds.shape), 0.05)
    efficiency = np.where(
        is_muon,
        0.96 * (1 - 0.25 * np.exp(-np.maximum(true_pt - 10, 0) / 8)),
        0.88 * (1 - 0.40 * np.exp(-np.maximum(true_pt - 15, 0) / 15)),
    )
    activity = particles.activity + rng.exponential(PILE_UP_ISOLATION, kinds.shape)
    if are_partons:
        fragments = FRAGMENT_MIN * (1 - rng.random(kinds.shape)) ** -FRAGMENT_POWER
        activity += np.where(rng.random(kinds.shape) < FRAGMENT_SHARE, fragments, 0.0)
    found = (is_muon | is_electron) & (rng.random(kinds.shape) < efficiency)
    return measured, found & (activity < LOOSE_ISOLATION), found & (activity < TIGHT_ISOLATION)


def measure_jets(
    momenta: Array, kinds: NDArray[np.int8], rng: np.random.Generator, *, are_partons: bool = True
) -> Array:
    """Smear energies and directions of jets.

    Args:
        momenta: True momenta of jets, (4, P, N) in GeV.
        kinds: Kinds, (P, N); NONE comes back as 0.
        rng: Generator.
        are_partons: Whether jets are bare partons and get a mass here; those of hadrons have theirs.

    Returns:
        pt in GeV, eta, phi in rad, mass in GeV, (4, P, N).
    """
    index = np.nonzero(kinds)
    true = momenta[:, index[0], index[1]]
    true_pt = np.maximum(pt(true), 1e-3)
    noise = rng.standard_normal((4, len(true_pt)))
    measured_pt = true_pt * np.maximum(1 + np.hypot(0.80 / np.sqrt(true_pt), 0.05) * noise[0], 0.05)
    if are_partons:
        jet_mass = np.hypot(mass(true), measured_pt * JET_MASS_MEDIAN * np.exp(JET_MASS_WIDTH * noise[3]))
    else:
        jet_mass = mass(true) * (measured_pt / true_pt)
    out = np.zeros(momenta.shape)
    out[:, index[0], index[1]] = (
        measured_pt,
        eta(true) + JET_ANGLE * noise[1],
        wrap_phi(phi(true) + JET_ANGLE * noise[2]),
        jet_mass,
    )
    return out


def lose_from_jets(jets: Array, kinds: NDArray[np.int8], rng: np.random.Generator) -> Array:
    """Take from partons what a jet of hadrons does not hold; the loss is exponentially distributed.

    Args:
        jets: pt in GeV, eta, phi in rad, mass in GeV of bare partons, (4, P, N).
        kinds: Their flavours, (P, N).
        rng: Generator.

    Returns:
        The same with smaller pt and mass.
    """
    means = np.array([JET_LOSS.get(kind, 0.0) for kind in Kind])[kinds]
    kept = 1 - np.minimum(means * rng.standard_exponential(kinds.shape), JET_LOSS_MAX)
    out = jets.copy()
    out[0] *= kept
    out[3] *= kept
    return out


def tag_probability(kinds: NDArray[np.int8], jet_pt: Array, jet_eta: Array) -> Array:
    """Probability that a jet is b-tagged.

    Args:
        kinds: Flavour, (P, N).
        jet_pt: In GeV, (P, N).
        jet_eta: Pseudorapidity, (P, N).

    Returns:
        (P, N); 0 where there is no jet.
    """
    rise = 1 - np.exp(-jet_pt / 18.0)
    fall = 1 / (1 + (jet_pt / 600.0) ** 2)
    central = 1 - 0.03 * jet_eta**2
    heavy = rise * fall * central
    light = 0.010 * (1 + jet_pt / 400.0) * (1 + 0.1 * jet_eta**2)
    return np.select(
        [kinds == Kind.BOTTOM, kinds == Kind.CHARM, kinds >= Kind.TAU_JET],
        [0.82 * heavy, 0.16 * heavy, light],
        0.0,
    )


def tag_at_least_one(probability: Array, rng: np.random.Generator) -> tuple[Mask, Array]:
    """Draw tags on the condition that an event has at least one.

    Args:
        probability: Tag probability of each jet, (P, N); 0 for no jet.
        rng: Generator.

    Returns:
        Tags, (P, N), and the probability of at least one tag, (N,), the weight of the condition.
    """
    none_from = np.cumprod((1 - probability)[::-1], axis=0)[::-1]  # no tag in this and all later jets
    tagged = np.zeros(probability.shape, np.bool_)
    found = np.zeros(probability.shape[1], np.bool_)
    for slot, (chance, none) in enumerate(zip(probability, none_from, strict=True)):
        conditional = chance / np.maximum(1 - none, 1e-12)
        tagged[slot] = rng.random(len(chance)) < np.where(found, chance, conditional)
        found |= tagged[slot]
    return tagged, 1 - none_from[0]


def tag_discriminant(kinds: NDArray[np.int8], tagged: Mask, rng: np.random.Generator) -> Array:
    """Draw the b-tag discriminant given the decision.

    Args:
        kinds: Flavour, (P, N).
        tagged: Decision, (P, N).
        rng: Generator.

    Returns:
        In [0, 1], above `BTAG_WORKING_POINT` where tagged, (P, N).
    """
    u = rng.random(kinds.shape)
    above = BTAG_WORKING_POINT + (1 - BTAG_WORKING_POINT) * (
        1e-4 + (1 - 1e-4) * u ** _table(_TAGGED_SHAPE)[kinds]
    )
    below = BTAG_WORKING_POINT * u ** _table(_UNTAGGED_SHAPE)[kinds] * (1 - 1e-4)
    return np.where(tagged, above, below)


def missing_momentum(
    particles: Particles, leptons: Array, measured_jets: Array, rng: np.random.Generator
) -> Array:
    """Missing transverse momentum: what is invisible, what the resolution adds, and soft noise.

    Args:
        particles: Final states.
        leptons: Measured momenta of the lepton slots, (4, L, N) in GeV.
        measured_jets: pt, eta, phi, mass of the jets, (4, P, N).
        rng: Generator.

    Returns:
        px, py, (2, N) in GeV.
    """
    is_lepton = (particles.kinds == Kind.MUON) | (particles.kinds == Kind.ELECTRON)
    visible_leptons = np.where(is_lepton[: leptons.shape[1]], leptons[1:3], 0.0)
    jet_x = measured_jets[0] * np.cos(measured_jets[2])
    jet_y = measured_jets[0] * np.sin(measured_jets[2])
    # The event balances: what the visible does not add up to is missing.
    out = particles.momenta[1:3].sum(axis=1) - visible_leptons.sum(axis=1)
    out -= np.stack([jet_x.sum(axis=0), jet_y.sum(axis=0)])
    return np.asarray(out + SOFT_TERM * rng.standard_normal(out.shape))
