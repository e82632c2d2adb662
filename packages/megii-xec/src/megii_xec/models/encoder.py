r"""The encoder: six faces of the detector, one token each, joined by a small transformer.

    inner, us, ds, outer   image      → ConvNeXt V2 backbone (shared) → 4 x 4 → token
    top, bottom            hex graph  → HexNeXt encoder (shared)      → mean  → token
    tokens + position      → post-norm transformer

Masked sensors are replaced by the sentinels before anything reads them, and masked positions stay zero
inside the convolutions, so an output never depends on the value of a masked sensor.

Dimensions: B events, S sensors (4760), T tokens, C channels, H W grid.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from megii_xec.models.convnext import FaceBackbone, FacePool
from megii_xec.models.hexnext import HexEncoder
from megii_xec.models.outer_grid import AreaScaling, OuterGrid, RescaleNpho
from megii_xec.models.position import (
    KIND_OF_FACE,
    EncoderLayer,
    RotaryEncoderLayer,
    geometric_positions,
    sinusoidal_positions,
    token_centres,
)
from megii_xec.physics.geometry import (
    FACE_SLICES,
    FACES,
    NUM_HEX,
    NUM_SENSORS,
    OUTER_COARSE_SCALE,
    Face,
    Layout,
    face_ids,
    inner_index_map,
    outer_center_index_map,
)

OuterMode = Literal["finegrid", "split"]
Position = Literal["learned", "geometric", "sinusoidal", "rotary", "face_type"]


def token_sensors(encoder_tokens: Sequence[str], inner_tokens: tuple[int, int]) -> list[NDArray[np.int64]]:
    """List the sensors behind each token.

    Args:
        encoder_tokens: Names of the tokens; `center` is the dense patch of the outer face.
        inner_tokens: Rows and columns of tokens on the inner face.

    Returns:
        Sensor identifiers of each token.
    """
    rows = np.array_split(inner_index_map(), inner_tokens[0], axis=0)
    inner = [block.ravel() for row in rows for block in np.array_split(row, inner_tokens[1], axis=1)]
    others = [name for name in encoder_tokens if not name.startswith("inner")]
    return inner + [
        outer_center_index_map().ravel() if name == "center" else face_ids(_face(name)) for name in others
    ]


def _face(name: str) -> Face:
    return next(face for face in FACES if face == name)


class XecEncoder(nn.Module):
    """Encoder of one event into tokens.

    The defaults are the published size, 25.74 M parameters. A small one that trains on a laptop is
    `dim=128, conv_channels=16, stem_stride=2, hex_dim=32, hex_depth=2, num_heads=4`.

    Args:
        dim: Length of a token.
        conv_channels: Channels of the first convolution stage; None means dim / 32.
        conv_depths: Blocks in each convolution stage.
        stem_stride: Stride of the convolution stem; 2 saves three quarters of the convolution work.
        hex_dim: Channels on the hexagonal faces.
        hex_depth: Blocks on the hexagonal faces.
        num_heads: Heads of the transformer.
        ffn_dim: Hidden width of the transformer; None means 4 dim.
        fusion_layers: Layers of the transformer.
        dropout: Dropout of the transformer.
        drop_path: Probability of dropping a convolution branch for an event.
        outer_mode: `finegrid` draws the outer face as one image. `split` draws it on the coarse grid, where
            the cells of the centre are averages over the dense patch, and gives the patch a token of its
            own, the last.
        outer_pool: Pixels averaged into a cell of the fine grid, rows and columns; None keeps all pixels.
        layout: `corrected`, or `legacy` for the maps of early networks.
        area_scaling: See `OuterGrid`.
        rescale_npho: See `OuterGrid`; needed unless `area_scaling` is `legacy`.
        sentinel_npho: npho of a sensor without measurement.
        sentinel_time: Time of a sensor without measurement.
        face_pool: How an image becomes 4 x 4, see `pool_matrix`.
        position: `learned` vectors, or one of the encodings in `megii_xec.models.position`.
        inner_tokens: Rows and columns of tokens on the inner face, each of its own 4 x 4 positions.
        recompute: See `GrnBranch`.

    Raises:
        ValueError: An option has an unknown value, or `rescale_npho` is missing.
    """

    center_ids: Tensor
    face_kinds: Tensor
    position: Tensor
    sentinels: Tensor

    def __init__(
        self,
        *,
        dim: int = 1024,
        conv_channels: int | None = None,
        conv_depths: Sequence[int] = (2, 3),
        stem_stride: int = 1,
        hex_dim: int = 96,
        hex_depth: int = 4,
        num_heads: int = 8,
        ffn_dim: int | None = None,
        fusion_layers: int = 2,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        outer_mode: OuterMode = "finegrid",
        outer_pool: tuple[int, int] | None = (3, 3),
        layout: Layout = "corrected",
        area_scaling: AreaScaling = "raw",
        rescale_npho: RescaleNpho | None = None,
        sentinel_npho: float = -1.0,
        sentinel_time: float = -1.0,
        face_pool: FacePool = "average",
        position: Position = "learned",
        inner_tokens: tuple[int, int] = (1, 1),
        recompute: bool = True,
    ) -> None:
        super().__init__()
        for name, value, allowed in (("outer_mode", outer_mode, OuterMode), ("position", position, Position)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(get_args(allowed))}")
        self.dim = dim
        num_inner = inner_tokens[0] * inner_tokens[1]
        inner = ("inner",) if num_inner == 1 else tuple(f"inner_{k}" for k in range(num_inner))
        self.tokens: tuple[str, ...] = (*inner, *FACES[1:], *(("center",) if outer_mode == "split" else ()))
        self.tokens_of_face: dict[str, list[int]] = {}
        for k, name in enumerate(self.tokens):
            self.tokens_of_face.setdefault(name.partition("_")[0], []).append(k)
        self.outer = OuterGrid(
            OUTER_COARSE_SCALE if outer_mode == "split" else outer_pool,
            layout=layout,
            area_scaling=area_scaling,
            rescale_npho=rescale_npho,
            sentinel_npho=sentinel_npho,
            sentinel_time=sentinel_time,
        )
        grids: dict[str, tuple[int, int]] = {
            "inner": (93, 44),
            "side": (24, 6),
            "outer": self.outer.shape,
        }
        if outer_mode == "split":
            grids["center"] = (5, 6)
            self.register_buffer(
                "center_ids", torch.from_numpy(outer_center_index_map().ravel().copy()), persistent=False
            )
        self.grids = grids
        self.backbone = FaceBackbone(
            grids,
            dim=dim,
            channels=conv_channels or dim // 32,
            depths=conv_depths,
            stem_stride=stem_stride,
            face_pool=face_pool,
            tokens={"inner": inner_tokens},
            drop_path=drop_path,
            recompute=recompute,
        )
        self.hexagon = HexEncoder(
            dim, hex_dim=hex_dim, depth=hex_depth, layout=layout, drop_path=drop_path, recompute=recompute
        )
        centres = token_centres(token_sensors(self.tokens, inner_tokens))
        if position == "learned":
            self.position = nn.Parameter(torch.empty(1, len(self.tokens), dim))
            nn.init.trunc_normal_(self.position, std=0.02)
        else:
            fixed = {
                "sinusoidal": sinusoidal_positions(len(self.tokens), dim),
                "rotary": torch.zeros(1, len(self.tokens), dim),
            }.get(position, geometric_positions(centres, dim))
            self.register_buffer("position", fixed, persistent=False)
        self.face_type: nn.Parameter | None = None
        if position == "face_type":
            self.face_type = nn.Parameter(torch.empty(max(KIND_OF_FACE.values()) + 1, dim))
            nn.init.trunc_normal_(self.face_type, std=0.02)
            kinds = [KIND_OF_FACE[name.partition("_")[0]] for name in self.tokens]
            self.register_buffer("face_kinds", torch.tensor(kinds), persistent=False)
        hidden = ffn_dim or 4 * dim
        self.fusion = nn.ModuleList(
            RotaryEncoderLayer(dim, num_heads, hidden, dropout, centres)
            if position == "rotary"
            else EncoderLayer(dim, num_heads, hidden, dropout)
            for _ in range(fusion_layers)
        )
        self.register_buffer("sentinels", torch.tensor([sentinel_npho, sentinel_time]), persistent=False)

    @property
    def num_tokens(self) -> int:
        """Number of tokens T."""
        return len(self.tokens)

    @property
    def face_shapes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of the image of each rectangular face."""
        side = self.grids["side"]
        shapes = {"inner": self.grids["inner"], "us": side, "ds": side, "outer": self.grids["outer"]}
        return shapes | ({"center": self.grids["center"]} if "center" in self.grids else {})

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode events.

        Args:
            x: Normalised npho and time of every sensor, shape (B, 4760, 2).
            mask: True where a sensor is hidden from the network, shape (B, 4760).

        Returns:
            Tokens in the order of `self.tokens`, shape (B, T, dim).
        """
        if x.shape[1:] != (NUM_SENSORS, 2):
            raise ValueError(
                f"the encoder takes events of shape ({NUM_SENSORS}, 2), not {tuple(x.shape[1:])}"
            )
        tokens = self.face_tokens(x, mask) + self.position
        if self.face_type is not None:
            tokens = tokens + self.face_type[self.face_kinds]
        for layer in self.fusion:
            tokens = layer(tokens)
        return tokens

    def face_tokens(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode the faces one by one, without position or fusion.

        Args:
            x: Normalised npho and time of every sensor, shape (B, 4760, 2).
            mask: True where a sensor is hidden from the network, shape (B, 4760).

        Returns:
            Tokens in the order of `self.tokens`, shape (B, T, dim).
        """
        visible: Tensor | None = None
        if mask is not None:
            x = torch.where(mask[..., None], self.sentinels.to(x.dtype), x)
            visible = (~mask).to(x.dtype)[..., None]

        def take(shape: Sequence[int], *parts: slice | Tensor) -> tuple[Tensor, Tensor | None]:
            """Cut faces of equal shape out of features and visibility and line them up along the batch."""
            cut = torch.unflatten(torch.cat([x[:, part] for part in parts]), 1, shape)
            if visible is None:
                return cut, None
            return cut, torch.unflatten(torch.cat([visible[:, part] for part in parts]), 1, shape)

        inner = self.backbone("inner", *take(self.grids["inner"], *FACE_SLICES["inner"]))
        sides = self.backbone("side", *take(self.grids["side"], *FACE_SLICES["us"], *FACE_SLICES["ds"]))
        outer = self.backbone("outer", *self.outer(x, visible))
        ends = self.hexagon(*take((NUM_HEX,), *FACE_SLICES["top"], *FACE_SLICES["bottom"]))
        tokens = [(sides, 2), (outer, 1), (ends, 2)]
        if "center" in self.tokens:
            tokens.append((self.backbone("center", *take(self.grids["center"], self.center_ids)), 1))
        # Faces lined up along the batch become neighbouring tokens of their event.
        by_event = [torch.unflatten(token, 0, (num, x.shape[0])).transpose(0, 1) for token, num in tokens]
        return torch.cat([inner if inner.dim() == 3 else inner[:, None], *by_event], dim=1)
