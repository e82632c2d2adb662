"""The loop: it learns, and nothing that interrupts it changes the result."""

import json

import pytest
import torch

from hep_shared.errors import CheckpointError, ConfigError, TrainingError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, StopTraining
from hep_shared.testing import same_tensors
from lhcb_extrap import train as train_module
from lhcb_extrap.data.stream import TrackStream
from lhcb_extrap.tasks import extrapolation
from lhcb_extrap.train import Cursor, train

SYSTEM = "system/"  # timings, the only numbers that may differ between two equal runs
KICK = ("model.kind=kick", "train.polish.num_steps=2", "train.polish.num_tracks=200")


def start(config, out, resume=False):
    train(config, out=out, resume=resume, device="cpu", command="test")
    return RunDir.open(out)


def curve(run):
    return [{k: v for k, v in record.items() if not k.startswith(SYSTEM)} for record in run.history()]


def same_run(a, b):
    first, second = (run.load_checkpoint("last") for run in (a, b))
    kept = first.keys() - {"config", "clock"}
    return curve(a) == curve(b) and all(same_tensors(first[k], second[k]) for k in kept)


@pytest.fixture(scope="module")
def polished(tiny_config, tmp_path_factory):
    return start(tiny_config(*KICK), tmp_path_factory.mktemp("polished") / "run")


@pytest.mark.parametrize("stop_at", [2, 5, 8, 11])
def test_resume_is_exact_in_both_stages(tiny_config, polished, tmp_path, monkeypatch, stop_at):
    """Each of two epochs asks five times, then each polish step once."""
    calls = iter(range(10_000))
    monkeypatch.setattr(train_module, "stop_flag", lambda: StopFlag(requested=next(calls) + 1 == stop_at))
    with pytest.raises(StopTraining):
        start(tiny_config(*KICK), tmp_path / "run")
    assert (tmp_path / "run" / "CHECKPOINTED").exists()
    assert len(RunDir.open(tmp_path / "run").history()) < 4
    monkeypatch.undo()
    assert same_run(start(tiny_config(*KICK), tmp_path / "run", resume=True), polished)


@pytest.mark.parametrize("kind", ["pinn", "rk_pinn"])
def test_resume_is_exact_with_collocation_points(tiny_config, trained, tmp_path, monkeypatch, kind):
    config = tiny_config(f"model.kind={kind}", "train.finish=[evaluate]")
    calls = iter(range(10_000))
    monkeypatch.setattr(train_module, "stop_flag", lambda: StopFlag(requested=next(calls) == 2))
    with pytest.raises(StopTraining):
        start(config, tmp_path / "run")
    monkeypatch.undo()
    assert same_run(start(config, tmp_path / "run", resume=True), RunDir.open(trained / kind))


def test_history_has_the_format_of_the_study(polished, trained):
    history = json.loads((trained / "rk_pinn" / "history.json").read_text())
    assert [row["epoch"] for row in history["train"]] == [1, 2]
    assert {"loss", "data_loss", "physics_loss", "ic_loss", "pde_loss", "lr"} <= history["train"][0].keys()
    assert len(history["train"][0]["stage_losses"]) == 4
    wanted = {"loss", "pos_mean_mm", "pos_std_mm", "pos_95_mm", "slope_mean", "x_mean_mm", "tx_mean"}
    assert wanted <= history["val"][0].keys()
    assert history["test_final"]["pos_mean_mm"] > 0
    assert history["best_epoch"] in (1, 2)
    assert history["training_time"] > 0
    assert len(json.loads((polished.path / "history.json").read_text())["polish"]) == 2


def test_polish_improves(tiny_config, tmp_path, polished):
    """On the tracks that it sees, and a little on others: a few wild ones make up most of their loss."""
    assert [record["stage"] for record in polished.history()] == ["adamw"] * 2 + ["polish"] * 2
    more = ("train.polish.num_steps=12", "train.polish.num_tracks=360")
    records = start(tiny_config(*KICK, *more), tmp_path / "run").history()
    assert records[-1]["train_loss"] < 0.7 * records[1]["train_loss"]
    assert records[-1]["val_loss"] < 0.95 * records[1]["val_loss"]


def test_total_loss_is_the_weighted_sum(trained):
    record = RunDir.open(trained / "pinn").history()[-1]
    parts = record["train_data_loss"] + record["train_pde_loss"] + record["train_ic_loss"]
    assert record["train_loss"] == pytest.approx(parts, rel=1e-5)
    assert record["train_physics_loss"] == pytest.approx(record["train_pde_loss"] + record["train_ic_loss"])


@pytest.mark.parametrize("kind", ["mlp", "pinn", "rk_pinn", "kick"])
def test_overfits_one_batch(tiny_config, normalization, kind):
    config = tiny_config(
        f"model.kind={kind}", "model.hidden=[32, 32]", "task.lambda_pde=0", "task.lambda_ic=0"
    )
    torch.manual_seed(0)
    module = extrapolation.build_model(config, normalization)
    batch = next(TrackStream(extrapolation.read_split(config, "train"), batch_size=16).batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(700):
        optimizer.zero_grad()
        loss, _ = extrapolation.compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("kind", ["pinn", "rk_pinn"])
def test_physics_losses_can_be_lowered(tiny_config, normalization, kind):
    config = tiny_config(f"model.kind={kind}", "model.hidden=[16, 16]", "task.lambda_data=0")
    torch.manual_seed(0)
    module = extrapolation.build_model(config, normalization)
    extrapolation.attach_field(module, config, torch.device("cpu"))
    batch = next(TrackStream(extrapolation.read_split(config, "train"), batch_size=64).batches())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss, parts = extrapolation.compute_loss(module, batch)
        loss.backward()
        optimizer.step()
        losses.append(parts["pde_loss"])
    assert losses[-1] < 0.2 * losses[0]


def test_stops_early(tiny_config, tmp_path):
    run = start(tiny_config("train.epochs=9", "train.patience=2", "train.min_delta=1e9"), tmp_path / "run")
    assert len(run.history()) == 3


def test_cursor_counts_epochs_without_improvement():
    cursor = Cursor()
    for loss in (1.0, 0.5, 0.4999999, 0.6):
        cursor.judge(loss, 1e-6)
    assert (cursor.best_loss, cursor.bad_epochs) == (0.5, 2)


def test_reload_gives_the_same_numbers(trained, tiny_config, track_file):
    from lhcb_extrap.data.stream import read_sample
    from lhcb_extrap.predict import load_run

    tracks = read_sample([track_file]).tensors()[0].numpy()
    first, second = (load_run(trained / "kick", "cpu").extrapolate(tracks) for _ in range(2))
    assert (first == second).all()


def test_resume_refuses_other_tracks_and_another_field(tiny_config, tmp_path):
    start(tiny_config("train.epochs=1"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="trained on other tracks"):
        start(tiny_config("train.seed=7"), tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=r"was simulated in the field \w+, but the section field gives"):
        start(tiny_config("field.scale=0.975"), tmp_path / "other")


def test_nan_loss_stops_with_the_place(tiny_config, tmp_path, monkeypatch):
    calls = iter(range(100))
    compute_loss = extrapolation.compute_loss

    def poisoned(forward, batch):
        loss, parts = compute_loss(forward, batch)
        return loss * (float("nan") if next(calls) == 6 else 1.0), parts

    monkeypatch.setattr(extrapolation, "compute_loss", poisoned)
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 2, step 6, batch batch 1 of epoch 2"):
        start(tiny_config(), tmp_path / "run")


def test_without_data_there_is_a_hint(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=r"data.files names no files; give track files"):
        start(tiny_config("data.files=[]"), tmp_path / "run")
