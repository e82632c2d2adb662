"""A small encoder, the written-out reference and seeded weights."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megii_xec.data.normalization import Normalization
from megii_xec.models.encoder import XecEncoder
from megii_xec.physics.geometry import NUM_SENSORS

# dim / 32 convolution channels as in the published size, so the reference can be built for it too.
TINY: dict[str, Any] = {
    "dim": 128,
    "hex_dim": 24,
    "hex_depth": 2,
    "num_heads": 4,
    "ffn_dim": 64,
    "fusion_layers": 1,
}
LEGACY: dict[str, Any] = {"layout": "legacy", "face_pool": "bilinear", "area_scaling": "legacy"}


@pytest.fixture(scope="session")
def reference() -> ModuleType:
    path = Path(__file__).parents[1] / "reference.py"
    spec = importlib.util.spec_from_file_location("megii_xec_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_encoder() -> Callable[..., XecEncoder]:
    """Tiny encoder in evaluation mode; GRN is not at its neutral starting point."""

    def make(**options: Any) -> XecEncoder:
        torch.manual_seed(1)
        defaults = {**TINY, "rescale_npho": Normalization(scheme="new").rescale_npho}
        encoder = XecEncoder(**{**defaults, **options}).eval()
        randomize_grn(encoder)
        return encoder

    return make


def randomize_grn(module: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("branch.gamma", "branch.beta")):
                parameter.normal_(0, 0.5)


@pytest.fixture
def events() -> Tensor:
    """Four events with normalised counts and times and a tenth of the sensors dead."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(4, NUM_SENSORS, 2, generator=generator)
    dead = torch.rand(4, NUM_SENSORS, generator=generator) < 0.1
    return torch.where(dead[..., None], -1.0, x)
