"""Fields, tracks and tiny trainings shared by the tests."""

from pathlib import Path

import numpy as np
import pytest

from hep_shared.config import load_config
from lhcb_extrap.config import PRESETS, Config, SimulationConfig
from lhcb_extrap.data.field_source import FieldConfig
from lhcb_extrap.physics.field_coils import CoilField
from lhcb_extrap.physics.field_map import FieldMap, Grid, sample_field
from lhcb_extrap.physics.sampling import TrackSampler
from lhcb_extrap.simulate import simulate
from lhcb_extrap.tasks import extrapolation
from lhcb_extrap.train import train


@pytest.fixture(scope="session")
def coils() -> CoilField:
    return CoilField()


@pytest.fixture(scope="session")
def field_map(coils) -> FieldMap:
    """Map of 100 mm around the tracks that cross from 3 to 7 m."""
    return sample_field(coils, Grid((-4000.0, -2500.0, 2800.0), (100.0, 100.0, 100.0), (81, 51, 45)))


@pytest.fixture(scope="session")
def tracks():
    """Thirty tracks above 3 GeV at 3 m; all of them cross."""
    return TrackSampler(momentum_gev=(3.0, 100.0)).draw(np.random.default_rng(5), 30)


TINY = (
    "data.batch_size=64", "model.hidden=[8, 8]", "train.epochs=2", "train.ema_decay=0.9", "train.finish=[]",
    "simulation.step_mm=250", "data.train_fraction=0.6", "data.validation_fraction=0.2",
)  # fmt: skip


@pytest.fixture(scope="session")
def track_file(tmp_path_factory) -> Path:
    """Six hundred tracks that crossed the embedded field, with their manifest."""
    path = tmp_path_factory.mktemp("tracks") / "tracks.npz"
    config = SimulationConfig(step_mm=250.0)
    simulate(config, FieldConfig(), path, num_tracks=600, seed=3)
    return path


@pytest.fixture(scope="session")
def settings(track_file):
    """Function that gives the `--set` items of a tiny training, with more of them on top."""

    def build(*more: str) -> list[str]:
        return [*TINY, f"data.files=[{track_file}]", *more]

    return build


@pytest.fixture(scope="session")
def tiny_config(settings):
    """Function that gives the configuration of a tiny training."""

    def build(*more: str) -> Config:
        return load_config(Config, presets=PRESETS, overrides=settings(*more))

    return build


@pytest.fixture(scope="session")
def trained(tiny_config, tmp_path_factory):
    """A directory with one finished tiny run of each family; treat it as read-only."""
    folder = tmp_path_factory.mktemp("runs")
    for kind in ("mlp", "pinn", "rk_pinn", "kick"):
        config = tiny_config(f"model.kind={kind}", "train.finish=[evaluate]")
        train(config, out=folder / kind, resume=False, device="cpu", command="test")
    return folder


@pytest.fixture(scope="session")
def normalization(tiny_config):
    """Normalisation of the training part of `track_file`."""
    config = tiny_config()
    return extrapolation.measure(config, extrapolation.read_split(config, "train"))
