import numpy as np
import pytest
import torch

from fourtop_tokens import bench
from fourtop_tokens.data.tokenizer import Binning, native_backend
from hep_shared.errors import ConfigError


def test_the_peer_of_tokenising_gives_the_same_tokens(sample):
    events = sample[1]["train"]
    binning = Binning.fit(events)
    tokens = bench.digitize_tokens(binning, events)
    for backend in ("native", "numpy"):
        np.testing.assert_array_equal(tokens, binning.transform(events, backend))


def test_rows_compare_like_with_like(tiny_config, monkeypatch):
    monkeypatch.setattr(bench, "MIN_EVENTS", 300)
    rows = {
        row.what.split(";")[0]: row
        for row in bench.bench(tiny_config(), device="cpu", num_events=300, batch_size=8)
    }
    found = [("native", "native")] if native_backend() == "native" else []
    for backend, name in [*found, ("numpy", "torch")]:
        assert rows[f"tokenise, 5 bins, {backend}"].max_abs_diff == 0
        assert rows[f"nearest of 512 codes, {name}"].max_abs_diff < 1e-5
    assert rows["codebook update"].max_abs_diff < 1e-3
    assert rows["training step, batch 8"].ratio > 0
    assert len(rows) == (7 if native_backend() == "native" else 5)


def test_the_row_of_the_ensemble_counts_all_members(tiny_config, sample, monkeypatch):
    monkeypatch.setattr(bench, "NUM_MEMBERS", 3)
    row = bench.ensemble_row(tiny_config(), sample[1]["train"], torch.device("cpu"), batch_size=8)
    assert row.what == "step of 3 members, batch 8; peer: one after another"
    assert row.goal == 8
    assert row.ratio > 0


def test_a_vqvae_is_not_measured(tiny_vqvae_config):
    with pytest.raises(ConfigError, match="bench measures the classifier normformer"):
        bench.bench(tiny_vqvae_config(), device="cpu")
