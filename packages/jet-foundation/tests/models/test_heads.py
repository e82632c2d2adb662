"""What is hidden or missing does not show: not through features, pairs, the axis or the head."""

import pytest
import torch

from jet_foundation.data.normalization import Normalization
from jet_foundation.models.coordinates import Coordinates, axis_of
from jet_foundation.models.encoder import LorentzParTEncoder, ParTEncoder
from jet_foundation.models.heads import MaskedParticleModel, SetCompletion
from jet_foundation.physics import fourvectors as fv

SMALL = {"dim": 16, "num_layers": 2, "num_heads": 2, "embed_dims": (12,), "pair_dims": (8,)}
KINDS = {"ParT": ParTEncoder, "LorentzParT": LorentzParTEncoder}


def coordinates() -> Coordinates:
    return Coordinates(Normalization.part("kin"))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", list(KINDS))
def test_predictions_do_not_depend_on_what_is_hidden(jetful, kind, training) -> None:
    """Features of whole jets are relative to an axis with the hidden particles: they are not used."""
    p4, features, mask = jetful
    model = MaskedParticleModel(KINDS[kind](7, hidden_tokens=True, dropout=0.0, **SMALL), coordinates())
    model.train(training)
    hidden = mask & (torch.arange(mask.shape[1]) % 3 == 1)
    first = model(p4, features, mask, hidden)
    other_p4 = torch.where(hidden[..., None], 5 * p4.flip(0) + 3.0, p4)
    other_features = torch.randn_like(features)
    torch.testing.assert_close(model(other_p4, other_features, mask, hidden), first, rtol=0, atol=0)
    moved = p4.clone()
    moved[:, 0] *= 1.5  # a particle that is seen
    assert (model(moved, features, mask, hidden) - first)[hidden].abs().max() > 1e-4


def test_every_hidden_slot_predicts_a_particle_of_its_own(jetful) -> None:
    p4, features, mask = jetful
    model = MaskedParticleModel(LorentzParTEncoder(7, hidden_tokens=True, **SMALL), coordinates()).eval()
    hidden = mask & (torch.arange(mask.shape[1]) % 3 == 1)
    predicted = model(p4, features, mask, hidden)[3][hidden[3]]
    distances = torch.cdist(predicted, predicted) + torch.eye(len(predicted))
    assert distances.min() > 1e-5


def test_hidden_particles_can_be_learned_by_heart(jetful) -> None:
    p4, features, mask = jetful
    torch.manual_seed(0)
    frame = coordinates()
    encoder = LorentzParTEncoder(7, hidden_tokens=True, **{**SMALL, "dim": 32}, dropout=0.0)
    model = MaskedParticleModel(encoder, frame)
    hidden = mask & (torch.arange(mask.shape[1]) % 4 == 1)
    true = frame.encode(p4, mask, mask & ~hidden)[hidden]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        loss = (model(p4, features, mask, hidden)[hidden] - true).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_completion_sees_the_given_particles_only(jetful) -> None:
    p4, features, mask = jetful
    model = SetCompletion(ParTEncoder(7, **SMALL), coordinates(), 5, num_heads=2, num_layers=1).eval()
    given = mask & (mask.cumsum(dim=1) <= 4)
    other = torch.where(given[..., None], p4, 2 * p4 + 1)
    for a, b in zip(model(p4, features, given), model(other, torch.randn_like(features), given), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_coordinates_round_trip(jetful) -> None:
    p4, _, mask = jetful
    frame, seen = coordinates(), mask & (torch.arange(mask.shape[1]) % 2 == 0)
    back = frame.decode(frame.encode(p4, mask, seen), axis_of(p4, seen))
    momentum = p4[mask][:, 1:]
    torch.testing.assert_close(back[mask][:, 1:], momentum, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(back[mask][:, 0], momentum.norm(dim=1), rtol=1e-4, atol=1e-3)
    log_energy = frame.log_energy(frame.encode(p4, mask, seen)[..., 3])
    torch.testing.assert_close(log_energy[mask].exp(), p4[mask][:, 0], rtol=1e-5, atol=1e-5)
    eta = frame.eta(frame.encode(p4, mask, seen)[..., 1], axis_of(p4, seen))
    torch.testing.assert_close(eta[mask], fv.eta(p4[mask]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_layers", [0, 1])
def test_frozen_parts_stay(jetful, num_layers) -> None:
    encoder = LorentzParTEncoder(7, **SMALL)
    encoder.freeze(num_layers)
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tokens = encoder.tokens(*jetful)
    if num_layers:
        tokens.square().mean().backward()
    else:
        assert not tokens.requires_grad
    trained = {name.split(".")[0] for name, p in encoder.named_parameters() if p.grad is not None}
    assert trained == ({"blocks", "norm"} if num_layers else set())
    assert all(
        name.startswith(("blocks.1.", "norm.")) for name, p in encoder.named_parameters() if p.requires_grad
    )
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)  # running statistics too
