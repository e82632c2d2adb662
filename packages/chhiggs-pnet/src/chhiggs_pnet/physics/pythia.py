r"""Final states from Pythia: top and boson production, parton shower, hadrons, jets of anti-kT.

An independent look at what the fast generator parametrises (C. Bierlich et al., SciPost Phys. Codebases 8
(2022), arXiv:2203.11601); detector, selection and rates are the same, so only the physics differs.

    signal      gg, qq̄ → tt̄, t → H⁺ b, H⁺ → W* A, A → μμ, and conjugate
    nonprompt   gg, qq̄ → tt̄ → 2 ℓ, one of the two b hadrons decays to e or μ
    diboson     qq̄ → WZ, ZZ; jets are the shower's
    ttX         gg, qq̄ → tt̄ and a Higgs boson with mass, width and rate of the Z: Pythia has no ttZ, no tZq

Pythia draws the mass q of the W* as if the decay had no p-wave, ∝ λ^{1/2}, and decays it isotropically. The
exact law of `virtual_w` is λ^{3/2} and sin²θ*, so decays are accepted with λ(q)/λ(0) sin²θ*. Decays are drawn
again as well until the prompt leptons can reach the channel; what is left out belongs to the cross-section.

Leptons of a boson or of its tau are prompt and taken with the photons they radiate. Others above
`LEPTON_PT_MIN` count as leptons when little is around them and stay in their jet else. The activity around a
lepton is summed in the cone of the mini-isolation, ΔR < 10 GeV / pt within 0.05 and 0.2. All else that is
visible is clustered with anti-kT of radius 0.4 (M. Cacciari, G. Salam, G. Soyez, JHEP 04 (2008) 063, and Eur.
Phys. J. C 72, 1896 (2012)). A jet has the flavour of the heaviest hadron above `HADRON_PT_MIN` in its radius.

K particles of all events of a batch, N events, P slots, J jets; momenta are (4, ..., N) in GeV.
"""

import functools
import importlib
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.jets import RADIUS
from chhiggs_pnet.physics.kinematics import Array, delta_r2, eta, kallen, phi, pt
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.particles import Kind, Mask, Particles
from chhiggs_pnet.physics.processes import LEPTONS_NEEDED, Batch, Channel, Component, Process
from hep_shared.errors import UserError

Index = NDArray[np.int64]

LEPTON_PT_MIN, HADRON_PT_MIN, JET_PT_MIN = 8.0, 5.0, 10.0  # GeV, before the detector
ACTIVITY_MAX = 1.0  # a nonprompt lepton with more around it stays in its jet
PARTICLE_ETA_MAX = 4.9
NUM_LEPTONS, NUM_JETS = 6, 14
MAX_SEED = 900_000_000  # Pythia's own limit
_NEUTRINOS, _LEPTONS, _BOSONS = (12, 14, 16), (11, 13, 15), (23, 24, 36)
# b -> l nu c, one flavour, average over the b hadrons of a jet: PDG, "b-flavored hadrons".
B_TO_LEPTON = 0.1069
_ANTI_B_HADRONS = (511, 521, 531, -5122)  # those that hold a b antiquark

_COMMON = (
    "Print:quiet = on",
    f"Beams:eCM = {c.BEAM_ENERGY_SUM}",
    "PartonLevel:MPI = off",  # the underlying event: three times as slow, and little energy in a jet
    "ParticleDecays:limitTau0 = on",  # what lives longer than 10 mm / c reaches the detector
    "ParticleDecays:tau0Max = 10",
    f"6:m0 = {c.TOP_MASS}",
    f"23:m0 = {c.Z_MASS}",
    f"24:m0 = {c.W_MASS}",
)
_TOP_PAIRS = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")
_W_TO_LEPTONS = ("24:onMode = off", "24:onIfAny = 11 13 15")
_Z_TO_MUONS = ("23:onMode = off", "23:onIfAny = 13")
_A_TO_MUONS = "36:oneChannel = 1 1.0 100 13 -13"


@dataclass(frozen=True)
class _Part:
    """One way to make a process.

    Attributes:
        variants: Settings of the generators that share the events equally: charge conjugates.
        cross_section_fb: Before the decays of `num_w` and `num_z`.
        num_w: Number of Ws.
        num_z: Number of Zs that decay to any leptons.
        num_muons: Muons that the settings ask for besides.
        is_nonprompt: Whether a lepton comes from a jet; in all other processes a boson gives two muons.
    """

    variants: tuple[tuple[str, ...], ...]
    cross_section_fb: float
    num_w: int
    num_z: int = 0
    num_muons: int = 2
    is_nonprompt: bool = False

    def can_reach(self, channel: Channel, electrons: int, muons: int, taus: int) -> bool:
        """Tell whether prompt leptons can give a channel: a tau, or a lepton from a jet, may give any."""
        need_electrons, need_muons = LEPTONS_NEEDED[channel]
        missing = max(need_electrons - electrons, 0) + max(need_muons - muons, 0)
        return missing <= taus + self.is_nonprompt and (muons >= 2 or self.is_nonprompt)

    def fraction(self, channel: Channel) -> float:
        """Fraction of the decays of Ws and Zs that can reach a channel."""
        w = [(c.W_TO_ELECTRON, (1, 0, 0)), (c.W_TO_MUON, (0, 1, 0)), (c.W_TO_TAU, (0, 0, 1))]
        w.append((c.W_TO_HADRONS, (0, 0, 0)))
        z = [(c.Z_TO_LEPTONS, counts) for counts in ((2, 0, 0), (0, 2, 0), (0, 0, 2))]
        total = 0.0
        for decays in product(*[w] * self.num_w, *[z] * self.num_z):
            electrons, muons, taus = (sum(counts[kind] for _, counts in decays) for kind in range(3))
            if self.can_reach(channel, electrons, self.num_muons + muons, taus):
                total += prod(rate for rate, _ in decays)
        return total


def _signal(point: MassPoint) -> tuple[_Part, ...]:
    shared = (
        *_TOP_PAIRS,
        "Higgs:useBSM = on",
        f"37:m0 = {point.mHc}",
        f"36:m0 = {point.mA}",
        *(f"{boson}:{line}" for boson in (36, 37) for line in ("doForceWidth = on", "mWidth = 0.001")),
        # mHc - mA is below mW: with mode 0 Pythia finds no such decay, with 101 to 103 no open one.
        "37:oneChannel = 1 1.0 100 24 36",
        "24:mMin = 0.5",
        _A_TO_MUONS,
        "6:onMode = off",
    )
    variants = tuple(
        (*shared, f"6:onPosIfMatch = {positive}", f"6:onNegIfMatch = {negative}")
        for positive, negative in (("37 5", "24 5"), ("24 5", "37 5"))
    )
    return (_Part(variants, 2 * c.SIGMA_TT * c.SIGNAL_BRANCHING, num_w=2),)


def _nonprompt() -> tuple[_Part, ...]:
    # The hadrons of one quark decay to e or mu, those of the other as they like; a fourth lepton vetoes the
    # event, so both ways add up.
    variants = []
    for is_forced_anti in (True, False):
        lines = [*_TOP_PAIRS, *_W_TO_LEPTONS, "ParticleDecays:mixB = off"]
        for hadron in _ANTI_B_HADRONS:
            is_positive = (hadron > 0) == is_forced_anti
            lines.append(f"{abs(hadron)}:onMode = {3 if is_positive else 2}")
            lines.append(f"{abs(hadron)}:on{'Pos' if is_positive else 'Neg'}IfAny = 11 13")
        variants.append(tuple(lines))
    rate = c.SIGMA_TT * 2 * 2 * B_TO_LEPTON
    return (_Part(tuple(variants), rate, num_w=2, num_muons=0, is_nonprompt=True),)


def _diboson() -> tuple[_Part, ...]:
    pure_z = "WeakZ0:gmZmode = 2"
    wz = (pure_z, "WeakDoubleBoson:ffbar2ZW = on", *_W_TO_LEPTONS, *_Z_TO_MUONS)
    zz = (pure_z, "WeakDoubleBoson:ffbar2gmZgmZ = on", "23:onMode = off", "23:onIfAny = 11 13 15")
    return (
        _Part((wz,), c.SIGMA_WZ * c.Z_TO_LEPTONS, num_w=1),
        _Part((zz,), c.SIGMA_ZZ, num_w=0, num_z=2, num_muons=0),
    )


def _ttz() -> tuple[_Part, ...]:
    lines = (
        "Higgs:useBSM = on",
        "HiggsBSM:gg2A3ttbar = on",
        "HiggsBSM:qqbar2A3ttbar = on",
        f"36:m0 = {c.Z_MASS}",
        "36:doForceWidth = on",
        f"36:mWidth = {c.Z_WIDTH}",
        _A_TO_MUONS,
    )
    return (_Part((lines,), c.SIGMA_TTZ * c.Z_TO_LEPTONS, num_w=2),)


def _parts(process: Process | Component, point: MassPoint | None) -> tuple[_Part, ...]:
    if (point is None) == (process == "signal"):
        raise ValueError("the signal needs a mass point, and only the signal")
    if point is not None:
        return _signal(point)
    return {"nonprompt": _nonprompt, "diboson": _diboson, "ttX": _ttz, "ttZ": _ttz}[process]()


class Source:
    """Final states of one process.

    Args:
        process: Its name, or that of a component.
        channel: Leptons that have to be possible.
        rng: Generator; it also seeds Pythia.
        point: Masses, for the signal.

    Raises:
        UserError: Pythia or fastjet is not installed.
        ValueError: The signal has no mass point, or a background has one.
    """

    def __init__(
        self,
        process: Process | Component,
        channel: Channel,
        rng: np.random.Generator,
        point: MassPoint | None = None,
    ) -> None:
        parts = _parts(process, point)
        rates = np.array([part.cross_section_fb * part.fraction(channel) for part in parts])
        self.cross_section_fb = float(rates.sum())
        self._rng, self._shares = rng, rates / rates.sum()
        self._hooks: list[Any] = []  # Pythia does not keep them alive
        self._generators = [
            [self._start(lines, part, channel, point) for lines in part.variants] for part in parts
        ]
        self._turn = 0

    def _start(self, lines: tuple[str, ...], part: _Part, channel: Channel, point: MassPoint | None) -> Any:
        pythia = _optional("pythia8mc").Pythia("", False)
        seed = int(self._rng.integers(1, MAX_SEED))
        for line in (*_COMMON, *lines, "Random:setSeed = on", f"Random:seed = {seed}"):
            if not pythia.readString(line):
                raise UserError(
                    f"Pythia does not know the setting '{line}'; install chhiggs-pnet[pythia], or point "
                    "PYTHIA8DATA to the folder share/Pythia8/xmldoc of your own Pythia."
                )
        hook = _hook_class()(part, channel, point, self._rng)
        self._hooks.append(hook)
        pythia.setUserHooksPtr(hook)
        if not pythia.init():
            raise UserError("Pythia does not start with these settings; install chhiggs-pnet[pythia].")
        return pythia

    def generate(self, num: int) -> list[Batch]:
        """Generate events.

        Args:
            num: Number of trials.

        Returns:
            One batch a part that has events; jets are clustered already.
        """
        batches = []
        shares = self._rng.multinomial(num, self._shares)
        for generators, share in zip(self._generators, shares, strict=True):
            if share:
                generator = generators[self._turn % len(generators)]
                particles = final_states(generator.nextBatch(int(share)))
                batches.append(Batch(particles, int(share), self.cross_section_fb))
        self._turn += 1
        return batches


@functools.cache
def _hook_class() -> type[Any]:
    """Make the class that asks for new decays; its base exists only where Pythia does."""

    class Decays(_optional("pythia8mc").UserHooks):  # type: ignore[misc]
        def __init__(
            self, part: _Part, channel: Channel, point: MassPoint | None, rng: np.random.Generator
        ) -> None:
            super().__init__()
            self._part, self._channel, self._point, self._rng = part, channel, point, rng

        def canVetoResonanceDecays(self) -> bool:  # noqa: N802
            return True

        def doVetoResonanceDecays(self, process: Any) -> bool:  # noqa: N802
            kinds = [particle.idAbs() for particle in process if particle.isFinal()]
            electrons, muons, taus = (kinds.count(kind) for kind in _LEPTONS)
            if not self._part.can_reach(self._channel, electrons, muons, taus):
                return True
            if self._point is None:
                return False
            return bool(self._rng.random() > _decay_weight(process, self._point))

    return Decays


def _decay_weight(process: Any, point: MassPoint) -> float:
    """λ(q)/λ(0) sin²θ* of the decay H⁺ → W* A, W* → f f' of a record of hard particles."""
    higgs = next(particle for particle in process if particle.idAbs() == 37 and particle.daughter2() > 0)
    daughters = [process[index] for index in (higgs.daughter1(), higgs.daughter2())]
    boson = daughters[0] if daughters[0].idAbs() == 24 else daughters[1]
    fermions = [process[index] for index in (boson.daughter1(), boson.daughter2())]
    mass2 = higgs.m() ** 2
    triangle = float(kallen(mass2, point.mA**2, boson.m() ** 2))
    if triangle <= 0:
        return 0.0
    # In the frame of the H+ the energies of the fermions differ by p* cos(theta*).
    difference = (_dot(higgs, fermions[0]) - _dot(higgs, fermions[1])) / higgs.m()
    momentum = np.sqrt(triangle) / (2 * higgs.m())
    cosine2 = min((difference / momentum) ** 2, 1.0)
    return float(triangle / kallen(mass2, point.mA**2, 0.0) * (1 - cosine2))


def _dot(a: Any, b: Any) -> float:
    """Product of two four-momenta, GeV²."""
    return float(a.e() * b.e() - a.px() * b.px() - a.py() * b.py() - a.pz() * b.pz())


def final_states(events: Any) -> Particles:
    """Find leptons, jets and what is invisible in showered events.

    Args:
        events: What `Pythia.nextBatch` gives.

    Returns:
        Leptons and jets in descending pt each, and the sum of all neutrinos; jets are clustered.

    Raises:
        UserError: fastjet is not installed.
    """
    record = _Record(events.prt)
    prompt = record.prompt_leptons()
    momenta, is_radiated = record.dress(prompt)
    number = np.abs(record.id)
    is_final = record.status > 0
    is_neutrino = is_final & np.isin(number, _NEUTRINOS)
    visible = is_final & ~is_neutrino & ~is_radiated
    visible &= np.abs(eta(record.momenta)) < PARTICLE_ETA_MAX
    around = visible & ~prompt

    candidates = prompt.copy()
    candidates |= visible & np.isin(number, _LEPTONS[:2]) & (pt(momenta) > LEPTON_PT_MIN)
    activity = np.zeros(len(number))
    activity[candidates] = record.activity(momenta, np.flatnonzero(candidates), around)
    leptons = prompt | (candidates & (activity < ACTIVITY_MAX))

    lepton_index = record.slots(pt(momenta), leptons, NUM_LEPTONS)
    filled = lepton_index >= 0
    jets = _anti_kt(record, around & ~leptons)
    flavours = _flavours(jets, record)
    num = len(record.counts)
    neutrinos = record.sum_by_event(record.momenta, is_neutrino)[:, None]
    lepton_kinds = np.where(number[lepton_index] == 11, Kind.ELECTRON, Kind.MUON) * filled
    charges = np.zeros((NUM_LEPTONS + NUM_JETS + 1, num), np.int8)
    charges[:NUM_LEPTONS] = np.where(filled, -np.sign(record.id[lepton_index]), 0)
    return Particles(
        np.concatenate([np.where(filled, momenta[:, lepton_index], 0.0), jets, neutrinos], axis=1),
        np.concatenate([lepton_kinds, flavours, np.full((1, num), Kind.NEUTRINO)]).astype(np.int8),
        charges,
        np.where(filled, activity[lepton_index], 0.0),
        NUM_LEPTONS,
    )


class _Record:
    """All particles of all events in flat arrays, mothers as indices into them.

    Args:
        record: Particles by event, an awkward array.
    """

    def __init__(self, record: Any) -> None:
        self.counts = np.asarray(ak.num(record.id), np.int64)
        self.event = np.repeat(np.arange(len(self.counts)), self.counts)
        self.first = np.cumsum(self.counts) - self.counts
        self.id, self.status = (np.asarray(ak.flatten(record[name])) for name in ("id", "status"))
        self.mother = np.asarray(ak.flatten(record.mother1)) + self.first[self.event]
        self.momenta = np.stack(
            [np.asarray(ak.flatten(record.p[name]), np.float64) for name in ("e", "px", "py", "pz")]
        )

    def prompt_leptons(self) -> Mask:
        """Final electrons and muons of a boson or of its tau, (K,)."""
        leptons = np.flatnonzero((self.status > 0) & np.isin(np.abs(self.id), _LEPTONS[:2]))
        out = np.zeros(len(self.id), np.bool_)
        out[leptons[np.isin(np.abs(self.id[self._origin(leptons, _LEPTONS)]), _BOSONS)]] = True
        return out

    def dress(self, prompt: Mask) -> tuple[Array, Mask]:
        """Momenta with radiated photons added to prompt leptons, (4, K), and which those photons are."""
        photons = np.flatnonzero((self.status > 0) & (self.id == 22))
        radiating = self._origin(photons, (22,))
        last = np.full(len(self.id), -1)
        last[prompt] = np.flatnonzero(prompt)
        place = np.flatnonzero(prompt)
        while place.size:  # every copy of a lepton leads to its last one
            above = self.mother[place]
            same = self.id[above] == self.id[place]
            last[above[same]] = last[place[same]]
            place = above[same]
        found = last[radiating] >= 0
        momenta, is_radiated = self.momenta.copy(), np.zeros(len(self.id), np.bool_)
        is_radiated[photons[found]] = True
        for row, radiated in zip(momenta, self.momenta[:, photons[found]], strict=True):
            np.add.at(row, last[radiating[found]], radiated)
        return momenta, is_radiated

    def _origin(self, particles: Index, passed: tuple[int, ...]) -> Index:
        """First ancestor that is none of the kinds `passed`."""
        place = self.mother[particles]
        while (going := np.isin(np.abs(self.id[place]), passed)).any():
            place = np.where(going, self.mother[place], place)
        return np.asarray(place)

    def activity(self, momenta: Array, leptons: Index, around: Mask) -> Array:
        """Sum of pt in the cone of the mini-isolation relative to the pt of each lepton, (leptons,)."""
        counts = self.counts[self.event[leptons]]
        pair_lepton = np.repeat(np.arange(len(leptons)), counts)
        rank = np.arange(len(pair_lepton)) - np.repeat(np.cumsum(counts) - counts, counts)
        other = self.first[self.event[leptons]][pair_lepton] + rank
        own = leptons[pair_lepton]
        kept = around[other] & (other != own)
        own, other, pair_lepton = own[kept], other[kept], pair_lepton[kept]
        etas, phis = eta(momenta), phi(momenta)
        distance2 = delta_r2(etas[own], phis[own], etas[other], phis[other])
        lepton_pt = np.maximum(pt(momenta[:, leptons]), 1e-3)
        cone = 10.0 / np.clip(lepton_pt, 50.0, 200.0)
        inside = distance2 < cone[pair_lepton] ** 2
        weights = pt(self.momenta[:, other[inside]])
        return np.bincount(pair_lepton[inside], weights, len(leptons)) / lepton_pt

    def slots(self, order_by: Array, chosen: Mask, num_slots: int) -> Index:
        """Put particles into slots, the largest first: flat indices, −1 where empty, (slots, N)."""
        index = np.flatnonzero(chosen)
        index = index[np.lexsort((-order_by[index], self.event[index]))]
        event = self.event[index]
        rank = np.arange(len(index)) - np.searchsorted(event, event)
        kept = rank < num_slots
        table = np.full((num_slots, len(self.counts)), -1)
        table[rank[kept], event[kept]] = index[kept]
        return table

    def sum_by_event(self, momenta: Array, chosen: Mask) -> Array:
        """Sum of the chosen momenta of each event, (4, N)."""
        event = self.event[chosen]
        return np.stack([np.bincount(event, row[chosen], len(self.counts)) for row in momenta])


def _anti_kt(record: _Record, chosen: Mask) -> Array:
    """Jets above `JET_PT_MIN` in descending pt, (4, J, N)."""
    fastjet = _optional("fastjet")
    num = len(record.counts)
    columns = dict(zip(("E", "px", "py", "pz"), record.momenta[:, chosen], strict=True))
    counts = np.bincount(record.event[chosen], minlength=num)
    inputs = ak.unflatten(ak.zip(columns, with_name="Momentum4D"), counts)
    fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)  # else it prints one among our results
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    jets = fastjet.ClusterSequence(inputs, definition).inclusive_jets(min_pt=JET_PT_MIN)
    found = np.stack([np.asarray(ak.flatten(jets[name])) for name in ("E", "px", "py", "pz")])
    event = np.repeat(np.arange(num), np.asarray(ak.num(jets.px)))
    order = np.lexsort((-pt(found), event))
    rank = np.arange(len(order)) - np.searchsorted(event, event)
    kept = rank < NUM_JETS
    out = np.zeros((4, NUM_JETS, num))
    out[:, rank[kept], event[kept]] = found[:, order[kept]]
    return out


def _flavours(jets: Array, record: _Record) -> NDArray[np.int8]:
    """Kind of each jet, (J, N)."""
    number = np.abs(record.id)
    hard = pt(record.momenta) > HADRON_PT_MIN

    def holds(quark: int) -> Mask:
        digits = ((number // 100) % 10 == quark) | ((number // 1000) % 10 == quark)
        return np.asarray(hard & (number > 100) & digits)

    present = pt(jets) > 0
    kinds = np.where(present, Kind.LIGHT, Kind.NONE).astype(np.int8)
    for kind, chosen in (
        (Kind.TAU_JET, hard & (number == 15)),
        (Kind.CHARM, holds(4)),
        (Kind.BOTTOM, holds(5)),
    ):
        index = np.flatnonzero(chosen)
        event = record.event[index]
        distance2 = delta_r2(
            eta(jets[:, :, event]), phi(jets[:, :, event]),
            eta(record.momenta[:, index]), phi(record.momenta[:, index]),
        )  # fmt: skip
        jet, which = np.nonzero((distance2 < RADIUS**2) & present[:, event])
        kinds[jet, event[which]] = kind
    return kinds


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--engine pythia needs {name}, which is not installed; "
            "install chhiggs-pnet[pythia], or use --engine fast."
        ) from error
