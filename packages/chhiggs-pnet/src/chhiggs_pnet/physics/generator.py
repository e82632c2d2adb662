"""From a process to selected events: draw, decay, measure, select.

Cheap requirements come first: only events whose leptons pass get jets. An event with jets is b-tagged on the
condition that at least one tag results and carries the probability of that as a weight; events with a small
probability are thinned out and the rest weighted up (Russian roulette), so that diboson events with mistags
come at a useful rate without weights that vary much.

The engine `fast` draws final states from `processes` and merges partons to jets, `pythia` takes jets of
hadrons from `pythia`; detector and selection are the same.

N events.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics import detector
from chhiggs_pnet.physics import selection as cuts
from chhiggs_pnet.physics.events import Array, Events, Object, pack
from chhiggs_pnet.physics.jets import cluster, hadronic
from chhiggs_pnet.physics.kinematics import eta, phi, pt
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.particles import Particles
from chhiggs_pnet.physics.processes import Batch, Channel, Component, Process, generate
from chhiggs_pnet.physics.selection import Selection
from hep_shared.errors import UserError

Engine = Literal["fast", "pythia"]
ENGINES: tuple[Engine, ...] = ("fast", "pythia")
# Trials at a time; part of what a seed means, since draws are made per batch.
BATCH: dict[Engine, int] = {"fast": 8192, "pythia": 256}
ROULETTE = 0.2  # events less likely to be tagged than this are thinned out
MAX_BATCHES_WITHOUT_EVENT = 200
_OBJECT = np.array([Object.NONE, Object.MUON, Object.ELECTRON] + [Object.NONE] + [Object.JET] * 4, np.int8)
_MASS = np.array([0.0, c.MUON_MASS, c.ELECTRON_MASS])


@dataclass(frozen=True)
class Sample:
    """Selected events and what they stand for.

    Attributes:
        events: Selected events; their weights count in units of one trial.
        num_trials: Events generated for them.
        cross_section_fb: Cross-section of the trials in fb; a weight w is a rate of
            w · cross_section_fb / num_trials.
    """

    events: Events
    num_trials: int
    cross_section_fb: float


def reconstruct(
    particles: Particles, channel: Channel, selection: Selection, rng: np.random.Generator,
    *, jets_are_clustered: bool = False,
) -> Events:  # fmt: skip
    """Measure final states and select.

    Args:
        particles: Final states.
        channel: The channel.
        selection: Thresholds.
        rng: Generator.
        jets_are_clustered: Whether the hadronic slots hold jets, not partons.

    Returns:
        The events that pass, in order, numbered from 0.
    """
    measured, loose, tight = detector.measure_leptons(particles, rng, are_partons=not jets_are_clustered)
    num = particles.num_lepton_slots
    kind = np.where(loose, _OBJECT[particles.kinds[:num]], 0)
    lepton_pt, lepton_eta = pt(measured), eta(measured)
    muons, electrons = cuts.lepton_masks(selection, kind.T, lepton_pt.T, lepton_eta.T)
    charge = particles.charges[:num]
    keep = cuts.passes_counts(selection, channel, muons, electrons, lepton_pt.T, charge.T)
    if selection.require_tight:
        keep &= (tight.T | ~(muons | electrons)).all(axis=1)

    rows = np.flatnonzero(keep)
    particles, measured, tight, charge = (
        particles.take(rows), measured[:, :, rows], tight[:, rows], charge[:, rows]
    )  # fmt: skip
    leptons = np.stack([lepton_pt[:, rows], lepton_eta[:, rows], phi(measured), _MASS[kind[:, rows]]])
    muons, electrons = muons[rows], electrons[rows]
    keep = cuts.passes_masses(selection, muons, leptons[0].T, leptons[1].T, leptons[2].T, charge.T)

    rows = np.flatnonzero(keep)
    particles, measured, tight, charge = (
        particles.take(rows), measured[:, :, rows], tight[:, rows], charge[:, rows]
    )  # fmt: skip
    find_jets = hadronic if jets_are_clustered else cluster
    jet_momenta, flavours = find_jets(particles.momenta, particles.kinds)
    jets = detector.measure_jets(jet_momenta, flavours, rng, are_partons=not jets_are_clustered)
    missing = detector.missing_momentum(particles, measured, jets, rng)
    if not jets_are_clustered:  # what leaves the cone is seen elsewhere, so nothing is missing for it
        jets = detector.lose_from_jets(jets, flavours, rng)
    return _with_jets(
        leptons[:, :, rows],
        muons[rows],
        electrons[rows],
        tight,
        charge,
        jets,
        flavours,
        missing,
        selection,
        rng,
    )


def _with_jets(
    leptons: Array, muons: Array, electrons: Array, tight: Array, charge: Array, jets: Array, flavours: Array,
    missing: Array, selection: Selection, rng: np.random.Generator,
) -> Events:  # fmt: skip
    """Tag jets and pack the events that pass; leptons and jets are (4, ·, N) in pt, eta, phi, mass."""
    objects = np.concatenate([leptons, jets], axis=1)
    is_lepton = np.zeros((objects.shape[2], objects.shape[1]), np.bool_)
    is_lepton[:, : leptons.shape[1]] = muons | electrons
    kind = np.zeros(is_lepton.shape, np.int8)
    kind[:, : leptons.shape[1]] = np.where(muons, Object.MUON, np.where(electrons, Object.ELECTRON, 0))
    kind[:, leptons.shape[1] :] = _OBJECT[flavours].T
    is_jet = cuts.jet_mask(selection, kind, objects[0].T, objects[1].T, objects[2].T, is_lepton).T
    is_jet = is_jet[leptons.shape[1] :]

    chance = np.where(is_jet, detector.tag_probability(flavours, jets[0], jets[1]), 0.0)
    tagged, weight = _draw_tags(chance, selection, rng)
    keep = (is_jet.sum(axis=0) >= selection.num_jets_min) & (weight > 0)
    keep &= rng.random(len(weight)) * ROULETTE < weight
    weight = np.maximum(weight, ROULETTE)
    keep &= tagged.sum(axis=0) >= selection.num_tagged_min
    score = np.where(is_jet, detector.tag_discriminant(flavours, tagged, rng), 0.0)

    # Leptons and jets in one table, events first, only what counts.
    empty = np.zeros(charge.shape)
    wanted = (is_lepton | np.concatenate([np.zeros_like(empty, np.bool_), is_jet]).T) & keep[:, None]
    event, place = np.nonzero(wanted)
    table = {
        "kind": kind, "pt": objects[0].T, "eta": objects[1].T, "phi": objects[2].T, "mass": objects[3].T,
        "charge": np.concatenate([charge, np.zeros(is_jet.shape, np.int8)]).T,
        "btag": np.concatenate([empty, score]).T,
        "tagged": np.concatenate([empty.astype(np.bool_), tagged]).T,
        "tight": np.concatenate([tight, np.zeros(is_jet.shape, np.bool_)]).T,
    }  # fmt: skip
    rows = np.flatnonzero(keep)
    new_index = np.cumsum(keep) - 1
    number = np.arange(len(rows))
    columns = {
        "met_pt": np.hypot(*missing[:, rows]), "met_phi": np.arctan2(missing[1, rows], missing[0, rows]),
        "weight": weight[rows], "run": np.zeros_like(number), "lumi": np.zeros_like(number), "event": number,
    }  # fmt: skip
    return pack(new_index[event], {name: column[event, place] for name, column in table.items()}, columns)


def _draw_tags(chance: Array, selection: Selection, rng: np.random.Generator) -> tuple[Array, Array]:
    """Tags (P, N) and weights (N,): conditional on one tag if the selection asks for one."""
    if selection.num_tagged_min > 0:
        return detector.tag_at_least_one(chance, rng)
    return rng.random(chance.shape) < chance, np.ones(chance.shape[1])


def _source(
    engine: Engine,
    process: Process | Component,
    channel: Channel,
    rng: np.random.Generator,
    point: MassPoint | None,
) -> Callable[[int], list[Batch]]:
    """Function of the number of trials that generates final states."""
    if engine == "fast":
        return lambda num: generate(process, channel, rng, num, point)
    from chhiggs_pnet.physics.pythia import Source

    return Source(process, channel, rng, point).generate


def batches(
    process: Process | Component, channel: Channel, rng: np.random.Generator, *,
    point: MassPoint | None = None, selection: Selection | None = None, engine: Engine = "fast",
) -> Iterator[Sample]:  # fmt: skip
    """Generate selected events of a process for ever.

    Args:
        process: Its name, or that of a component.
        channel: The channel.
        rng: Generator.
        point: Masses, for the signal.
        selection: Thresholds; the default selection if None.
        engine: What makes the final states.

    Yields:
        The selected events of `BATCH` trials, in random order.

    Raises:
        UserError: The engine is not installed.
    """
    selection = selection or Selection()
    source = _source(engine, process, channel, rng, point)
    while True:
        parts = source(BATCH[engine])
        events = Events.concatenate(
            reconstruct(part.particles, channel, selection, rng, jets_are_clustered=engine == "pythia")
            for part in parts
            if len(part.particles)
        )
        yield Sample(
            events.take(rng.permutation(len(events))),
            sum(part.num_trials for part in parts),
            parts[0].cross_section_fb,
        )


def generate_events(
    process: Process | Component, channel: Channel, num_events: int, seed: np.random.SeedSequence | int, *,
    point: MassPoint | None = None, selection: Selection | None = None, engine: Engine = "fast",
) -> Sample:  # fmt: skip
    """Make selected events of one process.

    Args:
        process: Its name, or that of a component.
        channel: The channel.
        num_events: How many selected events.
        seed: Seed; the first n events do not depend on how many more are made.
        point: Masses, for the signal.
        selection: Thresholds; the default selection if None.
        engine: What makes the final states.

    Returns:
        Exactly `num_events` events; trials are counted in proportion to the part of the last batch used.

    Raises:
        UserError: No event passes in `MAX_BATCHES_WITHOUT_EVENT` batches, or the engine is not installed.
    """
    selection = selection or Selection()
    rng = np.random.default_rng(seed)
    parts: list[Events] = []
    found, trials, idle = 0, 0.0, 0
    for sample in batches(process, channel, rng, point=point, selection=selection, engine=engine):
        num = len(sample.events)
        idle = 0 if num else idle + 1
        if idle > MAX_BATCHES_WITHOUT_EVENT:
            name = process if point is None else f"{process} {point.name}"
            raise UserError(
                f"None of {idle * BATCH[engine]} {name} events passes the selection {channel}; choose mA in "
                f"the window {selection.window_low_gev:g}-{selection.window_high_gev:g} GeV or looser cuts."
            )
        used = min(num, num_events - found)
        trials += sample.num_trials * (used / num if num else 1.0)
        parts.append(sample.events.take(slice(0, used)))
        found += used
        if found == num_events:
            break
    events = Events.concatenate(parts)
    events = replace(events, event=np.arange(found))
    return Sample(events, round(trials), sample.cross_section_fb)
