r"""Inpainter: fills in dead sensors from their neighbours and from the tokens of the whole event.

    inner, us, ds   image  → 3 x 3 conv → + tokens → 2 ConvNeXt V2 blocks → 2 numbers a sensor
    top, bottom     nodes  → linear     → + tokens → 3 HexNeXt blocks     → 2 numbers a sensor
    outer           image  → 3 x 3 conv → + tokens → 2 ConvNeXt V2 blocks → attention of each tube over the
                    cells around it → 2 numbers a tube

The face is given with sentinels in place of the hidden sensors and a third channel that says which they are.
The heads guess the difference to the mean of the visible neighbours, so an untrained head gives that mean. On
the outer face a tube s attends to its nearest cells c with one learned query,

    f_s = Σ_c softmax_c(q_s · k(x_c) / √C + b_sc) v(x_c)

which predicts at the 234 tubes and not at the pixels of an image.

Every sensor has a learned gain g_s, its calibration relative to its neighbours' at equal light: counts are
divided by it before they are compared and multiplied by it after, n_s = g_s · light_s. A sensor that was dead
in the whole training keeps g_s = 1.

Dimensions: B events, S sensors (4760), T tokens, C channels, H W grid, N nodes, K neighbours.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from megii_xec.models.convnext import ConvNeXtV2Block, conv_channels_last
from megii_xec.models.encoder import XecEncoder
from megii_xec.models.grn import LAYER_NORM_EPS
from megii_xec.models.hexnext import HexNeXtBlock
from megii_xec.models.outer_grid import RescaleNpho
from megii_xec.physics.geometry import (
    FACE_SLICES,
    NUM_SENSORS,
    Face,
    Layout,
    sensor_positions,
)
from megii_xec.physics.neighbors import RINGS, nearest_on_face

NUM_CELLS = 9  # cells that a tube of the outer face attends to
IMAGES: tuple[Face, ...] = ("inner", "us", "ds")
HEXAGONS: tuple[Face, ...] = ("top", "bottom")
SEEN_CHANNELS = 3  # npho, time, hidden


class NeighborMean(nn.Module):
    """Mean of the visible neighbours of every sensor, in normalised units.

    Args:
        sentinel_time: Time of a sensor without one.
    """

    neighbors: Tensor

    def __init__(self, sentinel_time: float) -> None:
        super().__init__()
        table = torch.from_numpy(nearest_on_face(RINGS[-1] + 1)[:, 1:].T.copy())
        self.register_buffer("neighbors", table, persistent=False)
        self.sentinel_time = sentinel_time

    def forward(self, x: Tensor, usable: Tensor) -> Tensor:
        """Average.

        Args:
            x: Normalised npho and time, shape (B, S, 2).
            usable: True where a sensor is visible and has a count, shape (B, S).

        Returns:
            Means over the nearest ring that has any, 0 where none has, shape (B, S, 2).
        """
        count = usable.to(x.dtype)
        timed = count * (x[..., 1] != self.sentinel_time)
        weight = torch.stack([count, timed], dim=-1)
        value = torch.where(weight > 0, x, 0.0)
        total, norm = torch.zeros_like(x), torch.zeros_like(x)
        for number, neighbor in enumerate(self.neighbors):
            if number == RINGS[0]:
                near, alone = total / norm.clamp_min(1), norm == 0
            total = total + value.index_select(1, neighbor)
            norm = norm + weight.index_select(1, neighbor)
        return torch.where(alone, total / norm.clamp_min(1), near)


class GridFeatures(nn.Module):
    """Features of an image with the tokens of the event mixed in.

    Args:
        in_features: Length of all tokens together.
        channels: Channels C.
        depth: Number of ConvNeXt V2 blocks.
        recompute: See `GrnBranch`.
    """

    def __init__(self, in_features: int, channels: int, *, depth: int = 2, recompute: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(SEEN_CHANNELS, channels, 3, padding=1)
        self.condition = nn.Linear(in_features, channels)
        self.blocks = nn.ModuleList(ConvNeXtV2Block(channels, recompute=recompute) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Compute features.

        Args:
            image: npho, time and hidden, shape (B, H, W, 3).
            tokens: All tokens of the event in one vector, shape (B, T dim).

        Returns:
            Features, shape (B, H W, C).
        """
        x = conv_channels_last(self.stem, image) + self.condition(tokens)[:, None, None]
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x.flatten(1, 2))
        return y


class HexFeatures(nn.Module):
    """Features of a hexagonal face with the tokens of the event mixed in.

    Args:
        in_features: Length of all tokens together.
        channels: Channels C.
        layout: See `HexDepthwiseConv`.
        depth: Number of HexNeXt blocks.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self, in_features: int, channels: int, *, layout: Layout, depth: int = 3, recompute: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(SEEN_CHANNELS, channels)
        self.condition = nn.Linear(in_features, channels)
        self.blocks = nn.ModuleList(
            HexNeXtBlock(channels, layout=layout, recompute=recompute) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Compute features.

        Args:
            nodes: npho, time and hidden, shape (B, N, 3).
            tokens: All tokens of the event in one vector, shape (B, T dim).

        Returns:
            Features, shape (B, N, C).
        """
        x = self.stem(nodes) + self.condition(tokens)[:, None]
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.norm(x)
        return y


def nearest_cells(encoder: XecEncoder, num: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the cells of the outer image around each tube.

    Args:
        encoder: Encoder, which knows the image.
        num: How many.

    Returns:
        Identifiers of the 234 tubes, shape (234,), and numbers of their nearest cells, shape (234, num).
    """
    ids = np.concatenate([np.arange(part.start, part.stop) for part in FACE_SLICES["outer"]])
    x, y, z = sensor_positions()[ids].T
    # The coarse grid has 9 tubes of pitch 10.356 cm along z and 24 of 5.23 degrees along phi.
    row = (z + 41.424) / 10.356
    column = (np.rad2deg(np.arctan2(y, x)) % 360 - 119.855) / 5.23
    height, width = encoder.outer.shape
    cell_row = (np.arange(height) + 0.5) * 9 / height - 0.5
    cell_column = (np.arange(width) + 0.5) * 24 / width - 0.5
    squared = (row[:, None, None] - cell_row[:, None]) ** 2 + (column[:, None, None] - cell_column) ** 2
    order = np.argsort(np.round(squared.reshape(len(ids), -1), 6), axis=1, kind="stable")
    return ids, order[:, :num]


class TubeAttention(nn.Module):
    """Features of the outer tubes from the cells around them.

    Args:
        cells: Numbers of the cells around each tube, shape (tubes, K).
        channels: Channels C.
    """

    cells: Tensor

    def __init__(self, cells: NDArray[np.int64], channels: int) -> None:
        super().__init__()
        num_tubes, num_cells = cells.shape
        self.register_buffer("cells", torch.from_numpy(cells.copy()), persistent=False)
        self.pos_embed = nn.Parameter(torch.empty(num_tubes, channels))  # the query: one vector a tube
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.bias = nn.Parameter(torch.zeros(num_tubes, num_cells))
        self.key_value = nn.Linear(channels, 2 * channels)

    def forward(self, features: Tensor) -> Tensor:
        """Attend.

        Args:
            features: Features of the cells, shape (B, H W, C).

        Returns:
            Features of the tubes, shape (B, tubes, C).
        """
        near = self.key_value(features)[:, self.cells]  # (B, tubes, K, 2 C)
        key, value = near.chunk(2, dim=-1)
        score = (key * self.pos_embed[:, None]).sum(-1) / key.shape[-1] ** 0.5 + self.bias
        pooled: Tensor = (score.softmax(-1)[..., None] * value).sum(2)
        return pooled


class XecInpainter(nn.Module):
    """Encoder and one head for each face.

    Args:
        encoder: Encoder of the event.
        valid: Tells which normalised values are measurements, (..., 2) to (...).
        rescale_npho: Multiplies the counts behind normalised values by a factor and leaves sentinels alone,
            such as `Normalization.rescale_npho`.
        face_channels: Channels of the heads of rectangular faces.
        hex_channels: Channels of the heads of hexagonal faces.
        layout: See `HexDepthwiseConv`.
        recompute: See `GrnBranch`.
    """

    tube_ids: Tensor

    def __init__(
        self,
        encoder: XecEncoder,
        valid: Callable[[Tensor], Tensor],
        rescale_npho: RescaleNpho,
        *,
        face_channels: int = 64,
        hex_channels: int = 96,
        layout: Layout = "corrected",
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.valid, self.rescale_npho = encoder, valid, rescale_npho
        self.log_gain = nn.Parameter(torch.zeros(NUM_SENSORS))
        length = encoder.num_tokens * encoder.dim
        self.neighbors = NeighborMean(float(encoder.sentinels[1]))
        self.features = nn.ModuleDict(
            {
                **{
                    face: GridFeatures(length, face_channels, recompute=recompute)
                    for face in ("inner", "side", "outer")
                },
                "hexagon": HexFeatures(length, hex_channels, layout=layout, recompute=recompute),
            }
        )
        ids, cells = nearest_cells(encoder, NUM_CELLS)
        self.register_buffer("tube_ids", torch.from_numpy(ids), persistent=False)
        self.tubes = TubeAttention(cells, face_channels)
        self.out = nn.ModuleDict(
            {
                name: nn.Linear(hex_channels if name == "hexagon" else face_channels, 2)
                for name in self.features
            }
        )
        for layer in self.out.values():
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Guess all sensors; only the guesses of hidden ones are of use.

        Args:
            x: Normalised npho and time of every sensor, shape (B, S, 2).
            mask: True where a sensor is hidden from the network, shape (B, S).

        Returns:
            Normalised npho and time, shape (B, S, 2).
        """
        hidden = mask | ~self.valid(x)  # what is missing anyhow is hidden too, in training as in use
        tokens = self.encoder(x, hidden).flatten(1)
        x = torch.where(hidden[..., None], self.encoder.sentinels.to(x.dtype), x)
        # The gains are learned where a sensor is guessed, not from what it does to the guesses of others.
        light = self.rescale_npho(x[..., 0], (-self.log_gain.detach()).exp())
        x = torch.stack([light, x[..., 1]], dim=-1)
        seen = torch.cat([x, hidden.to(x.dtype)[..., None]], dim=-1)

        change = torch.zeros_like(x)
        for face in IMAGES:
            part, name = FACE_SLICES[face][0], "inner" if face == "inner" else "side"
            image = torch.unflatten(seen[:, part], 1, self.encoder.face_shapes[face])
            change[:, part] = self.out[name](self.features[name](image, tokens)).to(change.dtype)
        for face in HEXAGONS:
            part = FACE_SLICES[face][0]
            nodes = self.features["hexagon"](seen[:, part], tokens)
            change[:, part] = self.out["hexagon"](nodes).to(change.dtype)
        outer, cells_seen = self.encoder.outer(x, (~hidden).to(x.dtype)[..., None])
        assert cells_seen is not None
        features = self.features["outer"](torch.cat([outer, 1 - cells_seen], dim=-1), tokens)
        change[:, self.tube_ids] = self.out["outer"](self.tubes(features)).to(change.dtype)
        guess: Tensor = self.neighbors(x, ~hidden) + change
        npho = self.rescale_npho(guess[..., 0], self.log_gain.exp())
        return torch.stack([npho, guess[..., 1]], dim=-1)
