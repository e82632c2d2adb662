"""Each literal choice of the 2026 report: sizes of its networks, inputs, losses, numbers of its preset."""

import math

import pytest
import torch

from hep_shared.config import load_config
from jet_foundation.config import PRESETS, Config
from jet_foundation.losses import ConservationWeights, conservation_loss
from jet_foundation.metrics import legacy as metrics
from jet_foundation.models import legacy, legacy_heads
from jet_foundation.models.encoder import num_parameters
from jet_foundation.physics import fourvectors as fv


@pytest.fixture(scope="module")
def encoder() -> legacy.LegacyEncoder:
    torch.manual_seed(0)
    return legacy.LegacyEncoder()


def small(**options):
    torch.manual_seed(1)
    return legacy.LegacyEncoder(
        dim=16, num_layers=1, num_heads=2, pair_dims=(8,), dropout=0.0, **options
    ).eval()


def preset(name="legacy", *overrides):
    return load_config(Config, presets=PRESETS, preset=name, overrides=overrides)


def head_size(module, encoder):
    return num_parameters(module) - num_parameters(encoder)


def test_parameters_of_every_part(encoder):
    sizes = {
        "encoder": num_parameters(encoder),
        "classification": head_size(legacy_heads.LegacyClassifier(encoder, 10), encoder),
        "regression": head_size(legacy_heads.LegacyRegressor(encoder), encoder),
        "pretrain": head_size(legacy_heads.LegacyMaskedModel(encoder), encoder),
        "generation": num_parameters(legacy_heads.LegacyCvae(128)),
        "super_resolution": head_size(legacy_heads.LegacySuperResolution(encoder, 128), encoder),
    }
    assert sizes == {
        "encoder": 1_599_854, "classification": 135_178, "regression": 99_329, "pretrain": 104_452,
        "generation": 150_852, "super_resolution": 116_740,
    }  # fmt: skip
    assert sum(sizes.values()) == 2_206_405


def test_inputs_are_z_scores_in_the_first_four_components(jetful):
    p4, _, mask = jetful
    numbers = small().coordinates.encode(p4, mask, mask)
    jet = (p4 * mask[..., None]).sum(1, keepdim=True)
    expected = [
        (torch.log1p(fv.pt(p4)) - 2.119) / 1.055,
        (fv.eta(p4) - fv.eta(jet)) / 0.214,
        fv.wrap_phi(fv.phi(p4) - fv.phi(jet)),
        (torch.log1p(p4[..., 0]) - 2.411) / 1.105,
    ]
    torch.testing.assert_close(numbers[mask], torch.stack(expected, -1)[mask], rtol=1e-4, atol=1e-5)
    assert not numbers[~mask].any()
    # The multivector's other components are zero: the equivariant layer sees a scalar and three of a vector.
    seen = []
    model = small()
    model.in_linear.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model(p4, None, mask)
    assert seen[0].shape[-2:] == (1, 16)
    assert not seen[0][..., 4:].any()


def test_the_constants_are_those_of_the_metrics():
    for name in ("PT_MEAN", "PT_STD", "ETA_STD", "ENERGY_MEAN", "ENERGY_STD", "REAL_ABOVE"):
        assert getattr(legacy, name) == getattr(metrics, name)


def test_coordinates_are_undone(jetful):
    p4, _, mask = jetful
    coordinates, axis = small().coordinates, (p4 * mask[..., None]).sum(1)
    again = coordinates.decode(coordinates.encode(p4, mask, mask), axis)
    torch.testing.assert_close(again[mask], p4[mask], rtol=1e-3, atol=1e-3)


def test_pair_features_of_normalised_numbers():
    numbers = torch.tensor([[[1.0, 0.5, 3.0, 0.0], [-2.0, -0.5, -3.0, 0.0]]])
    deta, dphi, delta_r, log = legacy.legacy_pair_features(numbers)[0, 0, 1]
    assert deta == 1.0
    assert dphi == pytest.approx(6.0 - 2 * math.pi, abs=1e-6)
    assert delta_r == pytest.approx(math.hypot(1.0, 6.0 - 2 * math.pi), abs=1e-6)
    assert log == pytest.approx(math.log(2.0 + 1e-8))


def test_the_pair_network_and_the_blocks(encoder):
    widths = [(layer.in_features, layer.out_features) for layer in encoder.pair_network[::2]]
    assert widths == [(4, 64), (64, 64), (64, 64), (64, 8)]
    assert all(isinstance(layer, torch.nn.ReLU) for layer in encoder.pair_network[1::2])
    assert len(encoder.blocks) == 8
    block = encoder.blocks[0]
    assert block.attention.num_heads == 8
    assert block.ffn[0].out_features == 4 * 128
    assert block.ffn[2].p == block.attention.dropout == 0.1
    assert isinstance(encoder.norm, torch.nn.LayerNorm)


def test_padding_changes_nothing(jetful):
    p4, _, mask = jetful
    model = small()
    x, mv = model(p4, None, mask)
    again, _ = model(torch.where(mask[..., None], p4, 9.0), None, mask)
    assert x.shape == (*mask.shape, 16)
    assert mv.shape == (*mask.shape, 16)
    torch.testing.assert_close(again, x, rtol=0, atol=0)
    assert not x[~mask].any()


def test_hidden_particles_do_not_leak_and_are_told_apart(jetful):
    p4, _, mask = jetful
    model = small(hidden_tokens=True)
    hidden = mask & (torch.arange(mask.shape[1]) % 3 == 1)
    other = torch.where(hidden[..., None], p4.flip(0) + 3.0, p4)
    first, second = model(p4, None, mask, hidden), model(other, None, mask, hidden)
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)
    slots = first[0][3][hidden[3]]
    assert (slots[0] - slots[1]).abs().max() > 1e-4
    assert model.hidden_token.shape == (16,)
    with pytest.raises(ValueError, match="cannot hide particles"):
        small()(p4, None, mask, hidden)


def test_the_conservation_loss_term_by_term():
    generator = torch.Generator().manual_seed(2)
    predicted, true = torch.randn(2, 50, 4, generator=generator)
    weights = ConservationWeights(pt=0.25, eta=0.25, phi=0.25, energy=0.25, bias=0.1, mass=0.0)
    d = predicted - true
    expected = (
        0.25 * torch.sqrt((d[:, 0] ** 2).mean() + 1e-8)
        + 0.1 * d[:, 0].mean() ** 2
        + 0.25 * d[:, 1].abs().mean()
        + 0.25 * (1 - torch.cos(d[:, 2])).mean()
        + 0.25 * torch.sqrt((d[:, 3] ** 2).mean() + 1e-8)
        + 0.1 * d[:, 3].mean() ** 2
    )
    torch.testing.assert_close(conservation_loss(predicted, true, weights), expected)


def test_the_mass_is_mostly_the_energy(jetful):
    p4, _, mask = jetful
    mass = legacy.legacy_mass(p4, mask)
    for jet in range(len(p4)):
        own = p4[jet][mask[jet]].double()
        axis = own.sum(0)
        pt, deta = fv.pt(own), fv.eta(own) - fv.eta(axis)
        dphi = fv.wrap_phi(fv.phi(own) - fv.phi(axis))
        parts = [own[:, 0], pt * dphi.cos(), pt * dphi.sin(), pt * deta.sinh()]
        energy, *momentum = (part.sum() for part in parts)
        expected = torch.sqrt((energy**2 - sum(p**2 for p in momentum)).clamp_min(0))
        assert mass[jet] == pytest.approx(expected.item(), rel=1e-4)
    assert (mass - fv.mass((p4 * mask[..., None]).sum(1))).abs().max() > 10


def test_the_cvae_is_squared_error_and_divergence():
    torch.manual_seed(0)
    model = legacy_heads.LegacyCvae(16)
    x, mask, condition = torch.randn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool), torch.randn(3, 16)
    loss = model.loss(x, mask, condition, torch.Generator().manual_seed(5))
    context = condition[:, None].expand(-1, 5, -1)
    mean, log_variance = model.posterior(torch.cat([x, context], -1)).chunk(2, -1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(5))
    decoded = model.decoder(torch.cat([mean + (log_variance / 2).exp() * noise, context], -1))
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)
    torch.testing.assert_close(loss, (((decoded - x) ** 2).sum(-1) + divergence).mean())
    assert mean.shape[-1] == 32


def test_fine_tuning_trains_the_last_layers_and_what_follows(encoder):
    model = legacy.LegacyEncoder()
    model.freeze(4)
    trained = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert trained == {
        *(f"blocks.{n}" for n in range(4, 8)),
        *(f"{part}.{what}" for part in ("norm", "project_out", "out_linear") for what in ("weight", "bias")),
    }
    model.freeze(0)
    assert model.is_frozen
    assert not any(p.requires_grad for p in model.parameters())


def test_numbers_of_the_preset():
    config = preset()
    assert (config.model.kind, config.model.dim, config.model.num_layers, config.model.num_heads) == (
        "legacy", 128, 8, 8
    )  # fmt: skip
    assert (config.data.batch_size, config.data.feature_set) == (512, "kin")
    assert (config.optim.lr, config.optim.weight_decay, config.optim.max_grad_norm) == (3e-4, 0.01, 1.0)
    assert (config.train.epochs, config.train.precision, config.train.seed) == (15, "fp16", 42)
    assert (config.start.mode, config.start.last_k, config.start.lr_factor) == ("partial", 4, 0.1)
    assert config.task.label_smoothing == 0.1
    pretraining = preset("legacy-pretrain")
    task = pretraining.task
    assert (task.masking, task.mask_ratio) == ("biased", 0.3)
    assert {task.coef_pt, task.coef_eta, task.coef_phi, task.coef_energy} == {0.25}
    assert task.bias_gamma > 0
    assert pretraining.train.epochs == 10
    assert pretraining.optim.warmup_fraction * pretraining.train.epochs == 5
    generation = preset("legacy-generation")
    assert (generation.task.generator, generation.task.latent_dim, generation.task.beta) == ("cvae", 32, 1.0)
    assert (generation.task.condition, generation.start.mode) == ("jet", "frozen")
    resolution = preset("legacy-super-resolution").task
    assert (resolution.num_given, resolution.num_total) == (30, 128)
    assert preset("legacy-regression").task.target == "report"
