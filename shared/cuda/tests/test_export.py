"""Export takes the reference: no other program knows our operators."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hep_shared.ops.field import field_lookup
from hep_shared.ops.propagate import propagate


class Extrapolator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(2)))

    def forward(self, state: Tensor, z: Tensor, dz: Tensor) -> tuple[Tensor, Tensor]:
        frame = ((-100.0, -100.0, 0.0), (100.0, 80.0, 90.0))
        end = propagate(state, z, dz, self.grid, *frame, num_steps=2, method="rkn4")
        return end, field_lookup(torch.cat((end[:, :2], z[:, None]), dim=1), self.grid, *frame)


def tracks(num: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(num)
    state = torch.randn(num, 5, generator=random) * torch.tensor([30.0, 30.0, 0.2, 0.2, 1e-4])
    return state, 20 + torch.rand(num, generator=random), 100 * torch.rand(num, generator=random)


def test_torch_export_has_no_operator_of_ours() -> None:
    exported = torch.export.export(Extrapolator().eval(), tracks(5))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not [target for target in targets if target.startswith("hep.")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path = Extrapolator().eval(), tmp_path / "model.onnx"
    names = ["state", "z", "dz"]
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
    torch.onnx.export(
        model, tracks(5), path, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 5, 8):
        inputs = tracks(num)
        found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        for f, e in zip(found, model(*inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(f), e, rtol=0, atol=1e-4)
