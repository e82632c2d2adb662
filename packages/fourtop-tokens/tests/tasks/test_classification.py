import numpy as np
import pytest

from fourtop_tokens import metrics
from fourtop_tokens.tasks import classification
from hep_shared.errors import ConfigError


def scores(n=4000, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 6, n).astype(np.int8)
    logits = rng.normal(0, 1, (n, classes)).astype(np.float32)
    logits[labels == 1, 0] += 1.5
    exp = np.exp(logits)
    return labels, (exp / exp.sum(1, keepdims=True)).astype(np.float32)


def test_summary_is_that_of_the_metrics():
    labels, probabilities = scores()
    found = classification.summarize(labels, probabilities)
    assert found["auroc"] == pytest.approx(metrics.auroc(labels == 1, probabilities[:, 0]))
    assert found["auroc_low"] < found["auroc"] < found["auroc_high"]
    assert found["eff_at_50"] == metrics.signal_efficiency_at(labels == 1, probabilities[:, 0], 50)
    assert set(found["unstable"]) == {"eff_at_50", "eff_at_100", "eff_at_1000"}
    assert {f"auroc_vs_{name}" for name in ("ttH", "ttW", "ttWW", "ttZ")} <= set(found)


def test_five_classes_have_an_area_each():
    labels, probabilities = scores(classes=5)
    found = classification.summarize(labels, probabilities)
    assert set(found["class_aurocs"]) == {"tttt", "ttH", "ttW", "ttWW", "ttZ"}
    assert found["class_aurocs"]["tttt"] == pytest.approx(found["auroc"])


def test_unknown_split(finished, tiny_config):
    from fourtop_tokens.evaluate import evaluate

    with pytest.raises(ConfigError, match="--split is 'tset'; choose one of train, val, test"):
        evaluate(finished.path, split="tset", device="cpu")


def test_evaluation_writes_numbers_scores_and_pictures(finished, sample):
    import json

    found = json.loads((finished.path / "evaluation_test.json").read_text())
    assert found["split"] == "test"
    assert found["num_events"] == 60
    with np.load(finished.path / "scores_test.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["labels"], sample[1]["test"].labels)
        assert found["auroc"] == pytest.approx(
            metrics.auroc(arrays["labels"] == 1, arrays["probabilities"][:, 0])
        )
    figures = {path.name for path in (finished.path / "figures").iterdir()}
    assert {"training_curves.png", "test_roc.pdf", "test_scores.png"} <= figures


def test_checkpoint_holds_constants_and_stamp(finished):
    checkpoint = finished.load_checkpoint("best")
    assert checkpoint["config"]["data"]["statistics"]["scheme"] == "log"
    assert checkpoint["stamp"]["model.tokens.kind"] == "identity"
    assert checkpoint["stamp"]["data.statistics"].startswith("log-")
