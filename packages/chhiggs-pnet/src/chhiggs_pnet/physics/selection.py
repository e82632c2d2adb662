r"""The selections Run1E2Mu and Run3Mu.

Exactly one electron and two muons, or three muons with |Σq| = 1, all loose; every opposite-sign muon pair
above 12 GeV and at least one in 60–120 GeV; at least two jets away from the leptons, at least one b-tagged;
tight leptons. Pair masses are m² = 2 pt₁ pt₂ (cosh Δη − cos Δφ): muons are light.

N events, P places; arrays are (N, P).
"""

from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from chhiggs_pnet.physics.events import Array, Events, Object
from chhiggs_pnet.physics.kinematics import delta_r2
from chhiggs_pnet.physics.processes import Channel
from hep_shared.config import StrictModel

Mask = NDArray[np.bool_]
MAX_MUONS = 4  # of an event looked at; one more than any selection accepts


class Selection(StrictModel):
    """Thresholds of objects and events."""

    muon_pt_min_gev: float = Field(10.0, gt=0, description="Loose muons.")
    muon_eta_max: float = Field(2.4, gt=0, description="Loose muons, |eta|.")
    electron_pt_min_gev: float = Field(15.0, gt=0, description="Loose electrons.")
    electron_veto_pt_min_gev: float = Field(10.0, gt=0, description="A further electron vetoes the event.")
    electron_eta_max: float = Field(2.5, gt=0, description="Loose electrons, |eta|.")
    jet_pt_min_gev: float = Field(20.0, gt=0, description="Jets.")
    jet_eta_max: float = Field(2.5, gt=0, description="Jets, |eta|; 2.4 in 2016.")
    jet_lepton_delta_r_min: float = Field(0.4, ge=0, description="Jets nearer to a lepton are left out.")
    pair_mass_min_gev: float = Field(12.0, ge=0, description="Every opposite-sign muon pair.")
    window_low_gev: float = Field(60.0, ge=0, description="At least one pair is above this.")
    window_high_gev: float = Field(120.0, gt=0, description="And below this.")
    num_jets_min: int = Field(2, ge=0, description="Fewest jets.")
    num_tagged_min: int = Field(1, ge=0, description="Fewest b-tagged jets.")
    require_tight: bool = Field(True, description="All leptons pass the tight identification.")


def lepton_masks(selection: Selection, kind: Array, pt: Array, eta: Array) -> tuple[Mask, Mask]:
    """Find loose muons and electrons, the latter down to the veto threshold.

    Args:
        selection: Thresholds.
        kind: `Object`.
        pt: In GeV.
        eta: Pseudorapidity.

    Returns:
        Muons and electrons, shape of `kind`.
    """
    muons = (kind == Object.MUON) & (pt > selection.muon_pt_min_gev)
    electrons = (kind == Object.ELECTRON) & (pt > selection.electron_veto_pt_min_gev)
    absolute = np.abs(eta)
    return muons & (absolute < selection.muon_eta_max), electrons & (absolute < selection.electron_eta_max)


def passes_counts(
    selection: Selection, channel: Channel, muons: Mask, electrons: Mask, pt: Array, charge: Array
) -> Mask:
    """Ask for the leptons of a channel and no others.

    Args:
        selection: Thresholds.
        channel: The channel.
        muons: Loose muons.
        electrons: Electrons above the veto threshold.
        pt: In GeV.
        charge: Charges.

    Returns:
        (N,).
    """
    num_muons, num_electrons = muons.sum(axis=-1), electrons.sum(axis=-1)
    if channel == "Run1E2Mu":
        full = (electrons & (pt > selection.electron_pt_min_gev)).sum(axis=-1)
        return np.asarray((num_muons == 2) & (num_electrons == 1) & (full == 1))
    net_charge = np.where(muons, charge, 0).sum(axis=-1)
    return np.asarray((num_muons == 3) & (num_electrons == 0) & (np.abs(net_charge) == 1))


def pair_masses(muons: Mask, pt: Array, eta: Array, phi: Array, charge: Array) -> tuple[Array, Array]:
    """Masses of the opposite-sign muon pairs.

    Args:
        muons: Muons, in the first `MAX_MUONS` places.
        pt: In GeV.
        eta: Pseudorapidity.
        phi: Azimuth in rad.
        charge: Charges.

    Returns:
        Largest and second largest mass in GeV, (N,) each; −1 where there is no such pair.
    """
    pt, eta, phi = (np.asarray(column[:, :MAX_MUONS], np.float64) for column in (pt, eta, phi))
    masses = [np.full(len(pt), -1.0)] * 2
    for i, j in combinations(range(pt.shape[1]), 2):
        opposite = muons[:, i] & muons[:, j] & (charge[:, i] * charge[:, j] < 0)
        rows = np.flatnonzero(opposite)
        deta, dphi = eta[rows, i] - eta[rows, j], phi[rows, i] - phi[rows, j]
        mass = np.full(len(pt), -1.0)
        mass[rows] = np.sqrt(2 * pt[rows, i] * pt[rows, j] * np.maximum(np.cosh(deta) - np.cos(dphi), 0.0))
        masses.append(mass)
    ordered = np.sort(np.stack(masses), axis=0)
    return ordered[-1], ordered[-2]


def passes_masses(
    selection: Selection, muons: Mask, pt: Array, eta: Array, phi: Array, charge: Array
) -> Mask:
    """Ask for no light pair and one in the window.

    Args:
        selection: Thresholds.
        muons: Muons, in the first `MAX_MUONS` places.
        pt: In GeV.
        eta: Pseudorapidity.
        phi: Azimuth in rad.
        charge: Charges.

    Returns:
        (N,).
    """
    # With three muons of |Σq| = 1 there are two opposite-sign pairs, so two masses are all of them.
    pairs = pair_masses(muons, pt, eta, phi, charge)
    low, high = selection.window_low_gev, selection.window_high_gev
    heavy = [(mass < 0) | (mass > selection.pair_mass_min_gev) for mass in pairs]
    window = [(mass > low) & (mass < high) for mass in pairs]
    return np.asarray(heavy[0] & heavy[1] & (window[0] | window[1]))


def jet_mask(selection: Selection, kind: Array, pt: Array, eta: Array, phi: Array, leptons: Mask) -> Mask:
    """Find jets in acceptance and away from leptons.

    Args:
        selection: Thresholds.
        kind: `Object`.
        pt: In GeV.
        eta: Pseudorapidity.
        phi: Azimuth in rad.
        leptons: Leptons that jets must not overlap.

    Returns:
        Shape of `kind`.
    """
    jets = (kind == Object.JET) & (pt > selection.jet_pt_min_gev) & (np.abs(eta) < selection.jet_eta_max)
    minimum = selection.jet_lepton_delta_r_min**2
    for place in np.flatnonzero(leptons.any(axis=0)):
        distance = delta_r2(eta, phi, eta[:, place, None], phi[:, place, None])
        jets &= ~(leptons[:, place, None] & (distance < minimum))
    return np.asarray(jets)


def select(events: Events, channel: Channel, selection: Selection) -> Events:
    """Apply a selection.

    Args:
        events: Events with at least loose objects.
        channel: The channel.
        selection: Thresholds.

    Returns:
        The events that pass, with only the objects that count.
    """
    e = events
    muons, electrons = lepton_masks(selection, e.kind, e.pt, e.eta)
    keep = passes_counts(selection, channel, muons, electrons, e.pt, e.charge)
    keep &= passes_masses(selection, muons, e.pt, e.eta, e.phi, e.charge)
    leptons = muons | electrons
    if selection.require_tight:
        keep &= (e.tight | ~leptons).all(axis=1)
    jets = jet_mask(selection, e.kind, e.pt, e.eta, e.phi, leptons)
    keep &= jets.sum(axis=1) >= selection.num_jets_min
    keep &= (jets & e.tagged).sum(axis=1) >= selection.num_tagged_min
    return _remove(e.take(keep), (leptons | jets)[keep])


def _remove(events: Events, wanted: Mask) -> Events:
    """Keep the wanted objects and close the gaps."""
    if np.array_equal(wanted, events.kind != Object.NONE):
        return events
    order = np.argsort(~wanted, axis=1, kind="stable")
    columns = ("kind", "pt", "eta", "phi", "mass", "charge", "btag", "tagged", "tight")
    return replace(
        events,
        **{
            name: np.take_along_axis(np.where(wanted, column, column.dtype.type(0)), order, axis=1)
            for name in columns
            for column in [getattr(events, name)]
        },
    )
