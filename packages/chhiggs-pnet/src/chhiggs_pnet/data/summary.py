r"""Quantities of whole events for classifiers without a graph: what an analyst would give a decision tree.

Pair masses m₁, m₂ and their distance to mA, transverse momenta of leptons and jets, numbers of jets and tags,
H_T, missing momentum, transverse mass of the third lepton with it, angles between leptons and jets.

N events, P nodes.
"""

import numpy as np

from chhiggs_pnet.data.schema import EXT14
from chhiggs_pnet.physics.events import Array

NAMES = (
    "mHc", "mA", "m1", "m2", "m1_minus_mA", "m2_minus_mA", "lepton1_pt", "lepton2_pt", "lepton3_pt",
    "jet1_pt", "jet2_pt", "jet3_pt", "bjet_pt", "num_jets", "num_bjets", "ht", "met", "mt", "mass_leptons",
    "min_dr_leptons", "min_dr_lepton_bjet", "pt_leptons", "mass_leptons_bjet", "is_three_muons",
)  # fmt: skip
PAIR_MASSES = ("m1", "m2", "m1_minus_mA", "m2_minus_mA")
_SLOT = {name: index for index, name in enumerate(EXT14)}


def summarize(columns: dict[str, Array], masses: Array) -> Array:
    """Compute the quantities.

    Args:
        columns: `nodes` with all features of `EXT14` in GeV and rad (N, P, 14), `valid_mask`, `m1`, `m2`.
        masses: Hypotheses (mHc, mA) in GeV, (N, 2).

    Returns:
        In the order of `NAMES`, GeV where they are energies, (N, quantities) float32; -1 where an event lacks
        the object.
    """
    nodes = np.asarray(columns["nodes"], np.float64)
    value = {name: nodes[..., index] for name, index in _SLOT.items()}
    is_lepton = np.asarray((value["is_muon"] + value["is_electron"]) > 0)
    is_jet, is_bjet = value["is_jet"] > 0, value["is_bjet"] > 0
    is_met = columns["valid_mask"] & ~is_lepton & ~is_jet
    leptons, jets, tags = (_leading(value["pt"], mask, 3) for mask in (is_lepton, is_jet, is_bjet))
    m1, m2 = (np.where(columns[name] >= 0, columns[name], np.nan) for name in ("m1", "m2"))
    vectors = {name: value[name] for name in ("energy", "px", "py", "pz")}
    total = {name: (part * is_lepton).sum(axis=1) for name, part in vectors.items()}
    first_tag = is_bjet & (np.cumsum(is_bjet, axis=1) == 1)
    with_tag = {name: total[name] + (part * first_tag).sum(axis=1) for name, part in vectors.items()}
    met_x, met_y = ((value[name] * is_met).sum(axis=1) for name in ("px", "py"))
    met = np.hypot(met_x, met_y)
    electrons = np.asarray(value["is_electron"] > 0)
    third = np.where(electrons.any(axis=1, keepdims=True), electrons, _place(value["pt"], is_lepton, 2))
    third_pt = (value["pt"] * third).sum(axis=1)
    dot = (value["px"] * third).sum(axis=1) * met_x + (value["py"] * third).sum(axis=1) * met_y
    out = [
        masses[:, 0], masses[:, 1], m1, m2, m1 - masses[:, 1], m2 - masses[:, 1], *leptons.T, *jets.T,
        tags[:, 0], is_jet.sum(axis=1), is_bjet.sum(axis=1), (value["pt"] * is_jet).sum(axis=1), met,
        np.sqrt(np.maximum(2 * (third_pt * met - dot), 0)), _mass(total),
        _min_delta_r(value, is_lepton, is_lepton), _min_delta_r(value, is_lepton, is_bjet),
        np.hypot(total["px"], total["py"]), np.where(is_bjet.any(axis=1), _mass(with_tag), np.nan),
        (value["is_muon"].sum(axis=1) == 3).astype(np.float64),
    ]  # fmt: skip
    table = np.stack(out, axis=1).astype(np.float32)
    return np.where(np.isfinite(table), table, np.float32(-1.0))


def _leading(pt: Array, mask: Array, num: int) -> Array:
    """The largest pt of the objects of a mask, NaN where there are fewer, (N, num)."""
    ordered = -np.sort(-np.where(mask, pt, -1.0), axis=1)[:, :num]
    return np.where(ordered >= 0, ordered, np.nan)


def _place(pt: Array, mask: Array, place: int) -> Array:
    """Mask of the object at a place in the order of pt, (N, P)."""
    rank = np.argsort(np.argsort(-np.where(mask, pt, -1.0), axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(mask & (rank == place))


def _mass(vector: dict[str, Array]) -> Array:
    square = vector["energy"] ** 2 - vector["px"] ** 2 - vector["py"] ** 2 - vector["pz"] ** 2
    return np.asarray(np.sqrt(np.maximum(square, 0.0)))


def _min_delta_r(value: dict[str, Array], first: Array, second: Array) -> Array:
    deta = value["eta"][:, :, None] - value["eta"][:, None, :]
    dphi = (value["phi"][:, :, None] - value["phi"][:, None, :] + np.pi) % (2 * np.pi) - np.pi
    distance = np.hypot(deta, dphi)
    pairs = first[:, :, None] & second[:, None, :] & ~np.eye(distance.shape[1], dtype=np.bool_)
    smallest = np.where(pairs, distance, np.inf).min(axis=(1, 2))
    return np.where(np.isfinite(smallest), smallest, np.nan)
