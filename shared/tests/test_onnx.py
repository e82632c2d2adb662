import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hep_shared.errors import InputFileError, UserError
from hep_shared.onnx import check_parity, export_onnx, open_session, read_metadata
from hep_shared.testing import mutate_bytes

METADATA = {
    "unit": "MeV",
    "version": "1.5",
    "scale": 1.5,
    "normalisation": {"scheme": "sqrt", "mean": [0.1, 0.2]},
    "note": "{braces",
}


class Model(nn.Module):
    """Two inputs, two outputs, dropout and a running statistic."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, valid_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x) * valid_mask[:, None]
        return self.head(hidden), hidden.sum(1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Model()


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(1, 3).expand(4, 3) * torch.arange(1, 5)[:, None],
        "valid_mask": torch.arange(4) != 2,
    }


@pytest.fixture(scope="module")
def exported(model, inputs, tmp_path_factory):
    """The one export of this file: it takes seconds."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    differences = export_onnx(model, inputs, path, output_names=["energy", "sum"], metadata=METADATA)
    return path, differences


def test_outputs_agree_at_other_batch_sizes(exported, model) -> None:
    path, differences = exported
    assert differences.keys() == {"energy", "sum"}
    assert max(differences.values()) <= 1e-5
    x, valid_mask = torch.randn(33, 3), torch.rand(33) > 0.5
    found = open_session(path, "cpu").run(
        ["sum", "energy"], {"x": x.numpy(), "valid_mask": valid_mask.numpy()}
    )
    with torch.no_grad():
        energy, total = copy.deepcopy(model).eval()(x, valid_mask)
    np.testing.assert_allclose(found[0], total.numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], energy.numpy(), atol=1e-5)


def test_the_model_itself_is_left_alone(exported, model) -> None:
    assert model.training
    assert int(model.body[1].num_batches_tracked) == 0


def test_metadata_round_trip(exported) -> None:
    metadata = read_metadata(exported[0])
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata["input_names"] == ["x", "valid_mask"]
    assert metadata["output_names"] == ["energy", "sum"]
    assert metadata["torch_version"] == str(torch.__version__)
    stored = {entry.key: entry.value for entry in onnx.load(exported[0]).metadata_props}
    assert stored["unit"] == "MeV"  # plain text for readers in other languages


def test_a_deviation_is_refused_with_its_numbers(exported, model, inputs) -> None:
    other = copy.deepcopy(model).eval()
    with torch.no_grad():
        other.head.bias += torch.tensor([0.0, 0.25])
    with pytest.raises(
        UserError, match=r"output 'energy' differs from PyTorch by 0.25 at batch size 1, more than"
    ):
        check_parity(other, exported[0].read_bytes(), inputs, ["energy", "sum"])
    with torch.no_grad():
        other.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match="differs from PyTorch by nan"):
        check_parity(other, exported[0].read_bytes(), inputs, ["energy", "sum"])


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_failed_export_leaves_no_file(tmp_path) -> None:
    with pytest.raises(UserError, match="Unexportable cannot be exported to ONNX: "):
        export_onnx(
            Unexportable(), {"x": torch.ones(2, 1)}, tmp_path / "m.onnx", output_names=["y"], metadata={}
        )
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_input_errors(exported, tmp_path) -> None:
    path, data = tmp_path / "damaged.onnx", exported[0].read_bytes()
    manifest = Path(f"{exported[0]}.manifest.json").read_text()
    Path(f"{path}.manifest.json").write_text(manifest)
    rng = np.random.default_rng(0)
    for _ in range(10):
        path.write_bytes(mutate_bytes(data, rng))
        with pytest.raises(InputFileError, match=r"damaged\.onnx"):
            open_session(path, "cpu")
    Path(f"{path}.manifest.json").unlink()
    for content in (b"", b"no protobuf", data[: len(data) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputFileError, match=r"damaged\.onnx"):
            open_session(path, "cpu")
    with pytest.raises(InputFileError, match=r"absent\.onnx: does not exist"):
        read_metadata(tmp_path / "absent.onnx")


def test_weights_in_other_files_are_refused(exported, tmp_path) -> None:
    proto = onnx.load(exported[0])
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")
    (tmp_path / "external.onnx").write_bytes(proto.SerializeToString())
    for reader in (open_session, read_metadata):
        with pytest.raises(InputFileError, match="keeps weights in other files"):
            reader(tmp_path / "external.onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_asking_for_absent_cuda_is_refused(exported) -> None:
    with pytest.raises(UserError, match="--device cuda was asked for"):
        open_session(exported[0], "cuda")


def test_opening_a_session_prints_nothing(exported) -> None:
    code = f"from hep_shared.onnx import open_session; open_session({str(exported[0])!r})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_the_number_of_threads(exported, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert open_session(exported[0]).get_session_options().intra_op_num_threads == 3
    assert open_session(exported[0], num_threads=2).get_session_options().intra_op_num_threads == 2


class SetMean(nn.Module):
    """Mean over a free number of real members."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, valid_mask: torch.Tensor) -> torch.Tensor:
        weight = valid_mask[..., None].to(x.dtype)
        return (self.linear(x) * weight).sum(1) / weight.sum(1)


def set_inputs(num: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(3, num, 3), "valid_mask": torch.arange(num).expand(3, -1) < num - 1}


def test_further_free_axes_are_checked_at_other_lengths(tmp_path) -> None:
    path, axes = tmp_path / "set.onnx", {"x": (1,), "valid_mask": (1,)}
    model = SetMean()
    differences = export_onnx(model, set_inputs(5), path, output_names=["mean"], metadata={},
                              dynamic_axes=axes, further_examples=[set_inputs(2), set_inputs(9)])  # fmt: skip
    assert differences["mean"] <= 1e-5
    inputs = set_inputs(17)
    found = open_session(path, "cpu").run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        np.testing.assert_allclose(found[0], model(**inputs).numpy(), atol=1e-5)
    with pytest.raises(ValueError, match=r"dynamic_axes names \['y'\], but the inputs are"):
        export_onnx(model, inputs, path, output_names=["mean"], metadata={}, dynamic_axes={"y": (1,)})


class Lengthy(SetMean):
    """A model that takes its length for a constant while it is traced."""

    def forward(self, x: torch.Tensor, valid_mask: torch.Tensor) -> torch.Tensor:
        scale = 3.0 if torch.compiler.is_exporting() else x.shape[1] - 2.0
        return super().forward(x, valid_mask) * scale


def test_a_deviation_at_another_length_leaves_no_file(tmp_path) -> None:
    axes = {"x": (1,), "valid_mask": (1,)}
    with pytest.raises(UserError, match="output 'mean' differs from PyTorch"):
        export_onnx(Lengthy(), set_inputs(5), tmp_path / "m.onnx", output_names=["mean"], metadata={},
                    dynamic_axes=axes, further_examples=[set_inputs(8)])  # fmt: skip
    assert list(tmp_path.iterdir()) == []
