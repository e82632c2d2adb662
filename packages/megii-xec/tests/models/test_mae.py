"""Decoders of the stated shapes, and nothing hidden that shows through."""

import pytest
import torch

from megii_xec.data.masking import valid_sensors
from megii_xec.data.normalization import Normalization
from megii_xec.models.mae import MaskedAutoencoder, face_places, sensors_of_places
from megii_xec.physics.geometry import NUM_SENSORS, outer_center_index_map

NORM = Normalization(scheme="new")
SHAPES = {
    "inner": (2, 93, 44), "us": (2, 24, 6), "ds": (2, 24, 6), "outer": (2, 15, 24), "top": (2, 73),
    "bottom": (2, 73),
}  # fmt: skip


def valid(x):
    return valid_sensors(x, NORM)


@pytest.fixture
def make_mae(make_encoder):
    def make(**options):
        torch.manual_seed(0)
        return MaskedAutoencoder(make_encoder(**options), decoder_channels=16, hex_dim=24).eval()

    return make


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({}, {}),
        ({"outer_pool": None}, {"outer": (2, 45, 72)}),
        ({"outer_mode": "split"}, {"outer": (2, 9, 24), "center": (2, 5, 6)}),
        ({"inner_tokens": (3, 2)}, {}),
    ],
)
def test_shapes(make_mae, events, options, changed):
    mask = torch.zeros(4, NUM_SENSORS, dtype=torch.bool)
    outputs = make_mae(**options)(events, mask)
    assert {name: tuple(face.shape[1:]) for name, face in outputs.items()} == SHAPES | changed


def test_published_decoder_widths(make_encoder):
    decoder = MaskedAutoencoder(make_encoder()).decoders["inner"]
    assert decoder.start.out_features == 256 * 4 * 4
    convolutions = [layer for layer in decoder.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(256, 128), (128, 64), (64, 2)]
    image = torch.zeros(1, 256, 4, 4)
    sizes = []
    for layer in decoder.layers:
        image = layer(image)
        sizes += [image.shape[-1]] if layer in convolutions else []
    assert sizes == [8, 16, 16]


@pytest.mark.parametrize("outer_mode", ["finegrid", "split"])
def test_hidden_sensors_do_not_show_through(make_mae, events, outer_mode):
    """The centre of the outer face included, which has a map of its own."""
    mae = make_mae(outer_mode=outer_mode)
    mask = torch.rand(4, NUM_SENSORS, generator=torch.Generator().manual_seed(5)) < 0.6
    mask[:, outer_center_index_map().ravel().copy()] = True
    other = torch.where(mask[..., None], torch.rand_like(events) * 3, events)
    with torch.no_grad():
        a, b = mae(events, mask), mae(other, mask)
    for name in a:
        assert torch.equal(a[name], b[name])


@pytest.mark.parametrize("options", [{}, {"outer_mode": "split"}, {"outer_pool": None}])
def test_scored_places_are_hidden_and_measured(make_mae, events, options):
    encoder = make_mae(**options).encoder
    none = torch.zeros(4, NUM_SENSORS, dtype=torch.bool)
    assert not any(hidden.any() for _, hidden in face_places(encoder, events, none, valid).values())
    everything = face_places(encoder, events, ~none, valid)
    for face, (values, hidden) in everything.items():
        assert hidden.shape == (4, values.shape[2])
        assert torch.equal(hidden, valid(values.transpose(1, 2))), face
    if not options:  # elsewhere the dense centre is counted by two faces, or single pixels are
        assert everything["inner"][1].sum() == valid(events)[:, :4092].sum()


def test_a_cell_with_a_visible_tube_is_not_scored(make_mae, events):
    encoder = make_mae().encoder
    mask = torch.ones(4, NUM_SENSORS, dtype=torch.bool)
    tube = 4092 + 9 * 3 + 4  # a coarse tube far from the centre
    mask[:, tube] = False
    live = events.clone()
    live[:, tube] = 0.5
    _, hidden = face_places(encoder, live, mask, valid)["outer"]
    _, all_hidden = face_places(encoder, live, torch.ones_like(mask), valid)["outer"]
    assert 0 < (all_hidden & ~hidden).sum() <= 4 * 6


def test_decoded_images_are_read_at_the_sensors(make_mae):
    """An image of the true event gives the event back."""
    encoder = make_mae(outer_pool=None).encoder
    npho = torch.rand(2, NUM_SENSORS) * 3000 + 100
    x = NORM.apply_torch(npho, torch.rand(2, NUM_SENSORS) * 1e-8)
    none = torch.zeros(2, NUM_SENSORS, dtype=torch.bool)
    shapes = encoder.face_shapes
    faces = {
        face: torch.unflatten(values, 2, shapes[face]) if face in shapes else values
        for face, (values, _) in face_places(encoder, x, none, valid).items()
    }
    assert torch.allclose(sensors_of_places(encoder, faces), x, atol=1e-4)
