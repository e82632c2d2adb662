"""Which jet holds the whole decay of which heavy particle.

A jet takes the label of its class when the wanted number of quarks and charged leptons from one heavy
particle lie within ΔR < 0.8 of its axis; jets of a signal process that fail are dropped, as JetClass does.
Directions are those right after the decay, before the products radiate.

Dimensions: K records of all events, D decay products, J jets.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jet_foundation.physics import fourvectors as fv

Array = NDArray[Any]

MATCH_RADIUS = 0.8
_HEAVY = (6, 23, 24, 25)
_LEPTONS = (11, 13)


class Record(NamedTuple):
    """Complete event records of a generator, flat.

    Attributes:
        event: Event number, (K,) int64.
        pid: PDG code, (K,) int64.
        mother: Position of the first mother in this list, (K,) int64; own position without one.
        p4: Four-vectors (E, px, py, pz), (K, 4) GeV.
    """

    event: Array
    pid: Array
    mother: Array
    p4: Array


class Decays(NamedTuple):
    """Final decay products of heavy particles.

    Attributes:
        event: Event number, (D,) int64.
        root: Position of the heavy particle in the record, (D,) int64.
        lepton: True for e and μ, False for quarks and gluons, (D,) bool.
        eta: Pseudorapidity, (D,).
        phi: Azimuth, (D,) rad.
    """

    event: Array
    root: Array
    lepton: Array
    eta: Array
    phi: Array


def find_decays(record: Record, mother: int) -> Decays:
    """List the decay products of the heavy particles of one kind.

    W bosons between the heavy particle and its products are passed through.

    Args:
        record: Event records.
        mother: |PDG code| of the heavy particle.

    Returns:
        Quarks, gluons, electrons and muons whose root is of that kind.
    """
    code = np.abs(record.pid)
    parent = code[record.mother]
    product = ((code <= 5) & (code >= 1)) | (code == 21) | np.isin(code, _LEPTONS)
    found = np.flatnonzero(product & np.isin(parent, _HEAVY))
    root = record.mother[found]
    while True:  # climb from the W to the top or Higgs it comes from, through the W's own copies
        above = record.mother[root]
        climb = (code[root] == 24) & np.isin(code[above], (24, 6, 25)) & (above != root) & (mother != 24)
        if not climb.any():
            break
        root = np.where(climb, above, root)
    chosen = code[root] == mother
    found, root = found[chosen], root[chosen]
    return Decays(
        record.event[found],
        root,
        np.isin(code[found], _LEPTONS),
        fv.eta(record.p4[found]),
        fv.phi(record.p4[found]),
    )


def match_jets(
    jet_event: Array, jet_eta: Array, jet_phi: Array, decays: Decays, num_quarks: int, num_leptons: int
) -> Array:
    """Find the heavy particle that each jet contains.

    Args:
        jet_event: Event number of each jet, (J,) int64.
        jet_eta: Pseudorapidity, (J,).
        jet_phi: Azimuth, (J,) rad.
        decays: Decay products of all events.
        num_quarks: Number of quarks or gluons that must lie in the jet.
        num_leptons: Number of electrons or muons that must lie in the jet.

    Returns:
        Position of the heavy particle in the record, −1 for a jet without a match, (J,) int64.
    """
    matched = np.full(len(jet_event), -1, np.int64)
    roots, number = np.unique(decays.root, return_inverse=True)
    for jet, (event, eta, phi) in enumerate(zip(jet_event, jet_eta, jet_phi, strict=True)):
        inside = decays.event == event
        inside &= fv.delta_r(decays.eta, decays.phi, eta, phi) < MATCH_RADIUS
        quarks = np.bincount(number[inside & ~decays.lepton], minlength=len(roots))
        leptons = np.bincount(number[inside & decays.lepton], minlength=len(roots))
        good = np.flatnonzero((quarks == num_quarks) & (leptons == num_leptons))
        if len(good):
            matched[jet] = roots[good[0]]
    return matched
