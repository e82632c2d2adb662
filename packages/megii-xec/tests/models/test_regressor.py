"""Heads, reload, overfitting one batch and the exported model."""

import pytest
import torch
from torch import nn

from hep_shared.onnx import export_onnx
from megii_xec.models.heads import HEAD_SIZES
from megii_xec.models.regressor import XecRegressor


def test_only_the_requested_heads_are_built(make_encoder, events):
    model = XecRegressor(make_encoder(), {"angle": 2, "uvwFI": 3}, outputs_per_target={"angle": 2}).eval()
    assert {name: tuple(y.shape) for name, y in model(events).items()} == {"angle": (4, 4), "uvwFI": (4, 3)}


def test_number_of_parameters_of_the_published_heads():
    class Tokens(nn.Module):
        num_tokens, dim = 6, 1024

    with torch.device("meta"):
        model = XecRegressor(Tokens(), HEAD_SIZES)
    assert sum(p.numel() for p in model.heads.parameters()) == 9_840_399  # 35.58 M with the encoder


def test_wrong_heads_are_refused(make_encoder):
    with pytest.raises(ValueError, match="at least one head"):
        XecRegressor(make_encoder(), {})
    with pytest.raises(
        ValueError, match=r"outputs_per_target names \['angel'\], but the heads are \['angle'\]"
    ):
        XecRegressor(make_encoder(), {"angle": 2}, outputs_per_target={"angel": 2})


def test_equals_the_published_architecture(reference, make_encoder, events):
    tiny = {"dim": 128, "hex_dim": 24, "hex_depth": 2, "num_heads": 4, "ffn_dim": 64, "fusion_layers": 1}
    encoder = make_encoder(layout="legacy", face_pool="bilinear", area_scaling="legacy")
    ours = XecRegressor(encoder, HEAD_SIZES).eval()
    theirs = reference.from_regressor(ours, **tiny).eval()
    with torch.no_grad():
        expected = theirs(events)
        for name, y in ours(events).items():
            torch.testing.assert_close(y, expected[name], rtol=0, atol=1e-4)


def test_reload_gives_the_same_outputs(make_encoder, events, tmp_path):
    first = XecRegressor(make_encoder(), {"energy": 1}).eval()
    torch.save(first.state_dict(), tmp_path / "model.pt")
    second = XecRegressor(make_encoder(recompute=False), {"energy": 1}).eval()
    for parameter in second.parameters():
        nn.init.normal_(parameter)
    second.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(second(events)["energy"], first(events)["energy"], rtol=0, atol=1e-5)


def test_overfits_one_batch(make_encoder, events):
    encoder = make_encoder(stem_stride=4, conv_depths=(1, 1), hex_depth=1, dropout=0.0)
    model = XecRegressor(encoder, {"angle": 2}, dropout=0.0).train()
    target = torch.tensor([[0.5, -1.0], [1.0, 0.3], [-0.7, 0.1], [0.0, 0.8]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(events)["angle"] - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


class Outputs(nn.Module):
    """The outputs as a tuple, which is what an ONNX graph returns."""

    def __init__(self, regressor):
        super().__init__()
        self.regressor = regressor

    def forward(self, x):
        return tuple(self.regressor(x).values())


def test_the_exported_model_agrees(make_encoder, events, tmp_path):
    encoder = make_encoder(stem_stride=2, conv_depths=(1, 1), hex_depth=1, outer_mode="split")
    model = Outputs(XecRegressor(encoder, {"angle": 2, "energy": 1}))
    differences = export_onnx(
        model,
        {"x": events},
        tmp_path / "model.onnx",
        output_names=["angle", "energy"],
        metadata={},
        atol=1e-5,
    )
    assert differences.keys() == {"angle", "energy"}
    assert max(differences.values()) < 1e-4
