"""The published architecture, written out step by step: what the package must agree with and be faster than.

No folding, no fused layout, no constant matrices: GRN with a vector norm, the hexagonal convolution as a
scatter-add over edges, images gathered sensor by sensor and resized by interpolation, channels first.
Tests and benchmarks load this file by its path; the package never imports it.

`from_encoder` builds a reference with the weights and the geometry of an `XecEncoder`.

Dimensions: B events, N nodes, C channels, H W grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megii_xec.models.encoder import XecEncoder
from megii_xec.models.regressor import XecRegressor
from megii_xec.physics.geometry import hex_edges, outer_center_index_map, outer_coarse_index_map


class GRN(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        positions = tuple(range(1, x.dim() - 1))
        norm = torch.norm(x, p=2, dim=positions, keepdim=True)
        response = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * response) + self.beta + x


class Pointwise(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, 4 * dim)
        self.grn = GRN(4 * dim)
        self.project = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.grn(F.gelu(self.expand(self.norm(x)))))


class ConvBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.branch = Pointwise(dim)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        y = self.branch(self.depthwise(x).permute(0, 2, 3, 1))
        return x + y.permute(0, 3, 1, 2)


class NormFirst(nn.Module):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class Backbone(nn.Module):
    def __init__(self, channels: int, depths: tuple[int, int]):
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 4, padding=1)
        self.stem_norm = NormFirst(channels)
        self.stage1 = nn.Sequential(*(ConvBlock(channels) for _ in range(depths[0])))
        self.down_norm = NormFirst(channels)
        self.down = nn.Conv2d(channels, 2 * channels, 2, stride=2)
        self.stage2 = nn.Sequential(*(ConvBlock(2 * channels) for _ in range(depths[1])))

    def forward(self, x: Tensor) -> Tensor:  # (B, 2, H, W)
        x = self.stage1(self.stem_norm(self.stem(x)))
        x = self.stage2(self.down(self.down_norm(x)))
        return F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=False).flatten(1)


class HexConv(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(7, dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:  # (B, N, C), (3, E)
        source, destination, kind = edges
        messages = x[:, source, :] * self.weight[kind]
        index = destination[None, :, None].expand_as(messages)
        return torch.zeros_like(x).scatter_add(1, index, messages) + self.bias


class HexBlock(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = HexConv(dim)
        self.branch = Pointwise(dim)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return x + self.branch(self.depthwise(x, edges))


class HexEncoder(nn.Module):
    def __init__(self, dim: int, hex_dim: int, depth: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, hex_dim), nn.LayerNorm(hex_dim, eps=1e-6), nn.GELU())
        self.blocks = nn.ModuleList(HexBlock(hex_dim) for _ in range(depth))
        self.project = nn.Sequential(nn.LayerNorm(hex_dim, eps=1e-6), nn.Linear(hex_dim, dim))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, edges)
        return self.project(x.mean(dim=1))


def gather_face(x: Tensor, ids: Tensor) -> Tensor:
    """Image of a face, (B, 4760, 2) and (H, W) to (B, 2, H, W)."""
    return x[:, ids.flatten(), :].transpose(1, 2).reshape(len(x), 2, *ids.shape)


def outer_image(x: Tensor, coarse_ids: Tensor, pool: tuple[int, int] | None, sentinel_time: float) -> Tensor:
    """Fine image of the outer face, counts divided by the area after the normalisation, (B, 2, H, W)."""
    coarse = gather_face(x, coarse_ids)
    fine = coarse.repeat_interleave(5, dim=2).repeat_interleave(3, dim=3)
    npho, time = fine[:, 0] / 15, fine[:, 1].clone()
    center = gather_face(x, torch.from_numpy(outer_center_index_map().copy()))
    center = center.repeat_interleave(3, dim=2).repeat_interleave(2, dim=3)
    npho[:, 15:30, 30:42] = center[:, 0] / 6
    time[:, 15:30, 30:42] = center[:, 1]
    image = torch.stack([npho, time], dim=1)
    if pool is None:
        return image
    valid = (time != sentinel_time).float()
    share = F.avg_pool2d(valid[:, None], pool)
    mean = F.avg_pool2d((time * valid)[:, None], pool) / share.clamp(min=1e-6)
    time = torch.where(share > 0, mean, torch.full_like(mean, sentinel_time))
    return torch.cat([F.avg_pool2d(image[:, :1], pool), time], dim=1)


class ReferenceEncoder(nn.Module):
    def __init__(
        self,
        *,
        dim: int = 1024,
        depths: tuple[int, int] = (2, 3),
        hex_dim: int = 96,
        hex_depth: int = 4,
        num_heads: int = 8,
        ffn_dim: int = 4096,
        fusion_layers: int = 2,
        outer_pool: tuple[int, int] | None = (3, 3),
        layout: str = "legacy",
        sentinel_time: float = -1.0,
    ):
        super().__init__()
        self.outer_pool, self.sentinel_time = outer_pool, sentinel_time
        self.backbone = Backbone(dim // 32, depths)
        self.hexagon = HexEncoder(dim, hex_dim, hex_depth)
        self.position = nn.Parameter(torch.zeros(1, 6, dim))
        layer = nn.TransformerEncoderLayer(dim, num_heads, ffn_dim, 0.1, "gelu", batch_first=True)
        self.fusion = nn.TransformerEncoder(layer, fusion_layers, enable_nested_tensor=False)
        self.register_buffer("edges", torch.from_numpy(hex_edges(layout).copy()), persistent=False)
        self.register_buffer(
            "coarse", torch.from_numpy(outer_coarse_index_map(layout).copy()), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, 4760, 2)
        inner = self.backbone(gather_face(x, torch.arange(0, 4092).reshape(93, 44)))
        us = self.backbone(gather_face(x, torch.arange(4308, 4452).reshape(24, 6)))
        ds = self.backbone(gather_face(x, torch.arange(4452, 4596).reshape(24, 6)))
        outer = self.backbone(outer_image(x, self.coarse, self.outer_pool, self.sentinel_time))
        top = self.hexagon(x[:, 4596:4669], self.edges)
        bottom = self.hexagon(x[:, 4669:4742], self.edges)
        tokens = torch.stack([inner, us, ds, outer, top, bottom], dim=1)
        return self.fusion(tokens + self.position)


class ReferenceRegressor(nn.Module):
    def __init__(self, encoder: ReferenceEncoder, heads: nn.ModuleDict):
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        flat = self.encoder(x).flatten(1)
        return {name: head.layers(flat) for name, head in self.heads.items()}


# Our names of parameters -> those above.
_RENAMED = (
    (".branch.gamma", ".branch.grn.gamma"),
    (".branch.beta", ".branch.grn.beta"),
    ("backbone.downsamples.0.conv", "backbone.stem"),
    ("backbone.downsamples.0.norm", "backbone.stem_norm.norm"),
    ("backbone.downsamples.1.conv", "backbone.down"),
    ("backbone.downsamples.1.norm", "backbone.down_norm.norm"),
    ("backbone.stages.0.", "backbone.stage1."),
    ("backbone.stages.1.", "backbone.stage2."),
    ("fusion.", "fusion.layers."),
)


def from_encoder(encoder: XecEncoder, **options: object) -> ReferenceEncoder:
    """Build a reference with the weights of `encoder`, which has two convolution stages and stem stride 1.

    Args:
        encoder: Ours; `face_pool="bilinear"`, `area_scaling="legacy"` for equal outputs.
        options: Shape and layout, as for `ReferenceEncoder`.
    """
    reference = ReferenceEncoder(**options)
    state = {}
    for name, tensor in encoder.state_dict().items():
        for ours, theirs in _RENAMED:
            name = name.replace(ours, theirs)
        state[name] = tensor.clone()
    reference.load_state_dict(state)
    return reference


def from_regressor(regressor: XecRegressor, **options: object) -> ReferenceRegressor:
    """Build a reference with the weights of `regressor`; see `from_encoder`."""
    return ReferenceRegressor(from_encoder(regressor.encoder, **options), regressor.heads)
