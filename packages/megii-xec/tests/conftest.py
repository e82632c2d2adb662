"""A few simulated photons and a tiny network, shared by the tests of the verbs."""

from pathlib import Path

import pytest

from hep_shared.config import load_config
from megii_xec.config import PRESETS, Config
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.simulate import simulate

TINY = [
    *("model.dim=32", "model.conv_channels=4", "model.conv_depths=[1,1]", "model.stem_stride=4"),
    *(
        "model.hex_dim=8",
        "model.hex_depth=1",
        "model.num_heads=2",
        "model.ffn_dim=32",
        "model.fusion_layers=1",
    ),
    *("model.head_dim=16", "data.batch_size=8", "data.chunk_events=16", "data.mixed_chunks=2"),
    *("data.num_threads=1", "train.epochs=2", "train.ema_decay=0.9", "train.finish=[]"),
]


@pytest.fixture(scope="session")
def photons(tmp_path_factory) -> Path:
    """A directory with `train.root` (64 events), `validation.root` (16) and `test.root` (24)."""
    folder = tmp_path_factory.mktemp("photons")
    for seed, (name, num_events) in enumerate({"train": 64, "validation": 16, "test": 24}.items()):
        simulate(SimulationConfig(), folder / f"{name}.root", num_events=num_events, seed=seed)
    return folder


@pytest.fixture(scope="session")
def settings(photons):
    """Function that gives the `--set` items of a tiny training, with more of them on top."""

    def build(*more: str) -> list[str]:
        files = [f"data.{split}=[{photons}/{split}.root]" for split in ("train", "validation", "test")]
        return [*TINY, *files, *more]

    return build


@pytest.fixture(scope="session")
def tiny_config(settings):
    """Function that gives the configuration of a tiny training."""

    def build(*more: str) -> Config:
        return load_config(Config, presets=PRESETS, overrides=settings(*more))

    return build
