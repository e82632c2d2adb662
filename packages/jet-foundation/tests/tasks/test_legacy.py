"""The 2026 report's sequence with its presets, on a network of toy size."""

import json

import numpy as np
import pytest
import torch

from hep_shared.config import load_config
from jet_foundation.config import PRESETS, Config
from jet_foundation.export import export
from jet_foundation.models import legacy, legacy_heads
from jet_foundation.tasks import TASKS, common
from jet_foundation.tasks.super_resolution import LegacySuperResolutionModule
from jet_foundation.train import train

TINY = [
    *("model.dim=8", "model.num_layers=2", "model.num_heads=2", "model.pair_dims=[4]", "model.ffn_ratio=1"),
    *("data.batch_size=8", "train.epochs=1", "train.precision=fp32", "train.ema_decay=0.9"),
    'train.finish=["evaluate"]',
]
FOLLOWING = {
    "classification": "legacy",
    "regression": "legacy-regression",
    "generation": "legacy-generation",
    "super_resolution": "legacy-super-resolution",
}


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("legacy")

    def build(preset, *more):
        overrides = [*TINY, f"data.path={dataset}", *more]
        return load_config(Config, presets=PRESETS, preset=preset, overrides=overrides)

    def work(name, config):
        train(config, out=folder / name, resume=False, device="cpu", command="test")
        return folder / name

    found = {"pretrain": work("pretrain", build("legacy-pretrain"))}
    for task, preset in FOLLOWING.items():
        found[task] = work(task, build(preset, f"start.run={found['pretrain']}", "start.last_k=1"))
    return found


@pytest.mark.parametrize("task", ["pretrain", *FOLLOWING])
def test_every_task_of_the_report_runs(runs, task):
    evaluation = json.loads((runs[task] / "evaluation_test.json").read_text())
    assert evaluation["task"] == task
    for table in ("metrics", "legacy"):
        values = evaluation.get(table, {}).values()
        assert all(value is None or isinstance(value, dict) or np.isfinite(value) for value in values)


def test_the_classifier_is_exported(runs, tmp_path):
    assert export(runs["classification"], tmp_path / "m.onnx")["max_abs_diff"] < 1e-4


@pytest.mark.parametrize("task", ["pretrain", *FOLLOWING])
def test_all_that_is_trained_gets_a_gradient(runs, dataset, task):
    """Torchrun waits for every gradient."""
    start = [] if task == "pretrain" else [f"start.run={runs['pretrain']}", "start.last_k=1"]
    overrides = [*TINY, f"data.path={dataset}", *start]
    preset = FOLLOWING.get(task, "legacy-pretrain")
    config = load_config(Config, presets=PRESETS, preset=preset, overrides=overrides)
    module = TASKS[task].build_model(config).train()
    batch = next(common.build_stream(config, "train", shuffle=True).batches())
    TASKS[task].compute_loss(module, batch).backward()
    without = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_the_target_is_the_mass_of_the_report(tiny_config):
    config = tiny_config("task.kind=regression", "task.target=report", "model.kind=legacy")
    module = TASKS["regression"].build_model(config).eval()
    batch = next(common.build_stream(config, "train").batches())
    with torch.no_grad():
        loss, predicted, true = module(batch.p4, batch.features, batch.valid_mask, batch.scalars)
        number = module.network(batch.p4, batch.features, batch.valid_mask)
    torch.testing.assert_close(true, legacy.legacy_mass(batch.p4, batch.valid_mask))
    torch.testing.assert_close(predicted, 593.0 + 452.0 * number)
    expected = torch.nn.functional.huber_loss(number, (true - 593.0) / 452.0, delta=config.task.huber_delta)
    torch.testing.assert_close(loss, expected)


def test_super_resolution_compares_slot_by_slot(tiny_config):
    config = tiny_config("task.kind=super_resolution", "task.num_given=8", "model.kind=legacy")
    module = TASKS["super_resolution"].build_model(config).eval()
    assert isinstance(module, LegacySuperResolutionModule)
    batch = next(common.build_stream(config, "train").batches())
    with torch.no_grad():
        loss = module(batch.p4, batch.features, batch.valid_mask)
        given = module.given(batch.valid_mask)
        predicted = module.network(batch.p4, batch.features, given)
        jets, exists = module.complete(batch.p4, batch.features, batch.valid_mask)
    true = torch.zeros_like(predicted)
    encoded = module.network.coordinates.encode(batch.p4, batch.valid_mask, given)
    true[:, : encoded.shape[1]] = encoded
    torch.testing.assert_close(loss, ((predicted - true) ** 2).mean())
    assert predicted.shape == (8, 128, 4)
    assert torch.equal(exists, predicted[..., 0] > 0.1)
    assert not jets[~exists].any()


def test_generation_uses_four_numbers(tiny_config):
    config = tiny_config("task.kind=generation", "task.generator=cvae", "model.kind=legacy")
    network = TASKS["generation"].build_model(config).network
    assert isinstance(network.generator, legacy_heads.LegacyCvae)
    batch = next(common.build_stream(config, "train").batches())
    numbers = network.encode(batch.p4, batch.valid_mask)
    expected = network.coordinates.encode(batch.p4, batch.valid_mask, batch.valid_mask)
    torch.testing.assert_close(numbers, expected)
