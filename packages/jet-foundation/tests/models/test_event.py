import numpy as np
import pytest
import torch

from jet_foundation.data.events import NUM_NUMBERS, EventBatch, pad_events
from jet_foundation.data.normalization import Normalization
from jet_foundation.models.encoder import LorentzParTEncoder, ParTEncoder
from jet_foundation.models.event import EventClassifier
from jet_foundation.physics.toy_events import EVENT_CLASSES, generate_events, join, rotated

SMALL = {"dim": 16, "num_layers": 1, "num_heads": 2, "embed_dims": (16,), "pair_dims": (8,), "ffn_ratio": 1}


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(4)
    return join([generate_events(name, 2, rng) for name in EVENT_CLASSES])


@pytest.fixture(scope="module")
def batch(events) -> EventBatch:
    return pad_events(events, Normalization.part("kin"))


def build(kind=ParTEncoder, **options) -> EventClassifier:
    torch.manual_seed(3)
    return EventClassifier(
        kind(7, **SMALL), 7, num_numbers=NUM_NUMBERS, num_heads=2, num_layers=1, num_class_layers=1,
        pair_dims=(8,), **options,
    )  # fmt: skip


@torch.no_grad()
def logits(model, batch):
    return model.eval()(*batch[:6])


def test_shapes_and_gradients(batch):
    model = build(LorentzParTEncoder).train()
    for part in (model.encoder.gate, model.encoder.out_linear):
        part.requires_grad_(False)
    out = model(*batch[:6])
    assert out.shape == (14, 7)
    out.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_a_frozen_encoder_stays(batch):
    model = build().train()
    model.encoder.freeze(0)
    before = [parameter.clone() for parameter in model.encoder.state_dict().values()]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(*batch[:6]).square().sum().backward()
    optimizer.step()
    after = model.encoder.state_dict().values()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_turning_the_event_changes_nothing(events, batch):
    model = build()
    angle = 1.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    leptons = events.leptons.copy()
    leptons[:, 1:3] = leptons[:, 1:3] @ turn.T
    moved = type(events)(
        rotated(events.jets, np.full(len(events.jets), angle)), events.jet_offsets, leptons,
        events.lepton_offsets, (events.met @ turn.T).astype(np.float32), events.labels,
    )  # fmt: skip
    again = pad_events(moved, Normalization.part("kin"))
    torch.testing.assert_close(logits(model, again), logits(model, batch), rtol=1e-3, atol=1e-3)


def test_the_order_of_jets_changes_nothing(batch):
    model = build()
    two = batch.valid_mask.any(-1).all(-1)
    chosen = EventBatch(*(tensor[two] for tensor in batch))
    order = [1, 0, *range(2, chosen.objects.shape[1])]
    swapped = chosen._replace(
        **{name: getattr(chosen, name).flip(1) for name in ("p4", "features", "valid_mask")},
        **{name: getattr(chosen, name)[:, order] for name in ("object_p4", "objects", "object_mask")},
    )
    torch.testing.assert_close(logits(model, swapped), logits(model, chosen), rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing(events, batch):
    model = build()
    together = logits(model, batch)
    for number in (0, 5, 13):
        alone = pad_events(events.take(np.array([number])), Normalization.part("kin"))
        torch.testing.assert_close(logits(model, alone)[0], together[number], rtol=1e-4, atol=1e-4)


def test_without_particles_only_the_four_vectors_count(batch):
    model = build(read_particles=False)
    other = batch._replace(features=batch.features + 1.0)
    assert torch.equal(logits(model, other), logits(model, batch))
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    with_particles = build()
    assert not torch.equal(logits(with_particles, other), logits(with_particles, batch))
