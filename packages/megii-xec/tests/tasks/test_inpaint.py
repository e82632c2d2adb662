"""Inpainting end to end: frozen or trained encoder, maps, predictions on disk, memory, baselines."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import uproot

from hep_shared.distributed import World
from hep_shared.errors import ConfigError
from hep_shared.run import RunDir
from megii_xec.evaluate import evaluate
from megii_xec.tasks import inpaint
from megii_xec.train import train

KIND = ("task.kind=inpaint", "task.face_channels=8", "task.hex_channels=8", "optim.lr=3e-3")


def start(config, out):
    train(config, out=out, resume=False, device="cpu", command="test")
    return RunDir.open(out)


@pytest.fixture(scope="module")
def pretrained(tiny_config, tmp_path_factory):
    config = tiny_config("task.kind=pretrain", "task.decoder_channels=4", "train.epochs=1")
    return start(config, tmp_path_factory.mktemp("pretrain") / "run")


@pytest.fixture(scope="module")
def finished(tiny_config, pretrained, tmp_path_factory):
    config = tiny_config(
        *KIND, f"train.encoder_from={pretrained.path}", "task.freeze_encoder=true",
        "task.save_predictions_every=1", "task.dead={kind: clustered, fraction: 0.05}",
    )  # fmt: skip
    return start(config, tmp_path_factory.mktemp("inpaint") / "run")


def test_a_frozen_encoder_stays_as_it_was(finished, pretrained):
    before, after = (run.load_checkpoint("best")["ema"] for run in (pretrained, finished))
    prefix = "module.network.encoder."
    names = [name for name in before if name.startswith(prefix)]
    assert len(names) > 20
    assert all(torch.equal(before[name], after[name]) for name in names)
    assert any(name.startswith("module.network.features") for name in after)


def test_a_frozen_encoder_has_no_dropout(tiny_config, pretrained):
    more = (f"train.encoder_from={pretrained.path}", "task.freeze_encoder=true")
    module = inpaint.build_model(tiny_config(*KIND, *more)).train()
    assert module.network.features.training
    assert not module.network.encoder.training


def test_freezing_needs_an_encoder(tiny_config):
    with pytest.raises(ConfigError, match=r"train\.encoder_from names no run"):
        tiny_config(*KIND, "task.freeze_encoder=true")


def test_predictions_are_rows_of_hidden_sensors(finished, photons):
    record = finished.history()[-1]
    with uproot.open(finished.path / "predictions_epoch_2.root") as file:
        rows = file["sensors"].arrays(library="np")
    assert set(rows) == {
        "event_idx", "run", "event", "sensor_id", "face", "truth_npho", "truth_time", "pred_npho",
        "pred_time", "error_npho", "error_time",
    }  # fmt: skip
    assert len(rows["face"]) == record["n_masked_total"]
    with uproot.open(photons / "validation.root") as file:
        tree = file["tree"].arrays(["event", "npho", "relative_time"], library="np")
    event, sensor = rows["event_idx"], rows["sensor_id"]
    np.testing.assert_array_equal(tree["event"][event], rows["event"])
    np.testing.assert_allclose(rows["truth_npho"], tree["npho"][event, sensor], rtol=1e-3, atol=0.5)
    timed = rows["truth_time"] < 1e9
    assert timed.any()
    np.testing.assert_allclose(
        rows["truth_time"][timed], tree["relative_time"][event, sensor][timed], atol=1e-11
    )
    np.testing.assert_allclose(rows["error_npho"], rows["pred_npho"] - rows["truth_npho"], atol=0.1)
    assert (rows["error_time"][~timed] == np.float32(1e10)).all()


def test_a_trained_encoder_changes_and_the_loss_falls(tiny_config, tmp_path):
    run = start(tiny_config(*KIND, "task.save_predictions_every=0", "train.epochs=3"), tmp_path / "run")
    losses = [record["val_loss"] for record in run.history()]
    assert losses[-1] < losses[0]
    assert not list(run.path.glob("predictions_*"))


@pytest.fixture(scope="module")
def corrected(tiny_config, tmp_path_factory):
    config = tiny_config(*KIND, "model.start=conventional", "task.save_predictions_every=0", "train.epochs=1")
    return start(config, tmp_path_factory.mktemp("corrected") / "run")


def test_heads_that_correct_the_conventional_guess_are_not_worse(corrected):
    result = evaluate(corrected.path, device="cpu", pictures=False)
    for name, ratio in result["ratio"].items():
        assert ratio["solid_angle"]["ratio"] < 1.02, name
        assert (
            result["maps"][name]["network"]["mae_time_ns"]
            < 1.02 * result["maps"][name]["solid_angle"]["mae_time_ns"]
        )


def test_gains_are_measured_before_the_training(corrected, tiny_config):
    weights = corrected.load_checkpoint("best")["ema"]
    gains = weights["module.network.log_gain"]
    assert 0.001 < gains.std() < 0.1
    module = inpaint.build_model(tiny_config(*KIND, "model.start=conventional"))
    with inpaint.build_stream(tiny_config(*KIND), "train", shuffle=True) as stream:
        inpaint.calibrate(module, stream, World(0, 1, 0, torch.device("cpu")))
    assert torch.equal(module.network.log_gain, gains)


def test_the_map_of_a_run_period(tiny_config, tmp_path):
    (tmp_path / "dead.txt").write_text("\n".join(map(str, range(0, 4760, 50))))
    config = tiny_config(*KIND, f"task.dead={{kind: file, path: {tmp_path}/dead.txt}}")
    stream = inpaint.build_stream(config, "train")
    mask = inpaint.preparation(config, stream)(next(stream.batches()), 0).mask
    assert mask[:, ::50].float().mean() > 0.95
    assert mask.sum() == mask[:, ::50].sum()


def test_evaluation_stands_beside_the_conventional_guesses(finished):
    result = evaluate(finished.path, device="cpu")
    assert set(result["maps"]) == {
        "random_1_percent", "random_5_percent", "random_10_percent", "clusters_5_percent"
    }  # fmt: skip
    for name, methods in result["maps"].items():
        counts = {values["num_sensors"] for values in methods.values()}
        assert len(counts) == 1, name  # the same sensors for all
        for values in methods.values():
            assert 0 < values["mae_npho"] <= values["rmse_npho"]
        for ratio in result["ratio"][name].values():
            assert ratio["low"] <= ratio["ratio"] <= ratio["high"]
    sensors = [
        result["maps"][f"random_{percent}_percent"]["network"]["num_sensors"] for percent in (1, 5, 10)
    ]
    assert sensors[1] == pytest.approx(5 * sensors[0], rel=0.05)
    assert sensors[2] == pytest.approx(10 * sensors[0], rel=0.05)
    assert json.loads((finished.path / "evaluation_test.json").read_text())["kind"] == "inpaint"
    assert (finished.path / "figures" / "test_inpainting.png").exists()


MEMORY = """
import json, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from hep_shared.amp import Amp
from hep_shared.config import load_config
from hep_shared.distributed import World
from megii_xec.config import PRESETS, Config
from megii_xec.tasks import inpaint

config = load_config(Config, presets=PRESETS, overrides=json.loads(sys.argv[1]))
module = inpaint.build_model(config)
module.network.forward = lambda x, mask: x * 0.5  # only what happens to the predictions is measured
cpu = torch.device("cpu")
stream = inpaint.build_stream(config, "validation")
inpaint.validate(module, stream, World(0, 1, 0, cpu), Amp(cpu, "fp32", None), out=Path(sys.argv[2]), epoch=0)
print(json.dumps([stream.num_events, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def test_memory_is_flat_in_the_number_of_events(settings, photons, tmp_path):
    """Ten times the events hide ten times the sensors: 2.8 million rows, 120 MB if they were kept."""
    content = (photons / "train.root").read_bytes()
    peaks = []
    for num_copies in (1, 10):
        folder = tmp_path / str(num_copies)
        folder.mkdir()
        for copy in range(num_copies):
            (folder / f"{copy}.root").write_bytes(content)
        overrides = settings(
            *KIND,
            f"data.validation=[{folder}/*.root]",
            "task.dead.fraction=0.9",
            "task.save_predictions_every=1",
        )
        command = [sys.executable, "-c", MEMORY, json.dumps(overrides), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        num_events, peak = json.loads(done.stdout)
        assert num_events == 64 * num_copies
        with uproot.open(folder / "predictions_epoch_1.root") as file:
            assert file["sensors"].num_entries > 4000 * num_events
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 30, peaks
