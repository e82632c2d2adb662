import h5py
import numpy as np
import pytest

from fourtop_tokens.data import schema
from fourtop_tokens.data.tokenizer import Binning, Vocabulary
from fourtop_tokens.data.tokens import compare_tokens, read_binned, read_tokens
from fourtop_tokens.data.writer import write_tokens
from hep_shared.errors import InputFileError

VOCABULARY = Vocabulary()


@pytest.fixture
def binned(sample, tmp_path):
    events = sample[1]
    binning = Binning.fit(events["train"])
    tokens = {split: binning.transform(part) for split, part in events.items()}
    labels = {split: part.labels for split, part in events.items()}
    path = tmp_path / "binned.h5"
    write_tokens(
        path, tokens, labels, num_bins=5, vocab_size=886, binning=binning.to_json(), provenance={}
    )  # fmt: skip
    return path, tokens, binning


def foreign(path, **tables):
    """A file by somebody else: no manifest, no attributes."""
    with h5py.File(path, "w") as file:
        for key, table in tables.items():
            file[key] = table
    return path


def test_round_trip(binned, sample):
    path, tokens, binning = binned
    splits, stored = read_binned(path, VOCABULARY)
    assert stored == binning
    for split, (read, labels) in splits.items():
        np.testing.assert_array_equal(read, tokens[split])
        np.testing.assert_array_equal(labels, sample[1][split].labels)


def test_files_of_others_may_have_one_split_and_no_attributes(binned, tmp_path):
    _, tokens, _ = binned
    path = foreign(tmp_path / "other.h5", X=tokens["test"].astype(np.float64), extra=np.zeros(3))
    read = read_tokens(path, VOCABULARY)
    np.testing.assert_array_equal(read["X"], tokens["test"])
    with pytest.raises(InputFileError, match="branch 'X_train': is missing"):
        read_binned(path, VOCABULARY)


def test_another_vocabulary_is_refused(binned, tmp_path):
    path, tokens, _ = binned
    with pytest.raises(InputFileError, match="has a vocabulary of 886 tokens instead of 1525"):
        read_binned(path, Vocabulary(num_bins=6))
    too_large = tokens["test"].copy()
    too_large[4, 2] = 2000
    path = foreign(tmp_path / "other.h5", X_test=too_large)
    with pytest.raises(
        InputFileError, match="entry 4: 2000 is not a token of column 2 in a vocabulary of 886"
    ):
        read_tokens(path, VOCABULARY)


@pytest.mark.parametrize(
    ("column", "value"), [(0, -1), (0, 876), (18, 875), (19, 880), (3, 1.5), (3, np.nan)]
)
def test_tokens_out_of_place_are_refused(binned, tmp_path, column, value):
    table = binned[1]["test"].astype(float)
    table[0, column] = value
    with pytest.raises(InputFileError, match=f"is not a token of column {column}"):
        read_tokens(foreign(tmp_path / "other.h5", X_test=table), VOCABULARY)


def test_an_unbinned_file_is_refused(sample):
    with pytest.raises(InputFileError, match=r"holds no data set of 20 columns.*give a binned file"):
        read_tokens(sample[0], VOCABULARY)


def test_labels_must_fit(binned, tmp_path):
    tables = {schema.X_KEYS[split]: table for split, table in binned[1].items()}
    labels = {
        schema.Y_KEYS[split]: np.ones(len(table) + (split == "val")) for split, table in binned[1].items()
    }
    with pytest.raises(InputFileError, match="branch 'y_val': has 61 labels for 60 events"):
        read_binned(foreign(tmp_path / "other.h5", **tables, **labels), VOCABULARY)


def test_equal_files_agree_fully(binned):
    result = compare_tokens(binned[1], binned[1], VOCABULARY)
    assert result["vocabulary"]["overlap"] == 1
    assert result["events"]["tokens"] == result["events"]["any_order"] == 1
    assert set(result["events"]["fields"].values()) == {1.0}
    assert all(field["total_variation"] == 0 for field in result["distributions"].values())


def test_one_changed_field_shows_in_that_field_alone(binned, sample):
    _, tokens, binning = binned
    legacy = Binning.fit(sample[1]["train"], phi_mode="legacy")
    other = {"test": legacy.transform(sample[1]["test"])}
    result = compare_tokens(tokens, other, VOCABULARY)
    assert result["events"]["matched_by"] == ["test"]
    assert result["events"]["num_events"] == 60
    fields = result["events"]["fields"]
    assert fields["id"] == fields["pt"] == fields["eta"] == fields["met"] == 1
    assert 0.1 < fields["phi"] < 0.6
    assert result["distributions"]["phi"]["total_variation"] == pytest.approx(0.4, abs=0.08)
    assert result["events"]["padding"] == 1
    assert binning.pt_edges == legacy.pt_edges


def test_order_of_objects_shows_only_where_it_should(binned):
    _, tokens, _ = binned
    reversed_order = {split: np.concatenate([t[:, 17::-1], t[:, 18:]], axis=1) for split, t in tokens.items()}
    result = compare_tokens(tokens, reversed_order, VOCABULARY)["events"]
    assert result["any_order"] == 1
    assert result["objects"] < 0.2


def test_other_events_are_compared_by_distribution_only(binned):
    _, tokens, _ = binned
    result = compare_tokens(tokens, {"X": tokens["train"][:50]}, VOCABULARY)
    assert result["events"] is None
    assert 0 < result["distributions"]["pt"]["total_variation"] < 0.2
    assert result["num_events"] == {"ours": 600, "theirs": 50}


def test_a_single_split_with_all_events_is_matched(binned):
    _, tokens, _ = binned
    result = compare_tokens(tokens, {"X": np.concatenate(list(tokens.values()))}, VOCABULARY)
    assert result["events"]["matched_by"] == ["all"]
    assert result["events"]["tokens"] == 1
