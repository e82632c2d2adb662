r"""Features of single particles, relative to their jet.

    kin      ln pT, ln E, ln(pT/pT_jet), ln(E/E_jet), ΔR, Δη·sign(η_jet), Δφ                          7
    kinpid   … charge and five flags of the particle kind                                             13
    full     … tanh d0, σ(d0), tanh dz, σ(dz) with the uncertainties clipped to [0, 1] mm              17

as in the Particle Transformer's configurations (arXiv:2202.03772, Table 2). The jet is the sum of all its
particles.

Dimensions: J jets, K particles of all jets, F features.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jet_foundation.data.schema import FeatureSet
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets

Array = NDArray[Any]

KIN = ("log_pt", "log_energy", "log_pt_rel", "log_energy_rel", "delta_r", "deta", "dphi")
PID = ("charge", "is_charged_hadron", "is_neutral_hadron", "is_photon", "is_electron", "is_muon")
TRACK = ("tanh_d0", "d0_error", "tanh_dz", "dz_error")
FEATURE_NAMES: dict[FeatureSet, tuple[str, ...]] = {
    "kin": KIN,
    "kinpid": (*KIN, *PID),
    "full": (*KIN, *PID, *TRACK),
}
_ERROR_MAX_MM = 1.0


def particle_features(jets: Jets, feature_set: FeatureSet) -> Array:
    """Compute the features of every particle.

    Args:
        jets: Jets that carry what the feature set needs.
        feature_set: `kin`, `kinpid` or `full`.

    Returns:
        Features before normalisation, (K, F) float32, in the order of `FEATURE_NAMES`; logarithms of GeV, mm.

    Raises:
        ValueError: The jets lack identity or displacement.
    """
    p4 = jets.p4
    axis = jets.jet_p4()
    axis = np.column_stack([fv.pt(axis), axis[:, 0], fv.eta(axis), fv.phi(axis)]).astype(np.float32)
    jet_pt, jet_energy, jet_eta, jet_phi = np.repeat(axis, jets.num_particles, axis=0).T
    out = np.empty((len(p4), len(FEATURE_NAMES[feature_set])), np.float32)
    pt = fv.pt(p4)
    np.log(np.maximum(pt, np.float32(fv.TINY_GEV)), out=out[:, 0])
    np.log(p4[:, 0], out=out[:, 1])
    np.subtract(out[:, 0], np.log(jet_pt), out=out[:, 2])
    np.subtract(out[:, 1], np.log(jet_energy), out=out[:, 3])
    deta, dphi = fv.eta(p4) - jet_eta, fv.phi(p4) - jet_phi
    dphi -= np.float32(2 * np.pi) * np.round(dphi / np.float32(2 * np.pi))
    np.sqrt(deta * deta + dphi * dphi, out=out[:, 4])
    np.copysign(1.0, jet_eta, out=jet_eta)
    np.multiply(deta, jet_eta, out=out[:, 5])
    out[:, 6] = dphi
    if feature_set == "kin":
        return out
    if jets.pid is None:
        raise ValueError(f"feature set '{feature_set}' needs particle identity")
    out[:, 7:13] = jets.pid
    if feature_set == "full":
        if jets.displacement is None:
            raise ValueError(f"feature set '{feature_set}' needs impact parameters")
        np.tanh(jets.displacement[:, 0::2], out=out[:, 13::2])
        np.clip(jets.displacement[:, 1::2], 0.0, _ERROR_MAX_MM, out=out[:, 14::2])
    return out
