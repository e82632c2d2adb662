import tracemalloc

import numpy as np
import pytest

from hep_shared.errors import InputFileError
from lhcb_extrap.data.tracks import (
    TrackBatch,
    list_shards,
    merge_tracks,
    read_tracks,
    shard_is_done,
    shard_path,
    write_tracks,
)


def make_batch(num=20, seed=0, dtype=np.float32, with_z=True):
    rng = np.random.default_rng(seed)
    momentum = np.exp(rng.uniform(np.log(0.5), np.log(100), num))
    dz = rng.uniform(1000, 5000, num)
    inputs = np.column_stack(
        [rng.uniform(-900, 900, (num, 2)), rng.uniform(-0.3, 0.3, (num, 2)), 1e-3 / momentum, dz]
    )
    outputs = np.column_stack([rng.uniform(-2000, 2000, (num, 2)), rng.uniform(-1, 1, (num, 2))])
    planes = np.column_stack([np.full(num, 3000.0), 3000.0 + dz]).astype(dtype) if with_z else None
    return TrackBatch(inputs.astype(dtype), outputs.astype(dtype), momentum.astype(dtype), planes)


def assert_equal(found, expected):
    for name in ("X", "Y", "P", "Z"):
        a, b = getattr(found, name), getattr(expected, name)
        if b is None:
            assert a is None
        else:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("with_z", [True, False])
def test_round_trip(tmp_path, dtype, with_z):
    batch = make_batch(dtype=dtype, with_z=with_z)
    write_tracks(tmp_path / "a.npz", batch, seed=3)
    found = read_tracks(tmp_path / "a.npz", verify=True)
    assert_equal(found, batch)
    assert isinstance(found.X, np.memmap)
    assert len(found) == 20
    with np.load(tmp_path / "a.npz", allow_pickle=False) as plain:  # any NumPy user can read it
        np.testing.assert_array_equal(plain["X"], batch.X)
    assert '"seed": 3' in (tmp_path / "a.npz.manifest.json").read_text()


def test_files_of_numpy_are_read_too(tmp_path):
    batch = make_batch()
    np.savez_compressed(tmp_path / "c.npz", X=batch.X, Y=batch.Y, P=batch.P, Z=batch.Z, extra=np.arange(3))
    np.savez(tmp_path / "s.npz", X=batch.X, Y=batch.Y, P=batch.P)
    assert_equal(read_tracks(tmp_path / "c.npz"), batch)
    assert_equal(read_tracks(tmp_path / "s.npz"), TrackBatch(batch.X, batch.Y, batch.P))


def test_equal_tracks_make_equal_files(tmp_path):
    for name in "ab":
        write_tracks(tmp_path / f"{name}.npz", make_batch())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("array", "index", "value", "message"),
    [
        ("X", (7, 0), np.nan, r"branch 'X', entry 7: has x = nan mm; remove rows that are not finite"),
        ("X", (7, 2), np.inf, r"entry 7: has tx = inf; remove"),
        ("X", (7, 1), 2.0e5, r"entry 7: has y = 200000 mm; check its unit, y is in mm"),
        ("X", (7, 4), 0.2, r"entry 7: has q/p = 0.2 1/MeV; multiply q/p by 1e-3 if it is in 1/GeV"),
        ("X", (7, 4), 0.05, r"entry 7: has q/p = 0.05 1/MeV beside P = .* apart; give q/p in 1/MeV"),
        ("X", (7, 4), 0.0, r"entry 7: has q/p = 0 1/MeV beside P"),
        ("X", (7, 5), 0.0, r"entry 7: has dz = 0 mm; remove"),
        ("X", (7, 5), -1500.0, r"entry 7: has dz = -1500 mm; give dz > 0"),
        ("Y", (7, 3), 40.0, r"branch 'Y', entry 7: has ty = 40; check its unit"),
        ("P", 7, 0.0, r"branch 'P', entry 7: has p = 0 GeV; give positive"),
        ("P", 7, 5000.0, r"entry 7: has q/p = .* beside P = 5000 GeV"),
        ("Z", (7, 1), 3000.0, r"branch 'Z', entry 7: has z_end - z_start = 0 mm beside dz"),
    ],
)
def test_impossible_numbers_are_named_with_row_and_value(tmp_path, array, index, value, message):
    batch = make_batch()
    getattr(batch, array)[index] = value
    write_tracks(tmp_path / "a.npz", batch)
    with pytest.raises(InputFileError, match=message):
        read_tracks(tmp_path / "a.npz")
    assert len(read_tracks(tmp_path / "a.npz", check=False)) == 20


def test_rows_beyond_the_first_piece_are_counted_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("lhcb_extrap.data.tracks._CHUNK", 8)
    batch = make_batch()
    batch.X[17, 5] = 0.0
    write_tracks(tmp_path / "a.npz", batch)
    with pytest.raises(InputFileError, match="entry 17: has dz = 0"):
        read_tracks(tmp_path / "a.npz")


def test_backward_tracks_on_request(tmp_path):
    batch = make_batch(with_z=False)
    batch.X[:, 5] *= -1
    write_tracks(tmp_path / "a.npz", batch)
    assert len(read_tracks(tmp_path / "a.npz", allow_backward=True)) == 20


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(tmp_path, fraction):
    path = tmp_path / "a.npz"
    write_tracks(path, make_batch())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(fraction * len(raw))])
    with pytest.raises(InputFileError, match=r"a\.npz"):
        read_tracks(path)


def test_foreign_files_are_refused(tmp_path):
    batch = make_batch()
    with pytest.raises(InputFileError, match="does not exist"):
        read_tracks(tmp_path / "absent.npz")
    np.savez(tmp_path / "a.npz", X=batch.X, P=batch.P)
    with pytest.raises(InputFileError, match="has no array 'Y' but P, X"):
        read_tracks(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X=batch.X[:, :5], Y=batch.Y, P=batch.P)
    with pytest.raises(InputFileError, match=r"branch 'X': has shape \(20, 5\)"):
        read_tracks(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", X=batch.X, Y=batch.Y[:19], P=batch.P)
    with pytest.raises(InputFileError, match=r"branch 'Y': has shape \(19, 4\)"):
        read_tracks(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", X=np.array([{"a": 1}], dtype=object), Y=batch.Y, P=batch.P)
    with pytest.raises(InputFileError, match="branch 'X'"):
        read_tracks(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", X=batch.X, Y=batch.Y, P=np.float32(3.0))
    with pytest.raises(InputFileError, match="single number"):
        read_tracks(tmp_path / "e.npz")


def test_damaged_bytes_never_pass_verification(tmp_path):
    path = tmp_path / "a.npz"
    write_tracks(path, make_batch())
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(50):
        mutant = bytearray(raw)
        mutant[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        path.write_bytes(mutant)
        with pytest.raises(InputFileError, match=r"a\.npz"):
            read_tracks(path, verify=True)


def test_merge_keeps_order_and_counts(tmp_path):
    shards = [make_batch(5 + i, seed=i) for i in range(3)]
    assert not shard_is_done(tmp_path, 0)
    for i, shard in enumerate(shards):
        write_tracks(shard_path(tmp_path, i), shard)
        assert shard_is_done(tmp_path, i)
    seen = []
    total = merge_tracks(list_shards(tmp_path), tmp_path / "all.npz", progress=seen.append)
    assert total == 18
    assert seen == [1, 2, 3]
    merged = read_tracks(tmp_path / "all.npz", verify=True)
    for name in ("X", "Y", "P", "Z"):
        np.testing.assert_array_equal(
            getattr(merged, name), np.concatenate([getattr(s, name) for s in shards])
        )


def test_merge_refuses_what_does_not_fit(tmp_path):
    write_tracks(shard_path(tmp_path, 0), make_batch())
    write_tracks(shard_path(tmp_path, 1), make_batch(with_z=False))
    with pytest.raises(InputFileError, match=r"batch_00001.*holds X .* where .*batch_00000"):
        merge_tracks(list_shards(tmp_path), tmp_path / "all.npz")
    bad = make_batch()
    bad.Y[3, 0] = np.nan
    write_tracks(shard_path(tmp_path, 1), bad)
    with pytest.raises(InputFileError, match=r"batch_00001.*entry 3"):
        merge_tracks(list_shards(tmp_path), tmp_path / "all.npz")
    assert not (tmp_path / "all.npz").exists()
    with pytest.raises(InputFileError, match="no file batch_"):
        list_shards(tmp_path / "nothing")
    with pytest.raises(InputFileError, match="merge of no file"):
        merge_tracks([], tmp_path / "all.npz")


def test_merge_and_check_need_little_memory(tmp_path):
    """20 shards of 20000 tracks are 18 MB of arrays; merging and checking them takes a few."""
    for i in range(20):
        write_tracks(shard_path(tmp_path, i), make_batch(20_000, seed=i, with_z=False))
    tracemalloc.start()
    merge_tracks(list_shards(tmp_path), tmp_path / "all.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "all.npz").stat().st_size > 17e6
    assert peak < 9e6
