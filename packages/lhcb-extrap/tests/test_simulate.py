import json

import numpy as np
import pytest

from hep_shared.errors import UserError
from hep_shared.files import manifest_path
from lhcb_extrap.config import SimulationConfig
from lhcb_extrap.data.field_source import FieldConfig
from lhcb_extrap.data.tracks import read_tracks
from lhcb_extrap.simulate import merge, simulate

CONFIG = SimulationConfig(step_mm=250.0)


def run(out, config=CONFIG, **options):
    return simulate(
        config, FieldConfig(), out, **{"num_tracks": 50, "seed": 1, "tracks_per_file": 20, **options}
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "tracks"
    run(folder)
    return folder


def test_shards_hold_what_was_asked_for(shards):
    sizes = [len(read_tracks(shards / f"batch_0000{i}.npz", verify=True)) for i in range(3)]
    assert sizes == [20, 20, 10]
    record = json.loads(manifest_path(shards / "batch_00000.npz").read_text())
    assert record["num_tried"] == 20 + sum(record["num_rejected"].values())


def test_only_missing_and_damaged_shards_are_made_again_and_alike(shards):
    files = [shards / f"batch_0000{i}.npz" for i in range(3)]
    before = [file.read_bytes() for file in files]
    times = [file.stat().st_mtime_ns for file in files]
    files[1].unlink()
    files[2].write_bytes(before[2][:-100])
    result = run(shards)
    assert [file.read_bytes() for file in files] == before
    assert files[0].stat().st_mtime_ns == times[0]
    assert 0 < result["rejected_fraction"] < 0.5


def test_a_directory_of_another_sample_is_refused(shards):
    with pytest.raises(UserError, match="was simulated with seed = 1, not 2; choose another --out"):
        run(shards, seed=2)


def test_variable_planes(tmp_path):
    config = SimulationConfig(step_mm=250.0, z0_mm=(2500.0, 3500.0), dz_mm=(200.0, 4000.0))
    run(tmp_path / "moving.npz", config)
    batch = read_tracks(tmp_path / "moving.npz")
    assert batch.Z[:, 0].std() > 100
    np.testing.assert_allclose(batch.Z[:, 1] - batch.Z[:, 0], batch.X[:, 5], atol=1e-9)


def test_particles_that_cannot_cross_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"The simulation cannot go on: only \d+ of \d+ tracks crossed"):
        run(tmp_path / "soft.npz", SimulationConfig(step_mm=250.0, momentum_gev=(0.1, 0.2)))


def test_merge_checks_and_keeps_order(shards, tmp_path):
    result = merge([str(shards)], tmp_path / "all.npz", verify=True)
    assert (result["num_files"], result["num_tracks"]) == (3, 50)
    merged = read_tracks(tmp_path / "all.npz", verify=True)
    np.testing.assert_array_equal(merged.X[20:40], read_tracks(shards / "batch_00001.npz").X)
    copy = tmp_path / "batch_00000.npz"
    copy.write_bytes((shards / "batch_00000.npz").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"batch_00000.npz.*; "):
        merge([str(tmp_path / "batch_*.npz")], tmp_path / "bad.npz", verify=True)
    assert not (tmp_path / "bad.npz").exists()
    with pytest.raises(UserError, match="is also an input"):
        merge([str(tmp_path / "all.npz")], tmp_path / "all.npz")
