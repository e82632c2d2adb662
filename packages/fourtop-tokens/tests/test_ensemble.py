"""A member of an ensemble equals its stand-alone run."""

import pytest
import torch

from fourtop_tokens import ensemble as module
from fourtop_tokens.ensemble import train_ensemble
from fourtop_tokens.train import train
from hep_shared.errors import ConfigError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, StopTraining

PLAIN = ("model.dropout=0", "data.augment=true", "model.pairwise=physics")


@pytest.fixture
def configs(tiny_config):
    """Function that gives the configurations of three members."""

    def build(*more):
        return [tiny_config(*PLAIN, f"train.seed={seed}", *more) for seed in (1, 2, 3)]

    return build


def together(configs, folder):
    runs = [folder / f"member{index}" for index in range(len(configs))]
    train_ensemble(configs, runs, group=folder / "group", device="cpu")
    return [RunDir.open(run) for run in runs]


@pytest.mark.parametrize("tokens", ["identity", "binned", "vq"])
def test_members_equal_their_stand_alone_runs(configs, vqvae_run, tmp_path, tokens):
    items = [f"model.tokens.kind={tokens}"]
    items += [f"model.tokens.run={vqvae_run.path}"] if tokens == "vq" else []
    chosen = configs(*items)
    for config, member in zip(chosen, together(chosen, tmp_path), strict=True):
        alone = tmp_path / f"alone{config.train.seed}"
        train(config, out=alone, resume=False, device="cpu", command="test")
        expected, found = RunDir.open(alone).load_checkpoint("last"), member.load_checkpoint("last")
        for part in ("model", "ema"):
            for name, tensor in expected[part].items():
                assert torch.allclose(found[part][name].float(), tensor.float(), rtol=0, atol=1e-5), name
        for a, b in zip(RunDir.open(alone).history(), member.history(), strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
            assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-5)
            assert a["lr"] == b["lr"]


def test_members_differ(configs, tmp_path):
    a, b, _ = (run.load_checkpoint("last")["model"] for run in together(configs(), tmp_path))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_resume_is_exact(configs, tmp_path, monkeypatch):
    whole = together(configs(), tmp_path / "whole")
    monkeypatch.setattr(module, "stop_flag", lambda: StopFlag(requested=True))
    with pytest.raises(StopTraining):
        together(configs(), tmp_path / "cut")
    monkeypatch.undo()
    for a, b in zip(together(configs(), tmp_path / "cut"), whole, strict=True):
        assert a.history() == b.history()
        first, second = (run.load_checkpoint("last")["ema"] for run in (a, b))
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_it_can_do(configs, tmp_path):
    with pytest.raises(ConfigError, match="--ensemble trains in fp32 with undivided batches"):
        together(configs("train.precision=bf16"), tmp_path)
