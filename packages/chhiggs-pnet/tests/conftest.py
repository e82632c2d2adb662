"""A few simulated events of every class and a tiny network, shared by the tests of the verbs."""

from pathlib import Path

import pytest

from chhiggs_pnet.config import PRESETS, Config
from chhiggs_pnet.data.branch_map import load_branch_map
from chhiggs_pnet.physics.mass_points import MassTable
from chhiggs_pnet.prepare import prepare
from chhiggs_pnet.simulate import simulate
from hep_shared.config import load_config

TABLE = MassTable(
    train=[[100, 85], [130, 95], [160, 85]],
    validation=[[130, 90]],
    interpolation=[[130, 88]],
    extrapolation=[[165, 97]],
)
TINY = [
    *("model.hidden_dims=[8,8,8]", "model.num_heads=2", "model.head_dim=8", "model.head_dropout=0.1"),
    *("data.batch_size=32", "data.events_per_point=32", "data.validation_events=20"),
    *("optim.lr=1e-2", "train.epochs=2", "train.ema_decay=0.9", "train.finish=[]"),
]


@pytest.fixture(scope="session")
def samples(tmp_path_factory) -> Path:
    """A directory of ROOT files: 240 events of every process and point."""
    folder = tmp_path_factory.mktemp("samples")
    simulate(folder, points=TABLE.all_points, num_events=240, seed=1, channels=("Run1E2Mu",))
    return folder


@pytest.fixture(scope="session")
def store(samples, tmp_path_factory) -> Path:
    """The store of `samples`."""
    out = tmp_path_factory.mktemp("prepared") / "store"
    prepare(samples, out, branch_map=load_branch_map("flat"), table=TABLE)
    return out


@pytest.fixture(scope="session")
def settings(store):
    """Function that gives the `--set` items of a tiny training, with more of them on top."""

    def build(*more: str) -> list[str]:
        return [*TINY, f"data.store={store}", *more]

    return build


@pytest.fixture(scope="session")
def tiny_config(settings):
    """Function that gives the configuration of a tiny training."""

    def build(*more: str) -> Config:
        return load_config(Config, presets=PRESETS, overrides=settings(*more))

    return build
