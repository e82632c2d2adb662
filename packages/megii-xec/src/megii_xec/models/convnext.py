r"""ConvNeXt V2 blocks and the backbone shared by the rectangular faces.

    block(x) = x + branch(DWConv₇ₓ₇(x)),  branch = LayerNorm → Linear → GELU → GRN → Linear

All tensors are channels-last, (B, H, W, C), the layout in which both the layer norm and the depthwise
convolution are fastest. With a mask the block follows the dense form of a sparse convolution: masked
positions are zero before and after every step and take no part in the norms, so nothing about them reaches
the others.

A face becomes one token: the last features are brought to 4 x 4 by a constant matrix and flattened.

Dimensions: B events, H W grid, C channels.

References:
    Woo et al., ConvNeXt V2, arXiv:2301.00808.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from megii_xec.models.grn import LAYER_NORM_EPS, GrnBranch

FacePool = Literal["average", "bilinear"]
TOKEN_GRID = 4  # every rectangular face is reduced to 4 x 4 positions


def conv_channels_last(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution to channels-last features.

    Args:
        conv: Convolution.
        x: Features, shape (B, H, W, C).

    Returns:
        Features, shape (B, H', W', C').
    """
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def pool_matrix(
    height: int, width: int, kind: FacePool, tokens: tuple[int, int] = (1, 1)
) -> NDArray[np.float32]:
    """Build the matrix that reduces a grid to 4 x 4 positions for each of its tokens.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        kind: `average` averages all cells of each of the 16 regions; `bilinear` samples the grid at 16 points
            without smoothing, which on the inner face uses 64 of 966 cells.
        tokens: Rows and columns of tokens T.

    Returns:
        Matrix from row-major cells to row-major positions, token by token, shape (16 T, height * width).
    """
    along = _average_1d if kind == "average" else _bilinear_1d
    rows, columns = tokens
    down = along(height, TOKEN_GRID * rows).reshape(rows, 1, TOKEN_GRID, 1, height, 1)
    across = along(width, TOKEN_GRID * columns).reshape(1, columns, 1, TOKEN_GRID, 1, width)
    matrix = (down * across).reshape(rows * columns * TOKEN_GRID**2, height * width)
    return matrix.astype(np.float32)


def _average_1d(size: int, num: int) -> NDArray[np.float64]:
    """Adaptive average: bin k covers the cells from floor(k size / num) to ceil((k + 1) size / num)."""
    weights = np.zeros((num, size))
    for k in range(num):
        start, stop = k * size // num, -(-(k + 1) * size // num)
        weights[k, start:stop] = 1 / (stop - start)
    return weights


def _bilinear_1d(size: int, num: int) -> NDArray[np.float64]:
    """Linear interpolation at the centres of equal bins, positions outside held at the border."""
    centre = np.clip((np.arange(num) + 0.5) * size / num - 0.5, 0, size - 1)
    low = np.floor(centre).astype(np.int64)
    weights = np.zeros((num, size))
    rows = np.arange(num)
    np.add.at(weights, (rows, low), 1 - (centre - low))
    np.add.at(weights, (rows, np.minimum(low + 1, size - 1)), centre - low)
    return weights


class ConvNeXtV2Block(nn.Module):
    """One residual block.

    Args:
        dim: Channels C.
        drop_path: Probability of dropping the branch for an event during training.
        recompute: See `GrnBranch`.
    """

    def __init__(self, dim: int, *, drop_path: float = 0.0, recompute: bool = True) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.branch = GrnBranch(dim, drop_path=drop_path, recompute=recompute)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: Features, shape (B, H, W, C).
            visible: 1 where a position exists, 0 where it is masked, shape (B, H, W, 1).

        Returns:
            Features, shape (B, H, W, C), exactly zero at masked positions.
        """
        if visible is not None:
            x = x * visible
        y = conv_channels_last(self.depthwise, x)
        grid = y.shape[1:3]
        if visible is None:
            return x + torch.unflatten(self.branch(y.flatten(1, 2)), 1, grid)
        y = self.branch((y * visible).flatten(1, 2), visible.flatten(1, 2))
        return x + torch.unflatten(y, 1, grid) * visible


class Downsample(nn.Module):
    """Convolution from one stage to the next, with the layer norm before it, or after it in the stem.

    Args:
        in_channels: Channels before.
        out_channels: Channels after.
        kernel: Side of the kernel.
        stride: Stride.
        padding: Zeros around the grid.
        norm_first: Normalise before the convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, stride: int, padding: int, norm_first: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(in_channels if norm_first else out_channels, eps=LAYER_NORM_EPS)
        self.norm_first = norm_first

    def out_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid after the convolution, at least 1 x 1."""
        kernel, stride, padding = self.conv.kernel_size[0], self.conv.stride[0], int(self.conv.padding[0])
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        if rows < 1 or columns < 1:
            raise ValueError(f"a {height} x {width} grid is too small for a {kernel} x {kernel} convolution")
        return rows, columns

    def forward(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Apply the convolution.

        Args:
            x: Features, shape (B, H, W, C).
            visible: 1 where a position exists, 0 where it is masked, shape (B, H, W, 1).

        Returns:
            Features, shape (B, H', W', C'), and their visibility: as in a strided sparse convolution, a
            position exists if any position in its stride cell does.
        """
        y = conv_channels_last(self.conv, self.norm(x) if self.norm_first else x)
        y = y if self.norm_first else self.norm(y)
        if visible is None:
            return y, None
        stride = self.conv.stride[0]
        seen = F.max_pool2d(visible.permute(0, 3, 1, 2), stride, ceil_mode=True).permute(0, 2, 3, 1)
        return y, seen[:, : y.shape[1], : y.shape[2]]


class FaceBackbone(nn.Module):
    """Stem, ConvNeXt V2 stages and 4 x 4 pooling: one token per face, the same weights for every face.

    Args:
        grids: Name and (rows, columns) of every grid the backbone is used on.
        dim: Length of the token.
        channels: Channels of the first stage; every later stage doubles them.
        depths: Blocks in each stage.
        stem_stride: Stride of the 4 x 4 stem; 2 saves three quarters of the work.
        face_pool: How the last grid becomes 4 x 4, see `pool_matrix`.
        tokens: Rows and columns of tokens on grids that give more than one.
        drop_path: See `GrnBranch`.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self,
        grids: Mapping[str, tuple[int, int]],
        *,
        dim: int,
        channels: int,
        depths: Sequence[int] = (2, 3),
        stem_stride: int = 1,
        face_pool: FacePool = "average",
        tokens: Mapping[str, tuple[int, int]] | None = None,
        drop_path: float = 0.0,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        if face_pool not in get_args(FacePool):
            raise ValueError(f"face_pool is {face_pool!r}; use one of {', '.join(get_args(FacePool))}")
        widths = [channels * 2**stage for stage in range(len(depths))]
        self.downsamples = nn.ModuleList(
            [Downsample(2, channels, kernel=4, stride=stem_stride, padding=1, norm_first=False)]
        )
        for before, after in pairwise(widths):
            self.downsamples.append(Downsample(before, after, kernel=2, stride=2, padding=0, norm_first=True))
        self.stages = nn.ModuleList(
            nn.ModuleList(
                ConvNeXtV2Block(width, drop_path=drop_path, recompute=recompute) for _ in range(depth)
            )
            for width, depth in zip(widths, depths, strict=True)
        )
        flat = TOKEN_GRID**2 * widths[-1]
        self.project = nn.Identity() if flat == dim else nn.Linear(flat, dim)
        for name, grid in grids.items():
            for downsample in self.downsamples:
                grid = downsample.out_shape(*grid)  # type: ignore[operator]
            matrix = torch.from_numpy(pool_matrix(*grid, face_pool, (tokens or {}).get(name, (1, 1))))
            self.register_buffer(f"pool_{name}", matrix, persistent=False)

    def forward(self, name: str, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode one face.

        Args:
            name: Key of the grid in `grids`.
            x: npho and time on the grid, shape (B, H, W, 2).
            visible: 1 where a sensor exists, 0 where it is masked, shape (B, H, W, 1).

        Returns:
            Token, shape (B, dim); tokens, shape (B, T, dim), on a grid that gives more than one.
        """
        for downsample, stage in zip(self.downsamples, self.stages, strict=True):
            x, visible = downsample(x, visible)
            for block in stage:  # type: ignore[attr-defined]
                x = block(x, visible)
        pool = getattr(self, f"pool_{name}")
        y = pool @ x.flatten(1, 2)
        if visible is not None:  # mean over what is visible, so that masking does not change the scale
            y = y / (pool @ visible.flatten(1, 2)).clamp_min(1e-6)
        if y.shape[1] > TOKEN_GRID**2:
            y = torch.unflatten(y, 1, (-1, TOKEN_GRID**2))
            tokens: Tensor = self.project(y.transpose(2, 3).flatten(2))
            return tokens
        token: Tensor = self.project(y.transpose(1, 2).flatten(1))
        return token
