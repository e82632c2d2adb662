"""The signal region: many jets, two b-tags, two leptons of one charge or at least three leptons.

After ATLAS, "Observation of four-top-quark production in the multilepton final state", Eur. Phys. J. C 83,
496 (2023): at least 6 jets, at least 2 b-tagged, H_T > 500 GeV with H_T the scalar sum over selected jets and
leptons, and exactly two leptons of the same charge or three or more. A lepton within
min(0.4, 0.04 + 10 GeV / pT) of a jet is not isolated and is dropped.

P slots, N events.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fourtop_tokens.physics.kinematics import Array, delta_r2

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Selection:
    """Thresholds of objects and events; momenta in GeV."""

    jet_pt_min: float = 25.0
    lepton_pt_min: float = 15.0
    leading_lepton_pt_min: float = 28.0
    photon_pt_min: float = 20.0
    eta_max: float = 2.5
    num_jets_min: int = 6
    num_tagged_min: int = 2
    scalar_sum_min: float = 500.0


def passes_leptons(selection: Selection, is_lepton: Mask, charges: NDArray[np.int8], pt: Array) -> Mask:
    """Two leptons of one charge and no other, or three or more.

    Args:
        selection: Thresholds.
        is_lepton: Selected leptons, (P, N).
        charges: Charges, (P, N).
        pt: Transverse momenta in GeV, (P, N).

    Returns:
        (N,).
    """
    number = is_lepton.sum(axis=0)
    net_charge = np.where(is_lepton, charges, 0).sum(axis=0)
    leading = np.where(is_lepton, pt, 0.0).max(axis=0, initial=0.0)
    same_sign = (number == 2) & (np.abs(net_charge) == 2)
    return np.asarray((same_sign | (number >= 3)) & (leading > selection.leading_lepton_pt_min))


def isolated(is_lepton: Mask, is_jet: Mask, pt: Array, eta: Array, phi: Array) -> Mask:
    """Drop leptons near a jet.

    Args:
        is_lepton: Selected leptons, (P, N).
        is_jet: Selected jets, (P, N).
        pt: Transverse momenta in GeV, (P, N).
        eta: Pseudorapidities, (P, N).
        phi: Azimuths in rad, in [-π, π], (P, N).

    Returns:
        The leptons that stay, (P, N).
    """
    kept = is_lepton.copy()
    slots, events = np.nonzero(is_lepton)
    distance = delta_r2(eta[:, events], phi[:, events], eta[slots, events], phi[slots, events])
    distance[~is_jet[:, events]] = np.inf
    cone = np.minimum(0.4, 0.04 + 10.0 / pt[slots, events])
    kept[slots, events] = distance.min(axis=0, initial=np.inf) > cone**2
    return kept


def passes_jets(selection: Selection, is_jet: Mask, is_tagged: Mask) -> Mask:
    """Enough jets, and enough of them tagged.

    Args:
        selection: Thresholds.
        is_jet: Selected jets, (P, N).
        is_tagged: Tagged jets, (P, N).

    Returns:
        (N,).
    """
    enough = is_jet.sum(axis=0) >= selection.num_jets_min
    return np.asarray(enough & ((is_jet & is_tagged).sum(axis=0) >= selection.num_tagged_min))


def scalar_sum(pt: Array, is_jet: Mask, is_lepton: Mask) -> Array:
    """H_T of selected jets and leptons.

    Args:
        pt: Transverse momenta in GeV, (P, N).
        is_jet: Selected jets, (P, N).
        is_lepton: Selected leptons, (P, N).

    Returns:
        (N,) in GeV.
    """
    return np.asarray(np.where(is_jet | is_lepton, pt, 0.0).sum(axis=0))
