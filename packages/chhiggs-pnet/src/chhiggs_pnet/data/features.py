"""From events to what the network and the store hold: node features, mask, folds.

A node is an object or, last, the missing momentum, which has no η and no mass. Folds come from a hash of run,
luminosity block and event, so an event keeps its fold in every sample, at every hypothesis and on every
machine.

N events, P nodes, F features.
"""

import numpy as np
from numpy.typing import NDArray

from chhiggs_pnet.data.schema import EXT14, NUM_NODES
from chhiggs_pnet.physics.events import Array, Events, Object

_SLOT = {name: index for index, name in enumerate(EXT14)}


def node_features(events: Events) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Build the nodes of the graphs.

    Args:
        events: N events.

    Returns:
        Features `EXT14`, (N, P, F) in GeV and rad, and the mask of real nodes, (N, P).
    """
    num = len(events)
    rows = np.arange(num)
    count = (events.kind != Object.NONE).sum(axis=1)
    nodes = np.zeros((num, NUM_NODES, len(EXT14)), np.float32)
    objects = nodes[:, :-1]
    for name in ("pt", "eta", "phi", "mass", "charge", "btag"):
        objects[..., _SLOT[name]] = getattr(events, name)
    for name, kind in (("is_muon", Object.MUON), ("is_electron", Object.ELECTRON), ("is_jet", Object.JET)):
        objects[..., _SLOT[name]] = events.kind == kind
    objects[..., _SLOT["is_bjet"]] = events.tagged & (events.kind == Object.JET)
    nodes[rows, count, _SLOT["pt"]] = events.met_pt
    nodes[rows, count, _SLOT["phi"]] = events.met_phi

    pt, eta, phi, mass = (nodes[..., _SLOT[name]] for name in ("pt", "eta", "phi", "mass"))
    nodes[..., _SLOT["px"]] = pt * np.cos(phi)
    nodes[..., _SLOT["py"]] = pt * np.sin(phi)
    nodes[..., _SLOT["pz"]] = pt * np.sinh(eta)
    nodes[..., _SLOT["energy"]] = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)
    return nodes, np.arange(NUM_NODES) <= count[:, None]


def fold_of(run: Array, lumi: Array, event: Array, num_folds: int) -> NDArray[np.int8]:
    """Assign events to folds.

    The hash is the finaliser of SplitMix64 (G. Steele et al., OOPSLA 2014), chained over the three numbers.

    Args:
        run: Run numbers, (N,).
        lumi: Luminosity blocks, (N,).
        event: Event numbers, (N,).
        num_folds: Number of folds.

    Returns:
        Fold of each event, (N,).
    """
    state = np.zeros(len(event), np.uint64)
    for part in (run, lumi, event):
        state = state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state % np.uint64(num_folds)).astype(np.int8)
