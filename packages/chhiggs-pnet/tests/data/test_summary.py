"""Quantities of whole events: values worked out by hand."""

import numpy as np
import pytest

from chhiggs_pnet.data.schema import EXT14, NUM_NODES
from chhiggs_pnet.data.summary import NAMES, summarize
from chhiggs_pnet.models.boosting import BoostedTrees


@pytest.fixture
def columns():
    """One event: electron and two muons back to back in pairs, a b-jet, a jet, missing momentum."""
    objects = [  # pt, eta, phi, mass, flags
        (40.0, 0.0, 0.0, 0.0, "is_muon"), (30.0, 0.0, np.pi, 0.0, "is_muon"),
        (20.0, 1.0, 0.0, 0.0, "is_electron"), (50.0, 0.0, 1.0, 0.0, "is_jet"),
        (25.0, -1.0, 2.0, 0.0, "is_jet"),
        (60.0, 0.0, np.pi, 0.0, None),
    ]  # fmt: skip
    nodes = np.zeros((1, NUM_NODES, len(EXT14)), np.float32)
    slot = {name: k for k, name in enumerate(EXT14)}
    for k, (pt, eta, phi, mass, flag) in enumerate(objects):
        values = {
            "pt": pt, "eta": eta, "phi": phi, "mass": mass, "px": pt * np.cos(phi), "py": pt * np.sin(phi),
            "pz": pt * np.sinh(eta), "energy": pt * np.cosh(eta),
        }  # fmt: skip
        for name, value in values.items():
            nodes[0, k, slot[name]] = value
        if flag:
            nodes[0, k, slot[flag]] = 1
    nodes[0, 3, slot["is_bjet"]] = 1
    valid = np.arange(NUM_NODES)[None] < 6
    m = np.array([np.sqrt(4 * 40 * 30)], np.float32)
    return {"nodes": nodes, "valid_mask": valid, "m1": m, "m2": np.array([-1.0], np.float32)}


def test_values(columns):
    found = dict(zip(NAMES, summarize(columns, np.array([[130.0, 90.0]]))[0].tolist(), strict=True))
    expected = {
        "mHc": 130, "mA": 90, "m1": np.sqrt(4800), "m1_minus_mA": np.sqrt(4800) - 90, "m2": -1,
        "lepton1_pt": 40, "lepton3_pt": 20, "jet1_pt": 50, "jet3_pt": -1, "bjet_pt": 50, "num_jets": 2,
        "num_bjets": 1, "ht": 75, "met": 60, "mt": np.sqrt(2 * 20 * 60 * 2), "min_dr_leptons": 1,
        "min_dr_lepton_bjet": 1, "pt_leptons": 30, "is_three_muons": 0,
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name


def test_trees_without_pair_masses_do_not_look_at_them(columns):
    many = {name: np.repeat(values, 40, axis=0) for name, values in columns.items()}
    label = np.arange(40) % 2
    many["m1"] = np.where(label == 0, 90.0, 60.0).astype(np.float32)
    masses, weight = np.tile([[130.0, 90.0]], (40, 1)), np.ones(40)
    spread = {}
    for pair_masses in (True, False):
        trees = BoostedTrees(max_iter=3, pair_masses=pair_masses)
        trees.fit(many, masses, label, weight)
        spread[pair_masses] = np.ptp(trees.log_probabilities(many, masses)[:, 0])
    assert spread[True] > 0.1
    assert spread[False] == 0.0
