"""One small simulated file for all tests that only read, and tiny networks for the tests of the verbs."""

import pytest


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Path and events of a file with 600 events."""
    from fourtop_tokens.simulate import simulate

    path = tmp_path_factory.mktemp("sample") / "events.h5"
    return path, simulate(path, 600, seed=5, progress=None)


TINY = [
    *("model.dim=16", "model.depth=1", "model.num_heads=2", "model.mlp_dim=16", "data.batch_size=32"),
    *("data.num_events=128", "train.epochs=2", "train.ema_decay=0.5", "train.finish=[]", "optim.lr=0.003"),
]
TINY_VQVAE = [
    *("model.hidden_dim=16", "model.latent_dim=4", "model.num_codes=16", "data.batch_size=32"),
    *("data.num_events=128", "train.epochs=2", "train.finish=[evaluate]", "train.figures=false"),
]


@pytest.fixture(scope="session")
def settings(sample):
    """Function that gives the `--set` items of a tiny training, with more of them on top."""

    def build(*more):
        return [*TINY, f"data.events={sample[0]}", *more]

    return build


@pytest.fixture(scope="session")
def tiny_config(settings):
    """Function that gives the configuration of a tiny training."""
    from fourtop_tokens.config import PRESETS, Config
    from hep_shared.config import load_config

    def build(*more):
        return load_config(Config, presets=PRESETS, overrides=settings(*more))

    return build


@pytest.fixture(scope="session")
def tiny_vqvae_config(sample):
    """Function that gives the configuration of a tiny VQ-VAE."""
    from fourtop_tokens.config import PRESETS, Config
    from hep_shared.config import load_config

    def build(*more):
        items = [*TINY_VQVAE, f"data.events={sample[0]}", *more]
        return load_config(Config, presets=PRESETS, preset="vqvae", overrides=items)

    return build


@pytest.fixture(scope="session")
def start():
    """Function that trains and opens the run directory."""
    from fourtop_tokens.train import train
    from hep_shared.run import RunDir

    def run(config, out, resume=False):
        train(config, out=out, resume=resume, device="cpu", command="test")
        return RunDir.open(out)

    return run


@pytest.fixture(scope="session")
def vqvae_run(tiny_vqvae_config, start, tmp_path_factory):
    """A trained and evaluated VQ-VAE."""
    return start(tiny_vqvae_config(), tmp_path_factory.mktemp("vqvae") / "run")


@pytest.fixture(scope="session")
def finished(tiny_config, start, tmp_path_factory):
    """A trained and evaluated classifier of identity tokens."""
    return start(tiny_config("train.finish=[evaluate]"), tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def tokens_file(sample, tmp_path_factory):
    """The sample as a binned file."""
    from fourtop_tokens.tokenize import tokenize

    path = tmp_path_factory.mktemp("tokens") / "tokens.h5"
    tokenize(sample[0], path)
    return path
