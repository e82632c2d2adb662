"""Evaluation, report, comparison, Jacobian and study, on tiny runs."""

import json
import re

import numpy as np
import pytest
import torch

from hep_shared.errors import UserError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, stop_flag
from lhcb_extrap import run_all as run_all_module
from lhcb_extrap.compare import compare, print_table
from lhcb_extrap.data.history import arrange_history
from lhcb_extrap.evaluate import evaluate, evaluate_all, print_evaluations
from lhcb_extrap.jacobian import compare_elements, jacobian, network_jacobian
from lhcb_extrap.report import report
from lhcb_extrap.run_all import experiments, is_done, run_all, train_one
from lhcb_extrap.statistics import Entry, answers, panels


def test_evaluation_compares_with_the_baselines(trained):
    result = json.loads((trained / "kick" / "evaluation_test.json").read_text())
    assert result["network"]["num_tracks"] == 120
    straight, axis = result["straight line"]["pos_mean_mm"], result["field of the axis"]["pos_mean_mm"]
    assert straight > 5 * axis > 0
    assert 0 < result["rejected_fraction"] < 0.5
    assert set(result["by_momentum"]) == {"low_p", "mid_p", "high_p", "full_range"}
    names = {path.name for path in (trained / "kick" / "figures").iterdir()}
    assert {"training_curves.png", "test_residuals.png", "test_error_momentum.png"} <= names
    with pytest.raises(UserError, match="--split is 'all'; choose train, validation or test"):
        evaluate(trained / "kick", split="all")


def test_evaluate_all_makes_a_table(trained, tmp_path, capsys):
    result = evaluate_all(trained, split="validation", device="cpu", out=tmp_path / "table.json")
    assert {"kick", "mlp", "pinn", "rk_pinn"} <= result.keys()
    assert json.loads((tmp_path / "table.json").read_text())["runs"]["mlp"]["num_parameters"] == 164
    print_evaluations(result)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("rk_pinn", "164", "95 % mm"))
    with pytest.raises(UserError, match="holds no runs"):
        evaluate_all(tmp_path)


@pytest.fixture(scope="module")
def comparison(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison") / "table.json"
    return out, compare([trained], num_tracks=40, out=out)


def test_comparison_states_speed_and_error(comparison, capsys):
    out, result = comparison
    rows = {(row["method"], row["backend"].partition(",")[0]): row for row in result["rows"]}
    assert rows["Cash-Karp 0.01 mm", "numpy"]["pos_mean_mm"] < 0.2
    assert rows["RKN4 13 steps", "numpy"]["pos_mean_mm"] < 0.1
    if ("Cash-Karp 0.01 mm", "native") in rows:  # the same steps
        native = rows["Cash-Karp 0.01 mm", "native"]["pos_mean_mm"]
        assert native == pytest.approx(rows["Cash-Karp 0.01 mm", "numpy"]["pos_mean_mm"], rel=0.1)
    for kind in ("mlp", "pinn", "rk_pinn", "kick"):
        torch_row, onnx_row = rows[kind, "torch"], rows[kind, "onnxruntime"]
        assert onnx_row["pos_mean_mm"] == pytest.approx(torch_row["pos_mean_mm"], rel=1e-3)
        assert torch_row["tracks_per_s"] > 0
    assert json.loads(out.read_text())["num_tracks"] == 40
    print_table(result, as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(result["rows"])
    print_table(result, as_json=False)
    assert "x CK 0.01" in capsys.readouterr().out


def test_report_answers_five_questions_and_needs_nothing_else(trained, comparison, tmp_path):
    out = tmp_path / "report.html"
    report([trained], out, comparison=comparison[0])
    page = out.read_text()
    assert page.count("<h3>") == 5
    assert "In " in page
    assert "physics losses end below" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count("data:image/png") >= 6 + 4 * 4


def test_report_says_what_it_cannot_answer(trained, tmp_path):
    report([trained / "kick"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Give an MLP and a PINN or RK_PINN of the same widths" in page
    assert "Give runs of one kind in several sizes" in page


def entry(name, kind, error, *, weights=100, hidden=(8, 8), curve=(9.0, 5.0, 0.0), pde=(3.0, 1.0), **more):
    config = {"task": {"lambda_data": 1.0, "lambda_pde": 1.0, "lambda_ic": 1.0, **more}}
    evaluation = {
        "model": kind, "hidden": list(hidden), "num_parameters": weights, "momentum_gev": [0.8, 99.9],
        "network": {"pos_mean_mm": error},
    }  # fmt: skip
    train = [{"data_loss": 1.0, "pde_loss": p, "ic_loss": None} for p in pde]
    val = [{"pos_mean_mm": c, "loss": 1.3} for c in curve]
    history = {"train": train, "val": val, "best_epoch": 2, "polish": []}
    return Entry(name, evaluation, history, config)


def narrow(run, low, high):
    run.evaluation["momentum_gev"] = [low, high]
    return run


def test_answers_follow_the_numbers():
    runs = [
        entry("a", "mlp", 2.0, curve=[10.0, 0.5, 0.0]),
        entry("b", "mlp", 1.0, weights=200, hidden=[16, 16], curve=[10.0, 5.0, None]),
        entry("c", "pinn", 0.5, pde=[1.0, 0.5, 2.0]),
    ]
    help_, fast, converge, size, overfit = (answer for _, answer, _ in answers(runs))
    assert help_.startswith("In 1 of 1 pairs")
    assert "ratio of the errors is 0.25" in help_
    assert "takes 2 to 3 epochs" in fast
    assert converge == "0 of 1 physics losses end below their first epoch."
    assert "Give runs of one kind" in size  # b has an epoch without a number
    assert overfit.startswith("Yes, in a, b, c")
    runs[1] = entry("b", "mlp", 1.0, weights=200, hidden=[16, 16])
    assert "MLP: 100 weights need 2 epochs and reach 2 mm, 200 need 3 and reach 1 mm." in answers(runs)[3][1]


def test_only_like_runs_are_compared():
    """The same widths on slow tracks are no peer, and a study that holds a training twice counts it once."""
    plain, pinn = entry("mlp", "mlp", 2.0), entry("pinn", "pinn", 3.0)
    runs = [
        plain, narrow(entry("mlp_high", "mlp", 0.1), 20.0, 99.0), entry("mlp_again", "mlp", 2.0), pinn,
        entry("pinn_balanced", "pinn", 3.0), entry("pinn_data", "pinn", 4.0, lambda_pde=0.0),
    ]  # fmt: skip
    (_, answer, table), *_, (_, _, sizes), _ = answers(runs)
    assert [(row[0], row[3], row[5]) for row in table[1:]] == [
        ("pinn", "mlp", "1.50"), ("pinn", "pinn_data", "0.75")
    ]  # fmt: skip
    assert "In 0 of 1 pairs the network with physics is more accurate than the MLP" in answer
    assert "In 1 of 1 pairs the network with physics is more accurate than the same network" in answer
    assert [row[2] for row in sizes[1:]] == ["mlp", "pinn"]
    assert {run.study for run in runs} == {"high_p", "full_range"}


def test_many_runs_get_panels():
    widths = [(8, 8), (16, 16), (32, 32), (64, 64)]
    runs = [entry(f"{kind}{size[0]}", kind, 1.0, hidden=size) for kind in ("mlp", "pinn") for size in widths]
    assert list(panels(runs)) == ["all runs"]
    runs += [
        entry("weak", "pinn", 1.1, lambda_pde=0.01), narrow(entry("low", "mlp", 2.0), 0.8, 4.9),
        entry("lonely", "rk_pinn", 5.0, lambda_pde=0.5),
    ]  # fmt: skip
    assert {title: [run.name for run in rows] for title, rows in panels(runs).items()} == {
        "MLP": ["mlp8", "mlp16", "mlp32", "mlp64"],
        "PINN": ["pinn8", "pinn16", "pinn32", "pinn64"],
        "pinn8, weights of the losses": ["pinn8", "weak"],
        "mlp8, momentum ranges": ["mlp8", "low"],
        "others": ["lonely"],
    }


def test_runs_without_evaluation_are_refused(tiny_config, tmp_path):
    from lhcb_extrap.train import train

    train(tiny_config("train.epochs=1"), out=tmp_path / "bare", resume=False, device="cpu", command="test")
    with pytest.raises(UserError, match=r"was not evaluated; run `lhcb-extrap evaluate --run"):
        report([tmp_path / "bare"], tmp_path / "report.html")


def test_history_of_an_empty_run():
    assert arrange_history([])["best_epoch"] is None


@pytest.mark.parametrize("kind", ["mlp", "pinn", "rk_pinn", "kick"])
def test_jacobian_is_the_derivative(trained, normalization, kind):
    from lhcb_extrap.config import Config
    from lhcb_extrap.export import example_tracks
    from lhcb_extrap.tasks import extrapolation

    run = RunDir.open(trained / kind)
    network, _ = extrapolation.load_network(
        Config.model_validate(run.config), run.load_checkpoint("best"), run
    )
    network = network.double()
    tracks = example_tracks(normalization, 5).double()
    found = network_jacobian(network, tracks)
    assert found.shape == (5, 4, 5)
    for column, step in enumerate((1e-2, 1e-2, 1e-6, 1e-6, 1e-9)):
        shift = torch.zeros(7, dtype=torch.float64)
        shift[column] = step
        difference = (network(tracks + shift) - network(tracks - shift)) / (2 * step)
        torch.testing.assert_close(found[:, :, column], difference, rtol=1e-4, atol=1e-6)


def test_jacobian_of_the_kick_net_is_near_runge_kutta(trained):
    found = jacobian(trained / "kick", num_tracks=20)
    assert found["num_tracks"] == 20
    assert found["relative_error"]["dx/dx"] < 0.05
    assert found["relative_error"]["dx/dqop"] < 0.2
    same = np.random.default_rng(0).normal(size=(3, 4, 5))
    assert set(compare_elements(same, same).values()) == {0.0}


def test_the_study_has_its_experiments():
    names = [experiment.name for experiment in experiments()]
    assert len(names) == len(set(names)) == 12 + 5 + 4
    assert {"mlp_tiny", "rkpinn_wide", "pinn_medium_pde_dominant", "mlp_medium_low_p"} <= set(names)
    assert len(experiments(["kick"])) == 3
    with pytest.raises(UserError, match="--group is 'all'; choose base"):
        experiments(["all"])


def test_the_study_goes_on_where_it_was(tmp_path):
    overrides = [
        "data.simulated.num_tracks=300", "data.batch_size=64", "train.epochs=1", "simulation.step_mm=500",
        "model.hidden=[4, 4]", "train.polish=null", "train.finish=[evaluate]", "data.simulated.num_workers=1",
    ]  # fmt: skip
    options = {"groups": ["kick"], "overrides": overrides, "device": "cpu"}
    first = run_all(tmp_path, **options)
    assert first["trained"] == ["kick32", "kick48", "kick64"]
    (tmp_path / "kick48" / "history.json").unlink()
    assert not is_done(tmp_path, experiments(["kick"]), 1)
    assert run_all(tmp_path, **options)["trained"] == ["kick48"]
    with pytest.raises(UserError, match="holds a study with other settings"):
        run_all(tmp_path, groups=["kick"], device="cpu")
    manifest = json.loads((tmp_path / "experiments.json").read_text())
    assert manifest["experiments"]["kick32"]["study"] == "full_range"


def test_a_stop_reaches_the_trainings_of_other_processes(tiny_config, tmp_path, monkeypatch):
    chosen = experiments(["kick"])[:1]
    configs = [tiny_config("model.kind=kick", "train.finish=[evaluate]")]
    with run_all_module.announced_stop(tmp_path):
        assert not (tmp_path / "STOP").exists()
        monkeypatch.setattr(run_all_module, "stop_flag", lambda: StopFlag(True, "SIGTERM"))
    assert (tmp_path / "STOP").read_text().startswith("SIGTERM")
    monkeypatch.undo()  # what follows is another process, which got no signal
    train_one(tmp_path, chosen, configs, "cpu", "test", 0)
    assert (tmp_path / "kick32" / "CHECKPOINTED").exists()
    assert not stop_flag().requested
    assert not is_done(tmp_path, chosen, 0)
    with run_all_module.announced_stop(tmp_path):
        train_one(tmp_path, chosen, configs, "cpu", "test", 0)
    assert is_done(tmp_path, chosen, 0)
    assert not (tmp_path / "STOP").exists()
