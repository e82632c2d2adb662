from functools import partial

import numpy as np
import pytest

from lhcb_extrap.physics.runge_kutta import rkn4
from lhcb_extrap.physics.sampling import MOMENTUM_STUDIES_GEV, TrackSampler, generate_tracks, shard_generator


def seed_of(shard, seed=7):
    return np.random.SeedSequence(seed, spawn_key=(shard,))


@pytest.mark.parametrize("study", MOMENTUM_STUDIES_GEV)
def test_momentum_is_flat_in_its_logarithm(study):
    low, high = MOMENTUM_STUDIES_GEV[study]
    tracks = TrackSampler(momentum_gev=(low, high)).draw(shard_generator(seed_of(0)), 20000)
    counts, _ = np.histogram(np.log(tracks.momentum_gev), bins=10, range=(np.log(low), np.log(high)))
    assert counts.sum() == 20000
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000)
    np.testing.assert_allclose(np.abs(tracks.qop) * tracks.momentum_gev * 1000, 1.0)
    assert abs(np.sign(tracks.qop).sum()) < 5 * np.sqrt(20000)


def test_ranges_and_slopes():
    sampler = TrackSampler(z0_mm=(2000.0, 4000.0), dz_mm=(1000.0, 6000.0))
    pointing = sampler.draw(shard_generator(seed_of(0)), 20000)
    x, y, tx, ty = pointing.start.T
    assert 890 < np.abs(x).max() < 900
    assert 740 < np.abs(y).max() < 750
    assert (pointing.z0.min(), pointing.z0.max()) == pytest.approx((2000, 4000), abs=5)
    assert (pointing.dz.min(), pointing.dz.max()) == pytest.approx((1000, 6000), abs=5)
    for slope, position in ((tx, x), (ty, y)):
        spread = slope - position / pointing.z0
        assert spread.mean() == pytest.approx(0, abs=6e-4)
        assert spread.std() == pytest.approx(0.02, rel=0.03)
    flat = TrackSampler(slopes="flat").draw(shard_generator(seed_of(0)), 20000)
    assert 0.149 < np.abs(flat.start[:, 2:]).max() < 0.15
    assert (flat.z0 == 3000.0).all()
    assert (flat.dz == 4000.0).all()


def test_generated_tracks_arrive_and_losses_are_counted(field_map):
    propagate = partial(rkn4, field_map, num_steps=8)
    sample = generate_tracks(TrackSampler(), propagate, 3000, seed_of(1))
    assert sample.start.shape == sample.end.shape == (3000, 4)
    again = propagate(sample.start, sample.qop, sample.z0, sample.dz)
    np.testing.assert_array_equal(again.state, sample.end)
    assert sample.num_tried == 3000 + sum(sample.num_rejected.values())
    assert 0.12 < sample.rejected_fraction < 0.20
    assert set(sample.num_rejected) <= {"outside", "steep"}


def test_shards_are_reproducible_and_differ(field_map):
    propagate = partial(rkn4, field_map, num_steps=4)
    one, same, other = (generate_tracks(TrackSampler(), propagate, 50, seed_of(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one.start, same.start)
    np.testing.assert_array_equal(one.end, same.end)
    assert not np.isin(one.start, other.start).any()
    # A longer sample of the same seed begins with the shorter one.
    longer = generate_tracks(TrackSampler(), propagate, 80, seed_of(1))
    np.testing.assert_array_equal(longer.start[:50], one.start)


def test_hopeless_samples_end_with_a_reason(field_map):
    sampler = TrackSampler(momentum_gev=(0.1, 0.2))
    with pytest.raises(ValueError, match=r"only 0 of 8192 tracks crossed .*'steep'.*raise the momentum"):
        generate_tracks(sampler, partial(rkn4, field_map, num_steps=8), 10, seed_of(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum_gev": (0.0, 5.0)}, "positive number"),
        ({"momentum_gev": (5.0, 1.0)}, "positive number"),
        ({"dz_mm": (-100.0, 100.0)}, "without passing zero"),
        ({"dz_mm": (0.0, 0.0)}, "without passing zero"),
        ({"z0_mm": (4000.0, 3000.0)}, "z0 runs upwards"),
        ({"z0_mm": (0.0, 0.0)}, "behind the collision point"),
    ],
)
def test_impossible_ranges_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrackSampler(**options)
