"""From a process to selected events with Pythia: parton shower, hadrons, and jets of anti-kT.

Hard events (`les_houches`) go to Pythia, which decays the heavy particles, showers, hadronises and decays
hadrons and taus (C. Bierlich et al., SciPost Phys. Codebases 8 (2022), arXiv:2203.11601). Decays are drawn
again until two electrons, muons or taus have one charge; no other event can pass the selection, and decays
know nothing of the hard event, so this changes no distribution.

Particles that neither leave a hadron nor are one are prompt. Prompt electrons and muons are taken with the
photons they radiate; other prompt photons above `PHOTON_PT_MIN` are objects of their own. All else that is
visible is clustered with anti-kT of radius 0.4 (M. Cacciari, G. Salam, G. Soyez, JHEP 04 (2008) 063, and Eur.
Phys. J. C 72, 1896 (2012)). A jet has the flavour of the heaviest hadron above 5 GeV within its radius, or is
that of a hadronic tau. Detector and selection are those of `generator`.

B batches, N events, P slots, J jets.
"""

import functools
import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics import constants, les_houches
from fourtop_tokens.physics.decay_modes import Kind
from fourtop_tokens.physics.decays import Particles
from fourtop_tokens.physics.generator import SelectedEvents, reconstruct
from fourtop_tokens.physics.hard_process import PROCESSES, pilot
from fourtop_tokens.physics.kinematics import Array, delta_r2, eta, phi, pt
from fourtop_tokens.physics.selection import Selection
from hep_shared.errors import UserError

RADIUS = 0.4
JET_PT_MIN, HADRON_PT_MIN, PHOTON_PT_MIN = 10.0, 5.0, 10.0  # GeV, before the detector
PARTICLE_ETA_MAX = 4.9
_BATCH = 256  # hard events at a time; part of what a seed means
_SLOTS = {"jets": 24, "leptons": 8, "photons": 4}
# PDG numbers, and Pythia's own for a whole event.
_PARTONS, _BOSONS, _BEAMS = (1, 2, 3, 4, 5, 6, 21), (23, 24, 25), (2212, 90)

_SETTINGS = (
    "Print:quiet = on",
    "Beams:frameType = 4",
    "PartonLevel:MPI = off",  # the underlying event: three times as slow, and little energy in a jet
    "ParticleDecays:limitTau0 = on",  # what lives longer than 10 mm / c reaches the detector
    "ParticleDecays:tau0Max = 10",
    f"6:m0 = {constants.TOP_MASS}",
    f"23:m0 = {constants.Z_MASS}",
    f"24:m0 = {constants.W_MASS}",
    f"25:m0 = {constants.HIGGS_MASS}",
)


def generate(
    process: str, num_events: int, rng: np.random.Generator, selection: Selection | None = None
) -> SelectedEvents:
    """Make selected events of one process.

    Args:
        process: Name in `hard_process.PROCESSES`.
        num_events: How many selected events.
        rng: Generator; the first n events do not depend on how many more are made.
        selection: Thresholds; the signal region if None.

    Returns:
        Exactly `num_events` events.

    Raises:
        UserError: Pythia or fastjet is not installed.
    """
    selection = selection or Selection()
    parts: list[SelectedEvents] = []
    found = 0
    while found < num_events or not parts:
        particles = final_states(shower(les_houches.sample(process, _BATCH, rng), rng))
        parts.append(reconstruct(particles, selection, rng, jets_are_clustered=True))
        found += len(parts[-1])
    return SelectedEvents.concatenate(parts)[:num_events]


def describe(process: str) -> dict[str, float]:
    """Figures of a process that belong into the provenance of a file.

    Args:
        process: Name in `hard_process.PROCESSES`.

    Returns:
        The largest fraction of a cross-section lost to the ceiling of the unweighting.
    """
    return {"clipped_cross_section_fraction": max(pilot(hard)[2] for hard in PROCESSES[process])}


def shower(events: str, rng: np.random.Generator) -> Any:
    """Decay, shower and hadronise hard events.

    Args:
        events: A Les Houches file as text.
        rng: Generator; it seeds Pythia.

    Returns:
        Awkward array of events, as `Pythia.nextBatch` gives it.

    Raises:
        UserError: Pythia is not installed, or refuses its input.
    """
    pythia8 = _optional("pythia8mc")
    pythia = pythia8.Pythia("", False)
    with tempfile.TemporaryDirectory(prefix="fourtop-lhe-") as folder:
        path = Path(folder) / "events.lhe"
        path.write_text(events, encoding="ascii")
        seed = int(rng.integers(1, 900_000_000))  # the range that Pythia takes
        for setting in (*_SETTINGS, f"Beams:LHEF = {path}", "Random:setSeed = on", f"Random:seed = {seed}"):
            if not pythia.readString(setting):
                raise UserError(
                    f"Pythia does not know the setting {setting}; install fourtop-tokens[pythia]."
                )
        hook = _same_sign_hook(pythia8)()  # has to live as long as Pythia
        pythia.setUserHooksPtr(hook)
        if not pythia.init():
            raise UserError("Pythia could not start on the hard events; install fourtop-tokens[pythia].")
        return pythia.nextBatch(events.count("<event>"))


@functools.cache
def _same_sign_hook(pythia8: Any) -> type[Any]:
    """Make the class that asks for new decays until there are two leptons of one charge."""

    class SameSign(pythia8.UserHooks):  # type: ignore[misc]
        def canVetoResonanceDecays(self) -> bool:  # noqa: N802
            return True

        def doVetoResonanceDecays(self, process: Any) -> bool:  # noqa: N802
            numbers = [p.id() for p in process if p.isFinal()]
            charges = [number > 0 for number in numbers if abs(number) in (11, 13, 15)]
            return bool(max(sum(charges), len(charges) - sum(charges)) < 2)

    return SameSign


def final_states(events: Any) -> Particles:
    """Find jets, prompt leptons, photons and neutrinos.

    Args:
        events: What `shower` gives.

    Returns:
        Jets with their flavour, dressed leptons, photons, the sum of all neutrinos; in descending pT each.

    Raises:
        UserError: fastjet is not installed.
    """
    record = events.prt
    counts = np.asarray(_optional("awkward").num(record.id))
    flat = _Record(record, counts)
    final = flat.status > 0
    number = np.abs(flat.id)
    is_neutrino = final & np.isin(number, (12, 14, 16))
    is_lepton, is_photon, radiated_by = flat.prompt()
    is_photon &= pt(flat.momenta) > PHOTON_PT_MIN
    dressing = np.flatnonzero(radiated_by >= 0)
    momenta = flat.momenta + _sums(flat.momenta[:, dressing], radiated_by[dressing], len(flat.id))

    clustered = final & ~is_neutrino & ~is_lepton & ~is_photon & (radiated_by < 0)
    clustered &= np.abs(eta(flat.momenta)) < PARTICLE_ETA_MAX
    jets = _anti_kt(flat, clustered)
    kinds = _flavours(jets, flat)
    neutrinos = _sums(momenta[:, is_neutrino], flat.event[is_neutrino], len(counts))[:, None]

    leptons, lepton_index = flat.slots(momenta, is_lepton, _SLOTS["leptons"])
    photons, photon_index = flat.slots(momenta, is_photon, _SLOTS["photons"])
    lepton_ids = np.where(lepton_index >= 0, flat.id[lepton_index], 0)
    lepton_kinds = np.where(np.abs(lepton_ids) == 11, Kind.ELECTRON, Kind.MUON) * (lepton_ids != 0)
    neutrino_kinds = np.full((1, len(counts)), Kind.NEUTRINO)
    all_kinds = [kinds, lepton_kinds, np.where(photon_index >= 0, Kind.PHOTON, 0), neutrino_kinds]
    charges = [np.zeros_like(kinds), -np.sign(lepton_ids)]
    charges += [np.zeros_like(block) for block in all_kinds[2:]]
    return Particles(
        np.concatenate([jets, leptons, photons, neutrinos], axis=1),
        np.concatenate(all_kinds).astype(np.int8),
        np.concatenate(charges).astype(np.int8),
    )


def _sums(momenta: Array, groups: NDArray[np.intp], num_groups: int) -> Array:
    """Add momenta (4, n) of one group, (4, groups)."""
    return np.stack([np.bincount(groups, weights=row, minlength=num_groups) for row in momenta])


class _Record:
    """The particles of all events in flat arrays, mothers as indices into them."""

    def __init__(self, record: Any, counts: NDArray[np.int64]) -> None:
        flatten = _optional("awkward").flatten
        self.counts = counts
        self.event = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        self.id, self.status = (np.asarray(flatten(record[name])) for name in ("id", "status"))
        self.mother = np.asarray(flatten(record.mother1)) + first
        self.momenta = np.stack([np.asarray(flatten(record.p[name])) for name in ("e", "px", "py", "pz")])

    def prompt(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
        """Find prompt leptons and photons, and for a photon the lepton that radiated it (else -1)."""
        number = np.abs(self.id)
        leptons = np.flatnonzero((self.status > 0) & np.isin(number, (11, 13)))
        leptons = leptons[np.isin(number[self._origin(leptons, (11, 13, 15))], _BOSONS)]
        photons = np.flatnonzero((self.status > 0) & (number == 22))
        origin = self._origin(photons, (22,))
        line = self._lines(leptons)
        radiated_by = np.full(len(number), -1)
        radiated_by[photons] = [line.get(place, -1) for place in origin.tolist()]
        is_lepton, is_photon = np.zeros((2, len(number)), np.bool_)
        is_lepton[leptons] = True
        is_photon[photons] = np.isin(number[origin], (*_PARTONS, *_BOSONS, *_BEAMS))
        return is_lepton, is_photon, radiated_by

    def _origin(self, particles: NDArray[np.intp], passed: tuple[int, ...]) -> NDArray[np.int64]:
        """First ancestor that is none of the kinds `passed`."""
        place = self.mother[particles]
        while (going := np.isin(np.abs(self.id[place]), passed)).any():
            place = np.where(going, self.mother[place], place)
        return place

    def _lines(self, leptons: NDArray[np.intp]) -> dict[int, int]:
        """For every copy of a lepton in the record, its last one."""
        line: dict[int, int] = {}
        for last in leptons.tolist():
            place = last
            while self.id[place] == self.id[last]:
                line[place] = last
                place = int(self.mother[place])
        return line

    def slots(
        self, momenta: Array, chosen: NDArray[np.bool_], num_slots: int
    ) -> tuple[Array, NDArray[np.int64]]:
        """Put particles into slots by pT: momenta (4, slots, N) and flat indices, -1 where empty."""
        index = np.flatnonzero(chosen)
        index = index[np.lexsort((-pt(momenta[:, index]), self.event[index]))]
        event = self.event[index]
        rank = np.arange(len(index)) - np.searchsorted(event, event)
        kept = rank < num_slots
        table = np.full((num_slots, len(self.counts)), -1)
        table[rank[kept], event[kept]] = index[kept]
        return np.where(table >= 0, momenta[:, table], 0.0), table


def _anti_kt(flat: _Record, chosen: NDArray[np.bool_]) -> Array:
    """Jets above `JET_PT_MIN` in descending pT, (4, J, N)."""
    fastjet, awkward = _optional("fastjet"), _optional("awkward")
    counts = np.bincount(flat.event[chosen], minlength=len(flat.counts))
    columns = dict(zip(("E", "px", "py", "pz"), flat.momenta[:, chosen], strict=True))
    inputs = awkward.unflatten(awkward.zip(columns, with_name="Momentum4D"), counts)
    fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)  # else it prints one among our results
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    jets = fastjet.ClusterSequence(inputs, definition).inclusive_jets(min_pt=JET_PT_MIN)
    found = np.stack([np.asarray(awkward.flatten(jets[name])) for name in ("E", "px", "py", "pz")])
    numbers = np.asarray(awkward.num(jets.px))
    event = np.repeat(np.arange(len(numbers)), numbers)
    order = np.lexsort((-pt(found), event))
    rank = np.arange(len(order)) - np.searchsorted(event, event)
    kept = rank < _SLOTS["jets"]
    out = np.zeros((4, _SLOTS["jets"], len(numbers)))
    out[:, rank[kept], event[kept]] = found[:, order[kept]]
    return out


def _flavours(jets: Array, flat: _Record) -> NDArray[np.int64]:
    """Kind of each jet, (J, N)."""
    number = np.abs(flat.id)
    hard = pt(flat.momenta) > HADRON_PT_MIN

    def holds(quark: int) -> NDArray[np.bool_]:
        digits = ((number // 100) % 10 == quark) | ((number // 1000) % 10 == quark)
        return np.asarray(hard & (number > 100) & digits)

    present = pt(jets) > 0
    kinds = np.where(present, Kind.LIGHT, Kind.NONE).astype(np.int64)
    taus = hard & (number == 15)
    for kind, chosen in ((Kind.TAU_JET, taus), (Kind.CHARM, holds(4)), (Kind.BOTTOM, holds(5))):
        index = np.flatnonzero(chosen)
        near = delta_r2(
            eta(jets)[:, flat.event[index]], phi(jets)[:, flat.event[index]],
            eta(flat.momenta[:, index]), phi(flat.momenta[:, index]),
        )  # fmt: skip
        jet, which = np.nonzero((near < RADIUS**2) & present[:, flat.event[index]])
        kinds[jet, flat.event[index[which]]] = kind
    return kinds


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--engine pythia needs {name}, which is not installed; "
            "install fourtop-tokens[pythia], or use --engine fast."
        ) from error
