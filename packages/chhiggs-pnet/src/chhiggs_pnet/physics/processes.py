r"""The signal and its backgrounds as final states.

    signal      tt̄ → H⁺ b W⁻ b̄ and conjugate, H⁺ → W* A, A → μ⁺μ⁻
    nonprompt   tt̄ → two prompt leptons, and a lepton from the hadrons of a jet
    diboson     WZ and ZZ with at least two radiated partons
    ttX         ttZ, and tZq with a forward quark and a soft b from gluon splitting

with Z → μ⁺μ⁻. Only decay modes that can reach the channel are generated; the fraction left out belongs to the
cross-section per generated event (`Batch.cross_section_fb`), so every generated event stands for the same
rate and yields of processes compare.

A nonprompt lepton takes the fraction z of the momentum of its jet, and what is left of the jet counts as
activity around it. The density of z and the rate per event are a parametrisation by hand: mostly b → ℓ, hard
in z because the selection asks for isolation.

N events; momenta are (4, ..., N) in GeV.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics import production
from chhiggs_pnet.physics.decays import (
    HEAVY_FERMION_MASS,
    W_BRANCHING,
    Channels,
    boson_chain,
    resolve_taus,
    two_body,
    w_daughters,
)
from chhiggs_pnet.physics.kinematics import Array, azimuths, four_momentum
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.particles import Kind, Particles
from chhiggs_pnet.physics.virtual_w import mass_density, mass_spectrum, open_fraction

Channel = Literal["Run1E2Mu", "Run3Mu"]
CHANNELS: tuple[Channel, ...] = ("Run1E2Mu", "Run3Mu")
Process = Literal["signal", "nonprompt", "diboson", "ttX"]
PROCESSES: tuple[Process, ...] = ("signal", "nonprompt", "diboson", "ttX")
Component = Literal["ttZ"]  # of ttX, alone

MEAN_RADIATED = {"gg": 1.3, "qq": 1.0}  # partons above PT_MIN
# Probability that a tt event has a loose nonprompt electron, muon: sets the size of the background only.
NONPROMPT_RATE = (0.004, 0.006)
NONPROMPT_FROM_B = 0.85  # the rest comes from a radiated parton if there is one
LEPTONS_NEEDED: dict[Channel, tuple[int, int]] = {"Run1E2Mu": (1, 2), "Run3Mu": (0, 3)}  # electrons, muons


@dataclass(frozen=True)
class Batch:
    """Generated events before the detector.

    Attributes:
        particles: Final states; radiation in the last slots.
        num_trials: Events that the batch stands for, those dropped by thresholds included.
        cross_section_fb: Cross-section of the generated modes in fb.
    """

    particles: Particles
    num_trials: int
    cross_section_fb: float


class _Slots:
    """Final state under construction, lepton slots first, radiation last."""

    def __init__(self, num: int, num_leptons: int, num_others: int, radiation: production.Radiation) -> None:
        first = num_leptons + num_others
        size = first + production.MAX_RADIATED
        self.momenta = np.zeros((4, size, num))
        self.kinds = np.zeros((size, num), np.int8)
        self.charges = np.zeros((size, num), np.int8)
        self.activity = np.zeros((num_leptons, num))
        self.num_leptons = num_leptons
        self.momenta[:, first:], self.kinds[first:] = radiation.momenta, radiation.kinds

    def put(self, slot: int, momenta: Array, kind: Kind, charge: NDArray[np.int8] | int = 0) -> None:
        self.momenta[:, slot], self.kinds[slot], self.charges[slot] = momenta, kind, charge

    def put_w(
        self, lepton_slot: int, other_slot: int, pair: tuple[Array, Array], modes: NDArray[np.int64],
        sign: NDArray[np.int8], rng: np.random.Generator,
    ) -> None:  # fmt: skip
        kinds, charges = w_daughters(*pair, modes, sign, rng)
        for row, slot in enumerate((lepton_slot, other_slot)):
            self.momenta[:, slot], self.kinds[slot], self.charges[slot] = pair[row], kinds[row], charges[row]

    def particles(self) -> Particles:
        return Particles(self.momenta, self.kinds, self.charges, self.activity, self.num_leptons)


def _signs(rng: np.random.Generator, num: int) -> NDArray[np.int8]:
    return rng.integers(0, 2, num, dtype=np.int8) * np.int8(2) - np.int8(1)


def _recoil(radiation: production.Radiation) -> Array:
    return np.asarray(-radiation.momenta[1:3].sum(axis=1))


@functools.cache
def _channels(channel: Channel, num_w: int, muons_given: int, nonprompt: bool = False) -> Channels:
    electrons, muons = LEPTONS_NEEDED[channel]
    return Channels(
        num_w,
        num_electrons=electrons,
        num_muons=max(muons - muons_given, 0),
        nonprompt=NONPROMPT_RATE if nonprompt else None,
    )


def signal(channel: Channel, point: MassPoint, rng: np.random.Generator, num: int) -> Batch:
    """Generate tt̄ → H⁺ b W⁻ b̄ and conjugate.

    Args:
        channel: Leptons that have to be possible.
        point: Masses of H⁺ and A.
        rng: Generator.
        num: Number of trials.

    Returns:
        The events. Slots: μ⁺, μ⁻, f of W*, f of W; b of the H⁺ side, b, f' of W*, f' of W; radiation.
    """
    channels = _channels(channel, 2, 2)
    modes = channels.draw(rng, num)
    q = mass_spectrum(point.mHc, point.mA).draw(rng, num)
    # Thresholds of heavy fermions: the massless rate times the open fraction, by rejection.
    kept = np.flatnonzero(rng.random(num) < open_fraction(HEAVY_FERMION_MASS[modes[0]], q))
    modes, q, num_kept = modes[:, kept], q[kept], len(kept)

    radiation, _ = production.radiate(MEAN_RADIATED["gg"], 0, rng, num_kept)
    top, other_top = production.top_pair(rng, _recoil(radiation))
    sign = _signs(rng, num_kept)
    higgs, b_higgs = two_body(top, c.TOP_MASS, point.mHc, c.BOTTOM_MASS, rng)
    pseudoscalar, *virtual_pair = boson_chain(higgs, point.mHc, q, point.mA, "longitudinal", rng)
    b_other, *pair = boson_chain(other_top, c.TOP_MASS, c.W_MASS, c.BOTTOM_MASS, "top", rng)

    slots = _Slots(num_kept, 4, 4, radiation)
    for slot, muon in enumerate(two_body(pseudoscalar, point.mA, 0.0, 0.0, rng)):
        slots.put(slot, muon, Kind.MUON, 1 - 2 * slot)
    slots.put(4, b_higgs, Kind.BOTTOM)
    slots.put(5, b_other, Kind.BOTTOM)
    slots.put_w(2, 6, (virtual_pair[0], virtual_pair[1]), modes[0], sign, rng)
    slots.put_w(3, 7, (pair[0], pair[1]), modes[1], -sign, rng)
    rate = 2 * c.SIGMA_TT * c.SIGNAL_BRANCHING * channels.fraction / open_share(point)
    return Batch(slots.particles(), num, rate)


@functools.cache
def open_share(point: MassPoint) -> float:
    """Rate of H⁺ → W* A into the fermions that there are, relative to massless ones.

    The branching fraction of the signal is that of W* A whatever the W* decays to, so what heavy fermions
    lose the others gain.

    Args:
        point: Masses of H⁺ and A.

    Returns:
        Number in (0, 1]; 1 far above the thresholds.
    """
    q = np.linspace(0.0, point.mHc - point.mA, 2001)
    share = W_BRANCHING @ open_fraction(HEAVY_FERMION_MASS[:, None], q) / W_BRANCHING.sum()
    density = mass_density(q, point.mHc, point.mA)
    return float(production.integral(density * share, q) / production.integral(density, q))


def nonprompt(channel: Channel, rng: np.random.Generator, num: int) -> Batch:
    """Generate dileptonic tt̄ with a lepton from a jet.

    Args:
        channel: Leptons that have to be possible.
        rng: Generator.
        num: Number of trials.

    Returns:
        The events. Slots: ℓ of each W, nonprompt ℓ; b, b̄, f' of each W; radiation. The nonprompt lepton's
        jet keeps the rest of its momentum.
    """
    channels = _channels(channel, 2, 0, nonprompt=True)
    modes = channels.draw(rng, num)
    radiation, _ = production.radiate(MEAN_RADIATED["gg"], 0, rng, num)
    tops = production.top_pair(rng, _recoil(radiation))
    slots = _Slots(num, 3, 4, radiation)
    sign = _signs(rng, num)
    for index, (top, w_sign) in enumerate(zip(tops, (sign, -sign), strict=True)):
        b, *pair = boson_chain(top, c.TOP_MASS, c.W_MASS, c.BOTTOM_MASS, "top", rng)
        slots.put(3 + index, b, Kind.BOTTOM)
        slots.put_w(index, 5 + index, (pair[0], pair[1]), modes[index], w_sign, rng)
    _add_nonprompt(slots, modes[2], 3, 7, rng)
    return Batch(slots.particles(), num, c.SIGMA_TT * channels.fraction)


def _add_nonprompt(
    slots: _Slots, kinds: NDArray[np.int64], first_b: int, first_radiated: int, rng: np.random.Generator
) -> None:
    """Split a lepton off one of two b quarks or the first radiated parton, in place."""
    num = len(kinds)
    events = np.arange(num)
    source = first_b + rng.integers(0, 2, num)
    from_radiation = (slots.kinds[first_radiated] != Kind.NONE) & (rng.random(num) >= NONPROMPT_FROM_B)
    source = np.where(from_radiation, first_radiated, source)
    z = rng.beta(3.0, 2.0, num)
    # The rest of the jet lies in the isolation cone only in part: the square of a uniform number of it.
    slots.activity[2] = (1 / z - 1) * rng.random(num) ** 2
    lepton = slots.momenta[:, source, events] * z
    lepton[0] = np.sqrt(np.sum(lepton[1:] ** 2, axis=0))
    slots.momenta[:, source, events] -= lepton
    slots.momenta[:, 2], slots.kinds[2], slots.charges[2] = lepton, kinds, _signs(rng, num)


def _z_masses(rng: np.random.Generator, num: int) -> Array:
    """Breit–Wigner masses of Z → μμ within ±35 GeV."""
    edge = np.arctan(35.0 / (c.Z_WIDTH / 2))
    return np.asarray(c.Z_MASS + c.Z_WIDTH / 2 * np.tan(rng.uniform(-edge, edge, num)))


def _put_z(slots: _Slots, boson: Array, boson_mass: Array, rng: np.random.Generator) -> None:
    for slot, muon in enumerate(two_body(boson, boson_mass, 0.0, 0.0, rng)):
        slots.put(slot, muon, Kind.MUON, 1 - 2 * slot)


def _rate_wz(channel: Channel) -> float:
    return c.SIGMA_WZ * c.Z_TO_LEPTONS * _channels(channel, 1, 2).fraction


def _wz(channel: Channel, rng: np.random.Generator, num: int) -> Particles:
    modes = _channels(channel, 1, 2).draw(rng, num)
    radiation, _ = production.radiate(MEAN_RADIATED["qq"], 2, rng, num)
    z_mass = _z_masses(rng, num)
    z, w = production.boson_pair(c.Z_MASS, c.W_MASS, rng, _recoil(radiation), z_mass)
    slots = _Slots(num, 3, 1, radiation)
    _put_z(slots, z, z_mass, rng)
    slots.put_w(2, 3, two_body(w, c.W_MASS, 0.0, 0.0, rng), modes[0], _signs(rng, num), rng)
    return slots.particles()


# The second Z: electrons, muons, or taus of which the first gives the lepton of the channel.
_ZZ_KINDS: dict[Channel, tuple[Kind, float]] = {
    "Run1E2Mu": (Kind.ELECTRON, c.TAU_TO_ELECTRON),
    "Run3Mu": (Kind.MUON, c.TAU_TO_MUON),
}


def _zz_modes(channel: Channel) -> Array:
    """Relative rates of the second Z → ℓℓ, ττ → ℓ e, ℓ μ, ℓ hadrons."""
    lepton, tau_rate = _ZZ_KINDS[channel]
    other = np.array([c.TAU_TO_ELECTRON, c.TAU_TO_MUON, 1 - c.TAU_TO_ELECTRON - c.TAU_TO_MUON])
    # Both taus may give the lepton; identical pairs of muons count once among the two bosons.
    multiplicity = np.where(np.array([Kind.ELECTRON, Kind.MUON, Kind.NONE]) == lepton, 1.0, 2.0)
    light = 0.5 if lepton == Kind.MUON else 1.0
    return np.concatenate([[light], tau_rate * other * multiplicity])


def _rate_zz(channel: Channel) -> float:
    return float(c.SIGMA_ZZ * 2 * c.Z_TO_LEPTONS**2 * _zz_modes(channel).sum())


def _zz(channel: Channel, rng: np.random.Generator, num: int) -> Particles:
    radiation, _ = production.radiate(MEAN_RADIATED["qq"], 2, rng, num)
    z_mass = _z_masses(rng, num)
    first, second = production.boson_pair(c.Z_MASS, c.Z_MASS, rng, _recoil(radiation), z_mass)
    lepton, _ = _ZZ_KINDS[channel]
    rates = np.cumsum(_zz_modes(channel))
    modes = np.searchsorted(rates, rng.random(num) * rates[-1], side="right")
    pair = np.stack(two_body(second, c.Z_MASS, 0.0, 0.0, rng), axis=1)
    lost = np.zeros((4, num))
    none = np.zeros(num, np.bool_)
    resolve_taus(pair[:, 0], lost, modes > 0, none, rng)
    resolve_taus(pair[:, 1], lost, (modes == 1) | (modes == 2), modes == 3, rng)
    slots = _Slots(num, 4, 1, radiation)
    _put_z(slots, first, z_mass, rng)
    sign = _signs(rng, num)
    slots.put(2, pair[:, 0], lepton, sign)
    kinds = np.array([lepton, Kind.ELECTRON, Kind.MUON, Kind.TAU_JET], np.int8)[modes]
    slots.momenta[:, 3], slots.kinds[3] = pair[:, 1], kinds
    slots.charges[3] = np.where(kinds == Kind.TAU_JET, 0, -sign)
    slots.put(4, lost, Kind.NEUTRINO)
    return slots.particles()


def _rate_ttz(channel: Channel) -> float:
    return c.SIGMA_TTZ * c.Z_TO_LEPTONS * _channels(channel, 2, 2).fraction


def _ttz(channel: Channel, rng: np.random.Generator, num: int) -> Particles:
    modes = _channels(channel, 2, 2).draw(rng, num)
    radiation, _ = production.radiate(MEAN_RADIATED["gg"], 0, rng, num)
    z_mass = _z_masses(rng, num)
    masses = (c.TOP_MASS, c.TOP_MASS, c.Z_MASS)
    *tops, z = production.three_body(masses, rng, _recoil(radiation), z_mass)
    slots = _Slots(num, 4, 4, radiation)
    _put_z(slots, z, z_mass, rng)
    sign = _signs(rng, num)
    for index, (top, w_sign) in enumerate(zip(tops, (sign, -sign), strict=True)):
        b, *pair = boson_chain(top, c.TOP_MASS, c.W_MASS, c.BOTTOM_MASS, "top", rng)
        slots.put(4 + index, b, Kind.BOTTOM)
        slots.put_w(2 + index, 6 + index, (pair[0], pair[1]), modes[index], w_sign, rng)
    return slots.particles()


def _rate_tzq(channel: Channel) -> float:
    return c.SIGMA_TZQ * c.Z_TO_LEPTONS * _channels(channel, 1, 2).fraction


def _tzq(channel: Channel, rng: np.random.Generator, num: int) -> Particles:
    modes = _channels(channel, 1, 2).draw(rng, num)
    radiation, _ = production.radiate(MEAN_RADIATED["qq"], 0, rng, num)
    z_mass = _z_masses(rng, num)
    # The quark that emitted the W goes forward with pt around m_W/2; the spectator b is soft.
    quark = four_momentum(
        rng.gamma(2.5, 20.0, num), _signs(rng, num) * rng.normal(2.6, 0.9, num), azimuths(rng, num)
    )
    spectator = four_momentum(
        rng.exponential(15.0, num), rng.normal(0.0, 1.8, num), azimuths(rng, num), c.BOTTOM_MASS
    )
    recoil = _recoil(radiation) - quark[1:3] - spectator[1:3]
    z, top = production.boson_pair(c.Z_MASS, c.TOP_MASS, rng, recoil, z_mass)
    slots = _Slots(num, 3, 4, radiation)
    _put_z(slots, z, z_mass, rng)
    b, *pair = boson_chain(top, c.TOP_MASS, c.W_MASS, c.BOTTOM_MASS, "top", rng)
    for slot, momenta, kind in ((3, b, Kind.BOTTOM), (4, quark, Kind.LIGHT), (5, spectator, Kind.BOTTOM)):
        slots.put(slot, momenta, kind)
    slots.put_w(2, 6, (pair[0], pair[1]), modes[0], _signs(rng, num), rng)
    return slots.particles()


_Maker = tuple[Callable[[Channel], float], Callable[[Channel, np.random.Generator, int], Particles]]
# Diboson rates count events with two radiated partons only.
_MIXTURES: dict[str, tuple[tuple[_Maker, ...], float]] = {
    "diboson": (
        ((_rate_wz, _wz), (_rate_zz, _zz)),
        production.radiate(MEAN_RADIATED["qq"], 2, np.random.default_rng(0), 0)[1],
    ),
    "ttX": (((_rate_ttz, _ttz), (_rate_tzq, _tzq)), 1.0),
    "ttZ": (((_rate_ttz, _ttz),), 1.0),
}


def generate(
    process: Process | Component,
    channel: Channel,
    rng: np.random.Generator,
    num: int,
    point: MassPoint | None = None,
) -> list[Batch]:
    """Generate final states of a process.

    Args:
        process: Its name, or that of a component.
        channel: Leptons that have to be possible.
        rng: Generator.
        num: Number of trials.
        point: Masses, for the signal.

    Returns:
        One batch per component; each states the cross-section of the whole process.

    Raises:
        ValueError: The signal has no mass point, or a background has one.
    """
    if (point is None) == (process == "signal"):
        raise ValueError("the signal needs a mass point, and only the signal")
    if point is not None:
        return [signal(channel, point, rng, num)]
    if process == "nonprompt":
        return [nonprompt(channel, rng, num)]
    components, fraction = _MIXTURES[process]
    rates = np.array([rate(channel) for rate, _ in components])
    shares = rng.multinomial(num, rates / rates.sum())
    return [
        Batch(make(channel, rng, int(share)), int(share), float(rates.sum()) * fraction)
        for (_, make), share in zip(components, shares, strict=True)
    ]
