"""Pre-training end to end: it learns, resumes exactly, and hands its encoder over."""

import json

import numpy as np
import pytest
import torch
import uproot

from hep_shared.config import load_config
from hep_shared.errors import CheckpointError, ConfigError, UserError
from hep_shared.run import RunDir
from hep_shared.signals import StopFlag, StopTraining
from hep_shared.testing import same_tensors
from megii_xec import train as train_module
from megii_xec.config import PRESETS, Config
from megii_xec.evaluate import evaluate
from megii_xec.export import export
from megii_xec.losses import CHANNELS, HiddenFace, ReconstructionLoss
from megii_xec.predict import load_run
from megii_xec.report import report
from megii_xec.tasks import pretrain, regression
from megii_xec.train import train

KIND = ("task.kind=pretrain", "task.decoder_channels=8")
FACES = ("inner", "us", "ds", "outer", "top", "bottom")


def start(config, out, resume=False):
    train(config, out=out, resume=resume, device="cpu", command="test")
    return RunDir.open(out)


def curve(run):
    return [{k: v for k, v in r.items() if not k.startswith("system/")} for r in run.history()]


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrain") / "run"
    return start(tiny_config(*KIND, "task.save_predictions_every=2"), out)


def test_metrics_have_the_names_of_the_documentation(finished):
    record = finished.history()[-1]
    names = {"total_loss", "val_loss", "actual_mask_ratio"}
    for channel in CHANNELS:
        names |= {f"{kind}_{channel}" for kind in ("loss", "mae", "rmse")}
        names |= {f"{kind}_{face}_{channel}" for kind in ("loss", "mae", "rmse") for face in FACES}
    names |= {f"loss_{face}" for face in FACES}
    assert names <= record.keys()
    assert all(np.isfinite(record[name]) for name in names)
    assert record["actual_mask_ratio"] == pytest.approx(0.65, abs=1e-3)
    assert record["total_loss"] == pytest.approx(sum(record[f"loss_{face}"] for face in FACES), rel=1e-4)
    assert record["loss_npho"] == pytest.approx(sum(record[f"loss_{face}_npho"] for face in FACES), rel=1e-5)
    assert finished.history()[1]["val_loss"] < finished.history()[0]["val_loss"]


def test_guessed_sensors_are_on_disk(finished, photons):
    with uproot.open(finished.path / "predictions_epoch_2.root") as file:
        rows = file["sensors"].arrays(library="np")
    with uproot.open(photons / "validation.root") as file:
        npho = file["tree"]["npho"].array(library="np")
    truth = npho[rows["event_idx"], rows["sensor_id"]]
    np.testing.assert_allclose(rows["truth_npho"], np.maximum(truth, -1000), rtol=1e-3, atol=0.5)
    assert (truth < 9e9).all()  # dead sensors are not guessed
    assert len(rows["face"]) == pytest.approx(0.65 * (npho < 9e9).sum(), rel=1e-3)
    assert not (finished.path / "predictions_epoch_1.root").exists()


@pytest.mark.parametrize("stop_at", [3, 11])
def test_resume_is_exact(tiny_config, finished, tmp_path, monkeypatch, stop_at):
    calls = iter(range(10_000))
    monkeypatch.setattr(train_module, "stop_flag", lambda: StopFlag(requested=next(calls) + 1 == stop_at))
    config = tiny_config(*KIND, "task.save_predictions_every=2")
    with pytest.raises(StopTraining):
        start(config, tmp_path / "run")
    monkeypatch.undo()
    resumed = start(config, tmp_path / "run", resume=True)
    assert curve(resumed) == curve(finished)
    first, second = (run.load_checkpoint("last") for run in (resumed, finished))
    assert all(same_tensors(first[k], second[k]) for k in first if k != "config")


def test_masks_change_with_the_epoch_and_not_with_the_batch(tiny_config):
    config = tiny_config(*KIND)
    stream = pretrain.build_stream(config, "train")
    prepare = pretrain.preparation(config, stream)
    batch = next(stream.batches())
    mask = prepare(batch, 0).mask
    assert not torch.equal(mask, prepare(batch, 1).mask)
    halves = [prepare(part, 0).mask for part in batch.split(2)]
    assert torch.equal(torch.cat(halves), mask)


def test_the_regressor_takes_the_encoder_over(tiny_config, finished):
    config = tiny_config(f"train.encoder_from={finished.path}")
    module = regression.build_model(config)
    regression.load_encoder(module, config, finished.path)
    weights = finished.load_checkpoint("best")["ema"]
    for name, parameter in module.network.encoder.named_parameters():
        assert torch.equal(parameter, weights[f"module.network.encoder.{name}"])


@pytest.mark.parametrize(
    "setting", ["data.normalization.scheme=sqrt", "model.layout=legacy", "model.face_pool=bilinear"]
)
def test_another_view_of_the_sensors_is_refused(tiny_config, finished, tmp_path, setting):
    with pytest.raises(CheckpointError, match=r"were trained with"):
        start(tiny_config(f"train.encoder_from={finished.path}", setting), tmp_path / "run")


def test_guesses_stand_beside_the_conventional_ones(finished):
    result = evaluate(finished.path, device="cpu")
    (methods,) = result["maps"].values()
    assert list(result["maps"]) == ["masked_65_percent"]
    assert set(methods) == {"network", "neighbor_mean", "solid_angle"}
    assert len({values["num_sensors"] for values in methods.values()}) == 1
    record = json.loads((finished.path / "evaluation_test.json").read_text())
    assert (record["kind"], record["npho_unit"], record["num_events"]) == ("pretrain", "photons", 24)
    names = {file.name for file in (finished.path / "figures").glob("*.png")}
    assert {"training_curves.png", "test_inpainting.png", "test_filled_masked_65_percent.png"} <= names
    report([finished.path], finished.path / "report.html")
    page = (finished.path / "report.html").read_text()
    assert "masked 65 percent" in page
    assert page.count('<img src="data:image/png;base64,') == 3
    assert "throughput" in page


def test_what_a_pretraining_cannot_do_is_said(finished, tmp_path):
    with pytest.raises(UserError, match=r"is a pretrain run, which is not exported; train a network"):
        export(finished.path, tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"are for runs of `xec train`, and .* is a pretrain run"):
        evaluate(finished.path, device="cpu", mc_passes=3)
    with pytest.raises(UserError, match="which reconstructs no photons"):
        load_run(finished.path, "cpu")


@pytest.mark.parametrize(
    "options",
    [
        ("task.learn_channel_logvars=true", "task.loss=huber", "task.use_npho_time_weight=false"),
        ("task.mask_preference=log_flat", "task.mask_ratio_by_face={top: 1.0}", "model.outer_mode=split"),
        ("model.inner_tokens=[2, 1]", "task.npho_threshold=300", "model.position=rotary"),
    ],
)
def test_options_give_finite_gradients_everywhere(tiny_config, options):
    config = tiny_config(*KIND, *options, "model.stem_stride=2")
    torch.manual_seed(0)
    module = pretrain.build_model(config).train()
    stream = pretrain.build_stream(config, "train")
    batch = pretrain.preparation(config, stream)(next(stream.batches()), 0)
    pretrain.compute_loss(module, batch).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_training_events_have_metrics_too(tiny_config, tmp_path):
    config = tiny_config(*KIND, "task.track_train_metrics=true", "train.accumulation_steps=2")
    first, second = start(config, tmp_path / "run").history()
    for epoch in (first, second):
        # Every micro-batch is scored by itself, so the mean of their losses is close to that of all sensors.
        assert epoch["train_total_loss"] == pytest.approx(epoch["train_loss"], rel=0.1)
        assert epoch["train_mae_inner_npho"] > 0
        parts = [epoch[f"train_loss_{face}"] for face in FACES]
        assert sum(parts) == pytest.approx(epoch["train_total_loss"], rel=1e-5)
    assert first["train_total_loss"] != second["train_total_loss"]


def test_recorded_data_will_do(tiny_config, tmp_path):
    from megii_xec.physics.parameters import SimulationConfig
    from megii_xec.simulate import simulate

    simulate(SimulationConfig(real_data_layout=True), tmp_path / "real.root", num_events=20, seed=3)
    file = f"[{tmp_path}/real.root]"
    config = tiny_config(*KIND, f"data.train={file}", f"data.validation={file}", "train.epochs=1")
    assert np.isfinite(start(config, tmp_path / "run").history()[0]["val_loss"])


def test_a_threshold_that_scores_no_time_is_refused():
    with pytest.raises(ConfigError, match="relative_npho never exceeds 1"):
        load_config(
            Config, presets=PRESETS, preset="legacy",
            overrides=["task.kind=pretrain", "task.npho_threshold=100"],
        )  # fmt: skip


def test_the_loss_by_hand():
    prediction = torch.tensor([[[1.0, 5.0, 9.0], [0.0, 0.0, 0.0]]])
    target = torch.tensor([[[0.0, 2.0, -1.0], [1.0, 2.0, -1.0]]])
    weight = torch.tensor([[[1.0, 1.0, 0.0], [3.0, 1.0, 0.0]]])
    criterion = ReconstructionLoss("mse", npho_weight=1.0, time_weight=0.5)
    loss, sums = criterion({"inner": HiddenFace(prediction, target, weight)})
    npho, time = (1 + 9) / 2, (3 * 1 + 1 * 4) / 4
    assert loss.item() == pytest.approx(npho + 0.5 * time)
    assert sums[0, 0].tolist() == [10.0, 2.0, 4.0, 10.0, 2.0]
    assert sums[0, 1].tolist() == [7.0, 4.0, 3.0, 5.0, 2.0]  # errors are counted, not weighed
    learned = ReconstructionLoss("mse", learn_channel_logvars=True)
    with torch.no_grad():
        learned.log_variances.copy_(torch.tensor([0.5, -0.5]))
    total, _ = learned({"inner": HiddenFace(prediction, target, weight)})
    expected = 0.5 * (np.exp(-0.5) * npho + 0.5 + np.exp(0.5) * time - 0.5)
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_a_face_without_hidden_sensors_costs_nothing():
    face = HiddenFace(torch.full((1, 2, 3), 7.0), torch.zeros(1, 2, 3), torch.zeros(1, 2, 3))
    loss, _ = ReconstructionLoss()({"top": face})
    assert loss.item() == 0.0


def test_history_is_strict_json(finished):
    for line in (finished.path / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize("kind", [KIND, ("task.kind=inpaint", "task.face_channels=8", "task.hex_channels=8")])
def test_bf16_arithmetic(tiny_config, tmp_path, kind):
    config = tiny_config(*kind, "train.precision=bf16", "train.epochs=1", "task.save_predictions_every=1")
    run = start(config, tmp_path / "run")
    assert np.isfinite(run.history()[0]["val_loss"])
    with uproot.open(run.path / "predictions_epoch_1.root") as file:
        rows = file["sensors"].arrays(library="np")
    assert np.isfinite(rows["pred_npho"]).all()
    # What is true does not depend on the arithmetic of the network.
    assert len(np.unique(rows["truth_npho"])) > 1000
