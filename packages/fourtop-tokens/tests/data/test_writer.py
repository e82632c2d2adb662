import json

import h5py
import numpy as np

from fourtop_tokens.data import schema
from fourtop_tokens.data.tokenizer import Binning
from fourtop_tokens.data.writer import write_tokens
from hep_shared.files import verify_manifest


def test_layout_of_the_public_format(sample):
    path, events = sample
    with h5py.File(path) as file:
        assert sorted(file) == ["X_test", "X_train", "X_val", "Y_train", "y_test", "y_val"]
        assert file["X_train"].shape == (480, 92)
        assert file["y_test"].shape == (60,)
        assert all(item.fletcher32 and item.compression == "gzip" for item in file.values())
        row = file["X_train"][0]
        provenance = json.loads(file.attrs["provenance"])
    first = events["train"][:1]
    np.testing.assert_array_equal(row[:18], first.ids[0])
    np.testing.assert_array_equal(row[18:20], first.missing[0])
    np.testing.assert_array_equal(row[20:24], first.features[0, 0])
    assert provenance["seed"] == 5
    assert any("cannot be compared" in line for line in provenance["is_not"])
    assert verify_manifest(path)["provenance"] == provenance


def test_layout_of_the_binned_format(sample, tmp_path):
    _, events = sample
    binning = Binning.fit(events["train"])
    path = tmp_path / "binned.h5"
    write_tokens(
        path,
        {split: binning.transform(part) for split, part in events.items()},
        {split: part.labels for split, part in events.items()},
        num_bins=5,
        vocab_size=886,
        binning=binning.to_json(),
        provenance={"input": "events.h5"},
    )
    with h5py.File(path) as file:
        assert file["X_val"].shape == (60, schema.NUM_TOKENS)
        assert file["X_val"].dtype == np.int64
        assert file["Y_train"].dtype == np.float32
        assert (file.attrs["n_bins"], file.attrs["vocab_size"], file.attrs["n_tokens"]) == (5, 886, 20)
        assert Binning.from_json(file.attrs["binning"]) == binning
