import numpy as np
import pytest
import torch

from fourtop_tokens.data.stream import EventStream, augment, event_inputs, read_split
from fourtop_tokens.data.tokenizer import Binning, Vocabulary
from fourtop_tokens.physics.kinematics import wrap_phi
from hep_shared.errors import ConfigError


@pytest.fixture
def train(sample):
    return sample[1]["train"]


def stream(events, **options):
    return EventStream(event_inputs(events), events.labels, **{"batch_size": 50, **options})


def test_ordered_batches_hold_every_event_once(train):
    batches = list(stream(train).batches())
    assert [len(batch) for batch in batches] == [50] * 9 + [30]
    assert torch.equal(torch.cat([batch.events for batch in batches]), torch.arange(480))
    np.testing.assert_array_equal(torch.cat([batch.inputs[1] for batch in batches]).numpy(), train.features)
    np.testing.assert_array_equal(torch.cat([b.labels for b in batches]).numpy(), train.labels - 1)


def test_shuffled_batches_are_whole_and_differ_by_epoch(train):
    shuffled = stream(train, shuffle=True, seed=3)
    orders = [torch.cat([batch.events for batch in shuffled.batches(epoch)]) for epoch in (0, 1, 0)]
    assert shuffled.num_batches == 9
    assert all(len(set(order.tolist())) == 450 for order in orders)
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


def test_starting_inside_an_epoch_gives_the_same_rest(train):
    shuffled = stream(train, shuffle=True, augment=True)
    whole, rest = list(shuffled.batches(1)), list(shuffled.batches(1, start=4))
    for a, b in zip(whole[4:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_share_the_events(train, shuffle):
    one = stream(train, shuffle=shuffle)
    two = [stream(train, shuffle=shuffle, rank=rank, world_size=2) for rank in (0, 1)]
    expected = torch.cat([batch.events for batch in one.batches()])
    found = torch.cat([batch.events for part in two for batch in part.batches()])
    assert torch.equal(expected.sort().values, found.sort().values)


def test_augmentation_follows_the_event_not_the_batch(train):
    large = stream(train, shuffle=True, augment=True, batch_size=100)
    small = stream(train, shuffle=True, augment=True, batch_size=20)
    first = next(large.batches(2))
    others = list(small.batches(2))[:5]
    assert torch.equal(first.inputs[1], torch.cat([batch.inputs[1] for batch in others]))
    again = next(large.batches(3))
    assert not torch.equal(first.inputs[1][0, 0], again.inputs[1][0, 0])


def test_augmentation_keeps_what_physics_keeps(train):
    rng = np.random.default_rng(0)
    angle, sign = rng.uniform(0, 6, len(train)), rng.choice([-1.0, 1.0], len(train))
    _, features, missing = augment(train.ids, train.features, train.missing, angle, sign)
    np.testing.assert_array_equal(features[..., :2], train.features[..., :2])
    np.testing.assert_array_equal(np.abs(features[..., 2]), np.abs(train.features[..., 2]))
    before = wrap_phi(train.features[..., 3] - train.missing[:, 1:])[train.valid_mask]
    after = wrap_phi(features[..., 3] - missing[:, 1:])[train.valid_mask]
    assert np.abs(wrap_phi(before - after)).max() < 1e-5
    assert (features[~train.valid_mask] == 0).all()


def test_pieces_of_a_batch(train):
    batch = next(stream(train).batches())
    pieces = batch.split(5)
    assert [len(piece) for piece in pieces] == [10] * 5
    assert torch.equal(torch.cat([piece.inputs[2] for piece in pieces]), batch.inputs[2])
    assert batch.name == "of 50 events (0, 1, 2, ...)"


def test_signature_names_events_seed_and_batches(train):
    base = stream(train).signature
    assert base == stream(train).signature
    for other in (stream(train, seed=1), stream(train, batch_size=40), stream(train[:479])):
        assert other.signature != base


def test_too_few_events(train):
    with pytest.raises(ConfigError, match=r"data.batch_size is 500, but the events are only 480 events"):
        stream(train, batch_size=500, shuffle=True)


def test_tokens_from_a_binned_file(sample, tokens_file):
    inputs, labels = read_split(
        "val", events=None, tokens=tokens_file, vocabulary=Vocabulary(), units="gev", num_events=7
    )
    binning = Binning.fit(sample[1]["train"])
    np.testing.assert_array_equal(inputs["tokens"], binning.transform(sample[1]["val"][:7]))
    np.testing.assert_array_equal(labels, sample[1]["val"].labels[:7])
