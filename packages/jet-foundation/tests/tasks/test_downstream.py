"""Pre-training and what is built on it, each trained for a moment on toy jets."""

import json

import numpy as np
import pytest
import torch

from hep_shared.errors import CheckpointError, ConfigError, UserError
from hep_shared.run import RunDir
from hep_shared.testing import same_tensors
from jet_foundation.evaluate import anomaly, evaluate
from jet_foundation.export import export
from jet_foundation.physics.processes import CLASSES
from jet_foundation.report import report
from jet_foundation.tasks import TASKS, common
from jet_foundation.train import train

DOWNSTREAM = ("classification", "regression", "generation", "super_resolution")
SETTINGS = {
    "pretrain": ["task.coef_mass=0.1"],
    "classification": [],
    "regression": [],
    "generation": ["task.num_layers=1", "task.num_steps=2"],
    "super_resolution": ["task.num_given=8", "task.num_total=40", "task.num_layers=1"],
}
FIGURES = {
    "pretrain": {"masked_particles"},
    "classification": {"confusion", "roc", "attention"},
    "regression": {"mass_response"},
    "generation": {"marginals", "jet_display"},
    "super_resolution": {"marginals", "jet_display"},
}


@pytest.fixture(scope="module")
def build(tiny_config):
    """Function that gives the configuration of a tiny training for a task."""

    def config(task, *more):
        return tiny_config(
            f"task.kind={task}", *SETTINGS[task], "train.epochs=1", "model.num_layers=2", *more
        )

    return config


@pytest.fixture(scope="module")
def runs(build, tmp_path_factory):
    """Runs by task: a pre-training, and a partial fine-tuning of it for each task."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for task in ("pretrain", *DOWNSTREAM):
        start = [] if task == "pretrain" else [f"start.run={found['pretrain']}", "start.mode=partial"]
        found[task] = folder / task
        finish = 'train.finish=["evaluate"]'
        config = build(task, finish, *start, *([] if task == "pretrain" else ["start.last_k=1"]))
        train(config, out=found[task], resume=False, device="cpu", command="test")
    return found


@pytest.mark.parametrize("task", ["pretrain", *DOWNSTREAM])
def test_a_run_has_metrics_and_pictures(runs, task) -> None:
    evaluation = json.loads((runs[task] / "evaluation_test.json").read_text())
    assert evaluation["task"] == task
    assert evaluation["num_jets"] == 20
    assert set(TASKS[task].HEADLINE) <= set(evaluation["metrics"])
    assert all(value is None or isinstance(value, dict) or np.isfinite(value)
               for value in evaluation["metrics"].values())  # fmt: skip
    pictures = {path.stem for path in (runs[task] / "figures").glob("*.png")}
    assert pictures >= {"training_curves", *(f"test_{name}" for name in FIGURES[task])}
    assert RunDir.open(runs[task]).history()[-1]["val_loss"] is not None


@pytest.mark.parametrize("task", DOWNSTREAM)
def test_partial_training_moves_the_last_layer_only(runs, task) -> None:
    before, after = (
        common.averaged_weights(RunDir.open(runs[name]).load_checkpoint("best"))
        for name in ("pretrain", task)
    )
    encoder = {name: value for name, value in after.items() if name.startswith(common.ENCODER)}
    moved = [
        name.removeprefix(common.ENCODER)
        for name, value in encoder.items()
        if not same_tensors(value, before[name])
    ]
    assert moved
    assert all(name.startswith(("blocks.1.", "norm.")) for name in moved)


@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_other_modes(build, runs, tmp_path, mode) -> None:
    config = build("regression", f"start.run={runs['pretrain']}", f"start.mode={mode}")
    train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")
    before, after = (
        common.averaged_weights(RunDir.open(path).load_checkpoint("last"))
        for path in (runs["pretrain"], tmp_path / "run")
    )
    same = [
        same_tensors(value, before[name]) for name, value in after.items() if name.startswith(common.ENCODER)
    ]
    assert all(same) == (mode == "frozen")


def test_a_run_outlives_the_one_it_started_from(build, runs, tmp_path) -> None:
    config = build("regression", f"start.run={runs['pretrain']}", "start.mode=frozen")
    gone = tmp_path / "gone"
    train(build("pretrain"), out=gone, resume=False, device="cpu", command="test")
    config = config.model_copy(update={"start": config.start.model_copy(update={"run": gone})})
    train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")
    gone.rename(tmp_path / "moved")
    assert evaluate(tmp_path / "run", device="cpu")["num_jets"] == 20


def test_anomaly_scores_every_other_class(runs) -> None:
    found = anomaly(runs["pretrain"], background="QCD", device="cpu")
    assert set(found["auc"]) == set(CLASSES) - {"QCD"}
    assert all(0 <= value <= 1 for value in found["auc"].values())
    assert (found["num_known"], found["num_jets"]) == (6, 20)
    assert (runs["pretrain"] / "figures" / "test_anomaly.png").exists()
    with pytest.raises(UserError, match="--background is 'qcd'; the classes are QCD"):
        anomaly(runs["pretrain"], background="qcd", device="cpu")


def test_only_classifiers_are_exported(runs, tmp_path) -> None:
    with pytest.raises(UserError, match="was trained for the task 'regression'"):
        export(runs["regression"], tmp_path / "m.onnx")


def test_a_report_of_all_tasks(runs, tmp_path) -> None:
    report(list(runs.values()), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for text in ("Task super resolution", "the given particles alone", "historical definitions", "R²"):
        assert text in page
    num = sum(len(list((run / "figures").glob("*.png"))) for run in runs.values())
    assert page.count("data:image/png;base64,") == num + 1  # and the chart of all runs


def test_the_attention_map_is_that_of_one_jet_alone(build) -> None:
    config = build("classification")
    encoder = TASKS["classification"].build_model(config).eval().network.encoder
    batch = next(common.build_stream(config, "test").batches())
    for jet in (0, 3):
        weights = common.attention_of(encoder, batch, jet)
        num = int(batch.valid_mask[jet].sum())
        assert weights.shape == (2, num, num)
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-5)


def test_another_network_is_refused(build, runs, tmp_path) -> None:
    config = build("regression", f"start.run={runs['pretrain']}", "model.dim=16")
    with pytest.raises(ConfigError, match="the section model differs from that of"):
        train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")


def test_another_encoder_is_refused(build, runs) -> None:
    other = build("regression", "model.dim=16")
    encoder = common.build_encoder(other, 17)
    with pytest.raises(CheckpointError, match="use the model settings and the feature set of that run"):
        common.load_encoder(encoder, common.start_checkpoint(runs["pretrain"]), runs["pretrain"])


@pytest.mark.parametrize("options", [("generator=cvae",), ("condition=class",)])
def test_other_generators(build, tmp_path, options) -> None:
    config = build("generation", *(f"task.{option}" for option in options), 'train.finish=["evaluate"]')
    result = train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")
    assert np.isfinite(result["w1_mass_gev"])


@pytest.mark.parametrize("task", ["pretrain", "regression", "generation", "super_resolution"])
def test_all_that_is_trained_gets_a_gradient(build, task) -> None:
    config = build(task)
    module = TASKS[task].build_model(config).train()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    TASKS[task].compute_loss(module, batch).backward()
    without = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("task", ["regression", "super_resolution"])
def test_overfits_one_batch(build, task) -> None:
    config = build(task, "model.dropout=0", "model.dim=16")
    torch.manual_seed(0)
    module = TASKS[task].build_model(config).train()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = TASKS[task].compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < (0.1 if task == "regression" else 0.5) * losses[0]


def test_completed_jets_keep_what_was_given(build) -> None:
    config = build("super_resolution")
    module = TASKS["super_resolution"].build_model(config).eval()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    with torch.no_grad():
        p4, exists = module.complete(batch.p4, batch.features, batch.valid_mask)
    given = module.given(batch.valid_mask)
    num = batch.p4.shape[1]
    assert p4.shape[1] == num + 40 - 8
    assert torch.equal(exists[:, :num], given)
    torch.testing.assert_close(p4[:, :num][given], batch.p4[given], rtol=0, atol=0)
    assert (given.sum(dim=1) == batch.valid_mask.sum(dim=1).clamp_max(8)).all()
