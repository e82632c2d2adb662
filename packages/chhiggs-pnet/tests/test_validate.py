"""Two engines side by side; Pythia is stood in for where the extra is not installed."""

import json

import numpy as np
import pytest

from chhiggs_pnet import validate
from chhiggs_pnet.config import Config
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.selection import Selection
from hep_shared.errors import UserError

POINT = MassPoint(130, 90)


@pytest.fixture
def two_seeds(monkeypatch):
    """The fast engine with another seed in place of Pythia."""

    def make(process, channel, num_events, seed, *, engine, **rest):
        return generate_events(process, channel, num_events, seed + (engine == "pythia"), **rest)

    monkeypatch.setattr(validate, "generate_events", make)
    kept = ("m1", "lepton3_pt", "num_jets", "met")  # pictures take time
    monkeypatch.setattr(validate, "OBSERVABLES", {name: validate.OBSERVABLES[name] for name in kept})


@pytest.mark.usefixtures("two_seeds")
def test_equal_engines_agree_and_every_observable_has_a_picture(tmp_path):
    processes = ("signal", "nonprompt", "ttX")
    result = validate.validate(
        Config(), tmp_path, num_events=300, seed=3, points=[POINT], processes=processes
    )
    assert json.loads((tmp_path / "validation.json").read_text()) == result
    names = {"signal 130, 90", "nonprompt, loose leptons", "ttZ"}
    assert {row["sample"] for row in result["rows"]} == names
    assert len(result["rows"]) == len(names) * len(validate.OBSERVABLES)
    assert np.mean([row["p_value"] > 0.01 for row in result["rows"]]) > 0.9
    for rate in result["rates_fb"].values():
        assert rate["fast"] == pytest.approx(rate["pythia"], rel=0.3)
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {f"{name}{suffix}" for name in validate.OBSERVABLES for suffix in (".png", ".pdf")}
    assert "largest" in validate.headline(result)["ttZ"]


def test_observables_are_those_of_the_events():
    events = generate_events("ttX", "Run3Mu", 50, 1).events
    found = validate.observables(events)
    assert found.keys() == validate.OBSERVABLES.keys()
    jets = events.kind == 3
    np.testing.assert_allclose(found["jet1_pt"], np.where(jets, events.pt, 0).max(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(found["num_jets"], jets.sum(axis=1))
    first = np.where(jets, events.pt, 0).argmax(axis=1)
    np.testing.assert_array_equal(found["jet_mass"], events.mass[np.arange(50), first])


def test_events_without_the_object_are_left_out():
    loose = Selection(num_tagged_min=0)
    events = generate_events("diboson", "Run1E2Mu", 400, 1, selection=loose).events
    measured = validate.observables(events), events.weight
    tagged = measured[0]["num_bjets"] > 0
    assert 0 < tagged.sum() < 100
    values, weights = validate.present(measured, "bjet_pt")
    np.testing.assert_array_equal(values, measured[0]["bjet_pt"][tagged])
    np.testing.assert_array_equal(weights, events.weight[tagged])
    none = events.take(~tagged)
    parts = {"fast": measured, "pythia": (validate.observables(none), none.weight)}
    found = {row["observable"] for row in validate.compare({"diboson": parts})}
    assert found == validate.OBSERVABLES.keys() - {"bjet_pt", "min_dr_lepton_bjet"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"channel": "Run2Mu"}, "--channel is 'Run2Mu'; choose Run1E2Mu or Run3Mu"),
        ({"processes": ["tZq"]}, "--processes names 'tZq'; choose from signal, nonprompt, diboson, ttX"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, given, text):
    with pytest.raises(UserError, match=text):
        validate.validate(Config(), tmp_path / "out", num_events=10, seed=1, **given)
    assert not (tmp_path / "out").exists()
