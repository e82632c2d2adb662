import numpy as np
import pytest

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics.optics import diffuse_light, light_on_sensors, surface_area
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.response import build_detector, read_out
from megii_xec.physics.simulator import CHUNK_EVENTS, PhotonEvents, iter_events, simulate_chunk, triggers

SIGNAL = SimulationConfig(energy_spectrum="signal")


def simulate(config: SimulationConfig, num_events: int, seed: int = 0) -> PhotonEvents:
    """All chunks as one."""
    chunks = list(iter_events(config, num_events, np.random.default_rng(seed)))
    return PhotonEvents(
        photons=type(chunks[0].photons)(*map(np.concatenate, zip(*(c.photons for c in chunks), strict=True))),
        time_ns=np.concatenate([c.time_ns for c in chunks]),
        readout=type(chunks[0].readout)(*map(np.concatenate, zip(*(c.readout for c in chunks), strict=True))),
        solid_angle=np.concatenate([c.solid_angle for c in chunks]),
        num_gamma=np.concatenate([c.num_gamma for c in chunks]),
    )


@pytest.fixture(scope="module")
def events():
    return simulate(SIGNAL, 200)


def test_light_yield_is_in_the_regime_of_the_detector(events):
    total = events.readout.nphe.sum(axis=1)
    assert 80e3 < np.median(total) < 120e3
    assert 40e3 < np.median(events.readout.nphe[:, : geo.NUM_MPPC].sum(axis=1)) < 60e3
    low, middle, high = np.quantile(np.nanmax(events.readout.npho, axis=1), [0.05, 0.5, 0.95])
    assert 2e3 < low < 5e3
    assert 8e3 < middle < 14e3
    assert 25e3 < high < 60e3
    assert 800 < np.median((events.readout.npho > 100).sum(axis=1)) < 1300


def test_light_is_linear_in_energy():
    position = co.uvw_to_xyz(np.array([[0.0, 0.0, 5.0], [1.0, 2.0, 9.0]]))
    time = np.zeros(2)
    one, arrival = light_on_sensors(SIGNAL, position, np.array([10.0, 5.0]), time)
    three, same = light_on_sensors(SIGNAL, position, np.array([30.0, 15.0]), time)
    np.testing.assert_allclose(three, 3 * one, rtol=1e-5)
    np.testing.assert_allclose(arrival, same, rtol=1e-4)


def test_measured_light_is_linear_in_energy():
    totals = []
    for energy in (20.0, 40.0):
        config = SimulationConfig(energy_spectrum="signal", signal_energy_mev=energy)
        totals.append(np.nansum(simulate(config, 120, seed=4).readout.npho, axis=1).mean())
    assert totals[1] / totals[0] == pytest.approx(2.0, rel=0.03)


def test_direct_light_of_one_clump_by_hand():
    point = co.uvw_to_xyz(np.array([[3.0, -4.0, 12.0]]))
    config = SimulationConfig(diffuse_fraction=0.0)
    light, arrival = light_on_sensors(config, point, np.array([1.0]), np.array([0.5]))
    sensor = 44 * 46 + 30
    offset = point[0] - geo.sensor_positions()[sensor]
    r = np.linalg.norm(offset)
    cosine = offset @ geo.sensor_normals()[sensor] / r
    expected = 46_300 * 4 * 0.59**2 * cosine / r**2 / (4 * np.pi) * np.exp(-r / 200)
    assert light[sensor] == pytest.approx(expected, rel=0.01)
    assert arrival[sensor] == pytest.approx(0.5 + r * 1.69 / 29.9792458, rel=1e-5)


def test_diffuse_light_is_shared_by_area():
    shares = diffuse_light(SIGNAL)
    np.testing.assert_allclose(shares / geo.sensor_area(), 0.1 / surface_area(), rtol=1e-5)
    assert 0.1 * geo.sensor_area().sum() / surface_area() == pytest.approx(shares.sum(), rel=1e-4)
    assert 0.2 < geo.sensor_area().sum() / surface_area() < 0.5  # part of the wall is sensitive


def test_surface_area_by_summing_up_rings():
    radius = np.linspace(64.84, 106.27, 20_001)
    middle = (radius[1:] + radius[:-1]) / 2
    slope = np.hypot(1, geo.END_SLOPE)
    opening = np.deg2rad(125.52)
    ends = 2 * opening * np.sum(middle * np.diff(radius)) * slope
    sides = 2 * np.sum(2 * geo.half_length(middle) * np.diff(radius))
    barrel = (
        opening * 2 * (64.84 * geo.half_length(np.array(64.84)) + 106.27 * geo.half_length(np.array(106.27)))
    )
    assert surface_area() == pytest.approx(ends + sides + barrel, rel=1e-3)


def test_light_centroid_follows_u(events):
    inner = np.nan_to_num(events.readout.npho[:, : geo.NUM_MPPC])
    bright = np.where(inner > 0.1 * inner.max(axis=1, keepdims=True), inner, 0)
    centroid = (bright @ geo.sensor_positions()[: geo.NUM_MPPC, 2]) / bright.sum(axis=1)
    u = events.photons.conversion[:, 2]
    assert np.corrcoef(centroid, u)[0, 1] > 0.97


def test_same_seed_same_events():
    first, again, other = (simulate(SIGNAL, 3, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.readout.npho, again.readout.npho)
    np.testing.assert_array_equal(first.readout.time_ns, again.readout.time_ns)
    assert (first.readout.nphe != other.readout.nphe).mean() > 0.9


def test_detector_is_fixed_by_its_seed():
    first, again = build_detector(SimulationConfig()), build_detector(SimulationConfig(noise_npe=3))
    other = build_detector(SimulationConfig(detector_seed=2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.alive != other.alive).any()
    assert 0.01 < 1 - first.alive.mean() < 0.02
    mppc = geo.is_mppc()
    assert first.efficiency[mppc].mean() == pytest.approx(0.12, rel=0.01)
    assert first.efficiency[~mppc].mean() == pytest.approx(0.16, rel=0.02)
    assert (first.efficiency[mppc] / 0.12).std() == pytest.approx(0.1, rel=0.05)
    assert (first.calibration * first.efficiency).std() == pytest.approx(0.04, rel=0.05)


def test_dead_clusters_are_square():
    config = SimulationConfig(dead_fraction=0.0, num_dead_clusters=1, dead_cluster_size=4)
    dead = ~build_detector(config).alive[geo.inner_index_map()]
    rows, columns = np.nonzero(dead)
    assert len(rows) == 16
    assert np.ptp(rows) == np.ptp(columns) == 3


def test_dead_sensors_have_no_measurement(events):
    dead = ~build_detector(SIGNAL).alive
    assert np.isnan(events.readout.npho[:, dead]).all()
    assert np.isnan(events.readout.time_ns[:, dead]).all()
    assert np.isfinite(events.readout.npho[:, ~dead]).all()
    assert np.isfinite(events.readout.nphe).all()


def test_pde_scale_acts_on_mppcs_only():
    damaged = SIGNAL.model_copy(update={"pde_scale": 0.5})
    fresh, aged = simulate(SIGNAL, 20, seed=3).readout, simulate(damaged, 20, seed=3).readout
    mppc = geo.is_mppc()
    assert aged.nphe[:, mppc].sum() / fresh.nphe[:, mppc].sum() == pytest.approx(0.5, rel=0.02)
    assert aged.nphe[:, ~mppc].sum() / fresh.nphe[:, ~mppc].sum() == pytest.approx(1.0, rel=0.02)
    # The calibration knows about the damage, so the number of photons stays.
    assert np.nansum(aged.npho) / np.nansum(fresh.npho) == pytest.approx(1.0, rel=0.02)


def test_noise_and_poisson():
    config = SimulationConfig(pde_spread=0, calibration_spread=0, dead_fraction=0, num_dead_clusters=0)
    detector = build_detector(config)
    light = np.full((200, geo.NUM_SENSORS), 1000, dtype=np.float32)
    readout = read_out(config, detector, light, np.zeros_like(light), np.random.default_rng(0))
    mppc = geo.is_mppc()
    assert readout.npho[:, mppc].mean() == pytest.approx(1000, rel=1e-3)
    assert readout.nphe[:, mppc].var() == pytest.approx(120 + 1.5**2, rel=0.01)
    time = readout.time_ns[:, mppc]
    npe = 120.0
    assert time.mean() == pytest.approx(45 / npe, rel=0.03)
    event_means = time.mean(axis=1)
    assert event_means.std() == pytest.approx(0.045, rel=0.25)
    within = (time - event_means[:, None]).std()
    assert within == pytest.approx(np.sqrt(0.2**2 + 10**2 / npe), rel=0.03)


def test_small_pulses_have_no_time():
    config = SimulationConfig(dead_fraction=0, num_dead_clusters=0)
    light = np.full((4, geo.NUM_SENSORS), 5, dtype=np.float32)
    readout = read_out(config, build_detector(config), light, np.zeros_like(light), np.random.default_rng(0))
    assert np.isnan(readout.time_ns[readout.nphe < 3]).all()
    assert 0.01 < np.isfinite(readout.time_ns).mean() < 0.5


def test_times_are_causal(events):
    """Pulses start after the light has come from the nearest part of the shower."""
    delay = events.readout.time_ns - events.time_ns[:, None]
    bright = events.readout.nphe > 500
    assert np.quantile(delay[bright & np.isfinite(delay)], 0.001) > -1.0
    assert 0 < np.nanmedian(delay[bright]) < 5
    assert events.time_ns.min() > -60 - 6.25
    assert events.time_ns.max() < -60 + 6.25


def test_pile_up_adds_light():
    single = simulate(SIGNAL, 30, seed=2)
    double = simulate(SIGNAL.model_copy(update={"pileup_probability": 1.0}), 30, seed=2)
    assert (double.num_gamma == 2).all()
    np.testing.assert_array_equal(single.photons.conversion, double.photons.conversion)
    ratio = double.readout.nphe.sum(axis=1) / single.readout.nphe.sum(axis=1)
    assert ratio.mean() == pytest.approx(2.0, rel=0.1)
    later = np.nanmean(double.readout.time_ns - double.time_ns[:, None])
    assert later > np.nanmean(single.readout.time_ns - single.time_ns[:, None]) + 10


def test_events_without_a_timed_pulse_are_not_recorded():
    rng = np.random.default_rng(1)
    dim = SimulationConfig(photons_per_mev=46_300.0 / 60)  # so little light that most events are lost
    detector = build_detector(dim)
    chunk = simulate_chunk(dim, detector, CHUNK_EVENTS, rng)
    recorded = triggers(chunk.readout)
    assert 0 < recorded.sum() < CHUNK_EVENTS
    kept = list(iter_events(dim, 40, rng))
    assert sum(len(events.time_ns) for events in kept) == 40
    for events in kept:
        assert triggers(events.readout).all()
        assert len(events.photons.energy_mev) == len(events.readout.npho) == len(events.solid_angle)
