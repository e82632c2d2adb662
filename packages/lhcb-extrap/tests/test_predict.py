import numpy as np
import pytest
import torch

from hep_shared.errors import CheckpointError, InputFileError, UserError
from hep_shared.onnx import open_session, read_metadata
from lhcb_extrap.config import MlpConfig
from lhcb_extrap.data.npz import write_npz
from lhcb_extrap.data.stream import read_sample
from lhcb_extrap.data.tracks import read_tracks
from lhcb_extrap.export import example_tracks, export, export_network
from lhcb_extrap.predict import choose_model, load_run, predict
from lhcb_extrap.tasks.extrapolation import build_network


def write_inputs(path, inputs, planes=None):
    arrays = {"X": inputs} if planes is None else {"X": inputs, "Z": planes}
    write_npz(path, {key: (value.shape, value.dtype, [value]) for key, value in arrays.items()})
    return path


@pytest.fixture
def inputs(track_file):
    return np.array(read_tracks(track_file).X[:20])


def read(path):
    with np.load(path, allow_pickle=False) as archive:
        return archive["Y"], archive["valid_mask"]


@pytest.mark.parametrize("kind", ["mlp", "pinn", "rk_pinn", "kick"])
def test_run_and_onnx_predict_alike(trained, inputs, tmp_path, kind):
    found = export(trained / kind, tmp_path / "model.onnx")
    assert found["max_abs_diff"]["position_mm"] <= 1e-3  # mm, that is 1e-6 m
    assert found["max_abs_diff"]["slope"] <= 1e-3 / 3000
    file = write_inputs(tmp_path / "in.npz", inputs)
    predict(trained / kind, file, tmp_path / "run.npz")
    predict(tmp_path / "model.onnx", file, tmp_path / "onnx.npz")
    ours, theirs = read(tmp_path / "run.npz"), read(tmp_path / "onnx.npz")
    np.testing.assert_allclose(ours[0], theirs[0], rtol=0, atol=1e-3)
    assert ours[1].all()
    tracks = np.column_stack([inputs, np.full(len(inputs), 3000.0)])
    np.testing.assert_array_equal(ours[0], load_run(trained / kind, "cpu").extrapolate(tracks))


@pytest.mark.parametrize(("offset", "precision"), [(1.0, "single"), (100.0, "double")])
def test_a_network_that_rounds_too_much_is_exported_in_double(normalization, tmp_path, offset, precision):
    """Hidden values around `offset` cancel in the last layer, and single precision loses that factor."""
    network = build_network(MlpConfig(hidden=(16,)), normalization)
    first, _, last = network.layers
    with torch.no_grad():
        first.bias.fill_(offset)
        last.bias.copy_(-offset * last.weight.sum(dim=1))
    found = export_network(network.eval(), normalization, tmp_path / "model.onnx")
    assert found["precision"] == precision
    assert 0 < found["max_abs_diff"]["position_mm"] <= 1e-3
    assert read_metadata(tmp_path / "model.onnx")["precision"] == precision
    session = open_session(tmp_path / "model.onnx", "cpu")
    tracks = example_tracks(normalization, 9)
    ours = session.run(["end"], {"tracks": tracks[:, :6].numpy()})[0]
    with torch.no_grad():
        truth = network.double()(tracks.double()).numpy()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours[:, :2], truth[:, :2], rtol=0, atol=1e-3)


def test_weights_that_are_not_finite_are_not_exported(normalization, tmp_path):
    network = build_network(MlpConfig(hidden=(16,)), normalization)
    with torch.no_grad():
        network.layers[0].bias.fill_(float("nan"))
    with pytest.raises(UserError, match="no file was written"):
        export_network(network.eval(), normalization, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        (0, np.nan, "remove rows that are not finite"),
        (0, 9000.0, r"has x = 9000 mm; keep \|x\| within"),
        (4, 0.2, r"multiply q/p by 1e-3 if it is in 1/GeV"),
        (5, 0.0, "has dz = 0 mm; remove tracks without a path"),
        (4, np.inf, "has q/p = inf 1/MeV; remove particles at rest, p = 0"),
        (5, -4000.0, "give dz > 0, or use a model trained on backward tracks"),
        (5, 4.0, r"goes from z = 3000 mm over dz = 4 mm, but .* was trained for"),
    ],
)
def test_bad_rows_stop_or_are_marked(trained, inputs, tmp_path, column, value, sentence):
    inputs[7, column] = value
    file = write_inputs(tmp_path / "in.npz", inputs)
    with pytest.raises(InputFileError, match=rf"entry 7: .*{sentence}"):
        predict(trained / "kick", file, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
    result = predict(trained / "kick", file, tmp_path / "out.npz", on_error="mark")
    assert result["num_marked"] == 1
    end, valid_mask = read(tmp_path / "out.npz")
    assert np.flatnonzero(~valid_mask).tolist() == [7]
    assert np.isnan(end[7]).all()
    assert np.isfinite(end[valid_mask]).all()


def test_other_planes_are_refused(trained, inputs, tmp_path):
    planes = np.column_stack([np.full(20, 2000.0), np.full(20, 6000.0)])
    file = write_inputs(tmp_path / "in.npz", inputs, planes)
    with pytest.raises(InputFileError, match="goes from z = 2000 mm"):
        predict(trained / "mlp", file, tmp_path / "out.npz")


def test_truncated_files_and_wrong_options(trained, inputs, tmp_path):
    file = write_inputs(tmp_path / "in.npz", inputs)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(InputFileError, match=r"in\.npz"):
        predict(trained / "mlp", file, tmp_path / "out.npz")
    with pytest.raises(UserError, match=r"should end in \.npz"):
        predict(trained / "mlp", file, tmp_path / "out.root")
    with pytest.raises(UserError, match="--on-error is 'skip'; choose stop or mark"):
        predict(trained / "mlp", file, tmp_path / "out.npz", on_error="skip")
    with pytest.raises(UserError, match="give either --run DIRECTORY or --onnx FILE"):
        choose_model(None, None)


def test_normalisation_of_another_model_is_refused(trained, track_file, tmp_path, tiny_config):
    import shutil

    copy = shutil.copytree(trained / "mlp", tmp_path / "mlp")
    text = (copy / "normalization.json").read_text()
    (copy / "normalization.json").write_text(text.replace('"z_min_mm": -500.0', '"z_min_mm": -400.0'))
    with pytest.raises(CheckpointError, match=r"trained with normalization \w+, but here it is \w+"):
        load_run(copy, "cpu")
    (copy / "normalization.json").write_text("{}")
    with pytest.raises(InputFileError, match="restore the file of this run"):
        load_run(copy, "cpu")


def test_exports_of_other_kinds_are_refused(trained, tmp_path):
    with pytest.raises(UserError, match=r"should end in \.onnx, or in \.hpp"):
        export(trained / "kick", tmp_path / "model.pb")
    with pytest.raises(UserError, match=r"for kick nets between two fixed planes, but .* is a mlp"):
        export(trained / "mlp", tmp_path / "model.hpp")


def test_empty_files_are_fine(trained, inputs, tmp_path):
    file = write_inputs(tmp_path / "in.npz", inputs[:0])
    assert predict(trained / "mlp", file, tmp_path / "out.npz")["num_tracks"] == 0


def test_errors_of_the_truth_are_those_of_the_evaluation(trained, track_file):
    sample = read_sample([track_file])
    tracks = np.column_stack([sample.batch.X, sample.z0])
    end = load_run(trained / "kick", "cpu").extrapolate(tracks)
    assert np.abs(end - sample.batch.Y)[:, 0].mean() < 200
