"""Jets of the ten classes from Pythia 8, the detector of `detector` and anti-kT.

`Pythia.nextBatch` returns whole batches of events as arrays, so that no Python loop runs over particles.
Pythia 8.3: C. Bierlich et al., arXiv:2203.11601; the optional extra `pythia`.

Dimensions: K records of all events of a batch, J jets.
"""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import UserError
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.clustering import ETA_MAX, JET_RADIUS, cluster_jets
from jet_foundation.physics.detector import detect
from jet_foundation.physics.jet_table import Jets
from jet_foundation.physics.matching import Record, find_decays, match_jets
from jet_foundation.physics.particles import Particles
from jet_foundation.physics.processes import CLASSES, COMMON, PROCESSES, Process

Array = NDArray[Any]

BATCH_EVENTS = 100
# Objects beyond this |η| cannot belong to a selected jet; a margin covers the size of the cells.
FLOW_ETA_MAX = ETA_MAX + JET_RADIUS + 0.4
MAX_SEED = 900_000_000  # Pythia's own limit


def _pythia_module() -> Any:
    try:
        return importlib.import_module("pythia8mc")
    except ImportError as error:
        raise UserError(
            "Engine pythia needs Pythia 8, which is not installed; "
            "install `jet-foundation[pythia]` or use --engine toy."
        ) from error


def _start(settings: tuple[str, ...], process: Process, seed: int) -> Any:
    pythia = _pythia_module().Pythia("", False)
    low, high = process.pt_hat_gev
    lines = (
        *COMMON,
        *settings,
        f"PhaseSpace:pTHatMin = {low}",
        f"PhaseSpace:pTHatMax = {high}",
        f"Random:seed = {seed}",
    )
    for line in lines:
        if not pythia.readString(line):
            raise RuntimeError(f"Pythia refuses the setting '{line}'")
    if not pythia.init():
        raise RuntimeError("Pythia does not start; see its messages above")
    return pythia


def _records(batch: Any) -> tuple[Record, Particles, int]:
    """Flatten a batch of events into the full record and the stable particles."""
    ak: Any = importlib.import_module("awkward")
    prt = batch["prt"]
    counts = np.asarray(ak.num(prt, axis=1))
    num_events = len(counts)
    event = np.repeat(np.arange(num_events), counts)
    first = np.repeat(np.concatenate([[0], np.cumsum(counts)[:-1]]), counts)
    flat = ak.flatten(prt, axis=1)
    pid = np.asarray(flat["id"], np.int64)
    p4 = np.stack([np.asarray(flat["p"][name]) for name in ("e", "px", "py", "pz")], axis=-1)
    mother = first + np.asarray(flat["mother1"], np.int64)
    record = Record(event, pid, mother, p4)
    stable = np.flatnonzero(np.asarray(flat["status"]) > 0)
    vertex = ak.fill_none(flat["vProd"][stable], {"px": 0.0, "py": 0.0, "pz": 0.0, "e": 0.0})
    position = np.stack([np.asarray(vertex[name], np.float64) for name in ("px", "py", "pz")], axis=-1)
    charge = _charges(pid[stable])
    return record, Particles(event[stable], p4[stable], pid[stable], charge, position), num_events


# Charges of what Pythia leaves undecayed; everything else that is stable is neutral.
_POSITIVE = (211, 321, 2212, 3222, -11, -13, -3112, -3312, -3334)


def _charges(pid: Array) -> Array:
    positive, negative = np.isin(pid, _POSITIVE), np.isin(-pid, _POSITIVE)
    return positive.astype(np.int64) - negative


def generate(
    name: str, num_jets: int, rng: np.random.Generator, *, batch_events: int = BATCH_EVENTS
) -> Iterator[Jets]:
    """Generate jets of one class.

    Args:
        name: One of `processes.CLASSES`.
        num_jets: Number of jets to deliver.
        rng: Random generator; it also seeds Pythia.
        batch_events: Events per batch.

    Yields:
        Tables of labelled jets, num_jets in total, with generator-level numbers among the scalars.

    Raises:
        UserError: Pythia or FastJet is not installed.
    """
    process = PROCESSES[name]
    generators = [_start(settings, process, int(rng.integers(1, MAX_SEED))) for settings in process.settings]
    made, turn = 0, 0
    while made < num_jets:
        batch = generators[turn % len(generators)].nextBatch(batch_events)
        turn += 1
        jets = _select(_records(batch), name, process, rng)
        jets = jets.take(np.arange(min(len(jets), num_jets - made)))
        made += len(jets)
        if len(jets):
            yield jets


def _select(
    records: tuple[Record, Particles, int], name: str, process: Process, rng: np.random.Generator
) -> Jets:
    """Simulate the detector, cluster, and keep the jets that match the class."""
    record, particles, num_events = records
    flow = detect(particles, rng, eta_max=FLOW_ETA_MAX)
    jets, event = cluster_jets(flow, num_events)
    genpart = np.zeros((len(jets), 4), np.float32)
    if process.mother:
        decays = find_decays(record, process.mother)
        eta, phi = jets.scalars["eta"], jets.scalars["phi"]
        root = match_jets(event, eta, phi, decays, process.num_quarks, process.num_leptons)
        good = np.flatnonzero(root >= 0)
        jets, root = jets.take(good), root[good]
        p4 = record.p4[root]
        genpart = np.stack([fv.pt(p4), fv.eta(p4), fv.phi(p4), record.pid[root]], axis=-1).astype(np.float32)
    scalars = {
        **jets.scalars,
        **{f"genpart_{column}": genpart[:, n] for n, column in enumerate(("pt", "eta", "phi", "pid"))},
        "truth_match": np.full(len(jets), float(process.mother > 0), np.float32),
    }
    labels = np.full(len(jets), CLASSES.index(name))
    return Jets(jets.offsets, jets.p4, labels, jets.pid, jets.displacement, scalars)
