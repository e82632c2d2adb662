"""The program as a user runs it, end to end on toy jets, and what it says to mistakes."""

import contextlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import uproot

from hep_shared.cli import run_cli
from hep_shared.onnx import read_metadata
from hep_shared.testing import assert_user_error
from jet_foundation.cli import app
from jet_foundation.data.loader import pad_jets
from jet_foundation.data.normalization import Normalization
from jet_foundation.export import model_inputs
from jet_foundation.models.deploy import JetClassification
from jet_foundation.physics.processes import CLASSES


def jets(*args):
    """Run the program inside this process: the same code as in its own, without seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        run_cli(app, "jet_foundation", [str(arg) for arg in args])
    return subprocess.CompletedProcess(args, int(end.value.code or 0), out.getvalue(), err.getvalue())


def ok(*args):
    done = jets(*args)
    assert done.returncode == 0, done.stderr
    return done


def sets(settings):
    return [item for setting in settings for item in ("--set", setting)]


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A run whose jets were simulated, preprocessed, trained on, evaluated and exported by one command."""
    out = tmp_path_factory.mktemp("cli") / "run"
    items = settings("data.path=null", "data.simulated.num_jets=100", "data.simulated.num_workers=0",
                     "data.simulated.seed=3", 'train.finish=["evaluate","export"]')  # fmt: skip
    done = ok("train", "--out", out, "--device", "cpu", "--json", *sets(items))
    result = json.loads(done.stdout)
    assert result["run"] == str(out)
    assert 0 <= result["accuracy"] <= 1
    return out


def test_run_directory_is_complete(run):
    names = {path.name for path in run.iterdir()}
    assert {
        "config.json", "history.jsonl", "checkpoints", "figures", "model.onnx", "evaluation_test.json",
        "sample", "data",
    } <= names  # fmt: skip
    figures = {path.name for path in (run / "figures").iterdir()}
    for name in ("training_curves", "test_confusion", "test_roc", "test_attention"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    assert evaluation["num_jets"] == np.sum(evaluation["confusion"]) == 10
    assert set(evaluation["metrics"]["rejection_50"]) == set(CLASSES[1:])


def test_verbs_one_by_one(settings, tmp_path):
    sample, data, out = tmp_path / "sample", tmp_path / "data", tmp_path / "run"
    done = ok("simulate", "--out", sample, "--num-jets", "100", "--num-workers", "0", "--json")
    assert json.loads(done.stdout) == {"out": str(sample), "num_files": 10, "num_jets": 100}
    done = ok("preprocess", "--input", sample, "--out", data, "--feature-set", "kin", "--json")
    assert json.loads(done.stdout)["num_jets"] == {"train": 80, "val": 10, "test": 10}
    items = settings(f"data.path={data}", "model.kind=part", "train.epochs=1")
    ok("train", "--out", out, "--device", "cpu", *sets(items))
    done = ok("evaluate", "--run", out, "--split", "validation", "--device", "cpu", "--json")
    assert json.loads(done.stdout)["num_jets"] == 10


def test_pretrain_then_finetune(settings, tmp_path):
    start, out = tmp_path / "start", tmp_path / "out"
    ok("pretrain", "--out", start, "--device", "cpu", *sets(settings("train.epochs=1")))
    items = [item for item in settings("train.epochs=1") if not item.startswith("model.")]
    ok("finetune", "--from", start, "--task", "regression", "--mode", "frozen", "--out", out,
       "--device", "cpu", *sets(items))  # fmt: skip
    done = ok("evaluate", "--run", out, "--device", "cpu", "--json")
    assert json.loads(done.stdout)["task"] == "regression"
    done = jets("predict", "--run", out, "--input", "x.npz", "--output", tmp_path / "p.root")
    assert_user_error(done, "x.npz")


def test_classes_of_a_padded_sample(samples, tmp_path):
    names = ("--class", "gluon", "--class", "quark")
    ok("preprocess", "--input", samples / "quarkgluon_1000.npz", "--out", tmp_path / "qg", *names)
    assert json.loads((tmp_path / "qg" / "dataset.json").read_text())["classes"] == ["gluon", "quark"]


def test_finetune_needs_a_run(settings, tmp_path):
    done = jets("finetune", "--from", tmp_path / "absent", "--out", tmp_path / "out", *sets(settings()))
    assert_user_error(done, "absent", "holds no run")


def test_predictions_of_run_and_onnx_agree(run, sample, tmp_path):
    for name, model in (("torch", ("--run", run)), ("onnx", ("--onnx", run / "model.onnx"))):
        ok("predict", *model, "--input", f"{sample}/*.root", "--batch-size", 7,
           "--device", "cpu", "--output", tmp_path / f"{name}.root")  # fmt: skip
    trees = {}
    for name in ("torch", "onnx"):
        with uproot.open(tmp_path / f"{name}.root") as file:
            trees[name] = file["predictions"].arrays(library="np")
    assert set(trees["onnx"]) == {"file", "entry", *(f"prob_{name}" for name in CLASSES)}
    for name, values in trees["torch"].items():
        np.testing.assert_allclose(values, trees["onnx"][name], atol=1e-4)
    np.testing.assert_array_equal(trees["torch"]["file"], np.repeat(np.arange(10), 10))
    np.testing.assert_array_equal(trees["torch"]["entry"], np.tile(np.arange(10), 10))
    total = sum(trees["torch"][f"prob_{name}"] for name in CLASSES)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert not np.allclose(trees["torch"]["prob_QCD"], trees["torch"]["prob_QCD"][0])


def test_shards_are_predicted(run, dataset, tmp_path):
    done = ok("predict", "--run", run, "--input", f"{dataset}/test_*.npz", "--output", tmp_path / "p.root",
              "--json")  # fmt: skip
    assert json.loads(done.stdout) == {"output": str(tmp_path / "p.root"), "num_jets": 20, "num_files": 1}


def test_onnx_carries_its_conventions(run):
    metadata = read_metadata(run / "model.onnx")
    assert metadata["classes"] == list(CLASSES)
    assert metadata["input_names"] == ["p4", "valid_mask", "identity", "displacement"]
    assert len(metadata["normalization"]["shift"]) == 17


@pytest.mark.parametrize("feature_set", ["kin", "kinpid", "full"])
def test_deployed_features_are_those_of_training(toy_jets, feature_set):
    normalization = Normalization.part(feature_set)

    class Features(torch.nn.Module):
        def forward(self, p4, features, valid_mask):
            self.seen = features
            return features[:, 0]

    network = Features()
    JetClassification(network, normalization, ())(**model_inputs(toy_jets, feature_set))
    torch.testing.assert_close(network.seen, pad_jets(toy_jets, normalization).features, rtol=0, atol=1e-5)


def test_report_is_one_page(run, tmp_path):
    ok("report", run, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "AUC, one against the rest" in page
    assert (
        page.count("data:image/png;base64,") == 1 + 4
    )  # the chart of all runs, and the pictures of this one
    assert 'src="http' not in page


def test_help_imports_nothing_heavy():
    code = "import sys, jet_foundation.cli; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Mistakes


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("--set", "optim.learning_rate=1"), ("optim.learning_rate", "lr")),
        (("--set", "model.num_heads=3"), ("model.dim is 8", "3")),
        (("--set", "data.batch_size=12", "--set", "train.accumulation_steps=5"), ("12", "5")),
        (("--preset", "quikstart"), ("quikstart", "quickstart")),
        (("--set", "data.path=absent"), ("absent", "jet-foundation preprocess")),
        (("--device", "cuda:77"), ("cuda:77", "--device cpu")),
        (("--set", "data.batch_size=64"), ("60 jets", "64")),
    ],
)
def test_wrong_settings(settings, tmp_path, args, mentions):
    out = tmp_path / "run"
    done = jets("train", "--out", out, *sets(settings()), *args)
    assert_user_error(done, *mentions)
    assert not out.exists()


def test_damaged_checkpoint(run, sample, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for file in (copy / "checkpoints").glob("*.pt"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    done = jets("predict", "--run", copy, "--input", f"{sample}/*.root", "--output", tmp_path / "p.root")
    assert_user_error(done, "damaged", ".pt")
    assert not (tmp_path / "p.root").exists()


def test_damaged_input(run, sample, tmp_path):
    path = tmp_path / "broken.root"
    path.write_bytes((sample / "TTBar_000.root").read_bytes()[:3000])
    done = jets("predict", "--run", run, "--input", path, "--output", tmp_path / "p.root")
    assert_user_error(done, "broken.root")


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("--output", "p.txt"), ("p.txt", ".root")),
        (("--output", "p.root", "--onnx", "m.onnx"), ("--run", "--onnx")),
        (("--output", "p.root", "--input", "absent/*.root"), ("absent/*.root", "no file")),
    ],
)
def test_wrong_predict_options(run, sample, args, mentions):
    assert_user_error(jets("predict", "--run", run, "--input", f"{sample}/*.root", *args), *mentions)


def test_unknown_split(run):
    assert_user_error(jets("evaluate", "--run", run, "--split", "tset"), "tset", "validation")
