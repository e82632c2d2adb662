"""The programs in `docs/` agree with the package, and compile and run where their headers are installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from chhiggs_pnet.data.schema import CLASSES, EXT14, NUM_NODES
from chhiggs_pnet.models.deploy import EventClassifier
from chhiggs_pnet.models.particle_net import ParametricParticleNet
from hep_shared.onnx import export_onnx

SOURCE = Path(__file__).parents[1] / "docs" / "classify.cpp"
# The event of the example: kind, pt, eta, phi, mass, charge, b-tag score, tagged.
EVENT = (
    (0, 62.0, 0.4, 0.3, 0.1057, 1.0, 0.0, 0), (0, 35.0, -0.2, 2.6, 0.1057, -1.0, 0.0, 0),
    (1, 28.0, 1.1, -1.9, 0.0005, 1.0, 0.0, 0), (2, 71.0, 0.9, -0.8, 9.0, 0.0, 0.97, 1),
    (2, 33.0, -1.6, 1.2, 4.0, 0.0, 0.05, 0), (3, 48.0, 0.0, -2.7, 0.0, 0.0, 0.0, 0),
)  # fmt: skip


@pytest.fixture(scope="module")
def compiler() -> list[str]:
    """Compiler and where the headers are; skips where there is none."""
    program = shutil.which("g++") or shutil.which("clang++")
    if program is None:
        pytest.skip("no C++ compiler")
    unpacked = os.environ.get("ONNXRUNTIME")
    folder = Path(unpacked) / "include" if unpacked else Path("/usr/include/onnxruntime")
    command = [program, "-std=c++17", "-Wall", "-Wextra", f"-I{folder}"]
    header = "#include <onnxruntime_cxx_api.h>\n"
    probe = [*command, "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(probe, input=header, capture_output=True, text=True, check=False).returncode != 0:
        pytest.skip("ONNX Runtime's C++ headers are not installed; set ONNXRUNTIME to an unpacked release")
    return command


@pytest.fixture(scope="module")
def program(compiler, tmp_path_factory) -> Path:
    """The example, linked with the library of the Python package."""
    folder = tmp_path_factory.mktemp("classify")
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*"))
    if not libraries:
        pytest.skip("the library of ONNX Runtime is not where its wheel has it on Linux")
    (folder / "libonnxruntime.so.1").symlink_to(libraries[0])
    out = folder / "classify"
    command = [*compiler, str(SOURCE), str(libraries[0]), f"-Wl,-rpath,{folder}", "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return out


def test_the_example_has_the_shapes_of_the_package():
    text = SOURCE.read_text()
    assert f"kNodes = {NUM_NODES};" in text
    assert f"kFeatures = {len(EXT14)};" in text
    classes = re.search(r"kClasses = \{(.*?)\}", text).group(1)
    assert re.findall(r'"(\w+)"', classes) == list(CLASSES)


def test_the_example_compiles(compiler):
    done = subprocess.run(
        [*compiler, "-fsyntax-only", str(SOURCE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_example_gives_the_probabilities_of_the_network(program, tmp_path):
    torch.manual_seed(0)
    network = ParametricParticleNet(
        num_features=len(EXT14), num_classes=len(CLASSES), mass_mean=(130, 90), mass_std=(20, 4),
        hidden_dims=(8, 8, 8), num_heads=2, head_dim=8,
    )  # fmt: skip
    model = EventClassifier(network).eval()
    inputs = {
        "nodes": torch.from_numpy(nodes_of_the_example()), "valid_mask": torch.arange(NUM_NODES)[None] < 6,
        "masses": torch.tensor([[130.0, 90.0]]), "channel": torch.tensor([0]), "era": torch.tensor([3]),
    }  # fmt: skip
    padded = {name: torch.cat([tensor] * 2) for name, tensor in inputs.items()}
    export_onnx(model, padded, tmp_path / "model.onnx", output_names=["probabilities"], metadata={})
    done = subprocess.run(
        [program, tmp_path / "model.onnx", "130", "90"], capture_output=True, text=True, check=True
    )
    found = dict(line.split() for line in done.stdout.splitlines())
    with torch.inference_mode():
        expected = model(*inputs.values())[0]
    assert list(found) == list(CLASSES)
    np.testing.assert_allclose([float(value) for value in found.values()], expected, atol=1e-5)


@pytest.mark.parametrize("arguments", [(), ("absent.onnx", "130", "90"), ("m.onnx", "90", "130")])
def test_the_example_refuses_nonsense(program, arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def nodes_of_the_example():
    """Features of `EVENT`, (1, nodes, features) float32."""
    nodes = np.zeros((1, NUM_NODES, len(EXT14)), np.float32)
    for place, (kind, pt, eta, phi, mass, charge, btag, tagged) in enumerate(EVENT):
        px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
        energy = np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2)
        nodes[0, place] = (
            energy, px, py, pz, charge, kind == 0, kind == 1, kind == 2, tagged, pt, eta, phi, mass, btag
        )  # fmt: skip
    return nodes
