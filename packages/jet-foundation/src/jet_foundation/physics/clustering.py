"""Jets from energy-flow objects: anti-kT with R = 0.8, soft drop and N-subjettiness.

    500 < pT < 1000 GeV, |η| < 2;  soft drop β = 0, z = 0.1, R₀ = 0.8;  τ_N with β = 1, one-pass kT axes

FastJet (arXiv:1111.6097) does the work through its Python package, the optional extra `pythia`.

Dimensions: K objects of all events, J jets.
"""

import functools
import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hep_shared.errors import UserError
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets, ragged_index
from jet_foundation.physics.particles import EnergyFlow

Array = NDArray[Any]

JET_RADIUS = 0.8
PT_RANGE_GEV = (500.0, 1000.0)
ETA_MAX = 2.0
PZ_MAX_GEV = 10_000.0  # constituents beyond are left out, as JetClass does


@functools.cache
def _fastjet() -> Any:
    try:
        fastjet = importlib.import_module("fastjet")
    except ImportError as error:
        raise UserError(
            "Clustering needs FastJet, which is not installed; "
            "install `jet-foundation[pythia]` or use --engine toy."
        ) from error
    # FastJet introduces itself once, on standard output, where results go: let it do so on standard error.
    output = os.dup(1)
    try:
        os.dup2(2, 1)
        importlib.import_module("fastjet._swig").ClusterSequence.print_banner()
    finally:
        os.dup2(output, 1)
        os.close(output)
    return fastjet


def _momenta(p4: Array, counts: Array) -> Any:
    ak: Any = importlib.import_module("awkward")
    columns = {"px": p4[:, 1], "py": p4[:, 2], "pz": p4[:, 3], "E": p4[:, 0]}
    return ak.unflatten(ak.zip(columns, with_name="Momentum4D"), counts)


def pid_columns(charge: Array, kind: Array) -> Array:
    """Charge and one-hot particle kind.

    Args:
        charge: Charge, (K,).
        kind: Kind as in `particles`, (K,).

    Returns:
        Charge and five flags, (K, 6) int8.
    """
    return np.concatenate([charge[:, None], kind[:, None] == np.arange(5)], axis=1).astype(np.int8)


def gather_jets(flow: EnergyFlow, constituents: Array, offsets: Array, scalars: dict[str, Array]) -> Jets:
    """Make a table of jets from lists of constituents; particles are sorted by pT.

    Args:
        flow: All energy-flow objects.
        constituents: Positions of the constituents, one jet after another, int64.
        offsets: Where each jet begins in `constituents`, (J + 1,) int64.
        scalars: Further numbers per jet.

    Returns:
        Jets with label 0, and pt, eta, phi, energy and nparticles among the scalars.
    """
    kept = np.abs(flow.p4[constituents, 3]) < PZ_MAX_GEV
    jet = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[kept]
    constituents = constituents[kept]
    order = np.lexsort((-fv.pt(flow.p4[constituents]), jet))
    objects = flow[constituents[order]]
    counts = np.bincount(jet, minlength=len(offsets) - 1)
    jets = Jets(
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        p4=objects.p4.astype(np.float32),
        labels=np.zeros(len(counts), np.int64),
        pid=pid_columns(objects.charge, objects.kind),
        displacement=objects.displacement.astype(np.float32),
    )
    total = jets.jet_p4()
    axis = {
        "pt": fv.pt(total),
        "eta": fv.eta(total),
        "phi": fv.phi(total),
        "energy": total[:, 0],
        "nparticles": counts,
    }
    columns = {name: np.asarray(values, np.float32) for name, values in {**axis, **scalars}.items()}
    return Jets(jets.offsets, jets.p4, jets.labels, jets.pid, jets.displacement, columns)


def substructure(p4: Array, counts: Array) -> dict[str, Array]:
    """Soft-drop mass and N-subjettiness of jets.

    Args:
        p4: Constituents of all jets, one jet after another, (K, 4) GeV.
        counts: Number of constituents of each jet, (J,) int64.

    Returns:
        `sdmass` (GeV) and `tau1` to `tau4`, each (J,).
    """
    fastjet = _fastjet()
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 100.0)  # one jet, whatever its size
    sequence = fastjet.ClusterSequence(_momenta(np.asarray(p4, np.float64), counts), definition)
    groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=0.1, R0=JET_RADIUS)
    taus = np.asarray(sequence.njettiness(njets=[1, 2, 3, 4], beta=1.0, R0=JET_RADIUS))
    return {
        "sdmass": np.nan_to_num(np.asarray(groomed["msoftdrop"])),
        **{f"tau{n}": taus[:, n - 1] for n in range(1, 5)},
    }


def cluster_jets(flow: EnergyFlow, num_events: int) -> tuple[Jets, Array]:
    """Find and select the jets of many events.

    Args:
        flow: Energy-flow objects ordered by event.
        num_events: Number of events in the chunk.

    Returns:
        The selected jets (label 0, with substructure), and the event number of each, (J,) int64.

    Raises:
        UserError: FastJet is not installed.
    """
    fastjet = _fastjet()
    ak: Any = importlib.import_module("awkward")
    counts = np.bincount(flow.event, minlength=num_events)
    starts = np.concatenate([[0], np.cumsum(counts)])
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, JET_RADIUS)
    sequence = fastjet.ClusterSequence(_momenta(flow.p4, counts), definition)
    found = sequence.inclusive_jets(min_pt=PT_RANGE_GEV[0])
    members = sequence.constituent_index(min_pt=PT_RANGE_GEV[0])
    event = np.repeat(np.arange(num_events), np.asarray(ak.num(found, axis=1)))
    sizes = np.asarray(ak.flatten(ak.num(members, axis=2)), np.int64)
    index = np.asarray(ak.flatten(members, axis=None), np.int64) + np.repeat(starts[event], sizes)
    p4 = np.stack(
        [np.asarray(ak.flatten(found[name]), np.float64) for name in ("E", "px", "py", "pz")], axis=-1
    )
    good = (fv.pt(p4) < PT_RANGE_GEV[1]) & (np.abs(fv.eta(p4)) < ETA_MAX)
    picked, offsets = ragged_index(np.concatenate([[0], np.cumsum(sizes)]), np.flatnonzero(good))
    constituents = index[picked]
    if not good.any():
        return gather_jets(flow, constituents, offsets, {name: np.zeros(0) for name in _SUBSTRUCTURE}), event[
            good
        ]
    shape = substructure(flow.p4[constituents], np.diff(offsets))
    return gather_jets(flow, constituents, offsets, shape), event[good]


_SUBSTRUCTURE = ("sdmass", "tau1", "tau2", "tau3", "tau4")
