r"""Hard processes as events in the Les Houches format, for a parton shower.

The heavy particles come from `hard_process`, undecayed; the incoming partons from the conservation of energy
and momentum, x1,2 = Σ (E ± pz) / √s, their flavours and sides from the densities of `partons`. Every event
gets one flow of colour at leading order in 1/N_c: with c, c', … its lines,

    g(a, b) g(c, a) → t(c) t̄(b),    g(a, b) g(c, a) → t(c) t̄(d) t(d) t̄(b),
    q(a) q̄(b) → t(a) t̄(b),          q(a) q̄(b) → t(a) t̄(c) t(c) t̄(b),

where which gluon, which top and which antitop comes first is drawn at random; H, W and Z carry no colour. The
shower starts at half the sum of the transverse masses. Format: J. Alwall et al., Comput. Phys. Commun. 176,
300 (2007), arXiv:hep-ph/0609017.

L heavy particles, N events; momenta are (4, L, N) in GeV.
"""

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics.hard_process import BEAM_ENERGY, PROCESSES, HardProcess
from fourtop_tokens.physics.kinematics import Array
from fourtop_tokens.physics.partons import density

PDG_ID = {"t": 6, "tbar": -6, "W+": 24, "W-": -24, "Z": 23, "H": 25}
GLUON = 21
_FIRST_TAG = 501
_NAMES = {1: "down", 2: "up", -1: "sea", -2: "sea", GLUON: "gluon"}
# Partons of the first and the second proton.
_SIDES = {
    "gg": ((GLUON, GLUON),),
    "qqbar": ((2, -2), (-2, 2), (1, -1), (-1, 1)),
    "u dbar": ((2, -1), (-1, 2)),
    "d ubar": ((1, -2), (-2, 1)),
}


def sample(process: str, num_events: int, rng: np.random.Generator) -> str:
    """Draw hard events of one physics process.

    Args:
        process: Name in `hard_process.PROCESSES`.
        num_events: How many.
        rng: Generator.

    Returns:
        A whole file as text, its events unweighted and in random order.
    """
    hard = PROCESSES[process]
    shares = np.array([one.share for one in hard])
    numbers = rng.multinomial(num_events, shares / shares.sum())
    events = [
        text
        for one, number in zip(hard, numbers, strict=True)
        for text in event_texts(one, one.sample(rng, int(number)), rng)
    ]
    beam = f"2212 2212 {BEAM_ENERGY / 2:.1f} {BEAM_ENERGY / 2:.1f} 0 0 0 0 3 1"
    head = f'<LesHouchesEvents version="1.0">\n<init>\n{beam}\n1.0 0.0 1.0 1\n</init>\n'
    return head + "".join(events[i] for i in rng.permutation(num_events)) + "</LesHouchesEvents>\n"


def event_texts(process: HardProcess, momenta: Array, rng: np.random.Generator) -> list[str]:
    """Write events of one initial state.

    Args:
        process: Initial state and heavy particles.
        momenta: Of the heavy particles, without net transverse momentum, (4, L, N) in GeV.
        rng: Generator, for flavours and colours.

    Returns:
        One block of text for each event.
    """
    total_energy, total_pz = momenta[0].sum(axis=0), momenta[3].sum(axis=0)
    incoming = np.stack([total_energy + total_pz, total_energy - total_pz]) / 2
    flavours = incoming_flavours(process.initial_state, 2 * incoming / BEAM_ENERGY, rng)
    heavy = [PDG_ID[leg] for leg in process.legs]
    mt = np.sqrt(np.maximum(momenta[0] ** 2 - momenta[3] ** 2, 0.0)).sum(axis=0)
    texts = []
    for n in range(momenta.shape[2]):
        tags = colours([*flavours[n].tolist(), *heavy], rng)
        lines = [f"{2 + len(heavy)} 1 1.0 {mt[n] / 2:.6e} -1 -1"]
        for side, sign in ((0, 1), (1, -1)):
            energy = incoming[side, n]
            lines.append(
                f"{flavours[n, side]} -1 0 0 {tags[side][0]} {tags[side][1]} "
                f"0 0 {sign * energy:.10e} {energy:.10e} 0 0 9"
            )
        for leg, (pdg_id, mass) in enumerate(zip(heavy, process.masses, strict=True)):
            energy, px, py, pz = momenta[:, leg, n]
            colour, anticolour = tags[2 + leg]
            lines.append(
                f"{pdg_id} 1 1 2 {colour} {anticolour} {px:.10e} {py:.10e} {pz:.10e} {energy:.10e} "
                f"{mass:.10e} 0 9"
            )
        texts.append("<event>\n" + "\n".join(lines) + "\n</event>\n")
    return texts


def incoming_flavours(initial_state: str, x: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the flavours of the incoming partons.

    Args:
        initial_state: `gg`, `qqbar`, `u dbar` or `d ubar`.
        x: Momentum fractions in both protons, (2, N).
        rng: Generator.

    Returns:
        PDG numbers, (N, 2).
    """
    sides = np.array(_SIDES[initial_state])
    weights = np.stack([density(_NAMES[a], x[0]) * density(_NAMES[b], x[1]) for a, b in sides.tolist()])
    cumulative = np.cumsum(weights / weights.sum(axis=0), axis=0)
    chosen = (rng.random(x.shape[1]) > cumulative[:-1]).sum(axis=0)
    return np.asarray(sides[chosen])


def colours(particles: list[int], rng: np.random.Generator) -> list[tuple[int, int]]:
    """Lay one flow of colour through an event.

    Args:
        particles: PDG numbers, two incoming and then the outgoing ones.
        rng: Generator.

    Returns:
        Tags of colour and anticolour of each particle, 0 for none.
    """
    tags = [(0, 0)] * len(particles)
    unused = iter(range(_FIRST_TAG, _FIRST_TAG + len(particles) + 2))
    if particles[0] == GLUON:
        between, last, line = next(unused), next(unused), next(unused)
        first = int(rng.integers(2))
        tags[first], tags[1 - first] = (between, last), (line, between)
    else:
        line, last = next(unused), next(unused)
        quark = 0 if particles[0] > 0 else 1
        tags[quark], tags[1 - quark] = (line, 0), (0, last)
    tops, antitops = (
        rng.permutation([i for i, p in enumerate(particles) if i > 1 and p == number]).tolist()
        for number in (6, -6)
    )
    for pair, (top, antitop) in enumerate(zip(tops, antitops, strict=True), start=1):
        tags[top] = (line, 0)
        line = last if pair == len(tops) else next(unused)
        tags[antitop] = (0, line)
    return tags
