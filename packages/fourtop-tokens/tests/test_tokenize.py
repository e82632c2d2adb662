import json

import h5py
import numpy as np
import pytest

from fourtop_tokens.data.tokenizer import Binning, Vocabulary
from fourtop_tokens.data.tokens import read_binned
from fourtop_tokens.tokenize import compare, tokenize
from hep_shared.errors import InputFileError, UserError


def test_binned_file_has_the_public_layout(sample, tokens_file):
    splits, binning = read_binned(tokens_file, Vocabulary())
    assert binning == Binning.fit(sample[1]["train"])
    for split, (tokens, labels) in splits.items():
        np.testing.assert_array_equal(tokens, binning.transform(sample[1][split]))
        np.testing.assert_array_equal(labels, sample[1][split].labels)
    with h5py.File(tokens_file) as file:
        assert {name: int(file.attrs[name]) for name in ("n_bins", "vocab_size", "n_tokens")} == {
            "n_bins": 5, "vocab_size": 886, "n_tokens": 20
        }  # fmt: skip


def test_edges_come_from_the_train_split_alone(sample, tmp_path):
    from fourtop_tokens.data.writer import write_events

    other = dict(sample[1])
    features = other["test"].features * np.float32([3, 3, 1, 1])
    other["test"] = type(other["test"])(
        other["test"].ids, features, other["test"].missing, other["test"].labels
    )
    write_events(tmp_path / "other.h5", other, {})
    tokenize(tmp_path / "other.h5", tmp_path / "t.h5")
    assert read_binned(tmp_path / "t.h5", Vocabulary())[1] == Binning.fit(sample[1]["train"])


def test_comparison_with_itself_and_with_legacy_bins(sample, tokens_file, tmp_path):
    same = compare(tokens_file, tokens_file, tmp_path / "same")
    assert same["equal_tokens"] == 1.0
    assert set(same["total_variation"].values()) == {0.0}
    tokenize(sample[0], tmp_path / "legacy.h5", phi_mode="legacy", edge_mode="legacy", fit_on="background")
    found = compare(tokens_file, tmp_path / "legacy.h5", tmp_path / "out")
    assert 0.2 < found["equal_tokens"] < 0.9
    assert found["total_variation"]["phi"] == pytest.approx(0.4, abs=0.05)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "comparison.json", "comparison.png", "comparison.pdf"
    }  # fmt: skip
    record = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert record["events"]["matched_by"] == ["test", "train", "val"]


def test_mistakes(sample, tokens_file, tmp_path):
    with pytest.raises(UserError, match="is the input file; choose another name"):
        tokenize(sample[0], sample[0])
    with pytest.raises(InputFileError, match="has a vocabulary of 886 tokens instead of"):
        compare(tokens_file, tokens_file, tmp_path / "out", num_bins=4)
    assert not list(tmp_path.iterdir())
