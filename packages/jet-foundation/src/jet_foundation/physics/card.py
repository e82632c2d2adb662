"""The numbers of the detector card with which JetClass was made.

The card is the CMS-like Delphes card of the generation scripts (J. de Favereau et al., arXiv:1307.6346;
H. Qu, C. Li, S. Qian, "JetClass", zenodo 6619768). Impact-parameter resolutions are those of CMS tracking
(arXiv:1405.6569, Fig. 15), in 34 bins of pT whose edges grow by e^0.2 and three of |η|.

Dimensions: K particles or towers.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FIELD_T = 3.8
RADIUS_M = 1.29
HALF_LENGTH_M = 3.0

# Kind of track → (|η| limit, pT limits in GeV with the efficiency above each).
_EFFICIENCY = {
    "hadron": ((1.5, ((0.1, 0.70), (1.0, 0.95))), (2.5, ((0.1, 0.60), (1.0, 0.85)))),
    "electron": (
        (1.5, ((0.1, 0.73), (1.0, 0.95), (100.0, 0.99))),
        (2.5, ((0.1, 0.50), (1.0, 0.83), (100.0, 0.90))),
    ),
    "muon": ((1.5, ((0.1, 0.75), (1.0, 0.99))), (2.5, ((0.1, 0.70), (1.0, 0.98)))),
}
# Kind of track → a and b of σ(pT)/pT = √(a² + (b pT)²) for |η| up to 0.5, 1.5, 2.5 (pT in GeV).
_MOMENTUM = {
    "hadron": ((0.06, 1.3e-3), (0.10, 1.7e-3), (0.25, 3.1e-3)),
    "electron": ((0.03, 1.3e-3), (0.05, 1.7e-3), (0.15, 3.1e-3)),
    "muon": ((0.01, 1.0e-4), (0.015, 1.5e-4), (0.025, 3.5e-4)),
}
TRACK_KINDS = ("hadron", "electron", "muon")

# Lower edges; below the first there is no estimate.
IMPACT_PT_EDGES_GEV = np.geomspace(0.1823, 134.713, 34)
IMPACT_ETA_EDGES = np.array([0.9, 1.4])
D0_RESOLUTION_MM = np.array([
    [.3543, .2809, .2304, .1917, .1737, .1434, .1060, .0893, .0753, .0670, .0577, .0524, .0452, .0376,
     .0350, .0324, .0283, .0258, .0237, .0211, .0191, .0164, .0150, .0143, .0130, .0130, .0116, .0116,
     .0110, .0110, .0110, .0104, .0109, .0110],
    [.4564, .3580, .3010, .2353, .2026, .1595, .1383, .1119, .0926, .0816, .0663, .0553, .0488, .0431,
     .0399, .0357, .0313, .0277, .0233, .0221, .0214, .0180, .0155, .0141, .0128, .0134, .0121, .0108,
     .0101, .0101, .0101, .0102, .0088, .0095],
    [.6970, .6046, .5315, .4306, .3398, .2788, .2387, .1814, .1557, .1230, .1009, .0914, .0767, .0638,
     .0544, .0468, .0425, .0385, .0331, .0278, .0256, .0236, .0217, .0196, .0176, .0165, .0157, .0150,
     .0144, .0144, .0137, .0130, .0137, .0137],
])  # fmt: skip
DZ_RESOLUTION_MM = np.array([
    [.3693, .3135, .3125, .2578, .2221, .1936, .1686, .1351, .1113, .0983, .0882, .0786, .0684, .0615,
     .0551, .0516, .0484, .0450, .0416, .0416, .0382, .0350, .0317, .0316, .0316, .0316, .0348, .0316,
     .0316, .0316, .0284, .0283, .0315, .0318],
    [.7062, .6010, .5992, .4959, .3877, .3199, .2646, .2518, .1982, .1587, .1399, .1199, .1031, .0967,
     .0805, .0736, .0707, .0603, .0609, .0541, .0511, .0443, .0409, .0408, .0409, .0377, .0375, .0377,
     .0342, .0342, .0343, .0343, .0309, .0310],
    [2.1717, 2.0715, 2.0679, 1.7679, 1.4393, 1.1997, .9800, .8251, .6695, .5545, .4366, .3711, .3319,
     .2721, .2443, .2085, .1816, .1641, .1451, .1317, .1117, .1020, .1017, .0983, .0882, .0847, .0814,
     .0784, .0817, .0750, .0816, .0820, .0814, .0850],
])  # fmt: skip

ECAL_ENERGY_MIN_GEV, ECAL_SIGNIFICANCE_MIN = 0.5, 2.0
HCAL_ENERGY_MIN_GEV, HCAL_SIGNIFICANCE_MIN = 1.0, 1.0
# Energy fractions (ECal, HCal) by |PDG code|; any other particle leaves everything in the HCal.
ENERGY_FRACTIONS = {
    11: (1.0, 0.0), 22: (1.0, 0.0), 111: (1.0, 0.0), 310: (0.3, 0.7), 3122: (0.3, 0.7),
    12: (0.0, 0.0), 13: (0.0, 0.0), 14: (0.0, 0.0), 16: (0.0, 0.0),
}  # fmt: skip

_FORWARD = (2.958, 3.125, 3.3, 3.475, 3.65, 3.825, 4.0, 4.175, 4.35, 4.525, 4.7, 5.0)
ECAL_ETA_EDGES = np.unique(
    np.round([*(0.0174 * np.arange(-170, 171)), *_FORWARD[1:], *(-eta for eta in _FORWARD[1:])], 6)
)
_HCAL_OUTER = (1.653, 1.74, 1.83, 1.93, 2.043, 2.172, 2.322, 2.5, 2.65, 2.868, 2.95, *_FORWARD[1:])
HCAL_ETA_EDGES = np.unique(
    np.round([*(0.087 * np.arange(-18, 19)), *_HCAL_OUTER, *(-eta for eta in _HCAL_OUTER)], 6)
)


def ecal_phi_bins(eta: Array) -> Array:
    """Number of ECal cells around φ.

    Args:
        eta: Centre of the tower in η, (K,).

    Returns:
        360 up to |η| = 2.958, 36 beyond, (K,) int64.
    """
    return np.where(np.abs(eta) < _FORWARD[0], 360, 36)


def hcal_phi_bins(eta: Array) -> Array:
    """Number of HCal cells around φ.

    Args:
        eta: Centre of the tower in η, (K,).

    Returns:
        72 up to |η| = 1.653, 36 to 4.525, 18 beyond, (K,) int64.
    """
    size = np.abs(eta)
    return np.where(size < 1.653, 72, np.where(size < 4.525, 36, 18))


def tracking_efficiency(kind: str, pt: Array, eta: Array) -> Array:
    """Probability that a track is found.

    Args:
        kind: One of `TRACK_KINDS`.
        pt: Transverse momentum, (K,) GeV.
        eta: Pseudorapidity of the point where the particle leaves the tracker, (K,).

    Returns:
        Efficiency, (K,); 0 below 0.1 GeV and beyond |η| = 2.5.
    """
    efficiency = np.zeros(np.shape(pt))
    inner = 0.0
    for eta_max, steps in _EFFICIENCY[kind]:
        region = (np.abs(eta) > inner if inner else True) & (np.abs(eta) <= eta_max)
        for pt_min, value in steps:
            efficiency = np.where(region & (pt > pt_min), value, efficiency)
        inner = eta_max
    if kind == "muon":  # showering muons, above 1 TeV
        efficiency = np.where(pt > 1000.0, efficiency * np.exp(0.5 - pt * 5.0e-4), efficiency)
    return efficiency


def momentum_resolution(kind: str, pt: Array, eta: Array) -> Array:
    """Relative resolution of pT.

    Args:
        kind: One of `TRACK_KINDS`.
        pt: Transverse momentum, (K,) GeV.
        eta: Pseudorapidity, |η| ≤ 2.5, (K,).

    Returns:
        σ(pT)/pT, (K,).
    """
    region = np.searchsorted([0.5, 1.5], np.abs(eta), side="left")
    constants = np.array(_MOMENTUM[kind])[region]
    resolution: Array = np.hypot(constants[..., 0], constants[..., 1] * pt)
    return resolution


def impact_resolution(table_mm: Array, pt: Array, eta: Array) -> Array:
    """Look up a resolution of the impact parameter.

    Args:
        table_mm: `D0_RESOLUTION_MM` or `DZ_RESOLUTION_MM`.
        pt: Transverse momentum, (K,) GeV.
        eta: Pseudorapidity, (K,).

    Returns:
        Resolution, (K,) mm; below 0.18 GeV the value of the first bin.
    """
    row = np.searchsorted(IMPACT_ETA_EDGES, np.abs(eta), side="left")
    column = np.searchsorted(IMPACT_PT_EDGES_GEV, pt, side="left") - 1
    resolution: Array = table_mm[row, np.clip(column, 0, None)]
    return resolution


def ecal_resolution(energy: Array, eta: Array) -> Array:
    """Resolution of an ECal tower.

    Args:
        energy: Energy, (K,) GeV.
        eta: Centre of the tower, (K,).

    Returns:
        σ(E), (K,) GeV.
    """
    size = np.abs(eta)
    central = np.sqrt((0.008 * energy) ** 2 + 0.11**2 * energy + 0.40**2)
    factor = np.where(size <= 1.5, 1 + 0.64 * size**2, 2.16 + 5.6 * (size - 2) ** 2)
    forward = np.sqrt((0.107 * energy) ** 2 + 2.08**2 * energy)
    return np.where(size <= 2.5, factor * central, forward)


def hcal_resolution(energy: Array, eta: Array) -> Array:
    """Resolution of an HCal tower.

    Args:
        energy: Energy, (K,) GeV.
        eta: Centre of the tower, (K,).

    Returns:
        σ(E), (K,) GeV.
    """
    central = np.sqrt((0.050 * energy) ** 2 + 1.50**2 * energy)
    forward = np.sqrt((0.130 * energy) ** 2 + 2.70**2 * energy)
    return np.where(np.abs(eta) <= 3.0, central, forward)
