"""Further targets, losses, weights and changes of the events, through the task and into the files."""

import numpy as np
import pytest
import torch
import uproot

from hep_shared.errors import ConfigError, InputFileError
from hep_shared.run import RunDir
from megii_xec.data.schema import NUM_GAMMA
from megii_xec.evaluate import evaluate
from megii_xec.export import export
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.predict import predict
from megii_xec.simulate import simulate
from megii_xec.tasks import regression
from megii_xec.train import train

EVERYTHING = (
    "task.angleVec.loss=cosine", "task.n_gamma={}", "task.energy.loss=beta_nll", "task.energy.beta=0.5",
    "task.uvwFI.loss=quantile", "task.angle.reweight_bins=[4, 4]", "task.energy.reweight_bins=[5]",
    "task.curriculum.num_epochs=2", "task.weighting=learned", "model.head_dropout=0.2",
    "task.augmentation={channel_dropout: 0.1, npho_noise: 3, time_jitter_ns: 0.1, energy_scale: 0.1, "
    "pileup_probability: 0.3}",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("regression") / "run"
    train(tiny_config(*EVERYTHING), out=out, resume=False, device="cpu", command="test")
    return RunDir.open(out)


def test_everything_at_once_trains(finished):
    record = finished.history()[-1]
    for name in ("val_loss_angleVec", "val_loss_n_gamma", "angleVec_resolution_deg", "n_gamma_accuracy"):
        assert np.isfinite(record[name])
    assert record["n_gamma_accuracy"] <= 1
    assert "system/ram_used_gb" in record


def test_uncertainties_reach_the_prediction_files(finished, photons, tmp_path):
    onnx = tmp_path / "model.onnx"
    differences = export(finished.path, onnx)["max_abs_diff"]
    assert {"sigma_energy", "sigma_uvwFI", "n_gamma", "angleVec"} <= differences.keys()
    trees = {}
    for name, model in {"torch": finished.path, "onnx": onnx}.items():
        predict(model, [str(photons / "test.root")], tmp_path / f"{name}.root", device="cpu")
        with uproot.open(tmp_path / f"{name}.root") as file:
            trees[name] = file["predictions"].arrays(library="np")
    wanted = {"sigma_energy", "sigma_u", "sigma_v", "sigma_w", "pred_dir_x", "pred_n_gamma", "pred_theta"}
    assert wanted <= trees["torch"].keys() == trees["onnx"].keys()
    assert (trees["torch"]["sigma_energy"] > 0).all()
    for name in wanted - {"pred_n_gamma"}:
        np.testing.assert_allclose(trees["torch"][name], trees["onnx"][name], rtol=1e-3, atol=1e-4)
    length = sum(np.square(trees["torch"][f"pred_dir_{axis}"]) for axis in "xyz")
    np.testing.assert_allclose(length, 1, atol=1e-5)


def test_uncertainties_are_held_against_the_errors(finished):
    own = evaluate(finished.path, device="cpu", pictures=False)
    assert set(own["uncertainty"]) == {"energy", "u", "v", "w"}
    spread = evaluate(finished.path, device="cpu", pictures=False, mc_passes=3)
    assert {"theta", "timing", "dir_x", "energy"} <= spread["uncertainty"].keys()
    assert (finished.path / "evaluation_test_mc.json").exists()
    both = evaluate(finished.path, device="cpu", pictures=False, members=[finished.path])
    # Two equal members do not disagree: only their own uncertainty is left.
    assert both["uncertainty"]["energy"] == own["uncertainty"]["energy"]
    assert "theta" not in both["uncertainty"]


def test_untrained_heads_give_the_conventional_values_in_every_form(tiny_config):
    options = ("model.start=conventional", "task.uvwFI.loss=quantile", "task.energy.loss=beta_nll")
    module = regression.build_model(tiny_config(*options)).eval()
    sensors = next(regression.build_stream(tiny_config(), "train").batches()).sensors.requires_grad_()
    estimate, _ = module.network.start(sensors.detach())
    outputs = module.network(sensors)
    for block in outputs["uvwFI"].chunk(3, dim=1):  # three quantiles of one place
        torch.testing.assert_close(block, estimate["uvwFI"])
    mean, log_variance = outputs["energy"].chunk(2, dim=1)
    torch.testing.assert_close(mean, estimate["energy"])
    assert torch.equal(log_variance, torch.zeros_like(log_variance))
    sum(values.sum() for values in outputs.values()).backward()
    assert torch.isfinite(sensors.grad).all()  # which the slopes of the estimate are not


def test_other_files_with_truth(finished, tmp_path):
    simulate(SimulationConfig(pileup_probability=1.0), tmp_path / "pile.root", num_events=20, seed=5)
    result = evaluate(
        finished.path, device="cpu", pictures=False, split="pileup", inputs=[str(tmp_path / "pile.root")]
    )
    assert result["files"] == ["pile.root"]
    assert result["network"]["num_events"] == 20
    assert (finished.path / "evaluation_pileup.json").exists()
    with uproot.open(tmp_path / "pile.root") as file:
        assert (file["tree"][NUM_GAMMA.name].array(library="np") == 2).all()


def test_files_without_the_number_of_photons_serve_for_the_rest(tiny_config, photons, tmp_path):
    with uproot.open(photons / "test.root") as file:
        columns = file["tree"].arrays(library="np")
    del columns[NUM_GAMMA.name]
    with uproot.recreate(tmp_path / "old.root") as file:
        types = {name: np.dtype((values.dtype.str, values.shape[1:])) for name, values in columns.items()}
        file.mktree("tree", types).extend(columns)
    files = (f"data.train=[{tmp_path}/old.root]", f"data.validation=[{tmp_path}/old.root]")
    next(regression.build_stream(tiny_config(*files), "train").batches())
    with pytest.raises(InputFileError, match="numGamma"):
        regression.build_stream(tiny_config(*files, "task.n_gamma={}"), "train")


def test_weights_raise_rare_events_and_the_curriculum_silences_hard_ones(tiny_config):
    config = tiny_config(
        "task.energy.reweight_bins=[4]", "task.curriculum={num_epochs: 2}", "data.batch_size=64"
    )
    stream, _ = regression.build_streams(config, _world())
    prepare = regression.preparation(config, stream)
    batch = next(stream.batches())
    first, last = prepare(batch, 0), prepare(batch, 2)
    assert (first.weight == 0).sum() > 30
    assert (last.weight > 0).all()
    assert torch.equal(first.weight[first.weight > 0], last.weight[first.weight > 0])
    hard = first.weight == 0
    assert batch.targets["energy"][hard].mean() < batch.targets["energy"][~hard].mean()
    module = regression.build_model(config)
    assert torch.isfinite(regression.compute_loss(module, first))


def _world():
    from hep_shared.distributed import World

    return World(0, 1, 0, torch.device("cpu"))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("task.energy.loss=cosine", "is for angle and angleVec only"),
        ("task.angle.reweight_bins=[10]", "give 2 positive numbers"),
        ("task.n_gamma.loss=mse", "task.n_gamma.loss"),
        ("task.kind=classify", "regression, pretrain or inpaint"),
        ("model.inner_tokens=[0, 1]", "inner_tokens"),
    ],
)
def test_wrong_settings(tiny_config, setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiny_config(setting)


@pytest.mark.parametrize("preset", ["published", "deeper", "wider", "legacy", "small", "quickstart"])
def test_presets_build(preset):
    from hep_shared.config import load_config
    from megii_xec.config import PRESETS, Config

    config = load_config(Config, presets=PRESETS, preset=preset)
    with torch.device("meta"):
        sizes = sum(p.numel() for p in regression.common.build_encoder(config).parameters())
    assert sizes > 1e5
