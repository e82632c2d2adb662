import numpy as np
import pytest

from megii_xec.physics import coordinates as co
from megii_xec.physics import geometry as geo
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.shower import sample_showers
from megii_xec.physics.source import angle_bayes_floor_deg, entry_distance, sample_photons

NUM = 20_000


@pytest.fixture(scope="module")
def photons():
    return sample_photons(SimulationConfig(), NUM, np.random.default_rng(1))


def test_vertices_lie_on_the_slanted_target(photons):
    x, y, z = photons.vertex.T
    np.testing.assert_allclose(x, z * np.tan(np.deg2rad(15)))
    assert z.std() == pytest.approx(3.0, rel=0.03)
    assert y.std() == pytest.approx(1.0, rel=0.03)


def test_direction_joins_vertex_and_conversion(photons):
    path = photons.conversion - photons.vertex
    np.testing.assert_allclose(
        path / np.linalg.norm(path, axis=1, keepdims=True), photons.direction, atol=1e-12
    )


def test_conversions_are_exponential_in_the_xenon(photons):
    assert geo.inside_xenon(photons.conversion).all()
    depth = np.linalg.norm(photons.conversion - photons.vertex, axis=1) - entry_distance(
        photons.vertex, photons.direction
    )
    assert depth.min() > 0
    # Far from the back wall the exponential is not cut.
    assert np.median(depth) == pytest.approx(5.2 * np.log(2), rel=0.04)


def test_photons_aim_uniformly_at_the_acceptance(photons):
    entry = photons.vertex + entry_distance(photons.vertex, photons.direction)[:, None] * photons.direction
    np.testing.assert_allclose(np.hypot(entry[:, 0], entry[:, 1]), 64.84)
    u, v, _ = co.xyz_to_uvw(entry).T
    for value, half in ((u, 23.9), (v, 67.9)):
        assert np.abs(value).max() < half + 0.2  # aimed at w = 0, 0.13 cm behind the entry
        counts, _ = np.histogram(value, bins=8, range=(-half, half))
        assert counts.min() > 0.9 * counts.mean()


def test_energy_spectra(photons):
    assert photons.energy_mev.min() >= 15
    assert photons.energy_mev.max() <= 60
    assert photons.energy_mev.mean() == pytest.approx(37.5, rel=0.01)
    signal = sample_photons(SimulationConfig(energy_spectrum="signal"), 10, np.random.default_rng(0))
    np.testing.assert_array_equal(signal.energy_mev, 52.83)


def test_parameters_out_of_order_are_refused():
    with pytest.raises(ValueError, match=r"min_energy_mev \(70.0\) must be below"):
        SimulationConfig(min_energy_mev=70)
    with pytest.raises(ValueError, match=r"min_clumps \(9\) must not exceed max_clumps \(8\)"):
        SimulationConfig(min_clumps=9)


def test_angle_floor_follows_the_vertex_spread():
    floor = angle_bayes_floor_deg(SimulationConfig())
    # Two independent angles of 3 cm and 1.2 cm (y and x seen at an angle) over about 70 cm.
    assert 2.3 < floor < 2.7
    half = angle_bayes_floor_deg(SimulationConfig(vertex_sigma_z_cm=1.5, vertex_sigma_y_cm=0.5))
    assert half == pytest.approx(floor / 2, rel=0.02)
    point = SimulationConfig(vertex_sigma_z_cm=0, vertex_sigma_y_cm=0)
    assert angle_bayes_floor_deg(point, num=100) < 1e-6


def test_showers_share_the_energy(photons):
    config = SimulationConfig()
    clumps = sample_showers(config, photons, np.random.default_rng(3))
    counts = np.diff(clumps.start)
    assert set(counts) == {6, 7, 8}
    total = np.add.reduceat(clumps.energy_mev, clumps.start[:-1])
    assert (total <= photons.energy_mev * (1 + 1e-12)).all()
    contained = np.logical_and.reduceat(geo.inside_xenon(clumps.position), clumps.start[:-1])
    np.testing.assert_allclose(total[contained], photons.energy_mev[contained])
    assert (clumps.energy_mev[~geo.inside_xenon(clumps.position)] == 0).all()
    assert 0.95 < (total / photons.energy_mev).mean() < 1


def test_shower_profile(photons):
    clumps = sample_showers(SimulationConfig(), photons, np.random.default_rng(3))
    owner = np.repeat(np.arange(NUM), np.diff(clumps.start))
    offset = clumps.position - photons.conversion[owner]
    along = np.sum(offset * photons.direction[owner], axis=1)
    across = np.linalg.norm(offset - along[:, None] * photons.direction[owner], axis=1)
    assert along.min() > 0
    assert along.mean() == pytest.approx(5.0, rel=0.02)
    # Transverse spread per axis at the mean depth.
    at_mean = np.abs(along - 5) < 0.2
    assert np.sqrt((across[at_mean] ** 2).mean() / 2) == pytest.approx(1.6, rel=0.03)
    np.testing.assert_allclose(clumps.time_ns, np.linalg.norm(offset, axis=1) / 29.9792458)
