import numpy as np
import pytest

from fourtop_tokens import bench
from fourtop_tokens.data.tokenizer import Binning
from hep_shared.errors import ConfigError


def test_the_peer_of_tokenising_gives_the_same_tokens(sample):
    events = sample[1]["train"]
    binning = Binning.fit(events)
    np.testing.assert_array_equal(bench.digitize_tokens(binning, events), binning.transform(events))


def test_rows_compare_like_with_like(tiny_config, monkeypatch):
    monkeypatch.setattr(bench, "MIN_EVENTS", 300)
    rows = {
        row.what.split(";")[0]: row
        for row in bench.bench(tiny_config(), device="cpu", num_events=300, batch_size=8)
    }
    assert rows["tokenise, 5 bins"].max_abs_diff == 0
    assert rows["nearest of 512 codes"].max_abs_diff < 1e-5
    assert rows["codebook update"].max_abs_diff < 1e-3
    assert rows["training step, batch 8"].ratio > 0
    assert len(rows) == 5


def test_a_vqvae_is_not_measured(tiny_vqvae_config):
    with pytest.raises(ConfigError, match="bench measures the classifier normformer"):
        bench.bench(tiny_vqvae_config(), device="cpu")
