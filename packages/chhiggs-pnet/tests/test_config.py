"""The configuration: presets load, masses are derived, contradictions are named."""

import pytest

from chhiggs_pnet.config import PRESETS, Config, MassScaling
from chhiggs_pnet.physics.mass_points import MassPoint
from hep_shared.config import list_presets, load_config, to_plain
from hep_shared.errors import ConfigError


def load(*sets, preset=None):
    return load_config(Config, presets=PRESETS, preset=preset, overrides=sets)


@pytest.mark.parametrize("preset", list_presets(PRESETS))
def test_presets_load_and_survive_the_run_directory(preset):
    config = load(preset=preset)
    assert Config.model_validate(to_plain(config)) == config


def test_presets_are_those_documented():
    assert set(list_presets(PRESETS)) == {"full", "legacy", "quickstart", "small"}


def test_masses_are_derived_from_the_training_points():
    scaling = MassScaling.of((MassPoint(100, 85), MassPoint(160, 95)))
    assert (scaling.mHc_mean_gev, scaling.mHc_std_gev) == (130, 30)
    assert (scaling.mA_mean_gev, scaling.mA_std_gev) == (90, 5)
    assert MassScaling.of((MassPoint(130, 90),)).mA_std_gev == 1


def test_points_are_read_in_every_form():
    config = load("data.train_points=['130,90', [160, 85], {mHc: 100, mA: 85}]")
    assert config.data.train_points == (MassPoint(130, 90), MassPoint(160, 85), MassPoint(100, 85))


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        (["data.batch_size=10", "train.accumulation_steps=3"], "does not divide"),
        (["average.method=mean"], r"pretrain\.epochs above 0"),
        (["pretrain.epochs=1", "train.curriculum=[{fraction: 0.4, tier: easy}]"], r"add up to 0\.4"),
        (["pretrain.epochs=1", "average.method=rebasin", "model.kind=mlp"], "knows particle_net only"),
        (["model.hidden_dims=[8, 8, 12]"], r"model\.hidden_dims holds 12"),
    ],
)
def test_contradictions(sets, match):
    with pytest.raises(ConfigError, match=match):
        load(*sets)
