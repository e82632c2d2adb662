"""Position encodings, and more than one token on the inner face."""

import numpy as np
import pytest
import torch
from torch import nn

from megii_xec.models.encoder import token_sensors
from megii_xec.models.position import EncoderLayer, RotaryEncoderLayer, sinusoidal_positions, token_centres
from megii_xec.physics.geometry import inner_index_map

KINDS = ("learned", "geometric", "sinusoidal", "rotary", "face_type")


@pytest.mark.parametrize("position", KINDS)
@pytest.mark.parametrize("inner_tokens", [(1, 1), (3, 2)])
def test_every_encoding_with_any_number_of_tokens(make_encoder, events, position, inner_tokens):
    encoder = make_encoder(position=position, inner_tokens=inner_tokens)
    num = inner_tokens[0] * inner_tokens[1]
    tokens = encoder(events[:2])
    assert tokens.shape == (2, num + 5, 128)
    assert encoder.tokens_of_face["inner"] == list(range(num))
    assert torch.isfinite(tokens).all()
    tokens.square().sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_an_inner_token_sees_its_own_part_first(make_encoder, events):
    encoder = make_encoder(inner_tokens=(3, 2), conv_depths=[1, 1])
    changed = events.clone()
    changed[:, inner_index_map()[:5, :5].ravel()] += 1.0
    difference = (encoder.face_tokens(changed) - encoder.face_tokens(events)).abs().amax((0, 2))
    assert encoder.tokens[int(difference.argmax())] == "inner_0"


def test_token_centres_lie_on_their_part_of_the_face():
    names = ("inner_0", "inner_1", "us", "ds", "outer", "top", "bottom")
    centres = token_centres(token_sensors(names, (2, 1)))
    assert centres.shape == (7, 3)
    assert centres[0, 1] > 0.2 > -0.2 > centres[1, 1]  # upper and lower half
    assert centres[2, 2] < 0 < centres[3, 2]


def test_sinusoidal_formula():
    encoding = sinusoidal_positions(4, 6)[0].numpy()
    assert encoding[3, 2] == pytest.approx(np.sin(3 / 10_000 ** (2 / 6)), abs=1e-6)
    assert encoding[3, 3] == pytest.approx(np.cos(3 / 10_000 ** (2 / 6)), abs=1e-6)


def test_rotary_attention_sees_differences_of_positions_only():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 16)
    centres = np.random.default_rng(0).normal(size=(4, 3))
    layers = [
        RotaryEncoderLayer(16, 2, 32, 0.0, where).eval() for where in (centres, centres + 0.7, centres * 2)
    ]
    for layer in layers[1:]:
        layer.load_state_dict(layers[0].state_dict())
    here, shifted, stretched = (layer(x) for layer in layers)
    assert torch.allclose(here, shifted, atol=1e-5)
    assert not torch.allclose(here, stretched, atol=1e-3)


def test_rotary_needs_heads_of_even_length():
    with pytest.raises(ValueError, match="heads of even length"):
        RotaryEncoderLayer(6, 2, 8, 0.0, np.zeros((1, 3)))


def test_encoder_layer_is_that_of_pytorch():
    torch.manual_seed(0)
    ours = EncoderLayer(16, 2, 32, 0.0)
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation="gelu", batch_first=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
    x, y = (torch.randn(3, 5, 16) for _ in range(2))
    torch.testing.assert_close(ours(x), theirs(x))
    for layer in (ours, theirs):
        (layer(x) * y).sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_encoder_layer_drops_in_training_only():
    layer, x = EncoderLayer(16, 2, 32, 0.5), torch.randn(3, 5, 16)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
