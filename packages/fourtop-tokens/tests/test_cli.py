"""The command line as a user runs it."""

import json

import h5py
import numpy as np
import pytest

from fourtop_tokens.cli import app
from hep_shared import cli
from hep_shared.testing import run_cli

PROGRAM = "fourtop_tokens.cli"
TINY = [
    item
    for setting in (
        "model.dim=16",
        "model.depth=1",
        "model.mlp_dim=16",
        "data.batch_size=64",
        "train.epochs=1",
    )
    for item in ("--set", setting)
]


def run(*args, cwd=None):
    return run_cli([PROGRAM, *args], cwd=cwd, env={"OMP_NUM_THREADS": "1"}, timeout=300)


def refuse(capsys, *args):
    """Run in this process, since importing takes longer than refusing; return the one sentence."""
    with pytest.raises(SystemExit) as stop:
        cli.run_cli(app, "fourtop_tokens", [str(arg) for arg in args])
    errors = capsys.readouterr().err
    sentences = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2, errors
    assert "Traceback" not in errors
    assert len(sentences) == 1, errors
    assert sentences[0].endswith(".")
    return sentences[0]


def result(process):
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.strip().splitlines()[-1])


def test_quickstart_end_to_end(tmp_path):
    simulated = run("simulate", "--out", "e.h5", "--num-events", "700", "--seed", "3", "--json", cwd=tmp_path)
    assert result(simulated) == {"out": "e.h5", "train": 560, "val": 70, "test": 70}
    found = result(
        run(
            "train",
            "--preset",
            "quickstart",
            "--set",
            "data.events=e.h5",
            *TINY,
            "--out",
            "run",
            "--json",
            cwd=tmp_path,
        )
    )
    assert set(found["test"]) == {"auroc", "auroc_low", "auroc_high", "accuracy", "eff_at_50", "eff_at_100"}
    predicted = result(
        run("predict", "--onnx", found["onnx"], "--input", "e.h5", "--output", "s.h5", "--json", cwd=tmp_path)
    )
    assert predicted["num_events"] == 700
    with h5py.File(tmp_path / "s.h5") as file, np.load(tmp_path / "run" / "scores_test.npz") as scores:
        np.testing.assert_allclose(file["probabilities_test"][:], scores["probabilities"], atol=1e-5)
    assert (tmp_path / "run" / "figures" / "test_roc.png").exists()


@pytest.fixture(scope="module")
def damaged(sample, tmp_path_factory):
    """Files that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("damaged")

    def make(name, change):
        with h5py.File(sample[0]) as source, h5py.File(folder / name, "w") as target:
            arrays = {key: source[key][:] for key in source}
            change(arrays)
            for key, array in arrays.items():
                target[key] = array

    def put(key, index, value):
        def change(arrays):
            arrays[key][index] = value

        return change

    make("nan.h5", put("X_train", (3, 25), np.nan))
    make("id.h5", put("X_train", (4, 0), 9))
    make("pt.h5", put("X_val", (5, 21), -1))
    make("label.h5", put("Y_train", 6, 0))
    make("shape.h5", lambda arrays: arrays.update(X_train=arrays["X_train"][:, :91]))
    make("split.h5", lambda arrays: arrays.pop("X_val"))

    def to_mev(arrays):
        for key in ("X_train", "X_val", "X_test"):
            for columns in (18, slice(20, None, 4), slice(21, None, 4)):  # MET, E, pT
                arrays[key][:, columns] *= 1000

    make("mev.h5", to_mev)
    make("test.h5", put("X_test", (7, 30), np.inf))
    (folder / "cut.h5").write_bytes(sample[0].read_bytes()[:20_000])
    return folder


@pytest.mark.parametrize(
    ("name", "mentions"),
    [
        ("nan.h5", ("nan.h5", "'X_train', entry 3", "nan is not a finite number")),
        ("id.h5", ("'X_train', entry 4", "9 is not an object id", "ids are 0 (empty) to 7 (photon)")),
        ("pt.h5", ("'X_val', entry 5", "-1 is a negative pT")),
        ("label.h5", ("'Y_train', entry 6", "0 is not a label", "labels are 1 (tttt) to 5 (ttZ)")),
        ("shape.h5", ("'X_train'", "(480, 91) instead of (N, 92)")),
        ("split.h5", ("'X_val'", "is missing")),
        ("cut.h5", ("cut.h5", "cannot be read")),
        ("none.h5", ("none.h5", "does not exist")),
    ],
)
def test_bad_input_is_one_sentence(damaged, tmp_path, capsys, name, mentions):
    sentence = refuse(capsys, "tokenize", "--input", damaged / name, "--output", tmp_path / "t.h5")
    assert all(mention in sentence for mention in mentions), sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["train", "train-vqvae", "sweep"])
def test_a_bad_test_split_is_noticed_before_a_training(damaged, tmp_path, capsys, verb):
    events = damaged / "test.h5"
    words = (verb, "--set", f"data.events={events}", "--out", tmp_path / "out", "--device", "cpu")
    assert "'X_test', entry 7: inf is not a finite number" in refuse(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_units_have_a_flag(damaged, tmp_path, capsys):
    words = ("tokenize", "--input", damaged / "mev.h5", "--output", tmp_path / "t.h5")
    assert "if it is in MeV, pass --units mev" in refuse(capsys, *words)
    with pytest.raises(SystemExit) as stop:
        cli.run_cli(app, "fourtop_tokens", [*map(str, words), "--units", "mev"])
    assert stop.value.code == 0


def test_usage_errors_are_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "4tops_splitted.h5" in refuse(capsys, "anchors")
    assert "train-vqvae needs task.kind vqvae" in refuse(capsys, "train-vqvae", "--preset", "study")
    assert "nowhere holds no run" in refuse(capsys, "report", "nowhere")
    assert not list(tmp_path.iterdir())
