"""The guess inside the inpainter is the conventional one, made from live sensors alone."""

import numpy as np
import pytest
import torch

from megii_xec.data.masking import valid_sensors
from megii_xec.data.normalization import Normalization
from megii_xec.data.targets import TargetScaling
from megii_xec.models.conventional import ConventionalEstimate
from megii_xec.models.inpainter import CORRECTION_SCALE, XecInpainter
from megii_xec.models.sensor_guess import NUM_CONTEXT, SolidAngleGuess
from megii_xec.physics import simulator
from megii_xec.physics.geometry import NUM_SENSORS, face_ids, sensor_face
from megii_xec.physics.inpainting import solid_angle_guess
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.physics.response import build_detector

NORM = Normalization()
DETECTOR = SimulationConfig(dead_fraction=0.03)
ESTIMATE = ConventionalEstimate(NORM, TargetScaling(), DETECTOR)


@pytest.fixture(scope="module")
def photons():
    """Normalised photons of a simulated detector, (64, S, 2)."""
    (chunk,) = simulator.iter_events(DETECTOR, 64, np.random.default_rng(5))
    time_ns = chunk.readout.time_ns - np.nanmin(chunk.readout.time_ns, axis=1, keepdims=True)
    return torch.from_numpy(NORM.apply(chunk.readout.npho, time_ns * np.float32(1e-9)))


@pytest.fixture(scope="module")
def hidden(photons):
    """What is missing anyhow, a tenth of the rest, and all of one face in one event."""
    chosen = torch.rand(photons.shape[:2], generator=torch.Generator().manual_seed(3)) < 0.1
    chosen[0, torch.from_numpy(face_ids("top").copy())] = True
    return chosen | ~valid_sensors(photons, NORM)


@pytest.fixture
def make_inpainter(make_encoder):
    def make(trained=False):
        torch.manual_seed(0)
        model = XecInpainter(
            make_encoder(), lambda x: valid_sensors(x, NORM), NORM.rescale_npho,
            face_channels=16, hex_channels=16, start=ESTIMATE,
        )  # fmt: skip
        if trained:
            for layer in model.out.values():
                torch.nn.init.normal_(layer.weight, std=0.1)
        return model.eval()

    return make


def test_it_is_the_conventional_guess(photons, hidden):
    plain = SolidAngleGuess(ESTIMATE, prior_photons=0.0, prior_per_ns2=0.0)
    guess, context, features = plain(photons, hidden)
    npho, time_s = NORM.invert(photons.numpy())
    dark = hidden.numpy()
    seen_npho = np.where(dark | (npho > 9e9), np.nan, npho).astype(np.float32)
    seen_time = np.where(dark | (time_s > 9e9), np.nan, time_s * np.float32(1e9)).astype(np.float32)
    wanted_npho, wanted_ns = solid_angle_guess(seen_npho, seen_time, DETECTOR)
    found_npho = NORM.denormalize_npho(guess[..., 0]).numpy()
    found_ns = 1e9 * (guess[..., 1].numpy() + NORM.time_shift) * NORM.time_scale_s
    known = np.isfinite(wanted_npho)
    assert (~known).sum() == 73
    np.testing.assert_allclose(found_npho[known], wanted_npho[known], rtol=2e-3, atol=0.5)
    timed = np.isfinite(wanted_ns) & (wanted_npho > 100)
    np.testing.assert_allclose(found_ns[timed], wanted_ns[timed], atol=5e-3)
    assert torch.isfinite(guess).all()
    assert torch.isfinite(context).all()
    assert context.shape == (*photons.shape[:2], NUM_CONTEXT)
    torch.testing.assert_close(features, ESTIMATE(photons, hidden)[1])


def test_wider_neighbourhoods_help_where_there_is_little_light(photons, hidden):
    scored = hidden & valid_sensors(photons, NORM)
    truth = NORM.denormalize_npho(photons[..., 0])[scored]
    errors = []
    for options in ({"prior_photons": 0.0}, {}):
        guess, *_ = SolidAngleGuess(ESTIMATE, **options)(photons, hidden)
        errors.append((NORM.denormalize_npho(guess[..., 0])[scored] - truth).abs().mean())
    assert errors[1] < 0.99 * errors[0]


def test_a_face_without_any_live_sensor_is_filled_from_the_source(photons, hidden):
    guess, *_ = SolidAngleGuess(ESTIMATE)(photons, hidden)
    truth = NORM.denormalize_npho(photons[0, sensor_face() == 4, 0])
    found = NORM.denormalize_npho(guess[0, sensor_face() == 4, 0])
    assert (found.sum() / truth.sum()).item() == pytest.approx(1.0, abs=0.3)


def test_hidden_sensors_are_not_looked_at(photons, hidden, make_inpainter):
    model = make_inpainter(trained=True)
    live = valid_sensors(photons, NORM)
    other = torch.where((hidden & live)[..., None], torch.rand_like(photons), photons)
    with torch.no_grad():
        assert torch.equal(model(photons[:8], hidden[:8]), model(other[:8], hidden[:8]))
        assert not torch.equal(model(photons[:8], hidden[:8]), model(photons[:8], ~live[:8]))


def test_an_untrained_network_is_the_guess_and_a_head_multiplies_it(photons, hidden, make_inpainter):
    model = make_inpainter()
    x, dark = photons[:8], hidden[:8]
    guess, *_ = SolidAngleGuess(ESTIMATE)(x, dark)
    with torch.no_grad():
        torch.testing.assert_close(model(x, dark), guess, rtol=1e-4, atol=1e-5)
        for layer in model.out.values():
            layer.bias.copy_(torch.tensor([1.0, 2.0]))
        changed = model(x, dark)
    bright = guess[..., 0] > 0.02
    ratio = NORM.denormalize_npho(changed[..., 0]) / NORM.denormalize_npho(guess[..., 0])
    torch.testing.assert_close(ratio[bright].log(), torch.full_like(ratio[bright], CORRECTION_SCALE),
                               rtol=1e-3, atol=1e-3)  # fmt: skip
    torch.testing.assert_close(changed[..., 1] - guess[..., 1], torch.full_like(ratio, 2 * CORRECTION_SCALE))


def test_no_light_gives_finite_numbers(make_inpainter):
    model = make_inpainter(trained=True)
    for value in (-1.0, 0.0):
        x = torch.full((2, NUM_SENSORS, 2), value)
        with torch.no_grad():
            assert torch.isfinite(model(x, torch.zeros(2, NUM_SENSORS, dtype=torch.bool))).all()


def test_gradients_reach_every_part(photons, hidden, make_inpainter):
    model = make_inpainter(trained=True)
    model(photons[:4], hidden[:4])[hidden[:4]].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_gains_are_found(make_inpainter):
    """The stored counts are off by 4 % from sensor to sensor; the neighbours tell."""
    config = SimulationConfig(dead_fraction=0.0, num_dead_clusters=0, calibration_spread=0.2)
    detector = build_detector(config)
    known = np.log(detector.calibration * detector.efficiency)
    model = make_inpainter()
    x = torch.cat(
        [
            torch.from_numpy(NORM.apply(chunk.readout.npho, np.zeros_like(chunk.readout.npho)))
            for chunk in simulator.iter_events(config, 192, np.random.default_rng(7))
        ]
    )
    for _ in range(2):
        sums = torch.zeros(2, NUM_SENSORS)
        for part in x.split(64):
            model.add_gains(part, sums)
        model.set_gains(sums)
    inner = face_ids("inner")
    assert np.corrcoef(known[inner], model.log_gain.numpy()[inner])[0, 1] > 0.8


def test_gains_need_the_conventional_reconstruction(make_encoder):
    model = XecInpainter(make_encoder(), lambda x: valid_sensors(x, NORM), NORM.rescale_npho)
    with pytest.raises(ValueError, match="give start"):
        model.add_gains(torch.zeros(1, NUM_SENSORS, 2), torch.zeros(2, NUM_SENSORS))
