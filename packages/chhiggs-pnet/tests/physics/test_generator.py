"""Selected events: reproducible, selected, accepted at the edges of the plane."""

from dataclasses import fields

import numpy as np
import pytest

from chhiggs_pnet.physics import generator
from chhiggs_pnet.physics.events import Events, Object
from chhiggs_pnet.physics.generator import generate_events
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.processes import CHANNELS, PROCESSES, Channel, Process
from chhiggs_pnet.physics.selection import Selection, pair_masses, select
from hep_shared.errors import UserError


def same(a: Events, b: Events) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Events))


def point_of(process: Process) -> MassPoint | None:
    return MassPoint(130, 90) if process == "signal" else None


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("channel", CHANNELS)
def test_every_event_passes_the_selection_as_it_is(process: Process, channel: Channel) -> None:
    sample = generate_events(process, channel, 300, 0, point=point_of(process))
    events = sample.events
    assert len(events) == 300
    assert same(select(events, channel, Selection()), events)
    assert (events.weight > 0).all()
    assert (events.weight <= 1).all()
    electrons = 1 if channel == "Run1E2Mu" else 0
    assert ((events.kind == Object.ELECTRON).sum(axis=1) == electrons).all()
    assert ((events.kind == Object.MUON).sum(axis=1) == 3 - electrons).all()
    assert sample.num_trials > 300
    assert sample.cross_section_fb > 0


def test_objects_are_in_order() -> None:
    events = generate_events("ttX", "Run1E2Mu", 300, 0).events
    key = np.where(events.kind == Object.NONE, 9, events.kind).astype(float) * 1e6 - events.pt
    assert (np.diff(key, axis=1) >= 0).all()
    assert (events.pt[events.kind == Object.NONE] == 0).all()


def test_reproducible_and_independent_of_how_many_are_made() -> None:
    def make(num: int, seed: int = 5) -> Events:
        return generate_events("signal", "Run3Mu", num, seed, point=MassPoint(130, 90)).events

    assert same(make(4000).take(slice(0, 700)), make(700))
    assert not np.array_equal(make(700, seed=6).pt, make(700).pt)


def test_the_pair_mass_peaks_at_the_pseudoscalar() -> None:
    events = generate_events("signal", "Run1E2Mu", 3000, 0, point=MassPoint(130, 90)).events
    m1, m2 = pair_masses(events.kind == Object.MUON, events.pt, events.eta, events.phi, events.charge)
    assert np.median(m1) == pytest.approx(90.0, abs=0.2)
    assert np.subtract(*np.quantile(m1, [0.84, 0.16])) / 2 == pytest.approx(0.85, abs=0.2)
    assert (m2 == -1).all()


@pytest.mark.parametrize(
    ("point", "low", "high"),
    [(MassPoint(165, 100), 0.15, 0.45), (MassPoint(100, 95), 0.05, 0.30), (MassPoint(130, 90), 0.15, 0.45)],
)
def test_acceptance_at_the_edges_of_the_plane(point: MassPoint, low: float, high: float) -> None:
    sample = generate_events("signal", "Run1E2Mu", 1000, 0, point=point)
    assert low < len(sample.events) / sample.num_trials < high


def test_soft_b_quarks_cost_tags_at_high_mass() -> None:
    tags = [
        generate_events("signal", "Run1E2Mu", 2000, 0, point=MassPoint(mHc, 90))
        .events.tagged.sum(axis=1)
        .mean()
        for mHc in (110, 165)
    ]
    assert tags[0] > tags[1] + 0.2


def test_diboson_lives_from_mistags() -> None:
    top, diboson = (
        generate_events(process, "Run3Mu", 500, 0).events.weight for process in ("ttX", "diboson")
    )
    assert diboson.mean() < 0.4 < top.mean()


def test_a_selection_that_nothing_passes_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "MAX_BATCHES_WITHOUT_EVENT", 1)
    with pytest.raises(UserError, match="signal MHc130_MA90 events passes the selection Run1E2Mu"):
        generate_events(
            "signal", "Run1E2Mu", 10, 0, point=MassPoint(130, 90), selection=Selection(num_jets_min=14)
        )


def test_light_pseudoscalars_with_a_wider_window() -> None:
    wide = Selection(window_low_gev=12.0)
    sample = generate_events("signal", "Run1E2Mu", 500, 0, point=MassPoint(160, 20), selection=wide)
    assert len(sample.events) / sample.num_trials > 0.1


def test_loose_and_untagged_events_on_request() -> None:
    selection = Selection(require_tight=False, num_tagged_min=0)
    events = generate_events("nonprompt", "Run1E2Mu", 500, 0, selection=selection).events
    leptons = (events.kind == Object.MUON) | (events.kind == Object.ELECTRON)
    assert not events.tight[leptons].all()
    assert (events.tagged.sum(axis=1) == 0).any()
    assert (events.weight == 1).all()
