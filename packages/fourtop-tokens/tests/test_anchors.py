import json

import h5py
import pytest

from fourtop_tokens.anchors import ANCHORS, anchors
from hep_shared.errors import InputFileError, UserError


def test_published_numbers():
    assert {name: (a.auroc, a.seed_sd) for name, a in ANCHORS.items()} == {
        "identity": (0.8431, 0.0007), "binned_legacy": (0.7246, 0.0019), "pairwise": (0.8504, 0.0005)
    }  # fmt: skip


def test_without_the_file_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"need the public four-top file 4tops_splitted\.h5"):
        anchors(tmp_path / "4tops_splitted.h5", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_simulated_file_is_refused(sample, tmp_path):
    with pytest.raises(
        InputFileError, match=r"was simulated by fourtop_tokens .* published numbers do not apply"
    ):
        anchors(sample[0], tmp_path / "out")


def test_a_file_without_provenance_is_trained_on_and_compared(sample, tmp_path):
    path = tmp_path / "4tops_splitted.h5"
    with h5py.File(sample[0]) as source, h5py.File(path, "w") as target:
        for key in source:
            source.copy(key, target)
    tiny = ["model.dim=8", "model.depth=1", "model.num_heads=2", "model.mlp_dim=8", "train.epochs=1"]
    tiny += ["data.batch_size=32", "train.figures=false"]
    found = anchors(path, tmp_path / "out", seeds=2, overrides=tiny, device="cpu")
    assert set(found) == set(ANCHORS)
    for row in found.values():
        assert row["ours_low"] < row["ours"] < row["ours_high"]
        assert row["difference"] == pytest.approx(row["ours"] - row["published"])
    runs = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"identity_seed42", "binned_legacy_seed43", "pairwise_seed42", "anchors.json"} <= runs
    config = json.loads((tmp_path / "out" / "binned_legacy_seed42" / "config.json").read_text())["config"]
    assert config["model"]["tokens"]["binning"]["edge_mode"] == "legacy"
    assert config["data"]["scaling"] == "legacy"
    again = anchors(path, tmp_path / "out", seeds=2, overrides=tiny, device="cpu")
    assert again == found
