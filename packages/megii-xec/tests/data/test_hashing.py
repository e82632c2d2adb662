import numpy as np
import torch

from megii_xec.data.hashing import Purpose, normal, uniform

INDEX = torch.tensor([0, 1, 7, 123_456_789])


def test_numbers_depend_on_the_event_alone():
    together = uniform(1, 2, Purpose.MASK, INDEX, 50)
    alone = uniform(1, 2, Purpose.MASK, INDEX[2:3], 50)
    assert torch.equal(together[2:3], alone)
    assert torch.equal(together[:, :10], uniform(1, 2, Purpose.MASK, INDEX, 10))


def test_seed_epoch_purpose_and_event_all_matter():
    base = uniform(1, 2, Purpose.MASK, INDEX, 100)
    others = [
        uniform(2, 2, Purpose.MASK, INDEX, 100),
        uniform(1, 3, Purpose.MASK, INDEX, 100),
        uniform(1, 2, Purpose.DEAD, INDEX, 100),
        uniform(1, 2, Purpose.MASK, INDEX + 1, 100),
    ]
    for other in others:
        assert abs(np.corrcoef(base.flatten(), other.flatten())[0, 1]) < 0.2
        assert not (base == other).all(1).any()


def test_matches_a_plain_splitmix64():
    mask = 2**64 - 1

    def mix(z):
        z = (z + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    key = 0
    for part in (5, 6, int(Purpose.NOISE)):
        key = mix(key ^ part)
    event = mix((9 + key) & mask)
    expected = [((mix((event + k * 0x9E3779B97F4A7C15) & mask) >> 41) + 0.5) / 2**23 for k in range(5)]
    found = uniform(5, 6, Purpose.NOISE, torch.tensor([9]), 5)[0].tolist()
    assert found == expected


def test_moments():
    u = uniform(3, 0, Purpose.MASK, torch.arange(200), 500)
    assert 0 < u.min() < u.max() < 1
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.002
    # Neither neighbouring sensors nor neighbouring events are correlated.
    for a, b in ((u[:, :-1], u[:, 1:]), (u[:-1], u[1:])):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.01
    z = normal(3, 0, Purpose.NOISE, torch.arange(200), 500)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
