import numpy as np
import pytest

from jet_foundation.physics import card
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.detector import LIGHT_SPEED, detect, log_normal, propagate
from jet_foundation.physics.particles import (
    CHARGED_HADRON,
    ELECTRON,
    MUON,
    NEUTRAL_HADRON,
    PHOTON,
    EnergyFlow,
    Particles,
)

MASSES = {211: 0.13957, 22: 0.0, 11: 0.000511, 13: 0.10566, 130: 0.4976, 12: 0.0}


def particles(
    pid: int,
    pt: float,
    *,
    eta: float = 0.2,
    num: int = 1,
    charge: int | None = None,
    vertex: object = (0, 0, 0),
) -> Particles:
    charge = (abs(pid) in (211,)) * int(np.sign(pid)) - (abs(pid) in (11, 13)) if charge is None else charge
    p4 = fv.from_pt_eta_phi_mass(*(np.full(num, x) for x in (pt, eta, 0.5)), MASSES[abs(pid)])
    return Particles(
        np.arange(num),
        p4,
        np.full(num, pid),
        np.full(num, charge),
        np.tile(np.asarray(vertex, float), (num, 1)),
    )


def seen(flow: EnergyFlow, kind: int) -> np.ndarray:
    return flow.p4[flow.kind == kind]


def test_log_normal_has_the_mean_and_width_asked_for() -> None:
    drawn = log_normal(np.random.default_rng(0), np.full(200_000, 3.0), np.full(200_000, 1.5))
    assert drawn.mean() == pytest.approx(3.0, rel=0.01)
    assert drawn.std() == pytest.approx(1.5, rel=0.02)
    assert log_normal(np.random.default_rng(0), np.zeros(2), np.ones(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("charge", [1, -1])
def test_a_charged_particle_bends_by_the_helix_formula(charge: int) -> None:
    arrival = propagate(particles(211, 5.0, charge=charge))
    radius = 5.0 / (LIGHT_SPEED * card.FIELD_T)
    bend = np.arcsin(card.RADIUS_M / (2 * radius))
    assert arrival.phi[0] == pytest.approx(0.5 - charge * bend, abs=1e-9)
    assert arrival.track_phi[0] == pytest.approx(0.5, abs=1e-9)
    length = 2 * radius * bend
    assert arrival.eta[0] == pytest.approx(np.arcsinh(length * np.sinh(0.2) / card.RADIUS_M), abs=1e-9)


def test_a_neutral_particle_flies_straight_from_its_vertex() -> None:
    arrival = propagate(particles(22, 5.0, vertex=(0, 0, 100.0)))
    assert arrival.phi[0] == pytest.approx(0.5)
    assert np.sinh(arrival.eta[0]) * card.RADIUS_M == pytest.approx(0.1 + card.RADIUS_M * np.sinh(0.2))


def test_a_curler_reaches_the_end_cap_and_what_starts_outside_is_not_seen() -> None:
    curler = propagate(particles(211, 0.3, eta=0.3))
    assert abs(curler.eta[0]) > 2.0
    outside = propagate(particles(22, 5.0, vertex=(2000.0, 0, 0)))
    assert not outside.inside[0]


@pytest.mark.parametrize("charge", [1, -1])
def test_impact_parameters_of_a_displaced_track(charge: int) -> None:
    # Start 0.3 mm beside the beam, at right angles to the flight: that is the distance of closest approach.
    side = 0.3 * np.array([-np.sin(0.5), np.cos(0.5), 0.0]) + np.array([0, 0, 1.7])
    arrival = propagate(particles(211, 20.0, charge=charge, vertex=side))
    assert abs(arrival.d0[0]) == pytest.approx(0.3, abs=1e-9)
    assert arrival.dz[0] == pytest.approx(1.7, abs=1e-9)
    # Two metres of flight before are undone.
    x, y = 5.0 * np.cos(0.5), 5.0 * np.sin(0.5)
    along = propagate(particles(211, 500.0, charge=charge, vertex=side + np.array([x, y, 5 * np.sinh(0.2)])))
    assert along.d0[0] == pytest.approx(arrival.d0[0], abs=2e-3)
    assert along.dz[0] == pytest.approx(1.7, abs=1e-2)


def test_the_card_is_complete() -> None:
    for table in (card.D0_RESOLUTION_MM, card.DZ_RESOLUTION_MM):
        assert table.shape == (3, 34)
        assert (np.diff(table[:, :16]) < 0).all()
    assert card.IMPACT_PT_EDGES_GEV[[1, 10, 33]] == pytest.approx([0.2227, 1.3492, 134.713], rel=2e-3)
    assert card.impact_resolution(
        card.D0_RESOLUTION_MM, np.array([0.05, 1.0, 500]), np.zeros(3)
    ) == pytest.approx([0.3543, 0.0753, 0.0110])
    assert (np.diff(card.ECAL_ETA_EDGES) > 0.017).all()
    assert card.HCAL_ETA_EDGES[[0, -1]].tolist() == [-5.0, 5.0]


@pytest.mark.parametrize(
    ("kind", "pt", "eta", "efficiency"),
    [("hadron", 0.05, 0.1, 0.0), ("hadron", 0.5, 0.0, 0.7), ("hadron", 5, 1.5, 0.95),
     ("hadron", 5, 2.0, 0.85), ("hadron", 5, 2.6, 0.0), ("electron", 200, 1.0, 0.99), ("muon", 5, -2.0, 0.98),
     ("muon", 2000, 0.0, 0.99 * np.exp(-0.5))],
)  # fmt: skip
def test_tracking_efficiency(kind: str, pt: float, eta: float, efficiency: float) -> None:
    assert card.tracking_efficiency(kind, np.array([pt]), np.array([eta]))[0] == pytest.approx(efficiency)


def test_a_muon_keeps_its_track_and_leaves_nothing_in_the_calorimeters() -> None:
    flow = detect(particles(13, 40.0, num=2000), np.random.default_rng(0))
    assert set(flow.kind) == {MUON}
    assert len(flow) / 2000 == pytest.approx(0.99, abs=0.01)
    assert fv.pt(flow.p4).std() / 40 == pytest.approx(np.hypot(0.01, 1e-4 * 40), rel=0.1)
    assert fv.mass(flow.p4) == pytest.approx(MASSES[13], rel=1e-6)


def test_charged_hadrons_follow_the_calorimeter_and_have_its_edge() -> None:
    """σ(E) = E at 2.256 GeV: the edge that charged hadrons of JetClass show."""
    flow = detect(particles(211, 3.0, num=4000), np.random.default_rng(0))
    energy = seen(flow, CHARGED_HADRON)[:, 0]
    assert 1.5 / np.sqrt(1 - 0.05**2) == pytest.approx(np.sqrt(2.256), rel=1e-3)
    assert energy.min() > 2.25
    soft = detect(particles(211, 1.2, num=4000), np.random.default_rng(0))
    assert len(seen(soft, CHARGED_HADRON)) < 0.3 * 4000


def test_a_lost_track_is_a_neutral_hadron() -> None:
    flow = detect(particles(211, 100.0, eta=2.6, num=200), np.random.default_rng(0))
    assert set(flow.kind) == {NEUTRAL_HADRON}
    assert fv.mass(flow.p4).max() < 1e-3
    assert not flow.displacement.any()


@pytest.mark.parametrize(("pid", "kind"), [(22, PHOTON), (130, NEUTRAL_HADRON)])
def test_neutral_particles_are_measured_within_their_cell(pid: int, kind: int) -> None:
    flow = detect(particles(pid, 50.0, num=500), np.random.default_rng(1))
    measured = seen(flow, kind)
    assert len(measured) == 500
    assert measured[:, 0].mean() == pytest.approx(50 * np.cosh(0.2), rel=0.02)
    width = 0.0174 if kind == PHOTON else 0.087
    assert np.ptp(fv.eta(measured)) < width
    assert np.ptp(fv.eta(measured)) > 0.8 * width


def test_electrons_are_tracks_with_the_energy_of_the_ecal() -> None:
    flow = detect(particles(11, 50.0, num=500), np.random.default_rng(1))
    electrons = seen(flow, ELECTRON)
    # A track that is measured too low leaves a photon for the rest: the sum is what the ECal saw.
    total = np.bincount(flow.event, flow.p4[:, 0])
    assert total[total > 0].std() / 51 == pytest.approx(0.019, rel=0.1)
    assert len(electrons) / 500 == pytest.approx(0.95, abs=0.03)


def test_neutrinos_are_not_seen() -> None:
    assert len(detect(particles(12, 50.0, num=5), np.random.default_rng(1))) == 0


def test_two_events_do_not_share_towers() -> None:
    flow = detect(particles(22, 1.0, num=50), np.random.default_rng(3))
    assert flow.p4[:, 0].max() < 2.5
