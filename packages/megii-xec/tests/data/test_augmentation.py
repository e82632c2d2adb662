"""Each change does what it says, to nothing else, and the same however events are batched."""

import pytest
import torch

from megii_xec.data.augmentation import Augmentation, augment
from megii_xec.data.normalization import Normalization
from megii_xec.physics.geometry import NUM_SENSORS

NORM = Normalization(scheme="new")
INDEX = torch.arange(4)


@pytest.fixture(scope="module")
def events():
    generator = torch.Generator().manual_seed(1)
    npho = torch.rand(4, NUM_SENSORS, generator=generator).pow(4) * 5000
    npho[:, :50] = 1e10
    time = torch.rand(npho.shape, generator=generator) * 1e-8
    targets = {"energy": torch.tensor([[0.05], [0.04], [0.03], [0.02]]), "n_gamma": torch.ones(4, 1)}
    return NORM.apply_torch(npho, time), targets


def change(events, rows=slice(None), epoch=0, **settings):
    sensors, targets = events
    part = {name: values[rows] for name, values in targets.items()}
    return augment(Augmentation(**settings), NORM, sensors[rows], part, INDEX[rows], seed=3, epoch=epoch)


ALL = {"channel_dropout": 0.2, "npho_noise": 5, "npho_noise_relative": 0.05, "time_jitter_ns": 0.5,
       "energy_scale": 0.2}  # fmt: skip


def test_the_same_event_changes_alike_in_any_batch(events):
    together, alone = change(events, **ALL)[0], change(events, slice(2, 3), **ALL)[0]
    assert torch.equal(together[2:3], alone)
    assert not torch.equal(together, change(events, epoch=1, **ALL)[0])


def test_nothing_switched_on_changes_nothing(events):
    sensors, targets = change(events)
    assert torch.allclose(sensors, events[0], atol=1e-6)
    assert torch.equal(targets["energy"], events[1]["energy"])


def test_dropped_channels_look_like_missing_ones(events):
    sensors, _ = change(events, channel_dropout=0.2)
    alive = events[0][..., 0] != NORM.sentinel_npho
    gone = alive & (sensors[..., 0] == NORM.sentinel_npho)
    assert abs(gone.sum() / alive.sum() - 0.2) < 0.02
    assert (sensors[..., 1][gone] == NORM.sentinel_time).all()  # 0 would be a time
    kept = alive & ~gone
    assert torch.allclose(sensors[kept], events[0][kept], atol=1e-6)


def test_energy_follows_the_light(events):
    sensors, targets = change(events, energy_scale=0.2)
    alive = events[0][..., 0] > 0.05
    factor = NORM.denormalize_npho(sensors[..., 0]) / NORM.denormalize_npho(events[0][..., 0])
    for event in range(4):
        wanted = targets["energy"][event] / events[1]["energy"][event]
        assert torch.allclose(factor[event][alive[event]], wanted, rtol=1e-3)
        assert 0.8 <= wanted.item() <= 1.2
    below = (NORM.denormalize_npho(sensors[..., 0]) < 99) & alive
    assert (sensors[..., 1][below] == NORM.sentinel_time).all()


def test_noise_has_the_width_asked_for(events):
    sensors, _ = change(events, npho_noise=20.0)
    alive = events[0][..., 0] > 0
    shift = NORM.denormalize_npho(sensors[..., 0]) - NORM.denormalize_npho(events[0][..., 0])
    assert abs(shift[alive].std() - 20) < 1
    jittered, _ = change(events, time_jitter_ns=0.5)
    timed = events[0][..., 1] != NORM.sentinel_time
    spread = (jittered[..., 1] - events[0][..., 1])[timed] * NORM.time_scale_s
    assert abs(spread.std() - 0.5e-9) < 0.02e-9


def test_pile_up_adds_light_and_a_photon(events):
    sensors, targets = change(events, pileup_probability=1.0)
    alive = (events[0][..., 0] != NORM.sentinel_npho)[0]
    one, other, sum_ = (
        NORM.denormalize_npho(x[..., 0])[:, alive] for x in (events[0], events[0].roll(1, 0), sensors)
    )
    assert torch.allclose(sum_, one + other, rtol=1e-3, atol=0.1)
    assert (targets["n_gamma"] == 2).all()
    assert torch.equal(change(events, pileup_probability=0.0)[1]["n_gamma"], events[1]["n_gamma"])
