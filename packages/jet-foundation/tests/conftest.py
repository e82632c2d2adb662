"""Jets for the tests: toy jets made on the spot, and the real samples where they are at hand."""

import os
from pathlib import Path

import numpy as np
import pytest

from hep_shared.config import load_config
from jet_foundation.config import PRESETS, Config
from jet_foundation.data.preprocess import preprocess
from jet_foundation.physics.jet_table import Jets, concatenate
from jet_foundation.physics.processes import CLASSES
from jet_foundation.physics.toy_shower import generate_toy
from jet_foundation.simulate import simulate

TINY = [
    *(
        "model.dim=8",
        "model.num_layers=1",
        "model.num_heads=2",
        "model.embed_dims=[8]",
        "model.pair_dims=[4]",
    ),
    *("model.mv_channels=2", "model.num_class_layers=1", "model.ffn_ratio=1", "data.batch_size=8"),
    *("train.epochs=2", "train.ema_decay=0.9", "train.finish=[]"),
]


@pytest.fixture(scope="session")
def toy_jets() -> Jets:
    """Twenty toy jets of each class."""
    rng = np.random.default_rng(7)
    return concatenate([generate_toy(name, 20, rng) for name in CLASSES])


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the real samples: JET_FOUNDATION_SAMPLES, or shared/data beside the repository."""
    named = os.environ.get("JET_FOUNDATION_SAMPLES")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in Path(__file__).parents]
    for place in places:
        if (place / "jetclass_300.npz").exists():
            return place
    pytest.skip("the real samples are absent; set JET_FOUNDATION_SAMPLES to their folder")


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """A directory with ten JetClass files of ten toy jets."""
    folder = tmp_path_factory.mktemp("sample")
    simulate(folder, engine="toy", num_jets=100, seed=3, num_workers=0)
    return folder


@pytest.fixture(scope="session")
def dataset(sample, tmp_path_factory) -> Path:
    """A data set of 60 training, 20 validation and 20 test jets."""
    folder = tmp_path_factory.mktemp("dataset") / "jets"
    preprocess([sample], folder, fractions=(0.6, 0.2, 0.2))
    return folder


@pytest.fixture(scope="session")
def settings(dataset):
    """Function that gives the `--set` items of a tiny training, with more of them on top."""

    def build(*more: str) -> list[str]:
        return [*TINY, f"data.path={dataset}", *more]

    return build


@pytest.fixture(scope="session")
def tiny_config(settings):
    """Function that gives the configuration of a tiny training."""

    def build(*more: str) -> Config:
        return load_config(Config, presets=PRESETS, overrides=settings(*more))

    return build
