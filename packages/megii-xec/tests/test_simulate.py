import json

import numpy as np
import pytest
import uproot

from hep_shared.errors import UserError
from megii_xec import simulate as sim
from megii_xec.data import schema
from megii_xec.physics import coordinates as co
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.response import build_detector
from megii_xec.physics.simulator import simulate_chunk

CONFIG = SimulationConfig()


def read(*paths):
    """All branches of some files, concatenated."""
    parts = []
    for path in paths:
        with uproot.open(path) as file:
            parts.append(file[schema.TREE].arrays(library="np"))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("simulation") / "out"


@pytest.fixture(scope="module")
def paths(directory):
    return sim.simulate(CONFIG, directory, num_events=100, seed=5, events_per_file=40)


@pytest.fixture(scope="module")
def data(paths):
    return read(*paths)


def test_files_and_event_numbers(directory, paths, data):
    assert [path.name for path in paths] == [f"photons_{i:05d}.root" for i in range(3)]
    assert sorted(p.name for p in directory.glob("*.root")) == [path.name for path in paths]
    assert len(data["run"]) == 100
    assert len(set(zip(data["run"].tolist(), data["event"].tolist(), strict=True))) == 100
    np.testing.assert_array_equal(np.unique(data["run"]), [500_000, 500_001, 500_002])
    np.testing.assert_array_equal(data["event"][40:80], np.arange(40))


def test_schema_on_disk(data):
    assert list(data) == [branch.name for branch in schema.BRANCHES]
    for branch in schema.BRANCHES:
        assert data[branch.name].shape == (100, *branch.shape)
        assert data[branch.name].dtype.newbyteorder("=") == np.dtype(branch.dtype)
        assert np.isfinite(data[branch.name]).all()


def test_dead_sensors_are_missing(data):
    dead = ~build_detector(CONFIG).alive
    assert dead.sum() > 40
    for name in ("npho", "time", "relative_npho", "relative_time"):
        np.testing.assert_array_equal(data[name][:, dead], np.float32(1e10))
    assert (data["npho"][:, ~dead] < 9e9).all()
    assert (data["nphe"] < 9e9).all()


def test_relative_branches(data):
    npho = np.where(data["npho"] < 9e9, data["npho"], -np.inf)
    events = np.arange(100)
    np.testing.assert_array_equal(data["ch_npho_max"], npho.argmax(axis=1))
    np.testing.assert_array_equal(data["npho_max_used"], npho.max(axis=1))
    valid = data["npho"] < 9e9
    ratio = data["npho"] / data["npho_max_used"][:, None]
    np.testing.assert_allclose(data["relative_npho"][valid], ratio[valid], rtol=1e-6)

    timed = data["time"] < 9e9
    usable = np.where(timed & (data["nphe"] > 50), data["time"], np.inf)
    np.testing.assert_array_equal(data["ch_time_min"], usable.argmin(axis=1))
    np.testing.assert_array_equal(data["time_min_used"], usable.min(axis=1))
    np.testing.assert_array_equal(data["relative_time"][events, data["ch_time_min"]], 0)
    difference = data["time"] - data["time_min_used"][:, None]
    np.testing.assert_allclose(data["relative_time"][timed], difference[timed], atol=1e-14)
    np.testing.assert_array_equal(data["relative_time"] < 9e9, timed)


def test_truth_is_consistent(data):
    path = data["xyzTruth"].astype(float) - data["xyzVTX"]
    np.testing.assert_allclose(data["emiVec"], path / np.linalg.norm(path, axis=1, keepdims=True), atol=1e-6)
    theta, phi = data["emiAng"].astype(float).T
    np.testing.assert_allclose(co.angles_to_vector(theta, phi), data["emiVec"], atol=1e-6)
    np.testing.assert_allclose(co.xyz_to_uvw(data["xyzTruth"].astype(float)), data["uvwTruth"], atol=2e-5)
    for kind in ("FI", "LC"):
        uvw = data[f"uvwReco{kind}"].astype(float)
        np.testing.assert_allclose(co.uvw_to_xyz(uvw), data[f"xyzReco{kind}"], atol=2e-5)


def test_units(data):
    assert 0.015 <= data["energyTruth"].min() < data["energyTruth"].max() <= 0.060  # GeV
    assert np.median(data["energyReco"] / data["energyTruth"]) == pytest.approx(1, abs=0.02)
    assert np.abs(data["timeTruth"] + 60).max() <= 6.25  # ns
    delay = data["time_min_used"] * 1e9 - data["timeTruth"]
    assert delay.min() > -6  # the earliest of some hundred sensors with a spread of up to 1.4 ns
    assert delay.max() < 3
    assert np.abs(data["timeReco"] - data["timeTruth"]).max() < 1
    assert data["solid_angle"].min() >= 0
    assert data["solid_angle"].max() < 2 * np.pi


def test_workers_make_the_same_events(tmp_path, data):
    paths = sim.simulate(CONFIG, tmp_path / "out", num_events=100, seed=5, events_per_file=40, num_workers=2)
    for name, column in read(*paths).items():
        np.testing.assert_array_equal(column, data[name])


def test_single_file_is_the_first_shard(tmp_path, data):
    path = tmp_path / "few.root"
    assert sim.simulate(CONFIG, path, num_events=40, seed=5) == [path]
    for name, column in read(path).items():
        np.testing.assert_array_equal(column, data[name][:40])


def test_only_missing_and_damaged_shards_are_made_again(tmp_path):
    out = tmp_path / "out"
    arguments = {"num_events": 6, "seed": 1, "events_per_file": 2}
    paths = sim.simulate(CONFIG, out, **arguments)
    before = read(*paths)
    untouched = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    damaged = bytearray(paths[2].read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    paths[2].write_bytes(damaged)
    (out / ".photons_00001.abcd.tmp.root").write_bytes(b"left behind by a killed process")

    assert sim.simulate(CONFIG, out, **arguments) == paths
    assert paths[0].stat().st_mtime_ns == untouched
    for name, column in read(*paths).items():
        np.testing.assert_array_equal(column, before[name])
    assert not list(out.glob(".*"))


def test_other_parameters_are_refused(tmp_path):
    out, file = tmp_path / "out", tmp_path / "few.root"
    for target in (out, file):
        sim.simulate(CONFIG, target, num_events=2, seed=1)
    with pytest.raises(UserError, match=r"out was simulated with pde_scale = 1\.0, not 0\.5; choose another"):
        sim.simulate(SimulationConfig(pde_scale=0.5), out, num_events=2, seed=1)
    with pytest.raises(UserError, match=r"few\.root was simulated with seed = 1, not 2"):
        sim.simulate(CONFIG, file, num_events=2, seed=2)
    (out / "simulation.json").write_text("{")
    with pytest.raises(UserError, match=r"simulation\.json: cannot be read"):
        sim.simulate(CONFIG, out, num_events=2, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_events": 0, "seed": 0}, "--num-events is 0"),
        ({"num_events": 1, "seed": -1}, "--seed is -1 but must be between 0 and 21473"),
        ({"num_events": 1, "seed": 21_474}, "--seed is 21474"),
        ({"num_events": 1, "seed": 0, "events_per_file": 0}, "events per file is 0"),
        ({"num_events": 100_001, "seed": 0, "events_per_file": 1}, "100001 files are more than 100000"),
    ],
)
def test_numbers_out_of_range(tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        sim.simulate(CONFIG, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_real_data_layout(tmp_path):
    path = tmp_path / "real.root"
    sim.simulate(SimulationConfig(real_data_layout=True), path, num_events=3, seed=5)
    columns = read(path)
    assert list(columns) == [branch.name for branch in schema.REAL_DATA]
    assert "energyTruth" not in columns


def test_provenance(directory, paths):
    index = json.loads((directory / "simulation.json").read_text())
    assert index["sample"]["seed"] == 5
    assert index["sample"]["mppc_pde"] == CONFIG.mppc_pde
    assert index["versions"].keys() == {"megii-xec", "numpy", "uproot"}
    manifest = json.loads((directory / "photons_00002.root.manifest.json").read_text())
    assert (manifest["shard"], manifest["num_events"]) == (2, 20)
    assert manifest["sample"] == index["sample"]


def test_event_without_bright_sensor_has_no_reference_time():
    """A threshold that no sensor passes gives a missing time, not a wrong one."""
    config = SimulationConfig(photons_per_mev=0.5, noise_npe=0.1)
    events = simulate_chunk(config, build_detector(config), 2, np.random.default_rng(0))
    reco = sim.reconstruct(events.readout.npho, events.readout.time_ns, config)
    columns = sim.event_columns(events, reco, run=1, first_event=0)
    np.testing.assert_array_equal(columns["ch_time_min"], -1)
    np.testing.assert_array_equal(columns["time_min_used"], np.float32(1e10))
    assert (columns["relative_time"] > 9e9).all()
    np.testing.assert_array_equal(columns["timeReco"], np.float32(1e10))


def test_detector_that_sees_nothing_is_refused():
    config = SimulationConfig(photons_per_mev=0.5, noise_npe=0.1)
    with pytest.raises(UserError, match=r"None of 256 photons .* raise photons_per_mev \(0\.5\)"):
        next(sim.iter_events(config, 2, np.random.default_rng(0)))
