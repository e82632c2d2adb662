import torch

from fourtop_tokens.models.vqvae import ObjectTokenizer, VqVae


def build():
    torch.manual_seed(0)
    return VqVae(num_features=4, hidden_dim=16, latent_dim=4, num_codes=8)


IDS = torch.tensor([[1, 2, 0], [7, 0, 0]])


def test_shapes():
    found = build()(torch.randn(2, 3, 4), IDS)
    assert found.latent.shape == found.codes.shape == (3, 4)
    assert found.features.shape == (3, 4)
    assert found.id_logits.shape == (3, 7)
    assert found.missing.shape == (2, 3)


def test_padding_is_neither_encoded_nor_learnt_from():
    features = torch.randn(2, 3, 4)
    changed = torch.where((IDS > 0)[..., None], features, 1e3)
    a, b = build(), build()
    first, second = a(features, IDS), b(changed, IDS)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
    assert torch.equal(a.codebook.codes, b.codebook.codes)


def test_the_codebook_follows_in_training_only():
    model = build()
    codes = model.codebook.codes.clone()
    model.eval()(torch.randn(2, 3, 4), IDS)
    assert torch.equal(model.codebook.codes, codes)
    model.train()(torch.randn(2, 3, 4), IDS)
    assert not torch.equal(model.codebook.codes, codes)


def test_gradients_pass_straight_through_to_the_encoder():
    model = build()
    model(torch.randn(2, 3, 4), IDS).features.square().sum().backward()
    assert model.encoder.network[0].weight.grad.abs().max() > 0


def test_events_without_objects():
    found = build()(torch.randn(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
    assert found.latent.shape == (0, 4)
    assert found.missing.isfinite().all()


def test_tokenizer_gives_the_same_codes_and_is_frozen():
    model = build().eval()
    tokenizer = ObjectTokenizer(num_features=4, hidden_dim=16, latent_dim=4, num_codes=8)
    tokenizer.encoder.load_state_dict(model.encoder.state_dict())
    tokenizer.codes.copy_(model.codebook.codes)
    features = torch.randn(2, 3, 4)
    found = model(features, IDS)
    assert torch.equal(tokenizer(features, IDS)[IDS > 0], found.indices)
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())
