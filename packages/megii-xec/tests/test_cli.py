"""The program as a user runs it, end to end on simulated photons, and what it says to mistakes."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import uproot

from hep_shared.cli import run_cli
from hep_shared.onnx import read_metadata
from hep_shared.testing import assert_user_error
from megii_xec.cli import app
from megii_xec.data.schema import ENERGY_TRUTH, EVENT, RUN
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.simulate import simulate


def xec(*args):
    """Run the program inside this process: the same code as in its own, without seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        run_cli(app, "megii_xec", [str(arg) for arg in args])
    return subprocess.CompletedProcess(args, int(end.value.code or 0), out.getvalue(), err.getvalue())


def ok(*args):
    done = xec(*args)
    assert done.returncode == 0, done.stderr
    return done


def sets(settings):
    return [item for setting in settings for item in ("--set", setting)]


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A trained, exported and evaluated run."""
    out = tmp_path_factory.mktemp("cli") / "run"
    done = ok(
        "train",
        "--out",
        out,
        "--device",
        "cpu",
        "--json",
        *sets(settings('train.finish=["evaluate","export"]')),
    )
    result = json.loads(done.stdout)
    assert result["run"] == str(out)
    assert result["network"]["energy_resolution_percent"] > 0
    return out


def test_run_directory_is_complete(run):
    names = {path.name for path in run.iterdir()}
    assert {
        "config.json",
        "history.jsonl",
        "checkpoints",
        "figures",
        "model.onnx",
        "evaluation_test.json",
    } <= names
    figures = {path.name for path in (run / "figures").iterdir()}
    for name in ("training_curves", "test_residuals", "test_opening_angle", "test_event_0", "test_profile_w"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    assert evaluation["network"]["num_events"] == evaluation["conventional"]["num_events"] == 24
    assert (
        evaluation["ratio"]["w"]["low"]
        <= evaluation["ratio"]["w"]["ratio"]
        <= evaluation["ratio"]["w"]["high"]
    )
    assert 0.5 < evaluation["unseen_vertex_limit_deg"] < 6


def test_every_event_of_an_evaluation_is_in_a_file(run, photons):
    with uproot.open(run / "predictions_test.root") as file:
        rows = file["predictions"].arrays(library="np")
    with uproot.open(photons / "test.root") as file:
        truth = file["tree"].arrays(["event", "energyTruth", "uvwTruth"], library="np")
    np.testing.assert_array_equal(rows["event"], truth["event"])
    np.testing.assert_array_equal(rows["true_energy"], truth["energyTruth"])
    np.testing.assert_array_equal(rows["true_w"], truth["uvwTruth"][:, 2])
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    resolution = np.quantile(rows["opening_angle"], 0.68)
    assert resolution == pytest.approx(evaluation["network"]["val_resolution_deg"], rel=0.05)
    with (run / "predictions_test.csv").open() as file:
        assert file.readline().strip().split(",") == list(rows)
        table = np.loadtxt(file, delimiter=",")
    np.testing.assert_allclose(table[:, list(rows).index("pred_u")], rows["pred_u"], rtol=1e-6)


def test_predictions_of_run_and_onnx_agree(run, photons, tmp_path):
    for name, model in (("torch", ("--run", run)), ("onnx", ("--onnx", run / "model.onnx"))):
        ok("predict", *model, "--input", photons / "test.root", "--output", tmp_path / f"{name}.root")
    trees = {}
    for name in ("torch", "onnx"):
        with uproot.open(tmp_path / f"{name}.root") as file:
            trees[name] = file["predictions"].arrays(library="np")
    with uproot.open(photons / "test.root") as file:
        truth = file["tree"].arrays([RUN.name, EVENT.name, ENERGY_TRUTH.name], library="np")
    assert {"pred_theta", "pred_phi", "pred_energy", "pred_timing", "pred_u", "pred_v", "pred_w"} <= set(
        trees["onnx"]
    )
    for name, values in trees["torch"].items():
        np.testing.assert_allclose(values, trees["onnx"][name], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(trees["torch"]["event"], truth["event"])
    np.testing.assert_array_equal(trees["torch"]["run"], truth["run"])
    assert not np.allclose(trees["torch"]["pred_energy"], trees["torch"]["pred_energy"][0])


def test_real_data_layout_is_predicted(run, tmp_path):
    simulate(SimulationConfig(real_data_layout=True), tmp_path / "real.root", num_events=5, seed=9)
    done = ok(
        "predict", "--run", run, "--input", tmp_path / "real.root", "--output", tmp_path / "p.root", "--json"
    )
    assert json.loads(done.stdout) == {"output": str(tmp_path / "p.root"), "num_events": 5, "num_missing": 0}


def test_onnx_carries_its_conventions(run):
    metadata = read_metadata(run / "model.onnx")
    assert metadata["units"] == {"angle": "deg", "energy": "GeV", "timing": "ns", "uvwFI": "cm"}
    assert metadata["normalization"]["npho_scale"] == 1000.0
    assert metadata["input_names"] == ["npho", "time", "time_min_s"]


def test_report_is_one_page(run, tmp_path):
    ok("report", run, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "energy, 68 % width" in page
    assert page.count("data:image/png;base64,") >= 6
    assert 'src="http' not in page
    assert "Side by side" not in page
    shutil.copytree(run, tmp_path / "other")
    ok("report", run, tmp_path / "other", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    lines = page[page.index("Side by side") : page.index(f"<h2>{run.name}</h2>")].count("<tr>")
    assert lines == 4  # heading, two runs, the conventional values


def test_from_pretraining_to_inpainting_to_one_report(settings, run, photons, tmp_path):
    small = ("task.decoder_channels=4", "train.epochs=1")
    done = ok("pretrain", "--out", tmp_path / "pre", "--device", "cpu", "--json", *sets(settings(*small)))
    assert json.loads(done.stdout).keys() == {"run", "best_val_loss"}
    small = ("task.face_channels=8", "task.hex_channels=8", "train.epochs=1", 'train.finish=["evaluate"]')
    encoder = (f"train.encoder_from={tmp_path}/pre", "task.freeze_encoder=true")
    done = ok(
        "inpaint", "--out", tmp_path / "fill", "--device", "cpu", "--json", *sets(settings(*small, *encoder))
    )
    assert json.loads(done.stdout)["random_5_percent"]["neighbor_mean"] > 0
    ok("report", run, tmp_path / "fill", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "clusters 5 percent" in page
    assert "saliency profile" in page
    facts = json.loads(ok("check-file", photons / "test.root", "--json").stdout)
    assert facts["entries"] == 24
    done = ok("validate-real", "--onnx", run / "model.onnx", "--run", run, "--input", photons / "test.root",
              "--output", tmp_path / "out.root", "--json")  # fmt: skip
    assert json.loads(done.stdout)["num_events"] == 24
    done = ok("cache", "--input", photons / "test.root", "--out", tmp_path / "fast", "--json")
    assert json.loads(done.stdout)["num_made"] == 1


def test_the_pictures_of_events_turn(run):
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    page = (run / "figures" / "test_events.html").read_text()
    assert len(evaluation["worst_events"]) == 2
    assert all(title in page for title in evaluation["worst_events"])
    assert evaluation["saliency"]["w"]["inner"]["npho"] > 0


def test_a_config_file_overrides_the_preset(tmp_path, settings):
    (tmp_path / "my.yaml").write_text("base: small\noptim:\n  lr: 0.5\n")
    done = xec(
        "train", "--config", tmp_path / "my.yaml", "--set", "train.epochs=0", "--out", tmp_path / "run"
    )
    assert_user_error(done, "train.epochs", "0")


def test_simulate_writes_files_that_uproot_reads(tmp_path):
    done = ok("simulate", "--out", tmp_path / "photons", "--num-events", "30", "--set",
              "simulation.energy_spectrum=signal", "--events-per-file", "20", "--json")  # fmt: skip
    assert json.loads(done.stdout)["num_files"] == 2
    with uproot.open(tmp_path / "photons" / "photons_00001.root") as file:
        energy = file["tree"]["energyTruth"].array(library="np")
    np.testing.assert_allclose(energy, 0.05283, rtol=1e-6)


# Mistakes


def damaged(photons, tmp_path, kind):
    path = tmp_path / "broken.root"
    if kind == "truncated":
        path.write_bytes((photons / "train.root").read_bytes()[:50_000])
    elif kind == "no root":
        path.write_text("this is no ROOT file\n" * 100)
    elif kind == "no tree":
        with uproot.recreate(path) as file:
            file.mktree("other", {"x": np.dtype("f4")}).extend({"x": np.zeros(3, np.float32)})
    elif kind == "nan":
        with uproot.open(photons / "train.root") as file:
            columns = file["tree"].arrays(library="np")
        columns["npho"][3] = np.nan
        with uproot.recreate(path) as file:
            types = {name: (values.dtype, values.shape[1:]) for name, values in columns.items()}
            file.mktree("tree", types).extend(columns)
    return path


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("--set", "optim.learning_rate=1"), ("optim.learning_rate", "lr")),
        (("--set", "data.batchsize=4"), ("data.batchsize", "batch_size")),
        (("--set", "task.energy.loss=angular"), ("task.energy.loss", "angular", "smooth_l1")),
        (("--set", "model.dim=many"), ("model.dim", "many")),
        (("--set", "data.batch_size=12", "--set", "train.accumulation_steps=5"), ("12", "5")),
        (("--preset", "quikstart"), ("quikstart", "quickstart")),
        (("--config", "absent.yaml"), ("absent.yaml",)),
        (("--set", "data.train=[absent/*.root]"), ("absent/*.root",)),
        (("--device", "cuda:77"), ("cuda:77", "--device cpu")),
        (("--set", "data.normalization.npho_input=relative_npho"), ("npho_threshold",)),
    ],
)
def test_wrong_settings(settings, tmp_path, args, mentions):
    out = tmp_path / "run"
    done = xec("train", "--out", out, *sets(settings()), *args)
    assert_user_error(done, *mentions)
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "mentions"),
    [
        ("truncated", ("broken.root",)),
        ("no root", ("broken.root",)),
        ("no tree", ("broken.root", "tree", "other")),
        ("nan", ("broken.root", "npho", "entry 3")),
    ],
)
def test_damaged_files(settings, photons, tmp_path, kind, mentions):
    path = damaged(photons, tmp_path, kind)
    out = tmp_path / "run"
    done = xec("train", "--out", out, *sets(settings(f"data.train=[{path}]")))
    assert_user_error(done, *mentions)


def test_damaged_checkpoint(run, photons, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for file in (copy / "checkpoints").glob("*.pt"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    done = xec("predict", "--run", copy, "--input", photons / "test.root", "--output", tmp_path / "p.root")
    assert_user_error(done, "damaged", ".pt")
    assert not (tmp_path / "p.root").exists()


def test_damaged_onnx(run, photons, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes((run / "model.onnx").read_bytes()[:-1000])
    done = xec("predict", "--onnx", path, "--input", photons / "test.root", "--output", tmp_path / "p.root")
    assert_user_error(done, "model.onnx")


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("--output", "p.txt"), ("p.txt", ".root")),
        (("--output", "p.root", "--onnx", "m.onnx"), ("--run", "--onnx")),
    ],
)
def test_wrong_predict_options(run, photons, args, mentions):
    assert_user_error(xec("predict", "--run", run, "--input", photons / "test.root", *args), *mentions)


def test_no_run_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "megii_xec.cli", "evaluate", "--run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert_user_error(done, "holds no run")


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root"
)
def test_full_disk(run, photons, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not allow mounting")
    try:
        done = xec("simulate", "--out", disk / "photons.root", "--num-events", "20")
        assert_user_error(done, "photons.root", "free some disk space")
        done = xec("export", "--run", run, "--out", disk / "model.onnx")
        assert_user_error(done, "model.onnx", "free some disk space")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
