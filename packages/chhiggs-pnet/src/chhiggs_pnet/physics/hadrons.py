r"""From the particles of a showered event to leptons, jets and what is invisible.

Leptons of a boson or of its tau are prompt and taken with the photons they radiate. Others above
`LEPTON_PT_MIN` count as leptons when little is around them and stay in their jet else. The activity around a
lepton is that of the mini-isolation,

    Σ pt / pt(lepton)  in  ΔR < 10 GeV / pt,  within 0.05 and 0.2.

All else that is visible is clustered with anti-kT of radius 0.4, d_ij = min(pt_i⁻², pt_j⁻²) ΔR²/R². A jet has
the flavour of the heaviest hadron above `HADRON_PT_MIN` in its radius.

References:
    M. Cacciari, G. Salam, G. Soyez, JHEP 04 (2008) 063 (anti-kT), Eur. Phys. J. C 72, 1896 (2012) (FastJet).

K particles of all events of a batch, N events, P slots, J jets; momenta are (4, ..., N) in GeV.
"""

import importlib
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.physics.jets import RADIUS
from chhiggs_pnet.physics.kinematics import Array, delta_r2, eta, phi, pt
from chhiggs_pnet.physics.particles import Kind, Mask, Particles
from hep_shared.errors import UserError

Index = NDArray[np.int64]

LEPTON_PT_MIN, HADRON_PT_MIN, JET_PT_MIN = 8.0, 5.0, 10.0  # GeV, before the detector
ACTIVITY_MAX = 1.0  # a nonprompt lepton with more around it stays in its jet
PARTICLE_ETA_MAX = 4.9
NUM_LEPTONS, NUM_JETS = 6, 14
LEPTONS = (11, 13, 15)  # PDG numbers
_NEUTRINOS, _BOSONS = (12, 14, 16), (23, 24, 36)


def final_states(events: Any) -> Particles:
    """Find leptons, jets and what is invisible in showered events.

    Args:
        events: What `Pythia.nextBatch` gives.

    Returns:
        Leptons and jets in descending pt each, and the sum of all neutrinos; jets are clustered.

    Raises:
        UserError: fastjet is not installed.
    """
    record = Record(events.prt)
    prompt = record.prompt_leptons()
    momenta, is_radiated = record.dress(prompt)
    number = np.abs(record.id)
    is_final = record.status > 0
    is_neutrino = is_final & np.isin(number, _NEUTRINOS)
    visible = is_final & ~is_neutrino & ~is_radiated
    visible &= np.abs(eta(record.momenta)) < PARTICLE_ETA_MAX
    around = visible & ~prompt

    candidates = prompt.copy()
    candidates |= visible & np.isin(number, LEPTONS[:2]) & (pt(momenta) > LEPTON_PT_MIN)
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


class Record:
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
        leptons = np.flatnonzero((self.status > 0) & np.isin(np.abs(self.id), LEPTONS[:2]))
        out = np.zeros(len(self.id), np.bool_)
        out[leptons[np.isin(np.abs(self.id[self._origin(leptons, LEPTONS)]), _BOSONS)]] = True
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


def _anti_kt(record: Record, chosen: Mask) -> Array:
    """Jets above `JET_PT_MIN` in descending pt, (4, J, N)."""
    fastjet = optional_module("fastjet")
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


def _flavours(jets: Array, record: Record) -> NDArray[np.int8]:
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


def optional_module(name: str) -> Any:
    """Import what the extra `pythia` brings.

    Args:
        name: Of the module.

    Returns:
        The module.

    Raises:
        UserError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--engine pythia needs {name}, which is not installed; "
            "install chhiggs-pnet[pythia], or use --engine fast."
        ) from error
