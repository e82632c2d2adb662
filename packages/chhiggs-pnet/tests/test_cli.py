"""The program as a user runs it, end to end on simulated events, and what it says to mistakes."""

import contextlib
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import uproot

from chhiggs_pnet.cli import app
from hep_shared.cli import run_cli
from hep_shared.onnx import read_metadata
from hep_shared.testing import assert_user_error

CLASSES = ("signal", "nonprompt", "diboson", "ttX")
ROLES = {  # of the points of the samples
    "train": "[[100, 85], [130, 95], [160, 85]]", "validation": "[[130, 90]]",
    "interpolation": "[[130, 88]]", "extrapolation": "[[165, 97]]",
}  # fmt: skip


def program(*args):
    """Run the program inside this process: the same code as in its own, without seconds of imports."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        run_cli(app, "chhiggs_pnet", [str(arg) for arg in args])
    return subprocess.CompletedProcess(args, int(end.value.code or 0), out.getvalue(), err.getvalue())


def ok(*args):
    done = program(*args)
    assert done.returncode == 0, done.stderr
    return done


def sets(settings):
    return [item for setting in settings for item in ("--set", setting)]


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A network trained in three stages, evaluated and exported."""
    out = tmp_path_factory.mktemp("cli") / "run"
    more = (
        'train.finish=["evaluate","export"]', "pretrain.epochs=1", "average.method=branch",
        "train.curriculum=[{fraction: 0.5, tier: easy}, {fraction: 0.5, tier: all}]",
    )  # fmt: skip
    done = ok("train", "--out", out, "--device", "cpu", "--json", *sets(settings(*more)))
    result = json.loads(done.stdout)
    assert result["run"] == str(out)
    assert result["average"]["method"] == "branch"
    assert set(result["auc"]) >= {"MHc100_MA85", "MHc165_MA97"}
    return out


def test_run_directory_is_complete(run):
    names = {path.name for path in run.iterdir()}
    assert {
        "config.json", "history.jsonl", "checkpoints", "figures", "model.onnx", "evaluation_test.json",
        "stages.json", "stage1", "calibration.json",
    } <= names  # fmt: skip
    figures = {path.name for path in (run / "figures").iterdir()}
    for name in ("training_curves", "test_roc", "test_auc_by_point", "test_scores", "test_pair_mass"):
        assert {f"{name}.png", f"{name}.pdf"} <= figures


def test_evaluation_holds_every_point(run):
    evaluation = json.loads((run / "evaluation_test.json").read_text())
    points = {entry["name"]: entry for entry in evaluation["points"]}
    assert points["MHc130_MA88"]["role"] == "interpolation"
    assert (points["MHc165_MA97"]["role"], points["MHc165_MA97"]["in_hull"]) == ("extrapolation", False)
    for entry in points.values():
        for name in ("auc", "auc_nonprompt", "auc_diboson", "auc_ttX", "efficiency_ttX", "ece", "dcor_m1"):
            assert 0 <= entry[name] <= 1
        assert entry["auc_low"] <= entry["auc"] <= entry["auc_high"]


def test_the_terminal_shows_one_line_a_number(run):
    lines = ok("evaluate", "--run", run, "--split", "validation").stdout.splitlines()
    assert sum("auc.MHc130_MA88" in line for line in lines) == 1
    assert sum("efficiency.MHc165_MA97" in line for line in lines) == 1
    assert not any("np.float64" in line or len(line) > 120 for line in lines)


def test_ensembles_and_dropout_have_a_spread(run):
    plain = json.loads((run / "evaluation_test.json").read_text())
    both = ok("evaluate", "--run", run, "--run", run, "--mc-dropout", 3, "--split", "validation", "--json")
    passes = json.loads(both.stdout)
    assert (passes["num_members"], passes["mc_dropout"]) == (2, 3)
    assert plain["points"][0]["mean_score_spread"] == 0
    assert passes["points"][0]["mean_score_spread"] > 0


def test_predictions_agree_between_the_run_and_its_file(run, samples, tmp_path):
    trees = {}
    source = samples / "Run1E2Mu_signal_MHc130_MA90_0000.root"
    for kind, model in (("torch", ("--run", run)), ("onnx", ("--onnx", run / "model.onnx"))):
        out = tmp_path / f"{kind}.root"
        done = ok(
            "predict", *model, "--input", source, "--output", out, "--points", "130,90;125,88", "--json"
        )
        assert json.loads(done.stdout)["num_events"] == 240
        with uproot.open(out) as file:
            trees[kind] = file["predictions"].arrays(library="np")
    with uproot.open(source) as file:
        event = file["Events"]["event"].array(library="np")
    np.testing.assert_array_equal(trees["torch"]["event"], event)
    for point in ("MHc130_MA90", "MHc125_MA88"):
        total = sum(trees["torch"][f"{point}_{name}"] for name in CLASSES)
        np.testing.assert_allclose(total, 1, rtol=1e-5)
        for name in CLASSES:
            np.testing.assert_allclose(
                trees["torch"][f"{point}_{name}"], trees["onnx"][f"{point}_{name}"], atol=1e-5
            )
    assert not np.allclose(
        trees["torch"]["MHc130_MA90_signal"], trees["torch"]["MHc125_MA88_signal"], atol=1e-7
    )


def test_the_file_carries_its_conventions(run):
    metadata = read_metadata(run / "model.onnx")
    assert metadata["classes"] == list(CLASSES)
    assert metadata["features"][:4] == ["energy", "px", "py", "pz"]
    assert metadata["training_points"] == ["MHc100_MA85", "MHc130_MA95", "MHc160_MA85"]
    assert metadata["input_names"][:3] == ["nodes", "valid_mask", "masses"]


def test_heatmap_leaves_unphysical_cells_blank(run):
    done = ok("heatmap", "--run", run, "--mhc", "90,130,40", "--ma", "85,95,10", "--num-events", 40, "--json")
    result = json.loads(done.stdout)
    assert result["auc"][0][1] is None  # mA = 95 above mHc = 90
    assert 0 < result["auc"][1][0] < 1
    for name in ("heatmap_auc", "heatmap_efficiency", "heatmap_misspecified"):
        assert (run / "figures" / f"{name}.png").exists()


@pytest.mark.parametrize("against", ["dedicated", "nearest", "bdt_blind"])
def test_compare(run, tmp_path_factory, against):
    out = tmp_path_factory.getbasetemp() / "compare"  # dedicated and nearest share a network
    done = ok(
        "compare", "--run", run, "--out", out, "--against", against, "--points", "130,95;130,88", "--budget",
        "events", "--num-resamples", 20, "--json",
    )  # fmt: skip
    assert json.loads(done.stdout)["against"] == against
    rows = json.loads((out / f"compare_{against}.json").read_text())["rows"]
    assert len(rows) == 2 * 4 * 2
    overall = next(row for row in rows if row["statistic"] == "auc" and row["background"] == "all")
    assert overall["difference"] == pytest.approx(overall["value"] - overall["reference"])
    assert overall["lower"] < overall["difference"]
    for row in json.loads((out / f"compare_{against}.json").read_text())["dependence"]:
        assert 0 <= row["dcor_m1"] <= 1
        assert 0 <= row["reference_dcor_m1"] <= 1
    if against == "dedicated":
        folders = {path.name for path in (out / "dedicated" / "fold4_seed42_events").iterdir()}
        assert folders == {"MHc130_MA95", "MHc130_MA88"}
    assert (out / f"compare_{against}.png").exists()


def test_a_run_equals_itself(run, tmp_path):
    done = ok(
        "compare", "--run", run, "--out", tmp_path, "--against", run, "--points", "130,95",
        "--num-resamples", 10, "--json",
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert result["auc_difference"] == {"MHc130_MA95": 0.0}
    assert result["non_inferior"] == "1 of 1 points"


def test_report_is_one_page(run, tmp_path):
    ok("compare", "--run", run, "--out", tmp_path, "--against", run, "--points", "130,95",
       "--num-resamples", 10)  # fmt: skip
    comparison = tmp_path / "compare_run.json"
    ok("report", run, "--comparison", comparison, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "MHc165_MA97" in page
    assert "Averaging by branch" in page
    assert "Compared with run" in page
    assert page.count("data:image/png;base64,") >= 6
    assert 'src="http' not in page


def test_tune_goes_on_where_it_stopped(settings, tmp_path):
    common = ("tune", "--out", tmp_path / "tune", "--population", 2, "--device", "cpu", "--json")
    items = sets(settings("train.epochs=1", "data.events_per_point=16"))
    first = json.loads(ok(*common, "--num-trials", 1, *items).stdout)
    second = json.loads(ok(*common, "--num-trials", 3, *items).stdout)
    assert (first["num_trials"], second["num_trials"]) == (1, 3)
    assert second["fitness"] <= first["fitness"]
    assert {path.name for path in (tmp_path / "tune").glob("trial*")} == {f"trial000{k}" for k in range(3)}


def test_simulate_and_prepare(tmp_path):
    table = ("--set", "masses.train=[[130, 90]]", "--set", "masses.validation=[]")
    table += ("--set", "masses.interpolation=[]", "--set", "masses.extrapolation=[]")
    samples, store = tmp_path / "samples", tmp_path / "store"
    done = ok("simulate", "--out", samples, "--num-events", 50, "--layout", "nanoaod", "--json", *table)
    assert json.loads(done.stdout)["num_files"] == 4
    done = ok("prepare", "--samples", samples, "--out", store, "--branch-map", "nanoaod", "--json", *table)
    assert json.loads(done.stdout)["num_events"]["signal_MHc130_MA90"] == 50


def test_simulate_some_processes(tmp_path):
    done = ok("simulate", "--out", tmp_path, "--num-events", 50, "--processes", "ttX, nonprompt", "--json")
    assert json.loads(done.stdout)["num_files"] == 2
    names = {path.name for path in tmp_path.glob("*.root")}
    assert names == {f"Run1E2Mu_{process}_0000.root" for process in ("nonprompt", "ttX")}
    done = program("simulate", "--out", tmp_path / "other", "--processes", "signal,ttZ")
    assert_user_error(done, "--processes", "ttZ", "nonprompt")
    assert not (tmp_path / "other").exists()


# Mistakes


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("--set", "optim.learning_rate=1"), ("optim.learning_rate", "lr")),
        (("--set", "data.batchsize=4"), ("data.batchsize", "batch_size")),
        (("--set", "model.num_heads=3"), ("model.hidden_dims", "model.num_heads")),
        (("--set", "model.kind=transformer"), ("model", "particle_net")),
        (("--set", "average.method=mean"), ("average.method", "pretrain.epochs")),
        (
            ("--set", "train.curriculum=[{fraction: 0.5, tier: easy}]"),
            ("train.curriculum", "pretrain.epochs"),
        ),
        (("--set", "data.fold=7"), ("data.fold", "7", "0 to 4")),
        (("--set", "data.channel=Run2Mu"), ("data.channel", "Run1E2Mu")),
        (("--set", "data.channel=Run3Mu"), ("Run3Mu", "holds no events")),
        (("--set", "data.train_points=[[90, 95]]"), ("mA >= mHc",)),
        (("--set", "data.train_points=['120,90']"), ("signal_MHc120_MA90",)),
        (("--set", "data.store=absent"), ("absent", "does not exist")),
        (("--preset", "quikstart"), ("quikstart", "quickstart")),
        (("--config", "absent.yaml"), ("absent.yaml",)),
        (("--device", "cuda:77"), ("cuda:77", "--device cpu")),
    ],
)
def test_wrong_settings(settings, tmp_path, args, mentions):
    out = tmp_path / "run"
    given = sets(settings()) if "model.kind=transformer" not in args else []
    done = program("train", "--out", out, *given, *args)
    assert_user_error(done, *mentions)
    assert not out.exists()


def test_a_store_of_another_version(settings, store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    record = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps({**record, "version": 0}))
    done = program("train", "--out", tmp_path / "run", *sets(settings(f"data.store={copy}")))
    assert_user_error(done, "store version 0", "chhiggs-pnet prepare")


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("--output", "p.txt"), ("p.txt", ".root")),
        (("--output", "p.root", "--onnx", "m.onnx"), ("--run", "--onnx")),
        (("--output", "p.root", "--points", "90,95"), ("mA >= mHc",)),
        (("--output", "p.root", "--points", "many"), ("many", "130,90")),
        (("--output", "p.root", "--channel", "Run2E"), ("Run2E", "Run1E2Mu")),
        (("--output", "p.root", "--branch-map", "tree"), ("tree", "nanoaod")),
        (("--output", "p.root", "--branch-map", "nanoaod"), ("branch",)),
        (("--output", "p.root", "--input", "absent*.root"), ("absent*.root",)),
    ],
)
def test_wrong_predict_options(run, samples, tmp_path, monkeypatch, args, mentions):
    monkeypatch.chdir(tmp_path)
    source = samples / "Run1E2Mu_ttX_0000.root"
    points = () if "--points" in args else ("--points", "130,90")
    done = program("predict", "--run", run, "--input", source, *points, *args)
    assert_user_error(done, *mentions)
    assert not list(tmp_path.glob("*.root"))


def test_damaged_checkpoint(run, samples, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for file in (copy / "checkpoints").glob("*.pt"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    done = program("predict", "--run", copy, "--input", samples / "Run1E2Mu_ttX_0000.root", "--output",
                   tmp_path / "p.root", "--points", "130,90")  # fmt: skip
    assert_user_error(done, "damaged", ".pt")
    assert not (tmp_path / "p.root").exists()


def test_damaged_file(run, samples, tmp_path):
    path = tmp_path / "broken.root"
    path.write_bytes((samples / "Run1E2Mu_ttX_0000.root").read_bytes()[:20_000])
    done = program(
        "predict", "--run", run, "--input", path, "--output", tmp_path / "p.root", "--points", "130,90"
    )
    assert_user_error(done, "broken.root")
    assert not (tmp_path / "p.root").exists()


@pytest.mark.parametrize(
    ("args", "mentions"),
    [
        (("evaluate", "--split", "all"), ("--split", "all", "validation")),
        (("heatmap", "--mhc", "100"), ("--mhc", "100,165,5")),
        (("heatmap", "--mhc", "90,90,1", "--ma", "95,95,1", "--num-events", "5"), ("physical",)),
        (("compare", "--against", "best"), ("--against", "best", "bdt")),
        (("compare", "--budget", "some"), ("--budget", "some", "updates")),
        (("compare", "--points", "120,90"), ("signal_MHc120_MA90",)),
    ],
)
def test_wrong_options_of_other_verbs(run, tmp_path, args, mentions):
    out = ("--out", tmp_path / "out") if args[0] == "compare" else ()
    assert_user_error(program(args[0], "--run", run, *out, *args[1:]), *mentions)


@pytest.mark.parametrize("verb", ["compare", "tune", "simulate", "prepare", "train", "report"])
def test_a_file_where_a_directory_should_be(run, samples, settings, tmp_path, verb):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    args = {
        "simulate": ("--num-events", 50, "--points", "130,90", "--processes", "ttX"),
        "prepare": ("--samples", samples, *sets(f"masses.{role}={points}" for role, points in ROLES.items())),
        "report": (run,),
        "compare": ("--run", run),
        **dict.fromkeys(("tune", "train"), sets(settings())),
    }[verb]
    done = program(verb, *args, "--out", tmp_path / "thesis.tex" / "out")
    assert_user_error(done, "thesis.tex", "cannot be written", "directories")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_run_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-m", "chhiggs_pnet.cli", "evaluate", "--run", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert_user_error(done, "holds no run")
