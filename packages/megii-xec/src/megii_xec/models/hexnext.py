r"""Depthwise convolution on the hexagonal lattice and the encoder of the top and bottom faces.

    y[n, c] = b[c] + Σ_t w[t, c] x[neighbour(n, t), c],   t = 0 itself, 1 to 6 the six directions

The lattice is fixed, so its edges are a table of 73 nodes by 7 neighbours, and gathers replace the scatter
over an edge list. The convolution and the layer norm behind it are one operator, `hep_shared.ops.hex`.

Dimensions: B events, N nodes (73), C channels.
"""

import torch
from torch import Tensor, nn

from hep_shared.ops.hex import hex_conv_norm
from megii_xec.models.grn import LAYER_NORM_EPS, GrnBranch
from megii_xec.physics.geometry import Layout, hex_neighbors

NUM_DIRECTIONS = 7  # the node itself and six neighbours


class HexDepthwiseConv(nn.Module):
    """Depthwise convolution over a node and its six neighbours.

    Args:
        dim: Channels C.
        layout: Which neighbour table, see `megii_xec.physics.geometry.hex_neighbors`.
    """

    neighbors: Tensor

    def __init__(self, dim: int, *, layout: Layout = "corrected") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(NUM_DIRECTIONS, dim) * 0.02)
        self.bias = nn.Parameter(torch.zeros(dim))
        table = torch.from_numpy(hex_neighbors(layout).copy())
        self.register_buffer("neighbors", table, persistent=False)

    def forward(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Convolve and normalise.

        Args:
            x: Node features, shape (B, 73, C).
            norm: Layer norm over the channels.

        Returns:
            Normalised node features, shape (B, 73, C).
        """
        return hex_conv_norm(x, self.neighbors, self.weight, self.bias, norm.weight, norm.bias, norm.eps)


class HexNeXtBlock(nn.Module):
    """The ConvNeXt V2 block with the convolution of the hexagonal lattice.

    Args:
        dim: Channels C.
        layout: See `HexDepthwiseConv`.
        drop_path: Probability of dropping the branch for an event during training.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self, dim: int, *, layout: Layout = "corrected", drop_path: float = 0.0, recompute: bool = True
    ) -> None:
        super().__init__()
        self.depthwise = HexDepthwiseConv(dim, layout=layout)
        self.branch = GrnBranch(dim, drop_path=drop_path, recompute=recompute)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: Node features, shape (B, N, C).
            visible: 1 where a node exists, 0 where it is masked, shape (B, N, 1).

        Returns:
            Node features, shape (B, N, C), exactly zero at masked nodes.
        """
        if visible is not None:
            x = x * visible
        y: Tensor = self.branch(self.depthwise(x, self.branch.norm), visible, normalized=True)
        return x + (y if visible is None else y * visible)


class HexEncoder(nn.Module):
    """Stem, HexNeXt blocks and mean over the nodes: one token per hexagonal face.

    Args:
        dim: Length of the token.
        hex_dim: Channels of the nodes.
        depth: Number of blocks.
        layout: See `HexDepthwiseConv`.
        drop_path: See `GrnBranch`.
        recompute: See `GrnBranch`.
    """

    def __init__(
        self,
        dim: int,
        *,
        hex_dim: int = 96,
        depth: int = 4,
        layout: Layout = "corrected",
        drop_path: float = 0.0,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, hex_dim), nn.LayerNorm(hex_dim, eps=LAYER_NORM_EPS), nn.GELU())
        self.blocks = nn.ModuleList(
            HexNeXtBlock(hex_dim, layout=layout, drop_path=drop_path, recompute=recompute)
            for _ in range(depth)
        )
        self.project = nn.Sequential(nn.LayerNorm(hex_dim, eps=LAYER_NORM_EPS), nn.Linear(hex_dim, dim))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode one hexagonal face.

        Args:
            x: npho and time of the nodes, shape (B, 73, 2).
            visible: 1 where a node exists, 0 where it is masked, shape (B, 73, 1).

        Returns:
            Token, shape (B, dim).
        """
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, visible)
        if visible is not None:  # mean over what is visible, so that masking does not change the scale
            x = x * visible * (x.shape[1] / visible.sum(1, keepdim=True).clamp_min(1))
        x = x.mean(1)
        token: Tensor = self.project(x)
        return token
