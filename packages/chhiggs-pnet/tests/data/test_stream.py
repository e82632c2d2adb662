"""Batches: balanced in class and hypothesis, redrawn every epoch, the same after a resume."""

import numpy as np
import pytest

from chhiggs_pnet.data.point_events import load_point, point_batches
from chhiggs_pnet.data.store import Store
from chhiggs_pnet.data.stream import EventStream
from chhiggs_pnet.losses import event_weights
from chhiggs_pnet.physics.mass_points import MassPoint
from hep_shared.errors import ConfigError, InputFileError
from hep_shared.testing import same_tensors

FOLDS = (0, 1, 2)


def open_stream(path, **more):
    opened = Store(path)
    settings = {
        "features": "ext14", "channel": None, "batch_size": 32, "events_per_point": 40, "seed": 3,
        "weighting": event_weights, **more,
    }  # fmt: skip
    return EventStream(opened, opened.table.train, FOLDS, **settings)


def tensors(batch):
    return {name: value for name, value in vars(batch).items() if name != "name"}


def same(a, b):
    return same_tensors(tensors(a), tensors(b))


def test_every_class_has_every_hypothesis_equally_often(store):
    stream = open_stream(store)
    for epoch in range(3):
        plan = stream.plan(epoch)
        label = np.maximum(plan.part - len(stream.points) + 1, 0)
        counts = np.array([np.bincount(plan.point[label == k], minlength=3) for k in range(4)])
        np.testing.assert_array_equal(counts, 40)  # P(m | class) is the same for all classes


def test_signal_is_seen_at_its_own_masses_only(store):
    stream = open_stream(store)
    plan = stream.plan(0)
    signal = plan.part < len(stream.points)
    np.testing.assert_array_equal(plan.part[signal], plan.point[signal])


def test_background_hypotheses_are_redrawn_every_epoch(store):
    stream = open_stream(store)

    def hypotheses(epoch):
        plan = stream.plan(epoch)
        mine = plan.part == len(stream.points)
        return dict(zip(plan.row[mine].tolist(), plan.point[mine].tolist(), strict=True))

    first, second = hypotheses(0), hypotheses(1)
    shared = first.keys() & second.keys()
    changed = np.mean([first[row] != second[row] for row in shared])
    assert len(shared) > 30
    assert 0.4 < changed < 0.9  # 2/3 expected


def test_batches_are_balanced(store):
    for batch in open_stream(store, batch_size=48).batches(0):
        counts = np.bincount(batch.label.numpy(), minlength=4)
        assert counts.min() >= 9
        assert counts.max() <= 15


def test_weights_have_mean_size_one_in_every_batch(store):
    for batch in open_stream(store).batches(0):
        assert batch.weight.abs().mean().item() == pytest.approx(1.0, abs=1e-5)


def test_epochs_differ_and_repeat(store):
    stream = open_stream(store)
    first = list(stream.batches(0))
    assert all(map(same, first, open_stream(store).batches(0)))
    assert not same(first[0], next(stream.batches(1)))
    assert same(first[7], next(stream.batches(0, start=7)))


def test_ranks_share_each_batch(store):
    whole = next(open_stream(store).batches(0))
    parts = [next(open_stream(store, rank=rank, world_size=2).batches(0)) for rank in (0, 1)]
    for name in ("label", "masses", "weight"):
        merged = np.empty_like(getattr(whole, name).numpy())
        for rank, part in enumerate(parts):
            merged[rank::2] = getattr(part, name).numpy()
        np.testing.assert_array_equal(merged, getattr(whole, name).numpy())


def test_micro_batches_are_the_batch(store):
    batch = next(open_stream(store).batches(0))
    parts = batch.split(4)
    assert [len(part) for part in parts] == [8] * 4
    np.testing.assert_array_equal(np.concatenate([part.label for part in parts]), batch.label)


def test_curriculum_keeps_the_balance(store):
    stream = open_stream(store)
    stream.active = lambda epoch: [2] if epoch == 0 else [0, 2]
    assert set(stream.plan(0).point) == {2}
    plan = stream.plan(1)
    assert set(plan.point) == {0, 2}
    assert len(plan.point) == stream.num_batches * 32


def test_training_events_are_of_training_folds(store):
    stream = open_stream(store)
    plan = stream.plan(0)
    opened = Store(store)
    for index, name in enumerate(stream.names):
        rows = plan.row[plan.part == index]
        assert set(opened.part(name).columns["fold"][rows]) <= set(FOLDS)


def test_other_settings_have_another_signature(store):
    signatures = {open_stream(store, **more).signature for more in ({}, {"seed": 4}, {"batch_size": 16})}
    assert len(signatures) == 3


def test_too_few_events_for_a_batch(store):
    with pytest.raises(ConfigError, match=r"data\.batch_size is 4096, but an epoch has only 480 events"):
        open_stream(store, batch_size=4096)


def test_a_channel_without_events_is_refused(store):
    with pytest.raises(InputFileError, match=r"channel Run3Mu.*holds no events"):
        open_stream(store, channel="Run3Mu")


def test_a_weight_that_is_no_number_is_refused(store, monkeypatch):
    opened = Store(store)
    weight = np.array(opened.part("ttX").columns["weight"])
    weight[opened.part("ttX").in_folds([0])[2]] = np.nan
    opened.part("ttX").columns["weight"] = weight
    with pytest.raises(InputFileError, match=r"ttX.*branch 'weight', entry \d+: holds a weight of nan"):
        load_point(opened, None, [0], features="cms9", channel=None)


def test_points_are_loaded_with_all_backgrounds(store):
    opened = Store(store)
    point = MassPoint(130, 90)
    events = load_point(opened, point, [4], features="cms9", channel="Run1E2Mu")
    assert events.columns["nodes"].shape[1:] == (16, 9)
    assert set(events.label) == {0, 1, 2, 3}
    few = load_point(opened, point, [4], features="cms9", channel=None, limit=5)
    assert np.bincount(few.label).tolist() == [5] * 4
    np.testing.assert_allclose(  # the few stand for all
        np.bincount(few.label, few.weight), np.bincount(events.label, events.weight), rtol=1e-9
    )
    batches = list(point_batches(events, point, 50))
    assert sum(map(len, batches)) == len(events.weight)
    assert {tuple(row.tolist()) for batch in batches for row in batch.masses} == {(130.0, 90.0)}
