import numpy as np
import pytest
import torch

from hep_shared.errors import ConfigError, InputFileError
from lhcb_extrap.data.stream import TrackStream, read_sample
from lhcb_extrap.data.tracks import TrackBatch, find_files, read_tracks, write_tracks


def test_splits_are_disjoint_and_complete(track_file):
    parts = [read_sample([track_file], split, (0.6, 0.2)) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [360, 120, 120]
    rows = np.concatenate([part.batch.X for part in parts])
    np.testing.assert_array_equal(rows, read_tracks(track_file).X)


def test_an_epoch_holds_every_track_once_and_another_order_each_time(track_file):
    stream = TrackStream(read_sample([track_file]), batch_size=100, shuffle=True, seed=1)
    first, second = (torch.cat([batch.end for batch in stream.batches(epoch)]) for epoch in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(0).values, second.sort(0).values)
    resumed = [batch.end for batch in stream.batches(0, start=3)]
    assert torch.equal(torch.cat(resumed), first[300:])


def test_ranks_share_a_batch(track_file):
    sample = read_sample([track_file])
    whole = next(TrackStream(sample, batch_size=10, shuffle=True).batches())
    shares = [
        next(TrackStream(sample, batch_size=10, shuffle=True, rank=r, world_size=2).batches()) for r in (0, 1)
    ]
    assert torch.equal(torch.stack([share.end for share in shares], 1).flatten(0, 1), whole.end)


def test_signature_depends_on_tracks_and_order(track_file):
    sample = read_sample([track_file])
    signatures = {
        TrackStream(sample, batch_size=10, shuffle=True).signature,
        TrackStream(sample, batch_size=20, shuffle=True).signature,
        TrackStream(sample, batch_size=10, shuffle=True, seed=1).signature,
        TrackStream(read_sample([track_file], "train"), batch_size=10, shuffle=True).signature,
    }
    assert len(signatures) == 4


def test_files_without_planes_need_a_start(track_file, tmp_path):
    batch = read_tracks(track_file)
    write_tracks(tmp_path / "old.npz", TrackBatch(batch.X, batch.Y, batch.P))
    with pytest.raises(InputFileError, match=r"no array 'Z' that says where tracks start; set data\.z0_mm"):
        read_sample([tmp_path / "old.npz"])
    assert (read_sample([tmp_path / "old.npz"], z0_mm=3000.0).z0 == 3000.0).all()


def test_patterns_without_files_and_empty_parts_are_refused(track_file, tmp_path):
    with pytest.raises(ConfigError, match="which matches no file"):
        find_files([f"{tmp_path}/*.npz"], "data.files")
    with pytest.raises(ConfigError, match=r"the test part of .* has no track"):
        read_sample([track_file], "test", (0.9, 0.0999))
    with pytest.raises(ConfigError, match=r"600 tracks, fewer than data.batch_size = 1000"):
        TrackStream(read_sample([track_file]), batch_size=1000, shuffle=True)
