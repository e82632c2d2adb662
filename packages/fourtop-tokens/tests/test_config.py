import pytest

from fourtop_tokens.config import PRESETS, BinnedTokens, Config, VqTokens
from hep_shared.config import list_presets, load_config
from hep_shared.errors import ConfigError


def load(*items, preset=None):
    return load_config(Config, presets=PRESETS, preset=preset, overrides=items)


@pytest.mark.parametrize("preset", list_presets(PRESETS))
def test_presets_are_valid(preset):
    config = load(preset=preset)
    assert config.data.simulated is not None


def test_study_is_what_was_asked_for():
    config = load(preset="study")
    assert config.model.num_parameters == 400_000
    assert config.train.epochs == 50
    assert config.model.positions
    assert config.model.mlp_dim is None


def test_legacy_presets_have_the_defects():
    tokens = load(preset="binned_legacy").model.tokens
    assert isinstance(tokens, BinnedTokens)
    assert (tokens.phi_mode, tokens.edge_mode, tokens.fit_on) == ("legacy", "legacy", "background")
    assert tokens.rows == "joint"
    legacy = load(preset="legacy")
    assert legacy.data.scaling == "legacy"
    assert legacy.optim.min_lr_ratio == 1.0
    assert legacy.train.finish_checkpoint == "last"


def test_choosing_other_tokens_discards_the_options_of_the_former():
    tokens = load("model.tokens.kind=vq", "model.tokens.run=runs/vq", preset="binned").model.tokens
    assert isinstance(tokens, VqTokens)
    assert str(tokens.run) == "runs/vq"


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        (["model.dim=10"], "model.dim is 10, which 8 model.num_heads do not divide"),
        (["task.kind=vqvae"], "task.kind is vqvae but model.kind is normformer"),
        (["data.tokens=t.h5"], "data.tokens names a binned file, but the model takes identity"),
        (
            ["data.tokens=t.h5", "model.tokens.kind=binned", "data.augment=true"],
            "data.augment needs momenta, which the binned file data.tokens = t.h5 does not hold",
        ),
        (
            ["data.tokens=t.h5", "model.tokens.kind=binned", "model.pairwise=physics"],
            "model.pairwise needs momenta",
        ),
        (
            ["model.tokens.kind=binned", "model.tokens.with_energy=true", "model.vector=four"],
            "model.tokens.with_energy bins E, but model.vector is four",
        ),
        (["train.accumulation_steps=3"], "data.batch_size is 512, which train.accumulation_steps = 3"),
        (["model.poling=max"], "model.pooling"),
    ],
)
def test_rules(items, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(*items)
