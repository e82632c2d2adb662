import numpy as np
import pytest
import torch

from fourtop_tokens.data.scaling import EventStatistics, log_momenta
from fourtop_tokens.data.tokenizer import Binning
from fourtop_tokens.models.embeddings import (
    BinnedEmbedding,
    DirectEmbedding,
    FeatureScaler,
    MissingTokens,
    TokenEmbedding,
    VqEmbedding,
    bin_membership,
)


@pytest.fixture
def train(sample):
    return sample[1]["train"]


@pytest.fixture
def inputs(train):
    return (
        torch.from_numpy(train.ids).long(),
        torch.from_numpy(train.features),
        torch.from_numpy(train.missing),
    )


def test_scaled_features_have_mean_zero_and_width_one(train, inputs):
    scaler = FeatureScaler(EventStatistics.fit(train, "log"), with_energy=True)
    scaled = scaler(inputs[1], inputs[0] > 0)
    objects = scaled[inputs[0] > 0]
    assert torch.allclose(objects.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(objects.std(0), torch.ones(4), atol=1e-3)
    assert scaled[inputs[0] == 0].eq(0).all()
    expected = (log_momenta(train.features) - scaler.mean.numpy()) / scaler.std.numpy()
    np.testing.assert_allclose(objects.numpy(), expected[train.valid_mask], atol=1e-5)


def test_four_features_without_energy(train, inputs):
    statistics = EventStatistics.fit(train, "log")
    five = FeatureScaler(statistics, with_energy=True)(inputs[1], inputs[0] > 0)
    four = FeatureScaler(statistics, with_energy=False)
    assert four.num_features == 3
    assert torch.equal(four(inputs[1], inputs[0] > 0), five[..., 1:])


@pytest.mark.parametrize("with_energy", [False, True])
@pytest.mark.parametrize("phi_mode", ["full", "folded", "legacy"])
@pytest.mark.parametrize("edge_mode", ["quantile", "legacy"])
def test_tokens_equal_those_of_the_binned_file(train, inputs, with_energy, phi_mode, edge_mode):
    binning = Binning.fit(train, with_energy=with_energy, phi_mode=phi_mode, edge_mode=edge_mode)
    found = BinnedEmbedding(8, binning, with_missing=True).tokenize(*inputs)
    np.testing.assert_array_equal(found.numpy(), binning.transform(train))


def test_binned_events_and_binned_files_are_embedded_alike(train, inputs):
    binning = Binning.fit(train)
    events = BinnedEmbedding(8, binning, with_missing=True)
    file = TokenEmbedding(8, binning.vocabulary, with_missing=True)
    file.load_state_dict(events.state_dict())
    a, b = events(*inputs), file(torch.from_numpy(binning.transform(train)))
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.valid_mask, b.valid_mask)


def test_membership_is_what_tokens_decode_to(train):
    binning = Binning.fit(train, with_energy=True)
    tokens = binning.transform(train)
    fields = binning.vocabulary.decode(tokens)
    columns = bin_membership(binning.vocabulary)[torch.from_numpy(tokens)].numpy()
    start = 0
    for name in binning.vocabulary.object_fields:
        size = 7 if name == "id" else 5
        expected = np.eye(size + 1)[fields[name]][..., 1:]
        np.testing.assert_array_equal(columns[:, :18, start : start + size], expected)
        start += size
    assert start == columns.shape[2]
    assert (columns[:, 18:] == 0).all()


def test_shared_rows_begin_as_sums_of_bins(train, inputs):
    torch.manual_seed(0)
    binning = Binning.fit(train)
    embedding = BinnedEmbedding(64, binning, with_missing=True, shared=True)
    tokens = torch.from_numpy(binning.transform(train))
    objects = tokens[:, :18][tokens[:, :18] > 0]
    rows = embedding(*inputs).tokens[:, :18][tokens[:, :18] > 0]
    assert rows.var().item() == pytest.approx(1, abs=0.3)
    parts = embedding.membership[objects] @ embedding.bins
    assert torch.equal(rows, parts)
    rows.square().sum().backward()
    assert embedding.bins.grad.isfinite().all()
    assert embedding.rows.weight.grad[0].eq(0).all()


def test_without_missing_momentum_it_has_no_influence(train, inputs):
    statistics = EventStatistics.fit(train, "log")
    for embedding in (
        DirectEmbedding(8, statistics, with_energy=True, with_missing=False, id_dim=4),
        BinnedEmbedding(8, Binning.fit(train), with_missing=False),
    ):
        other = (inputs[0], inputs[1], inputs[2] * 2)
        assert embedding(*inputs).tokens.shape[1] == 18
        assert torch.equal(embedding(*inputs).tokens, embedding(*other).tokens)


def test_raw_tokens_do_not_see_the_id(train, inputs):
    statistics = EventStatistics.fit(train, "log")
    raw = DirectEmbedding(8, statistics, with_energy=True, with_missing=False, id_dim=0)
    identity = DirectEmbedding(8, statistics, with_energy=True, with_missing=False, id_dim=4)
    other = torch.where(inputs[0] > 0, inputs[0] % 7 + 1, 0), *inputs[1:]
    assert torch.equal(raw(*inputs).tokens, raw(*other).tokens)
    assert not torch.equal(identity(*inputs).tokens, identity(*other).tokens)


def test_missing_momentum_is_periodic_in_its_azimuth(train):
    tokens = MissingTokens(EventStatistics.fit(train, "log"), 8)
    a, b = torch.tensor([[50.0, -np.pi]]), torch.tensor([[50.0, np.pi]])
    assert torch.allclose(tokens(a), tokens(b), atol=1e-5)
    legacy = MissingTokens(EventStatistics.fit(train, "legacy"), 8)
    assert not torch.allclose(legacy(a), legacy(b), atol=1e-2)
    assert legacy.shared.out_features == 12


@pytest.mark.parametrize("dim", [4, 16])
def test_rows_of_codes_start_at_the_codes(train, inputs, dim):
    statistics = EventStatistics.fit(train, "log")
    embedding = VqEmbedding(
        dim,
        statistics,
        statistics,
        with_energy=True,
        with_missing=True,
        hidden_dim=8,
        latent_dim=8,
        num_codes=32,
    )
    embedding.start()
    rows = embedding.rows.weight
    assert rows.requires_grad
    assert rows.std().item() == pytest.approx(1.0, abs=1e-3)
    if dim > 8:  # turned and scaled alike: ratios of distances are kept
        codes = embedding.tokenizer.codes
        ratio = torch.pdist(rows) / torch.pdist(codes)
        assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-4)
    assert embedding(*inputs).tokens.shape == (480, 20, dim)
