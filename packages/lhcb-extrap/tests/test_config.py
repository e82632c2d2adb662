import pytest

from hep_shared.config import list_presets, load_config
from hep_shared.errors import ConfigError
from lhcb_extrap.config import PRESETS, Config


@pytest.mark.parametrize("preset", list_presets(PRESETS))
def test_presets_are_valid(preset):
    config = load_config(Config, presets=PRESETS, preset=preset)
    kind = preset.removeprefix("quickstart_").partition("_")[0].rstrip("0123456789")
    if kind not in ("quickstart", "study"):
        assert config.model.kind.replace("_", "") == kind


def test_defaults_are_those_of_the_study():
    config = Config()
    assert (config.data.batch_size, config.train.epochs, config.train.patience) == (2048, 100, 20)
    assert (config.optim.lr, config.optim.weight_decay, config.train.min_delta) == (1e-3, 1e-4, 1e-6)
    assert (config.data.train_fraction, config.data.validation_fraction) == (0.8, 0.1)
    assert config.simulation.momentum_gev == (0.5, 100.0)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("simulation.dz_mm=[-100, 100]", "the section simulation does not fit together: dz runs upwards"),
        ("simulation.momentum_gev=[5, 1]", "momenta run from a positive number upwards"),
        ("field.kind=ascii", r"field.kind is 'ascii' and field.path is None; give field.path"),
        ("field.scale=0", "a magnet that is off"),
        ("data.train_fraction=0.95", "leave no test tracks"),
        ("model.hidden=[]", "give at least one positive width"),
        ("train.accumulation_steps=3", r"which train.accumulation_steps = 3 does not divide"),
        ("train.epoch=3", "epochs"),
    ],
)
def test_mistakes_are_explained(setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(Config, presets=PRESETS, overrides=[setting])


def test_rk_pinn_needs_two_widths():
    with pytest.raises(ConfigError, match="rk_pinn needs two widths or more"):
        load_config(Config, presets=PRESETS, overrides=["model.kind=rk_pinn", "model.hidden=[64]"])
