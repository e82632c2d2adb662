import h5py
import numpy as np
import pytest

from fourtop_tokens.data.writer import write_events
from fourtop_tokens.export import export
from fourtop_tokens.predict import choose_model, predict
from hep_shared.errors import InputFileError, UserError
from hep_shared.onnx import read_metadata


@pytest.fixture(scope="module")
def model_of_tokens(tiny_config, start, tokens_file, tmp_path_factory):
    items = ("model.tokens.kind=binned", f"data.tokens={tokens_file}", "train.epochs=1")
    return start(tiny_config(*items), tmp_path_factory.mktemp("tokens") / "run")


def read(path):
    with h5py.File(path) as file:
        return {key: file[key][:] for key in file}


def test_scores_are_those_of_the_evaluation(finished, sample, tmp_path):
    found = predict(finished.path, sample[0], tmp_path / "s.h5", device="cpu", batch_size=33)
    assert found["num_events"] == 600
    table = read(tmp_path / "s.h5")
    with np.load(finished.path / "scores_test.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(table["probabilities_test"], arrays["probabilities"], atol=1e-6)
    np.testing.assert_array_equal(table["score_train"], table["probabilities_train"][:, 0])
    np.testing.assert_allclose(table["probabilities_val"].sum(1), 1, atol=1e-6)


def test_onnx_and_run_agree_on_tokens(model_of_tokens, tokens_file, tmp_path):
    exported = export(model_of_tokens.path, tmp_path / "m.onnx")
    assert exported["max_abs_diff"]["probabilities"] <= 1e-5
    metadata = read_metadata(tmp_path / "m.onnx")
    assert metadata["classes"] == ["tttt", "background"]
    assert metadata["input_names"] == ["tokens"]
    predict(model_of_tokens.path, tokens_file, tmp_path / "a.h5", device="cpu")
    predict(tmp_path / "m.onnx", tokens_file, tmp_path / "b.h5", device="cpu", batch_size=7)
    a, b = read(tmp_path / "a.h5"), read(tmp_path / "b.h5")
    assert a.keys() == b.keys()
    assert all(np.abs(a[key] - b[key]).max() <= 1e-5 for key in a)


def test_files_without_labels_and_with_one_split(finished, sample, tmp_path):
    write_events(tmp_path / "one.h5", {"test": sample[1]["test"]}, {})
    with h5py.File(tmp_path / "one.h5", "r+") as file:
        del file["y_test"]
    (tmp_path / "one.h5.manifest.json").unlink()
    assert predict(finished.path, tmp_path / "one.h5", tmp_path / "s.h5", device="cpu")["num_events"] == 60
    assert set(read(tmp_path / "s.h5")) == {"score_test", "probabilities_test"}


def test_a_file_of_the_other_kind(finished, model_of_tokens, sample, tokens_file, tmp_path):
    with pytest.raises(InputFileError, match=r"shape \(480, 20\) instead of \(N, 92\)"):
        predict(finished.path, tokens_file, tmp_path / "s.h5", device="cpu")
    with pytest.raises(InputFileError, match="holds no data set of 20 columns"):
        predict(model_of_tokens.path, sample[0], tmp_path / "s.h5", device="cpu")
    assert not list(tmp_path.iterdir())


def test_a_file_without_events(finished, tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["other"] = [1]
    with pytest.raises(InputFileError, match="holds none of X_train, X_val, X_test, only other"):
        predict(finished.path, tmp_path / "empty.h5", tmp_path / "s.h5", device="cpu")


def test_choosing_a_model(tmp_path):
    with pytest.raises(UserError, match="give either --run DIRECTORY or --onnx FILE"):
        choose_model(None, None)
    with pytest.raises(UserError, match=r"should end in .onnx"):
        choose_model(None, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"should end in .h5"):
        predict(tmp_path, tmp_path, tmp_path / "s.root")
