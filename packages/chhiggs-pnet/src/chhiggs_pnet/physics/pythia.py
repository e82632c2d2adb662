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

What is made of the showered particles is in `hadrons`.

N events.
"""

import functools
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics.hadrons import LEPTONS, final_states, optional_module
from chhiggs_pnet.physics.kinematics import kallen
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import LEPTONS_NEEDED, Batch, Channel, Component, Process
from hep_shared.errors import UserError

MAX_SEED = 900_000_000  # Pythia's own limit
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
        pythia = optional_module("pythia8mc").Pythia("", False)
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

    class Decays(optional_module("pythia8mc").UserHooks):  # type: ignore[misc]
        def __init__(
            self, part: _Part, channel: Channel, point: MassPoint | None, rng: np.random.Generator
        ) -> None:
            super().__init__()
            self._part, self._channel, self._point, self._rng = part, channel, point, rng

        def canVetoResonanceDecays(self) -> bool:  # noqa: N802
            return True

        def doVetoResonanceDecays(self, process: Any) -> bool:  # noqa: N802
            kinds = [particle.idAbs() for particle in process if particle.isFinal()]
            electrons, muons, taus = (kinds.count(kind) for kind in LEPTONS)
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
