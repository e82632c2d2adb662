import numpy as np
import pytest

from fourtop_tokens import simulate as verb
from fourtop_tokens.data import schema
from fourtop_tokens.data.events import read_events
from fourtop_tokens.simulate import simulate
from hep_shared.errors import UserError


def equal(a, b):
    return all(
        np.array_equal(getattr(a[split], name), getattr(b[split], name))
        for split in schema.SPLITS
        for name in ("ids", "features", "missing", "labels")
    )


def test_splits_hold_the_public_class_fractions(sample):
    for split, events in sample[1].items():
        assert len(events) == {"train": 480, "val": 60, "test": 60}[split]
        counts = dict(zip(*np.unique(events.labels, return_counts=True), strict=True))
        assert counts == schema.class_sizes(len(events))


def test_splits_share_no_event_and_are_shuffled(sample):
    met = np.concatenate([events.missing[:, 0] for events in sample[1].values()])
    assert len(np.unique(met)) == 600
    assert len(np.unique(sample[1]["train"].labels[:20])) > 1


def test_a_seed_gives_the_same_file_and_another_does_not(sample, tmp_path):
    again = simulate(tmp_path / "again.h5", 600, seed=5, progress=None)
    assert equal(again, sample[1])
    assert not equal(simulate(tmp_path / "other.h5", 600, seed=6, progress=None), sample[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.h5", "again.h5.manifest.json", "other.h5", "other.h5.manifest.json",
    ]  # fmt: skip


def test_blocks_are_independent_of_the_order_in_which_they_are_made(tmp_path, monkeypatch):
    """What a farm with many workers does: other blocks first, some made by an earlier run."""
    monkeypatch.setattr(verb, "BLOCK", 64)
    expected = simulate(tmp_path / "a.h5", 400, seed=1, progress=None)

    def backwards(fn, num_shards, *, done, **_):
        for index in reversed(range(num_shards)):
            if not done(index):
                fn(index)

    monkeypatch.setattr(verb, "run_shards", backwards)
    assert equal(simulate(tmp_path / "b.h5", 400, seed=1, progress=None), expected)


def test_an_interrupted_run_makes_only_what_is_missing(tmp_path, monkeypatch):
    made = []
    original = verb._make_block

    def make(*args):
        made.append(args[-1])
        if len(made) == 3:
            raise KeyboardInterrupt
        original(*args)

    monkeypatch.setattr(verb, "_make_block", make)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "events.h5", 100, seed=2, progress=None)
    assert not (tmp_path / "events.h5").exists()
    simulate(tmp_path / "events.h5", 100, seed=2, progress=None)
    assert made == [0, 1, 2, 2, 3, 4]
    assert len(read_events(tmp_path / "events.h5")["train"]) == 80


def test_muon_convention(sample, tmp_path):
    other = simulate(tmp_path / "events.h5", 600, seed=5, muon_ids="plus_6", progress=None)
    ids, swapped = sample[1]["train"].ids, other["train"].ids
    assert (swapped[ids == 5] == 6).all()
    assert (swapped[ids == 6] == 5).all()
    np.testing.assert_array_equal(swapped[(ids != 5) & (ids != 6)], ids[(ids != 5) & (ids != 6)])


def test_too_few_events(tmp_path):
    with pytest.raises(UserError, match="--num-events is 99; ask for 100 or more"):
        simulate(tmp_path / "events.h5", 99)
    assert not list(tmp_path.iterdir())
