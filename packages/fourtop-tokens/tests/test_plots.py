import numpy as np
import pytest
from matplotlib.figure import Figure

from fourtop_tokens import plots

RNG = np.random.default_rng(0)
LABELS = RNG.integers(1, 6, 400).astype(np.int8)
SCORES = RNG.random((3, 400))


def figures():
    records = [
        {"step": s, "train_loss": 1 / s, "val_loss": 1 / s, "lr": 0.1, "val_auroc": 0.5} for s in (1, 2, 3)
    ]
    shares = {"ours": np.full(5, 0.2), "theirs": np.full(5, 0.2), "total_variation": 0.0}
    yield "curves", plots.training_curves(records)
    yield "curves of nothing", plots.training_curves([{"step": 1, "val_loss": None}])
    yield "roc", plots.roc_by_background(LABELS, SCORES[0])
    yield "scores", plots.score_histogram(LABELS, SCORES[0])
    yield "codes", plots.codebook_use(np.array([5.0, 0, 2]))
    yield "tokens", plots.token_comparison(dict.fromkeys(("id", "pt", "eta", "phi", "met"), shares))
    yield "bars", plots.auroc_bars({"a": (0.8, 0.7, 0.9), "b": (0.6, None, None)}, "title")
    yield "many", plots.roc_overlay({f"c{i}": (LABELS == 1, SCORES) for i in range(10)}, "title")
    yield "validation", plots.validation_curves({"a": [np.array([0.5, 0.6]), np.array([0.5])]}, "pooling")
    yield "map", plots.heatmap(np.array([[0.5, np.nan]]), ["a"], ["x", "y"], "title")
    yield (
        "metrics",
        plots.metrics_comparison({"a": {"AUROC": 0.5, "f1": 0.1}, "b": {"AUROC": 0.6, "f1": 0.2}}),
    )


DRAWN = dict(figures())


@pytest.mark.parametrize("name", DRAWN)
def test_axes_are_named(name):
    figure = DRAWN[name]
    assert isinstance(figure, Figure)
    for ax in figure.axes:
        assert ax.get_xlabel() or ax.get_ylabel() or ax.get_title()


def test_numbers_without_a_run_say_so():
    texts = [text.get_text() for text in DRAWN["map"].axes[0].texts]
    assert texts == ["0.5000", "no run"]


def test_roc_of_the_figure_is_the_roc():
    line = DRAWN["roc"].axes[0].lines[0]
    assert "all backgrounds: 0." in line.get_label()
    assert (np.diff(line.get_xdata()) >= 0).all()


def test_files_are_the_same_for_the_same_numbers(tmp_path):
    first = plots.save(plots.codebook_use(np.array([5.0, 0, 2])), tmp_path / "a")
    second = plots.save(plots.codebook_use(np.array([5.0, 0, 2])), tmp_path / "b")
    assert [path.suffix for path in first] == [".png", ".pdf"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
