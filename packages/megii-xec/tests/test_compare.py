"""Tables of many runs: seeds become one row, ensembles and dropout get a calibration."""

import pytest

from megii_xec.compare import collect, evaluate_groups, has_dropout, markdown, mean_and_error, number, rows_of
from megii_xec.evaluate import evaluate
from megii_xec.train import train

REGRESSION = {
    "run": "a", "best_val_loss": 1.0,
    "network": {"val_resolution_deg": 3.0, "energy_resolution_percent": 2.0},
    "conventional": {"val_resolution_deg": 4.0},
}  # fmt: skip
INPAINTING = {
    "run": "a", "best_val_loss": 0.5,
    "random_1_percent": {"network": 20.0, "neighbor_mean": 30.0},
    "random_5_percent": {"network": 21.0, "neighbor_mean": 31.0},
}  # fmt: skip


def test_rows_of_both_kinds_of_results():
    assert rows_of(REGRESSION) == {
        "network": {"opening angle [deg]": 3.0, "energy [%]": 2.0},
        "conventional": {"opening angle [deg]": 4.0},
    }
    assert rows_of(INPAINTING)["neighbor_mean"] == {"random 1 percent": 30.0, "random 5 percent": 31.0}
    assert rows_of({"run": "a", "best_val_loss": 1.0}) == {}


def test_seeds_are_brought_together_and_baselines_stand_there_once():
    other = {**REGRESSION, "best_val_loss": 3.0, "network": {"val_resolution_deg": 5.0}}
    table = collect(["a", "b", "a"], [REGRESSION, REGRESSION, other])
    assert list(table) == ["a", "b", "conventional"]
    assert table["a"]["opening angle [deg]"] == [3.0, 5.0]
    assert table["a"]["validation loss"] == [1.0, 3.0]
    assert table["conventional"] == {"opening angle [deg]": [4.0]}


def test_the_error_is_that_of_the_mean():
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / 3**0.5))
    assert mean_and_error([1.0]) == (1.0, None)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([2.0], "2"),
        ([1.0, 2.0, 3.0], "2.00 ± 0.58"),
        ([100.0, 140.0], "120 ± 20"),
        ([2.0, 2.0], "2.000 ± 0.000"),
    ],
)
def test_digits_follow_the_error(values, text):
    assert number(values) == text


def test_a_table_in_markdown():
    lines = markdown({"a": {"x": [1.0], "y": [2.0]}, "b": {"y": [3.0]}}).splitlines()
    assert lines == ["|  | x | y |", "|---|---|---|", "| a | 1 | 2 |", "| b | – | 3 |"]


def test_seeds_make_an_ensemble_and_dropout_is_tried_where_there_is_any(tiny_config, tmp_path):
    runs = []
    for name, more in {
        "a": ["train.seed=1"],
        "b": ["train.seed=2"],
        "c": ["model.dropout=0", "model.head_dropout=0", "task.energy.loss=beta_nll"],
    }.items():
        runs.append(tmp_path / name)
        train(tiny_config("train.epochs=1", *more), out=runs[-1], resume=False, device="cpu", command="test")
    assert [has_dropout(run) for run in runs] == [True, True, False]
    evaluate(runs[-1], device="cpu", pictures=False)
    resolutions, calibrations = evaluate_groups(
        ["two", "two", "one"], runs, device="cpu", ensemble=True, mc_passes=3
    )
    assert list(resolutions) == ["two, ensemble of 2", "two, 3 passes with dropout"]
    assert len(resolutions["two, 3 passes with dropout"]["energy [%]"]) == 2
    assert list(calibrations) == [*resolutions, "one, its own σ"]
    assert list(calibrations["one, its own σ"]) == ["energy: within σ [%]", "energy: width of pulls"]
    for name in resolutions:
        for share in calibrations[name]["energy: within σ [%]"]:
            assert 0 <= share <= 100
        assert min(calibrations[name]["w: width of pulls"]) > 0
