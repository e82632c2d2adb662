"""Fine-tuning on the top-tagging and the quark-gluon sample from the command line."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from hep_shared.errors import UserError
from hep_shared.run import RunDir
from jet_foundation.data.foreign import TOP_SLOTS
from jet_foundation.physics import fourvectors as fv
from jet_foundation.train import train
from jet_foundation.transfer import transfer

FAST = ["data.batch_size=8", "train.epochs=1", 'train.finish=["evaluate"]']


@pytest.fixture(scope="module")
def start(tiny_config, tmp_path_factory):
    """A pre-training on the kinematics of toy jets."""
    out = tmp_path_factory.mktemp("start") / "run"
    config = tiny_config("task.kind=pretrain", "data.feature_set=kin", "train.epochs=1")
    train(config, out=out, resume=False, device="cpu", command="test")
    return out


def write_top(path: Path, num_jets: int, **changes) -> Path:
    """A top-landscape file with one data set a column; a changed column is replaced or left out (None)."""
    rng = np.random.default_rng(0)
    pt = -np.sort(-rng.exponential(20, (num_jets, 12)) - 0.5, axis=1)
    p4 = np.zeros((num_jets, TOP_SLOTS, 4))
    p4[:, :12] = fv.from_pt_eta_phi_mass(pt, rng.normal(0, 0.3, pt.shape), rng.normal(0, 0.3, pt.shape))
    columns = {
        f"{name}_{slot}": p4[:, slot, n].astype("f4")
        for slot in range(TOP_SLOTS)
        for n, name in enumerate(("E", "PX", "PY", "PZ"))
    }
    columns["is_signal_new"] = np.arange(num_jets) % 2
    columns |= changes
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file[f"table/{name}"] = values
    return path


@pytest.mark.parametrize(
    ("which", "name", "classes"),
    [
        ("quark-gluon", "quarkgluon_1000", ["gluon", "quark"]),
        ("top-landscape", "toplandscape_1000", ["QCD", "top"]),
    ],
)
def test_real_samples(start, samples, tmp_path, which, name, classes):
    out = tmp_path / "run"
    result = transfer(
        start, which, [samples / f"{name}.npz"], out, overrides=FAST, jets_per_class=40, device="cpu"
    )
    assert 0 <= result["accuracy"] <= 1
    evaluation = json.loads((out / "evaluation_test.json").read_text())
    assert evaluation["classes"] == classes
    assert set(evaluation["metrics"]["rejection_50"]) == {classes[1]}
    # The encoder goes on with the normalisation that it was trained with.
    former, ours = (RunDir.open(path).load_checkpoint("best")["stamp"] for path in (start, out))
    assert ours["normalization"] == former["normalization"]


def test_top_landscape_from_hdf5(start, tmp_path):
    file = write_top(tmp_path / "top.h5", 60)
    transfer(start, "top-landscape", [file], tmp_path / "run", overrides=FAST, device="cpu")
    evaluation = json.loads((tmp_path / "run" / "evaluation_test.json").read_text())
    assert (evaluation["classes"], evaluation["num_jets"]) == (["QCD", "top"], 6)


def test_quark_gluon_from_published_layout(start, tmp_path):
    rng = np.random.default_rng(0)
    x = np.zeros((60, 20, 4))
    x[:, :9] = np.stack(
        [rng.exponential(50, (60, 9)) + 1, rng.normal(0, 0.2, (60, 9)), rng.normal(3, 0.2, (60, 9)),
         rng.choice([22, 211, -211, 130], (60, 9))], axis=-1,
    )  # fmt: skip
    np.savez(tmp_path / "qg.npz", X=x, y=np.arange(60) % 2)
    transfer(start, "quark-gluon", [tmp_path / "qg.npz"], tmp_path / "run", overrides=FAST, device="cpu")
    assert RunDir.open(tmp_path / "run").has_checkpoint("best")


def test_defects_are_named(start, tmp_path):
    def refused(match, file, sample="top-landscape"):
        with pytest.raises(UserError, match=match) as caught:
            transfer(start, sample, [file], tmp_path / "run", overrides=FAST, device="cpu")
        assert str(file) in str(caught.value)
        assert not (tmp_path / "run" / "checkpoints").exists()

    refused("branch 'PX_7': is missing", write_top(tmp_path / "less.h5", 20, PX_7=None))
    negative = np.full(20, 50.0, "f4")
    negative[4] = -3.0
    refused("branch 'E_i', entry 4: .*-3 GeV, not positive", write_top(tmp_path / "e.h5", 20, E_0=negative))
    small = np.full(20, 1e-3, "f4")
    refused(r"entry 0: .*\|p\| = .* exceeds E", write_top(tmp_path / "p.h5", 20, E_0=small))
    refused("the label is 3", write_top(tmp_path / "label.h5", 20, is_signal_new=np.full(20, 3)))
    whole = write_top(tmp_path / "cut.h5", 20)
    whole.write_bytes(whole.read_bytes()[:5000])
    refused(r"cut\.h5", whole)
    refused("has the layout of 'top', not of quark-gluon", write_top(tmp_path / "top.h5", 20), "quark-gluon")


def test_torchrun_is_refused(start, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="runs in one process; start it without torchrun"):
        transfer(start, "quark-gluon", [tmp_path / "x.npz"], tmp_path / "run")


def test_a_run_on_more_features_is_refused(tiny_config, tmp_path):
    config = tiny_config("task.kind=pretrain", "train.epochs=1")
    train(config, out=tmp_path / "full", resume=False, device="cpu", command="test")
    file = write_top(tmp_path / "top.h5", 60)
    with pytest.raises(
        UserError, match=r"reads the feature set 'full', but .* pre-train with --set data\.fe"
    ):
        transfer(tmp_path / "full", "top-landscape", [file], tmp_path / "run", overrides=FAST, device="cpu")
