"""Events over a pre-trained jet encoder, from the command line."""

import json

import pytest
import torch

from hep_shared.errors import UserError
from hep_shared.run import RunDir
from hep_shared.testing import same_tensors
from jet_foundation.config import EventConfig
from jet_foundation.evaluate import anomaly, evaluate
from jet_foundation.physics.toy_events import EVENT_CLASSES
from jet_foundation.report import report
from jet_foundation.simulate import simulate_events
from jet_foundation.tasks import TASKS, common
from jet_foundation.train import train


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("events") / "set"
    simulate_events(folder, num_events=280, seed=1)
    return folder


@pytest.fixture(scope="module")
def start(tiny_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "run"
    train(
        tiny_config("task.kind=pretrain", "train.epochs=1"), out=out, resume=False, device="cpu", command="t"
    )
    return out


@pytest.fixture(scope="module")
def run(tiny_config, start, events, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    config = tiny_config(
        "task.kind=event", f"start.run={start}", "start.mode=frozen", f"data.path={events}",
        "train.epochs=8", "optim.lr=0.01", 'train.finish=["evaluate"]',
    )  # fmt: skip
    train(config, out=out, resume=False, device="cpu", command="test")
    return out


def test_a_run_learns_events_over_a_frozen_encoder(run, start):
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    assert evaluation["num_events"] == 28
    assert evaluation["classes"] == list(EVENT_CLASSES)
    assert evaluation["metrics"]["auc_ovr"] > 0.7
    before, after = (
        common.averaged_weights(RunDir.open(path).load_checkpoint("best")) for path in (start, run)
    )
    encoder = {name: value for name, value in after.items() if name.startswith(common.ENCODER)}
    assert len(encoder) > 10
    assert all(same_tensors(value, before[name]) for name, value in encoder.items())
    pictures = {path.stem for path in (run / "figures").glob("*.png")}
    assert {"training_curves", "test_confusion", "test_roc"} <= pictures


def test_the_report_counts_events(run, tmp_path):
    report([run], tmp_path / "report.html")
    assert "The test split: 28 events" in (tmp_path / "report.html").read_text()


def test_another_split_is_evaluated(run):
    assert evaluate(run, split="validation", device="cpu")["num_events"] == 28


def test_anomaly_needs_jets(run):
    with pytest.raises(UserError, match="was trained on events; give a run whose data set holds jets"):
        anomaly(run, device="cpu")


def test_jets_are_no_events(tiny_config, start, dataset, tmp_path):
    config = tiny_config("task.kind=event", f"start.run={start}", f"data.path={dataset}")
    with pytest.raises(UserError, match="holds jets, not events"):
        train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")


def test_events_are_simulated_where_none_are_given(tiny_config, tmp_path):
    config = tiny_config(
        "task.kind=event", "data.path=null", "data.simulated.num_events=84", "train.epochs=1",
        "model.kind=part", "task.read_particles=false",
    )  # fmt: skip
    train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")
    assert evaluate(tmp_path / "run", device="cpu")["num_events"] == 7


def test_overfits_one_batch(tiny_config, events):
    config = tiny_config("task.kind=event", f"data.path={events}", "model.dropout=0", "model.dim=16")
    assert isinstance(config.task, EventConfig)
    torch.manual_seed(0)
    module = TASKS["event"].build_model(config).train()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = TASKS["event"].compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
