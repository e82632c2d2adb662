"""The conventional estimate inside a network is the conventional reconstruction, and heads start from it."""

import numpy as np
import pytest
import torch

from hep_shared.config import load_config
from hep_shared.errors import UserError
from hep_shared.onnx import export_onnx
from megii_xec.config import Config
from megii_xec.data.normalization import Normalization
from megii_xec.data.targets import TargetScaling
from megii_xec.export import example_inputs
from megii_xec.models.conventional import NUM_FEATURES, ConventionalEstimate, damped_step
from megii_xec.physics import reconstruction as reco
from megii_xec.physics import simulator
from megii_xec.physics.coordinates import uvw_to_xyz, vector_to_angles
from megii_xec.physics.parameters import SimulationConfig
from megii_xec.tasks.regression import build_model

NUM_EVENTS = 48
DETECTOR = SimulationConfig(dead_fraction=0.05)
SCALING = TargetScaling()
PHYSICAL = {"angle": 1e-4, "energy": 1e-6, "timing": 1e-4, "uvwFI": 1e-3}  # deg, GeV, ns, cm


@pytest.fixture(scope="module", params=["new", "sqrt", "anscombe", "linear"])
def normalization(request: pytest.FixtureRequest) -> Normalization:
    return Normalization(scheme=request.param, sentinel_npho=-1.0)


@pytest.fixture(scope="module")
def readout() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chunks = list(simulator.iter_events(DETECTOR, NUM_EVENTS, np.random.default_rng(3)))
    npho = np.concatenate([chunk.readout.npho for chunk in chunks])
    time_ns = np.concatenate([chunk.readout.time_ns for chunk in chunks])
    return npho, time_ns, np.nanmin(time_ns, axis=1)


def normalize(normalization: Normalization, readout: tuple[np.ndarray, ...]) -> torch.Tensor:
    npho, time_ns, start_ns = readout
    return torch.from_numpy(normalization.apply(npho, (time_ns - start_ns[:, None]) * 1e-9))


def test_estimate_is_the_conventional_reconstruction(normalization, readout):
    scaled, features = ConventionalEstimate(normalization, SCALING, DETECTOR)(
        normalize(normalization, readout)
    )
    # A pulse below the threshold of the normalisation has no time for the network.
    npho, time_ns, start_ns = readout
    if normalization.formula in ("sqrt", "anscombe"):  # noise below zero does not survive a square root
        npho = np.where(npho < 0, np.float32(0), npho)
    timed = np.where(npho >= normalization.npho_threshold, time_ns, np.nan).astype(np.float32)
    wanted = reco.reconstruct(npho, timed, DETECTOR)
    angles = vector_to_angles(uvw_to_xyz(wanted.uvw_fit))
    for name, values in {
        "angle": angles,
        "energy": wanted.energy_mev[:, None] / 1000,
        "timing": (wanted.time_ns - start_ns)[:, None],
        "uvwFI": wanted.uvw_fit,
    }.items():
        found = SCALING.unscale(name, scaled[name]).numpy()
        np.testing.assert_allclose(found, values, rtol=0, atol=PHYSICAL[name], err_msg=name)
    assert features.shape == (NUM_EVENTS, NUM_FEATURES)
    assert features.abs().max() < 10


def test_hidden_sensors_are_not_used(readout):
    normalization = Normalization()
    x = normalize(normalization, readout)
    hidden = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.1
    dead = torch.where(hidden[..., None], torch.tensor([-1.0, -1.0]), x)
    estimate = ConventionalEstimate(normalization, SCALING, DETECTOR)
    for name, values in estimate(x, hidden)[0].items():
        torch.testing.assert_close(values, estimate(dead)[0][name], msg=name)
        assert not torch.equal(values, estimate(x)[0][name])


def test_event_without_light_gives_finite_numbers():
    normalization = Normalization()
    for value in (-1.0, 0.0):
        x = torch.full((2, 4760, 2), value)
        scaled, features = ConventionalEstimate(normalization, SCALING, DETECTOR)(x)
        assert all(values.isfinite().all() for values in scaled.values())
        assert features.isfinite().all()


@pytest.mark.parametrize("num", [1, 2, 5])
def test_damped_step_solves_the_normal_equations(num):
    generator = torch.Generator().manual_seed(num)
    columns = torch.randn(3, 40, num, generator=generator, dtype=torch.float64)
    weight = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    residual = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    curvature = columns.mT @ (weight[..., None] * columns)
    curvature = curvature + 0.02 * torch.diag_embed(torch.diagonal(curvature, dim1=1, dim2=2))
    gradient = columns.mT @ (weight * residual)[..., None]
    wanted = torch.linalg.solve(curvature, gradient)[..., 0]
    torch.testing.assert_close(damped_step(columns, weight, residual), wanted)


def test_untrained_network_is_the_conventional_reconstruction(readout):
    config = load_config(Config, presets="megii_xec.presets", preset="small")
    assert config.model.start == "conventional"
    network = build_model(config).network.eval()
    x = normalize(config.data.normalization, readout)
    with torch.no_grad():
        outputs, (estimate, _) = network(x), network.start(x)
    for name, values in outputs.items():
        torch.testing.assert_close(values, estimate[name])


def test_relative_counts_are_refused():
    with pytest.raises(UserError, match=r"model\.start conventional needs .* not npho and time;"):
        load_config(
            Config,
            presets="megii_xec.presets",
            preset="small",
            overrides=["data.normalization.time_input=time"],
        )


def test_estimate_exports_to_onnx(tmp_path):
    class Estimate(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalization = Normalization()
            self.estimate = ConventionalEstimate(self.normalization, SCALING, DETECTOR)

        def forward(self, npho: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(self.estimate(self.normalization.apply_torch(npho, time))[0].values())

    inputs = {name: values for name, values in example_inputs().items() if name != "time_min_s"}
    differences = export_onnx(
        Estimate().eval(), inputs, tmp_path / "estimate.onnx", output_names=list(PHYSICAL), metadata={}
    )
    assert max(differences.values()) < 1e-5
