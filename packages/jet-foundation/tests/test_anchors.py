"""The 100,000-jet recipe on small files of the JetClass layout."""

import json
import shutil

import pytest

from hep_shared.errors import UserError
from jet_foundation.anchors import GOALS, anchors, find_files
from jet_foundation.simulate import FILE_NAMES

TINY = [
    *("model.dim=8", "model.num_layers=1", "model.num_heads=2", "model.embed_dims=[8]", "model.ffn_ratio=1"),
    *("model.pair_dims=[4]", "model.mv_channels=2", "model.num_class_layers=1", "data.batch_size=8"),
    *("train.epochs=1", "train.precision=fp32"),
]


@pytest.fixture(scope="module")
def out(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anchors") / "out"
    anchors(sample, folder, overrides=TINY, jets_per_class=10, device="cpu")
    return folder


def test_one_command_does_it_all(out):
    result = json.loads((out / "anchors.json").read_text())
    assert result["goals"] == GOALS == {"accuracy": 0.64, "auc_ovo": 0.935}
    assert result["num_test_jets"] == 10
    assert result["reached"] == (result["accuracy"] >= 0.64 and result["auc_ovo"] >= 0.935)
    assert result["report_2026"] == {"accuracy": 0.4905, "auc_ovr": 0.8756}
    config = json.loads((out / "classification" / "config.json").read_text())
    settings = config.get("config", config)
    assert settings["start"]["run"] == str(out / "pretrain")
    assert json.loads((out / "data" / "dataset.json").read_text())["feature_set"] == "kin"


def test_a_second_call_uses_what_is_there(out, sample):
    before = (out / "classification" / "history.jsonl").read_text()
    first = json.loads((out / "anchors.json").read_text())
    again = anchors(sample, out, overrides=TINY, jets_per_class=10, device="cpu")
    assert (out / "classification" / "history.jsonl").read_text() == before
    assert again["accuracy"] == first["accuracy"]


def test_another_size_is_not_mixed_in(out, sample):
    with pytest.raises(UserError, match="holds 10 jets of each class, not 20; choose another --out"):
        anchors(sample, out, overrides=TINY, jets_per_class=20, device="cpu")


def test_missing_files_are_listed(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "some")
    for name in ("TTBar_000.root", "HToGG_000.root"):
        (tmp_path / "some" / name).unlink()
    with pytest.raises(UserError, match=r"lacks HToGG_\*\.root, TTBar_\*\.root; unpack one part of JetClass"):
        find_files(tmp_path / "some")
    with pytest.raises(UserError, match="is no folder"):
        find_files(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        find_files(tmp_path / "empty")
    assert all(f"{name}_*.root" in str(caught.value) for name in FILE_NAMES)


def test_torchrun_is_refused(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs in one process; start it without torchrun"):
        anchors(sample, tmp_path / "out", jets_per_class=10)


def test_files_in_subfolders_are_found(sample, tmp_path):
    shutil.copytree(sample, tmp_path / "JetClass" / "val_5M")
    assert [path.name.rsplit("_", 1)[0] for path in find_files(tmp_path / "JetClass")] == list(FILE_NAMES)


def test_too_few_jets_are_named(sample, tmp_path):
    with pytest.raises(UserError, match="Class QCD has 10 jets in these files but 10000 are needed"):
        anchors(sample, tmp_path / "out", overrides=TINY, device="cpu")
