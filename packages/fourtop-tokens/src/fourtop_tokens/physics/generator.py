"""From a process to selected events: channel, phase space, decays, detector, selection.

Events come out unweighted. Only channels that can pass are drawn (`ChannelTable`), cheap requirements are
applied before expensive steps, and the survivors of a batch are shuffled, so cutting a list of events short
does not favour any channel.

P slots, N events, K = `MAX_OBJECTS`.
"""

import functools
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics import detector, radiation
from fourtop_tokens.physics import selection as cuts
from fourtop_tokens.physics.decay_modes import HADRONIC, LEPTONS, ChannelTable, Kind
from fourtop_tokens.physics.decays import Particles, decay_all
from fourtop_tokens.physics.hard_process import PROCESSES, pilot
from fourtop_tokens.physics.jets import cluster
from fourtop_tokens.physics.kinematics import Array, eta, phi, pt, wrap_phi
from fourtop_tokens.physics.selection import Selection

MAX_OBJECTS = 18
_BATCH = 4096  # trials at a time; part of what a seed means, since draws are made per batch


@dataclass(frozen=True)
class SelectedEvents:
    """Reconstructed events, objects in descending pT, empty places 0.

    Attributes:
        objects: `Kind` of each object: LIGHT for a jet, BOTTOM for a b-tagged one, (N, K) int8.
        charges: Charges of the leptons, (N, K) int8.
        momenta: E, pT, eta, phi, (N, K, 4) float32 in GeV and rad.
        missing: Missing transverse momentum and its azimuth, (N, 2) float32 in GeV and rad.
    """

    objects: NDArray[np.int8]
    charges: NDArray[np.int8]
    momenta: NDArray[np.float32]
    missing: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: slice | NDArray[np.intp]) -> "SelectedEvents":
        return SelectedEvents(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def concatenate(cls, parts: list["SelectedEvents"]) -> "SelectedEvents":
        """Join lists of events.

        Args:
            parts: At least one list.

        Returns:
            All events in order.
        """
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@functools.cache
def channels(process: str, num_jets_min: int) -> ChannelTable:
    """Channels of a process that can pass; made once.

    Args:
        process: Name in `PROCESSES`.
        num_jets_min: Jets that an event needs.

    Returns:
        The table.
    """
    return ChannelTable.build(
        PROCESSES[process], radiation.MEAN_RADIATED, radiation.MAX_RADIATED, num_jets_min
    )


def generate(
    process: str, num_events: int, rng: np.random.Generator, selection: Selection | None = None
) -> SelectedEvents:
    """Make selected events of one process.

    Args:
        process: Name in `PROCESSES`.
        num_events: How many selected events.
        rng: Generator; the first n events do not depend on how many more are made.
        selection: Thresholds; the signal region if None.

    Returns:
        Exactly `num_events` events.
    """
    selection = selection or Selection()
    parts: list[SelectedEvents] = []
    found = 0
    while found < num_events or not parts:
        selected = reconstruct(truth(process, _BATCH, rng, selection.num_jets_min), selection, rng)
        parts.append(selected[rng.permutation(len(selected))])
        found += len(selected)
    return SelectedEvents.concatenate(parts)[:num_events]


def truth(process: str, num_events: int, rng: np.random.Generator, num_jets_min: int = 6) -> Particles:
    """Make final states before the detector, in channels that can pass the selection.

    Args:
        process: Name in `PROCESSES`.
        num_events: How many.
        rng: Generator.
        num_jets_min: Jets that an event needs.

    Returns:
        Decay products of the heavy particles, then the radiated partons; they balance in pT.
    """
    table = channels(process, num_jets_min)
    rows = table.sample(rng, num_events)
    parts: list[Particles] = []
    for index, hard in enumerate(PROCESSES[process]):
        chosen = rows[table.process[rows] == index]
        heavy = hard.sample(rng, len(chosen))
        radiated = radiation.radiate(heavy.sum(axis=1), table.num_radiated[chosen], rng)
        heavy = radiation.recoil(heavy, radiated.momenta)
        decayed = decay_all(hard.legs, heavy, table.modes[chosen], rng)
        parts.append(_join([decayed, radiated], axis=0))
    return _join(parts, axis=1)


def _join(parts: list[Particles], axis: int) -> Particles:
    """Join along slots (0) or events (1)."""
    return Particles(
        np.concatenate([part.momenta for part in parts], axis=axis + 1),
        np.concatenate([part.kinds for part in parts], axis=axis),
        np.concatenate([part.charges for part in parts], axis=axis),
    )


def _take(particles: Particles, events: NDArray[np.bool_]) -> Particles:
    momenta, kinds, charges = particles.momenta, particles.kinds, particles.charges
    return Particles(momenta[:, :, events], kinds[:, events], charges[:, events])


def reconstruct(
    particles: Particles, selection: Selection, rng: np.random.Generator, *, jets_are_clustered: bool = False
) -> SelectedEvents:
    """Measure events and keep those that pass.

    Args:
        particles: Final states.
        selection: Thresholds.
        rng: Generator.
        jets_are_clustered: What is hadronic is a jet of particles with its mass, not a parton.

    Returns:
        The events that pass, in order.
    """
    measured = detector.measure_leptons_and_photons(particles.momenta, particles.kinds, rng)
    measured_pt = pt(measured)
    central = np.abs(eta(measured)) < selection.eta_max
    identified = detector.is_identified(particles.kinds, rng) & central
    is_lepton = identified & np.isin(particles.kinds, LEPTONS) & (measured_pt > selection.lepton_pt_min)
    is_photon = identified & (particles.kinds == Kind.PHOTON) & (measured_pt > selection.photon_pt_min)
    keep = cuts.passes_leptons(selection, is_lepton, particles.charges, measured_pt)

    particles, measured, is_lepton, is_photon = (
        _take(particles, keep), measured[:, :, keep], is_lepton[:, keep], is_photon[:, keep]
    )  # fmt: skip
    jets = particles if jets_are_clustered else cluster(particles)
    hadronic, gains_mass = np.isin(particles.kinds, HADRONIC), not jets_are_clustered
    measured = np.where(hadronic, detector.measure_jets(jets.momenta, jets.kinds, rng, gains_mass), measured)
    measured_pt, measured_eta, measured_phi = pt(measured), eta(measured), phi(measured)
    is_jet = np.isin(jets.kinds, HADRONIC) & (measured_pt > selection.jet_pt_min)
    is_jet &= np.abs(measured_eta) < selection.eta_max
    tagged = detector.is_tagged(jets.kinds, rng)
    is_lepton = cuts.isolated(is_lepton, is_jet, measured_pt, measured_eta, measured_phi)
    keep = cuts.passes_jets(selection, is_jet, tagged)
    keep &= cuts.passes_leptons(selection, is_lepton, particles.charges, measured_pt)
    keep &= cuts.scalar_sum(measured_pt, is_jet, is_lepton) > selection.scalar_sum_min
    missing = np.stack(detector.missing_momentum(particles.kinds, particles.momenta, measured, rng))

    objects = np.where(is_jet, np.where(tagged, Kind.BOTTOM, Kind.LIGHT), Kind.NONE)
    objects = np.where(is_lepton | is_photon, particles.kinds, objects)
    collider = np.stack([measured[0], measured_pt, measured_eta, measured_phi])
    charges = particles.charges[:, keep]
    return _order(objects[:, keep], charges, collider[:, :, keep], missing[:, keep])


def _order(
    objects: NDArray[np.int8], charges: NDArray[np.int8], collider: Array, missing: Array
) -> SelectedEvents:
    """Sort objects by pT, keep the first K, and turn the arrays event first; inputs are (..., P, N)."""
    present = objects != Kind.NONE
    order = np.argsort(np.where(present, -collider[1], np.inf), axis=0, kind="stable")[:MAX_OBJECTS]
    columns = np.arange(objects.shape[1])
    short = MAX_OBJECTS - len(order)
    pad = ((0, short), (0, 0))
    present = np.pad(present[order, columns], pad)
    objects = np.pad(objects[order, columns], pad) * present
    charges = np.pad(charges[order, columns], pad) * present
    collider = np.pad(collider[:, order, columns], ((0, 0), *pad)) * present
    momenta = np.ascontiguousarray(collider.transpose(2, 1, 0), np.float32)
    missing = np.stack([missing[0], wrap_phi(missing[1])], axis=1)
    return SelectedEvents(
        np.ascontiguousarray(objects.T, np.int8),
        np.ascontiguousarray(charges.T, np.int8),
        momenta,
        missing.astype(np.float32),
    )


def describe(process: str) -> dict[str, float]:
    """Figures of a process that belong into the provenance of a file.

    Args:
        process: Name in `PROCESSES`.

    Returns:
        Fraction of events whose channel can pass, and the largest fraction of a cross-section lost to the
        ceiling of the unweighting.
    """
    return {
        "possible_channel_fraction": channels(process, Selection().num_jets_min).possible_fraction,
        "clipped_cross_section_fraction": max(pilot(hard)[2] for hard in PROCESSES[process]),
    }
