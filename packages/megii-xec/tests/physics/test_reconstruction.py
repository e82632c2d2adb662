import numpy as np
import pytest

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics.optics import light_on_sensors
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.reconstruction import _fit_point, _window, reconstruct
from megii_xec.physics.simulator import iter_events


def spread(residual):
    """Half width of the central 68 %."""
    low, high = np.quantile(residual, [0.16, 0.84])
    return (high - low) / 2


@pytest.fixture(scope="module")
def sample():
    config = SimulationConfig()
    chunks = list(iter_events(config, 200, np.random.default_rng(11)))
    npho = np.concatenate([c.readout.npho for c in chunks])
    time_ns = np.concatenate([c.readout.time_ns for c in chunks])
    truth = {
        "uvw": co.xyz_to_uvw(np.concatenate([c.photons.conversion for c in chunks])),
        "energy": np.concatenate([c.photons.energy_mev for c in chunks]),
        "time": np.concatenate([c.time_ns for c in chunks]),
    }
    return npho, time_ns, truth, reconstruct(npho, time_ns)


@pytest.mark.parametrize("method", ["uvw_mean", "uvw_fit"])
def test_position(sample, method):
    *_, truth, reco = sample
    residual = getattr(reco, method) - truth["uvw"]
    for axis, limit in zip(residual.T, (0.75, 0.65, 2.0), strict=True):
        assert spread(axis) < limit
        assert abs(np.median(axis)) < 0.3


def test_energy(sample):
    *_, truth, reco = sample
    ratio = reco.energy_mev / truth["energy"]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.006)
    assert spread(ratio) < 0.03
    assert abs(np.polyfit(truth["energy"], ratio, 1)[0]) < 1e-3  # per MeV: no drift with energy


def test_time(sample):
    *_, truth, reco = sample
    residual = reco.time_ns - truth["time"]
    assert abs(np.median(residual)) < 0.03
    assert 0.05 < spread(residual) < 0.12


def test_energy_scales_with_charge(sample):
    npho, time_ns, _, reco = sample
    twice = reconstruct(2 * npho[:10], time_ns[:10])
    np.testing.assert_allclose(twice.energy_mev, 2 * reco.energy_mev[:10], rtol=0.02)


def test_point_source_is_found_where_it_is():
    """Without shower and noise the local fit recovers the point itself."""
    config = SimulationConfig(diffuse_fraction=0.0, absorption_length_cm=1e9)
    uvw = np.array([[0.3, 10.2, 4.0], [-12.0, -50.0, 8.0], [23.0, 66.0, 2.5]])
    light = np.stack(
        [light_on_sensors(config, co.uvw_to_xyz(p[None]), np.array([50.0]), np.zeros(1))[0] for p in uvw]
    )
    fitted = _fit_point(_window(light), uvw + np.array([0.8, -0.7, 2.0]))
    np.testing.assert_allclose(fitted[:, :2], uvw[:, :2], atol=0.01)
    # A sensor is not a point, so the depth keeps a bias of about 2 %.
    np.testing.assert_allclose(fitted[:, 2], uvw[:, 2], atol=0.2)


def test_dead_sensors_at_the_peak_do_not_matter(sample):
    npho, time_ns, truth, reco = sample
    hurt = npho.copy()
    hurt[np.arange(len(hurt)), np.nanargmax(hurt, axis=1)] = np.nan
    again = reconstruct(hurt, time_ns)
    assert np.quantile(np.abs(again.uvw_fit - reco.uvw_fit)[:, :2], 0.9) < 0.3
    np.testing.assert_allclose(np.median(again.energy_mev / truth["energy"]), 1.0, atol=0.02)


def test_events_without_light_stay_finite():
    npho = np.zeros((2, geo.NUM_SENSORS), dtype=np.float32)
    npho[1] = np.nan
    time_ns = np.full_like(npho, np.nan)
    reco = reconstruct(npho[:1], time_ns[:1])
    assert np.isfinite(reco.uvw_fit).all()
    assert np.isfinite(reco.uvw_mean).all()
    assert reco.energy_mev[0] == 0
    assert np.isnan(reco.time_ns[0])
