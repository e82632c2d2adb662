"""The whole encoder: parity with the published architecture, masking, gradients, size."""

import pytest
import torch

from megii_xec.models.encoder import XecEncoder
from megii_xec.physics.geometry import FACES, NUM_SENSORS, face_ids

LEGACY = {"layout": "legacy", "face_pool": "bilinear", "area_scaling": "legacy", "rescale_npho": None}
REFERENCE_TINY = {
    "dim": 128,
    "hex_dim": 24,
    "hex_depth": 2,
    "num_heads": 4,
    "ffn_dim": 64,
    "fusion_layers": 1,
}


def some_scalar(tokens):
    """Random projection: the sum of squares of layer-normed tokens would be constant."""
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(4))
    return (tokens * weight).sum()


LOST_IN_LEGACY = {*range(4174, 4178), *range(4198, 4202), *range(4222, 4226)}


@pytest.mark.parametrize("pool", [(3, 3), (2, 2), None])
def test_equals_the_published_architecture(reference, make_encoder, events, pool):
    ours = make_encoder(**LEGACY, outer_pool=pool)
    theirs = reference.from_encoder(ours, **REFERENCE_TINY, outer_pool=pool).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(events), theirs(events), rtol=0, atol=1e-4)


def test_gradients_equal_those_of_the_published_architecture(reference, make_encoder, events):
    ours = make_encoder(**LEGACY)
    theirs = reference.from_encoder(ours, **REFERENCE_TINY).eval()
    for model in (ours, theirs):
        some_scalar(model(events)).backward()
    largest = max(p.grad.abs().max() for p in theirs.parameters())
    theirs_grad = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        for mine, published in reference._RENAMED:
            name = name.replace(mine, published)
        torch.testing.assert_close(p.grad, theirs_grad[name], rtol=1e-3, atol=1e-4 * float(largest), msg=name)


def test_number_of_parameters_of_the_published_size():
    encoder = XecEncoder(area_scaling="legacy")

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(encoder.fusion) == 25_192_448
    assert count(encoder.hexagon) == 403_744
    assert count(encoder.backbone) == 140_768
    assert count(encoder) == 25_743_104


def sensors_without_influence(encoder, x):
    x = x.abs().clone().requires_grad_()  # no dead sensors
    some_scalar(encoder(x)).backward()
    return set((x.grad.abs().sum((0, 2)) == 0).nonzero().flatten().tolist())


@pytest.mark.parametrize("options", [{}, {"outer_mode": "split"}, {"outer_pool": None, "stem_stride": 2}])
def test_every_sensor_influences_the_tokens(make_encoder, events, options):
    assert sensors_without_influence(make_encoder(**options), events) == set()


def test_the_legacy_layout_is_blind_to_twelve_sensors(make_encoder, events):
    encoder = make_encoder(**{**LEGACY, "face_pool": "average"})
    assert sensors_without_influence(encoder, events) == LOST_IN_LEGACY


@pytest.mark.parametrize("face", FACES)
def test_a_face_changes_its_own_token_only(make_encoder, events, face):
    encoder = make_encoder()
    changed = events.clone()
    changed[:, face_ids(face).copy()] += 0.3
    with torch.no_grad():
        difference = (encoder.face_tokens(changed) - encoder.face_tokens(events)).abs().amax((0, 2))
    assert [encoder.tokens[i] for i in difference.nonzero().flatten()] == [face]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"outer_mode": "split"},
        {"stem_stride": 2, "outer_pool": None},
        {"stem_stride": 3},
        {"stem_stride": 4},
    ],
)
def test_values_of_masked_sensors_change_nothing(make_encoder, events, options):
    encoder = make_encoder(**options)
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(4, NUM_SENSORS, generator=generator) < 0.6
    mask[:, 4742:] = True  # the 18 tubes of the outer centre among them
    noisy = torch.where(mask[..., None], torch.rand(events.shape, generator=generator), events)
    with torch.no_grad():
        torch.testing.assert_close(encoder(noisy, mask), encoder(events, mask), rtol=0, atol=0)


def test_the_mask_reaches_the_output(make_encoder, events):
    encoder = make_encoder()
    mask = torch.zeros(4, NUM_SENSORS, dtype=torch.bool)
    with torch.no_grad():
        plain, unmasked = encoder(events), encoder(events, mask)
        torch.testing.assert_close(unmasked, plain, rtol=0, atol=1e-5)
        mask[0, 4742:] = True
        masked = encoder(events, mask)
    assert (masked[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(masked[1:], plain[1:], rtol=0, atol=1e-5)


def test_everything_masked_gives_finite_gradients(make_encoder, events):
    encoder = make_encoder().train()
    some_scalar(encoder(events, torch.ones(4, NUM_SENSORS, dtype=torch.bool))).backward()
    for name, parameter in encoder.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_events_do_not_influence_each_other(make_encoder, events):
    encoder = make_encoder()
    with torch.no_grad():
        order = torch.tensor([2, 0, 3, 1])
        torch.testing.assert_close(encoder(events[order]), encoder(events)[order], rtol=0, atol=1e-5)


def test_split_mode_has_a_token_for_the_centre(make_encoder, events):
    encoder = make_encoder(outer_mode="split")
    assert encoder.tokens == (*FACES, "center")
    assert encoder(events).shape == (4, 7, 128)


def test_geometric_positions_tell_the_faces_apart(make_encoder, events):
    encoder = make_encoder(position="geometric", outer_mode="split")
    positions = encoder.position[0]
    distance = torch.cdist(positions, positions) + 100 * torch.eye(7)
    assert distance.min() > 0.5
    assert "position" not in encoder.state_dict()
    assert torch.isfinite(encoder(events)).all()


def test_recomputing_changes_no_gradient(make_encoder, events):
    gradients = []
    for recompute in (True, False):
        encoder = make_encoder(recompute=recompute)
        some_scalar(encoder(events)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
    torch.testing.assert_close(
        gradients[0], gradients[1], rtol=1e-3, atol=1e-4 * float(gradients[1].abs().max())
    )


@pytest.mark.parametrize("masked", [False, True])
def test_bfloat16_autocast(make_encoder, events, masked):
    encoder = make_encoder().train()
    mask = torch.zeros(4, NUM_SENSORS, dtype=torch.bool) if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder(events, mask)
        some_scalar(tokens).backward()
    assert torch.isfinite(tokens).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outer_mode": "coarse"}, "outer_mode is 'coarse'; use one of finegrid, split"),
        ({"position": "rope"}, "position is 'rope'; use one of learned, geometric, sinusoidal"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        XecEncoder(dim=64, area_scaling="legacy", **options)


def test_no_events(make_encoder):
    assert make_encoder()(torch.zeros(0, NUM_SENSORS, 2)).shape == (0, 6, 128)


def test_wrong_shape_is_refused(make_encoder):
    with pytest.raises(ValueError, match=r"events of shape \(4760, 2\), not \(4092, 2\)"):
        make_encoder()(torch.zeros(1, 4092, 2))
