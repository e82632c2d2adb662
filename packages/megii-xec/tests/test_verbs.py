"""validate-real, check-file, cache, scan and mlflow-sync, each as a user calls it."""

import importlib
import json
import pathlib
import shutil
import sys
import types

import numpy as np
import onnx
import pytest
import uproot
from typer.testing import CliRunner

from hep_shared.errors import ConfigError, UserError
from hep_shared.files import manifest_path
from hep_shared.run import RunDir
from hep_shared.sinks import SINKS
from megii_xec.cache import cache
from megii_xec.cli import app
from megii_xec.data.stream import PhotonStream
from megii_xec.data.summary import summarize_file
from megii_xec.export import export
from megii_xec.figures import differences
from megii_xec.mlflow_sync import mlflow_sync
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.scan import RESULT, ScanConfig, read_scan, run_scan
from megii_xec.show import read_events, show
from megii_xec.simulate import simulate
from megii_xec.train import train
from megii_xec.validate_real import validate_real


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("verbs") / "run"
    train(tiny_config("train.epochs=1"), out=out, resume=False, device="cpu", command="test")
    return out


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export(run, path)
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "real.root"
    simulate(SimulationConfig(real_data_layout=True), path, num_events=20, seed=8)
    return path


# validate-real


def test_recorded_events_one_by_one(run, model, real, tmp_path):
    result = validate_real(model, [str(real)], tmp_path / "out.root", run=run, device="cpu", batch_size=8)
    with uproot.open(tmp_path / "out.root") as file:
        rows = file["predictions"].arrays(library="np")
    with uproot.open(real) as file:
        tree = file["tree"].arrays(["run", "event", "energyReco", "uvwRecoLC", "timeReco"], library="np")
    assert result["num_events"] == len(rows["event"]) == 20
    np.testing.assert_array_equal(rows["event"], tree["event"])
    np.testing.assert_allclose(rows["reco_energy"], tree["energyReco"], rtol=1e-6)
    np.testing.assert_allclose(rows["reco_timing"], tree["timeReco"], rtol=1e-6)
    np.testing.assert_allclose(rows["reco_w"], tree["uvwRecoLC"][:, 2], rtol=1e-6)
    difference = result["difference"]["energy"]
    assert difference["median"] == pytest.approx(
        np.median(rows["pred_energy"] - rows["reco_energy"]), rel=1e-4
    )
    assert difference["unit"] == "GeV"


def changed(model, tmp_path, **facts):
    """A copy of a model with other metadata and no manifest."""
    proto = onnx.load(model)
    for entry in proto.metadata_props:
        if entry.key in facts:
            entry.value = facts[entry.key](entry.value)
    onnx.save(proto, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_constants_that_were_changed_are_refused(model, real, tmp_path):
    def other_scale(text):
        return json.dumps({**json.loads(text), "npho_scale": 900.0})

    edited = changed(model, tmp_path, normalization=other_scale)
    with pytest.raises(UserError, match=r"has constants log1p-\w+ but was exported with log1p-\w+; export"):
        validate_real(edited, [str(real)], tmp_path / "out.root", device="cpu")
    assert not (tmp_path / "out.root").exists()


def test_a_model_of_another_run_is_refused(run, model, real, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    record = json.loads((other / "config.json").read_text())
    record["config"]["data"]["normalization"]["npho_threshold"] = 50.0
    (other / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"has normalization log1p-\w+, but the run .* has log1p-\w+"):
        validate_real(model, [str(real)], tmp_path / "out.root", run=other, device="cpu")


def test_a_model_without_normalisation_is_refused(model, real, tmp_path):
    proto = onnx.load(model)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    with pytest.raises(UserError, match="carries no normalisation"):
        validate_real(tmp_path / "bare.onnx", [str(real)], tmp_path / "out.root", device="cpu")


def test_the_differences_are_drawn(run, model, real, tmp_path):
    validate_real(model, [str(real)], tmp_path / "out.root", device="cpu")
    assert (tmp_path / "out_differences.png").stat().st_size > 10_000
    figure = differences({"energy": (np.linspace(-1, 3, 101), "GeV"), "w": (np.zeros(0), "cm")})
    first, second = figure.axes
    assert "median 1" in first.get_legend().get_texts()[0].get_text()
    assert [text.get_text() for text in second.texts] == ["no events"]


# show


def test_events_are_shown(photons, real, tmp_path):
    (event,) = read_events(photons / "test.root", [3])
    with uproot.open(photons / "test.root") as file:
        tree = file["tree"].arrays(
            ["npho", "uvwTruth", "energyReco", "event"], library="np", entry_start=3, entry_stop=4
        )
    np.testing.assert_array_equal(event["npho"], tree["npho"][0])
    np.testing.assert_array_equal(event["truth"]["uvwFI"], tree["uvwTruth"][0])
    assert event["reco"]["energy"] == tree["energyReco"][0]
    assert event["title"].endswith(f"event {tree['event'][0]}")
    assert show(photons / "test.root", [3], tmp_path / "event.png")["num_events"] == 1
    assert (tmp_path / "event.png").stat().st_size > 50_000
    show(real, [0, 5], tmp_path / "events.html")
    assert (tmp_path / "events.html").read_text().count('"truth":null') == 2


def test_what_cannot_be_shown_is_said(real, tmp_path):
    with pytest.raises(UserError, match=r"has entries 0 to 19, and --entry is 20"):
        show(real, [20], tmp_path / "a.png")
    with pytest.raises(UserError, match=r"is one picture, but 2 entries"):
        show(real, [0, 1], tmp_path / "a.png")
    with pytest.raises(UserError, match=r"should end in"):
        show(real, [0], tmp_path / "a.svg")


# check-file


def test_a_file_is_described(photons, real):
    facts = summarize_file(photons / "train.root")
    assert facts["simulated"] is True
    assert facts["missing_branches"] == []
    assert (facts["num_nan_npho"], facts["num_inf_time"]) == (0, 0)
    with uproot.open(photons / "train.root") as file:
        dead = np.flatnonzero((file["tree"]["npho"].array(library="np") > 9e9).all(axis=0))
    assert facts["dead_channels"] == dead.tolist()
    assert facts["num_dead_channels"] == len(dead) > 30
    assert facts["ranges"]["energyTruth"]["unit"] == "GeV"
    assert summarize_file(real)["simulated"] is False
    assert "energyTruth" in summarize_file(real)["missing_branches"]


# cache


def foreign(photons, path):
    """A file as ROOT writes it: ZLIB, small baskets, a branch of its own."""
    with uproot.open(photons / "test.root") as file:
        columns = file["tree"].arrays(library="np")
    columns["mine"] = np.arange(len(columns["event"]), dtype=np.float32)
    types = {name: np.dtype((values.dtype.str, values.shape[1:])) for name, values in columns.items()}
    with uproot.recreate(path, compression=uproot.ZLIB(1)) as file:
        tree = file.mktree("tree", types)
        for start in range(0, 24, 4):
            tree.extend({name: values[start : start + 4] for name, values in columns.items()})
    return columns


def test_a_cached_file_holds_the_same(photons, tmp_path, tiny_config):
    columns = foreign(photons, tmp_path / "foreign.root")
    result = cache([str(tmp_path / "foreign.root")], tmp_path / "fast")
    assert (result["num_files"], result["num_made"], result["num_events"]) == (1, 1, 24)
    with uproot.open(tmp_path / "fast" / "foreign.root") as file:
        tree = file["tree"]
        assert tree["npho"].num_baskets == 1
        copied = tree.arrays(library="np")
    assert set(columns) - set(copied) == {"mine"}
    for name, values in copied.items():
        np.testing.assert_array_equal(values, columns[name])
    normalization = tiny_config().data.normalization
    batches = [
        next(PhotonStream(file, normalization, batch_size=24).batches()).sensors
        for file in (tmp_path / "foreign.root", tmp_path / "fast" / "foreign.root")
    ]
    assert batches[0].equal(batches[1])


def test_only_what_is_missing_or_stale_is_cached_again(photons, tmp_path):
    source, fast = tmp_path / "foreign.root", tmp_path / "fast"
    foreign(photons, source)
    assert [cache([str(source)], fast)["num_made"] for _ in range(2)] == [1, 0]
    copy = fast / "foreign.root"
    copy.write_bytes(copy.read_bytes()[:-100])
    assert cache([str(source)], fast)["num_made"] == 1
    source.touch()
    assert cache([str(source)], fast)["num_made"] == 1
    assert manifest_path(copy).exists()


def test_a_cache_does_not_overwrite_its_source(photons, tmp_path):
    foreign(photons, tmp_path / "a.root")
    with pytest.raises(UserError, match=r"holds a\.root itself"):
        cache([str(tmp_path / "a.root")], tmp_path)
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a.root", tmp_path / "b" / "a.root")
    with pytest.raises(UserError, match=r"two files called a\.root"):
        cache([str(tmp_path / "a.root"), str(tmp_path / "b" / "a.root")], tmp_path / "fast")


# scan


def write_scan(path, settings, **more):
    path.write_text(json.dumps({"verb": "train", "set": settings, **more}))  # JSON is YAML
    return path


def test_points_of_a_scan():
    scan = ScanConfig.model_validate(
        {
            "grid": {"optim.lr": [1e-3, 3e-4], "model.dropout": [0.0, 0.1, 0.2]},
            "random": {
                "num_points": 50, "seed": 1,
                "ranges": {
                    "optim.weight_decay": {"low": 1e-6, "high": 1e-2, "log": True},
                    "model.hex_depth": {"low": 1, "high": 4, "integer": True},
                },
            },
        }
    )  # fmt: skip
    points = scan.points()
    names = [name for name, _ in scan.named_points()]
    assert names[1] == "optim.lr 0.001, model.dropout 0.1"
    assert len(points) == 6 + 50
    assert points[1] == {"optim.lr": 1e-3, "model.dropout": 0.1}
    decays = np.array([point["optim.weight_decay"] for point in points[6:]])
    assert 1e-6 <= decays.min() < 1e-5 < 1e-3 < decays.max() <= 1e-2
    assert {point["model.hex_depth"] for point in points[6:]} == {1, 2, 3, 4}
    assert points == scan.points()


def test_seeds_of_a_variant_share_a_row():
    scan = ScanConfig.model_validate(
        {
            "variants": {"learned": {}, "tokens": {"model.inner_tokens": [3, 2], "train.seed": 7}},
            "grid": {"train.seed": [1, 2], "optim.lr": [1e-3]},
        }
    )
    points = scan.named_points()
    assert [name for name, _ in points] == ["learned, optim.lr 0.001", "tokens, optim.lr 0.001"] * 2
    assert points[0][1] == {"train.seed": 1, "optim.lr": 1e-3}
    assert points[3][1] == {"model.inner_tokens": [3, 2], "train.seed": 2, "optim.lr": 1e-3}
    assert ScanConfig.model_validate({"grid": {"train.seed": [1, 2]}}).named_points()[1][0] == "all"


def test_a_scan_runs_goes_on_and_ranks(settings, tmp_path):
    overrides = settings("train.epochs=1", "train.finish=[evaluate]", "train.pictures=false")
    file = write_scan(tmp_path / "scan.yaml", overrides, grid={"optim.lr": [1e-9, 3e-3]})
    result = run_scan(file, tmp_path / "out", device="cpu")
    assert result["num_points"] == 2
    assert result["best"]["settings"] == {"optim.lr": 3e-3}
    table = json.loads((tmp_path / "out" / "scan.json").read_text())["points"]
    assert table[0]["best_val_loss"] < table[1]["best_val_loss"]
    lines = (tmp_path / "out" / "scan.md").read_text().splitlines()
    assert lines[0].startswith("|  | validation loss | opening angle [deg] | energy [%] |")
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| optim.lr 1e-09", "| optim.lr 0.003", "| conventional"
    ]  # fmt: skip
    before = (tmp_path / "out" / "point_0001" / RESULT).stat().st_mtime_ns
    (tmp_path / "out" / "point_0000" / RESULT).unlink()  # a point that was stopped after its last checkpoint
    assert run_scan(file, tmp_path / "out", device="cpu") == result
    assert (tmp_path / "out" / "point_0001" / RESULT).stat().st_mtime_ns == before
    assert RunDir.open(tmp_path / "out" / "point_0000").history()[0]["epoch"] == 1
    assert not list((tmp_path / "out").rglob("*.png"))
    other = write_scan(tmp_path / "other.yaml", settings(), grid={"optim.lr": [1e-2]})
    with pytest.raises(UserError, match="holds another scan"):
        run_scan(other, tmp_path / "out")


def test_a_point_that_cannot_run_says_why(settings, tmp_path):
    file = write_scan(tmp_path / "scan.yaml", settings(), grid={"model.dim": [33]})
    with pytest.raises(UserError, match=r"point 0 .*model.dim is 33, which 2 model.num_heads do not divide"):
        run_scan(file, tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("grids: {}", "grids is wrong"),
        ("verb: predict", "verb is wrong"),
        ("verb: train", "describes no point"),
        ("a: [", "scan.yaml"),
        (
            "{verb: inpaint, grid: {train.seed: [1]}, ensemble: true}",
            "are for verb train, and verb is inpaint",
        ),
        ("random: {num_points: 1, ranges: {optim.lr: {low: 1, high: 0.1}}}", "goes from 1 to 0.1"),
    ],
)
def test_a_wrong_scan_is_refused(tmp_path, content, sentence):
    (tmp_path / "scan.yaml").write_text(content)
    with pytest.raises((ConfigError, UserError), match=sentence):
        read_scan(tmp_path / "scan.yaml")


# mlflow-sync


class FakeClient:
    """What the program uses of MlflowClient, kept in memory."""

    runs: dict = {}  # noqa: RUF012

    def __init__(self, tracking_uri):
        assert tracking_uri.startswith("sqlite:///")

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name, artifact_location):
        assert artifact_location.endswith("mlflow.db.artifacts")
        return "1"

    def search_runs(self, experiments, filter_string):
        name = filter_string.rpartition("= ")[2].strip("'")
        return [run for run in self.runs.values() if run.data.tags["xec.run"] == name]

    def create_run(self, experiment, run_name, tags):
        run = types.SimpleNamespace(
            info=types.SimpleNamespace(run_id=str(len(self.runs)), status="RUNNING"),
            data=types.SimpleNamespace(tags=dict(tags), params={}, metrics=[], files=[]),
        )
        self.runs[run.info.run_id] = run
        return run

    def log_artifact(self, run, path, folder):
        self.runs[run].data.files.append((pathlib.Path(path).name, folder))

    def log_param(self, run, key, value):
        self.runs[run].data.params[key] = value

    def log_metric(self, run, key, value, step):
        self.runs[run].data.metrics.append((key, value, step))

    def set_terminated(self, run):
        self.runs[run].info.status = "FINISHED"

    def set_tag(self, run, key, value):
        self.runs[run].data.tags[key] = value


@pytest.fixture
def tracker(monkeypatch):
    module = types.ModuleType("mlflow.tracking")
    module.MlflowClient = FakeClient
    monkeypatch.setattr(FakeClient, "runs", {})
    monkeypatch.setitem(sys.modules, "mlflow", types.ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.tracking", module)
    return FakeClient.runs


def test_histories_are_replayed_once(run, tracker, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert mlflow_sync([copy], tmp_path / "mlflow.db")["num_added"] == 1
    (copy / "figures").mkdir(exist_ok=True)
    (copy / "figures" / "curves.pdf").write_text("a picture")
    (copy / "evaluation_test.json").write_text("{}")
    for _ in range(2):  # the second time there is nothing new
        assert mlflow_sync([copy], tmp_path / "mlflow.db")["num_added"] == 0
    assert tracker["0"].data.files == [("evaluation_test.json", None), ("curves.pdf", "figures")]
    directory = RunDir.open(copy)
    directory.log({"step": 99, "val_loss": 0.5, "total": None})
    assert mlflow_sync([copy, run], tmp_path / "mlflow.db")["num_added"] == 2
    first, second = tracker["0"], tracker["1"]
    assert second.info.status == "FINISHED"
    assert ("val_loss", 0.5, 99) in first.data.metrics
    assert first.data.params["task.kind"] == "regression"
    names = {name for name, _, _ in second.data.metrics}
    assert {"val_loss", "train_loss", "system/throughput_events_per_sec", "theta_bias"} <= names
    assert len([m for m in first.data.metrics if m[0] == "train_loss"]) == 1


def test_one_writer_at_a_time(run, tracker, tmp_path):
    fcntl = importlib.import_module("fcntl")
    with (tmp_path / "mlflow.db.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="being written by another"):
            mlflow_sync([run], tmp_path / "mlflow.db")


def test_without_mlflow_there_is_a_hint(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(UserError, match="pip install mlflow-skinny"):
        mlflow_sync([run], tmp_path / "mlflow.db")


# trackers


class LockedTracker:
    """A tracker whose database is locked by somebody else."""

    def __init__(self, path):
        pass

    def log(self, record):
        raise OSError("database is locked")

    def close(self):
        raise OSError("database is locked")


def test_a_locked_tracker_does_not_stop_a_training(tiny_config, monkeypatch, tmp_path, caplog):
    monkeypatch.setitem(SINKS, "mlflow", LockedTracker)
    config = tiny_config("train.track=[mlflow]", "train.epochs=1")
    result = train(config, out=tmp_path / "run", resume=False, device="cpu", command="test")
    assert np.isfinite(result["best_val_loss"])
    assert "tracker mlflow is dropped, the run goes on: database is locked" in caplog.text


@pytest.mark.parametrize("verb", ["train", "pretrain", "inpaint"])
def test_trackers_are_chosen_on_the_command_line(verb, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("megii_xec.train.train", lambda config, **more: seen.append(config))
    arguments = [verb, "--track", "mlflow", "--track", "tensorboard", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen[0].train.track == ("mlflow", "tensorboard")
    assert seen[0].task.kind == {"train": "regression"}.get(verb, verb)
