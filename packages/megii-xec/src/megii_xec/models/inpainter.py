r"""Inpainter: fills in dead sensors from their neighbours and from the tokens of the whole event.

    inner, us, ds   image  → 3 x 3 conv → + tokens → 2 ConvNeXt V2 blocks → 2 numbers a sensor
    top, bottom     nodes  → linear     → + tokens → 3 HexNeXt blocks     → 2 numbers a sensor
    outer           image  → 3 x 3 conv → + tokens → 2 ConvNeXt V2 blocks → attention of each tube over the
                    cells around it → 2 numbers a tube

The face is given with sentinels in place of the hidden sensors and a third channel that says which they are.
The heads correct a guess, which an untrained head leaves as it is:

    x_s = mean of the visible neighbours + h_s       without `start`, in normalised units
    n_s = n_s(conventional) exp(0.1 h_s)             with it; times are t_s(conventional) + 0.1 h_s

where the conventional guess is the light of a point-like source (`megii_xec.models.sensor_guess`), of which
the heads see more, and the tokens get what the conventional reconstruction makes of the visible sensors. On
the outer face a tube s attends to its nearest cells c with one learned query,

    f_s = Σ_c softmax_c(q_s · k(x_c) / √C + b_sc) v(x_c)

which predicts at the 234 tubes and not at the pixels of an image.

Every sensor has a gain g_s, its calibration relative to its neighbours' at equal light: counts are divided by
it before they are compared and multiplied by it after, n_s = g_s · light_s. Without `start` it is learned
with the rest; with it, it is measured once, before the training, with training events (`add_gains`). A sensor
that was dead in all of them keeps g_s = 1.

Dimensions: B events, S sensors (4760), T tokens, C channels, H W grid, N nodes, K neighbours.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hep_shared.ops.linear import Linear
from megii_xec.models.conventional import NUM_FEATURES, ConventionalEstimate
from megii_xec.models.convnext import ConvNeXtV2Block, conv_channels_last
from megii_xec.models.encoder import XecEncoder
from megii_xec.models.grn import LAYER_NORM_EPS
from megii_xec.models.hexnext import HexNeXtBlock
from megii_xec.models.outer_grid import RescaleNpho
from megii_xec.models.sensor_guess import NUM_CONTEXT, NeighborMean, SolidAngleGuess
from megii_xec.physics.geometry import (
    FACE_SLICES,
    NUM_SENSORS,
    Face,
    Layout,
    sensor_positions,
)

NUM_CELLS = 9  # cells that a tube of the outer face attends to
IMAGES: tuple[Face, ...] = ("inner", "us", "ds")
HEXAGONS: tuple[Face, ...] = ("top", "bottom")
SEEN_CHANNELS = 3  # npho, time, hidden
# Heads that correct the conventional guess speak of a few per cent; their first steps must not be larger.
CORRECTION_SCALE = 0.1
# A gain begins at 1 with the weight of this many photons: those that measure it to 4 %, the usual spread.
GAIN_PRIOR_PHOTONS = 5000.0


class GridFeatures(nn.Module):
    """Features of an image with the tokens of the event mixed in.

    Args:
        in_features: Length of all tokens together.
        channels: Channels C.
        seen: Channels of the image.
        depth: Number of ConvNeXt V2 blocks.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        *,
        seen: int = SEEN_CHANNELS,
        depth: int = 2,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(seen, channels, 3, padding=1)
        self.condition = nn.Linear(in_features, channels)
        self.blocks = nn.ModuleList(ConvNeXtV2Block(channels, recompute=recompute) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        """Compute features.

        Args:
            image: npho, time, hidden and what else is known, shape (B, H, W, seen).
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
        seen: Numbers given of each node.
        depth: Number of HexNeXt blocks.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        *,
        layout: Layout,
        seen: int = SEEN_CHANNELS,
        depth: int = 3,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(seen, channels)
        self.condition = nn.Linear(in_features, channels)
        self.blocks = nn.ModuleList(
            HexNeXtBlock(channels, layout=layout, recompute=recompute) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Compute features.

        Args:
            nodes: npho, time, hidden and what else is known, shape (B, N, seen).
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
        self.key_value = Linear(channels, 2 * channels)

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
        start: The conventional reconstruction, whose light the heads correct; without it they correct the
            mean of the neighbours.
        recompute: See `GrnBranch`.
    """

    tube_ids: Tensor
    log_gain: Tensor

    def __init__(
        self,
        encoder: XecEncoder,
        valid: Callable[[Tensor], Tensor],
        rescale_npho: RescaleNpho,
        *,
        face_channels: int = 64,
        hex_channels: int = 96,
        layout: Layout = "corrected",
        start: ConventionalEstimate | None = None,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.encoder, self.valid, self.rescale_npho = encoder, valid, rescale_npho
        length = (encoder.num_tokens + (start is not None)) * encoder.dim
        seen = SEEN_CHANNELS + (NUM_CONTEXT if start is not None else 0)
        self.features = nn.ModuleDict(
            {
                **{
                    face: GridFeatures(length, face_channels, seen=seen, recompute=recompute)
                    for face in ("inner", "side")
                },
                "outer": GridFeatures(length, face_channels, recompute=recompute),
                "hexagon": HexFeatures(length, hex_channels, layout=layout, seen=seen, recompute=recompute),
            }
        )
        ids, cells = nearest_cells(encoder, NUM_CELLS)
        self.register_buffer("tube_ids", torch.from_numpy(ids), persistent=False)
        self.tubes = TubeAttention(cells, face_channels)
        self.start: SolidAngleGuess | None = None
        if start is None:
            self.neighbors = NeighborMean(float(encoder.sentinels[1]))
            self.log_gain = nn.Parameter(torch.zeros(NUM_SENSORS))
        else:
            self.start = SolidAngleGuess(start)
            self.register_buffer("log_gain", torch.zeros(NUM_SENSORS))
            self.embed = nn.Sequential(
                nn.Linear(NUM_FEATURES, encoder.dim),
                nn.GELU(),
                nn.Linear(encoder.dim, encoder.dim),
                nn.LayerNorm(encoder.dim),
            )
            self.tube_context = nn.Sequential(
                Linear(NUM_CONTEXT, face_channels), nn.GELU(), Linear(face_channels, face_channels)
            )
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
        x = self._at_equal_gain(x, hidden)
        if self.start is None:
            change = self._heads(x, hidden, None, tokens)
            guess: Tensor = self.neighbors(x, ~hidden) + change
            npho = self.rescale_npho(guess[..., 0], self.log_gain.exp())
            return torch.stack([npho, guess[..., 1]], dim=-1)
        guess, context, features = self.start(x, hidden)
        tokens = torch.cat([tokens, self.embed(features)], dim=1)
        change = CORRECTION_SCALE * self._heads(x, hidden, context, tokens)
        npho = self.rescale_npho(guess[..., 0], (self.log_gain + change[..., 0]).exp())
        return torch.stack([npho, guess[..., 1] + change[..., 1]], dim=-1)

    def _at_equal_gain(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Replace hidden sensors by the sentinels and divide the other counts by their gains."""
        x = torch.where(hidden[..., None], self.encoder.sentinels.to(x.dtype), x)
        # The gains are learned where a sensor is guessed, not from what it does to the guesses of others.
        light = self.rescale_npho(x[..., 0], (-self.log_gain.detach()).exp())
        return torch.stack([light, x[..., 1]], dim=-1)

    def _heads(self, x: Tensor, hidden: Tensor, context: Tensor | None, tokens: Tensor) -> Tensor:
        """What the heads say of every sensor, shape (B, S, 2)."""
        known = [x, hidden.to(x.dtype)[..., None], *([] if context is None else [context.to(x.dtype)])]
        seen = torch.cat(known, dim=-1)
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
        cells = self.features["outer"](torch.cat([outer, 1 - cells_seen], dim=-1), tokens)
        tubes = self.tubes(cells)
        if context is not None:
            tubes = tubes + self.tube_context(context[:, self.tube_ids].to(x.dtype))
        change[:, self.tube_ids] = self.out["outer"](tubes).to(change.dtype)
        return change

    @torch.no_grad()
    def add_gains(self, x: Tensor, sums: Tensor) -> None:
        """Compare every visible sensor with what the others make of it.

        Args:
            x: Normalised npho and time of events, shape (B, S, 2).
            sums: Photons measured and photons expected at gain 1 so far, shape (2, S), added to in place.

        Raises:
            ValueError: The inpainter does not start from the conventional reconstruction.
        """
        if self.start is None:
            raise ValueError("gains are measured against the conventional reconstruction; give start")
        hidden = ~self.valid(x)
        guess, *_ = self.start(self._at_equal_gain(x, hidden), hidden)
        denormalize = self.start.estimate.normalization.denormalize_npho
        seen = torch.stack([denormalize(x[..., 0].float()), denormalize(guess[..., 0])])
        sums += torch.where(hidden, 0.0, seen).sum(1)

    @torch.no_grad()
    def set_gains(self, sums: Tensor) -> None:
        """Take over the gains that follow from the sums of `add_gains`, shape (2, S)."""
        measured, expected = sums.clamp(min=0.0) + GAIN_PRIOR_PHOTONS
        self.log_gain.copy_((measured / expected).log().clamp(-1.0, 1.0))
