r"""The outer face as one image: 234 phototubes of two sizes spread over a fine grid of 45 x 72 pixels.

A coarse tube covers 5 x 3 pixels and a tube of the dense centre 3 x 2, so every pixel stands for the same
area. Photon counts are extensive: a pixel carries npho / 15 or npho / 6. Times are intensive and are only
copied. Averaging pixels (`pool`) is linear, so image and pooling together are one constant matrix from
tubes to cells.

    x̄_cell = Σ_s M[cell, s] valid_s x_s / Σ_s M[cell, s] valid_s,     a sentinel without valid tubes

Counts are normalised by a non-linear function before they get here, so the area has to be divided inside of
it: `rescale_npho` does that (`area_scaling="raw"`). `area_scaling="legacy"` divides the normalised value
and averages missing tubes as if they were counts, for networks that were trained with it.

Dimensions: B events, S sensors (4760), K tubes (234), H W cells.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from megii_xec.physics.geometry import (
    OUTER_CENTER_COLS,
    OUTER_CENTER_ROWS,
    OUTER_CENTER_SCALE,
    OUTER_COARSE_SCALE,
    OUTER_FINE_SHAPE,
    Layout,
    outer_fine_index_map,
)

AreaScaling = Literal["raw", "legacy"]
# (normalised npho of shape (B, K), factor of shape (K,)) -> normalised (factor npho) of shape (B, K)
RescaleNpho = Callable[[Tensor, Tensor], Tensor]


def pixel_areas() -> NDArray[np.float64]:
    """Return the number of pixels that the tube under each pixel covers, shape (45, 72)."""
    areas = np.full(OUTER_FINE_SHAPE, np.prod(OUTER_COARSE_SCALE), dtype=np.float64)
    areas[OUTER_CENTER_ROWS, OUTER_CENTER_COLS] = np.prod(OUTER_CENTER_SCALE)
    return areas


def outer_matrix(
    pool: tuple[int, int] | None, layout: Layout = "corrected"
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Build the matrix from tubes to cells.

    Args:
        pool: Rows and columns of pixels averaged into a cell; None keeps the pixels.
        layout: Which map of the coarse grid. In the legacy one 12 tubes appear both coarse and dense, with
            both areas, and 12 not at all.

    Returns:
        Matrix, shape (cells, K), each row summing to 1; sensor identifiers, shape (K,); areas in pixels,
        shape (K,).
    """
    rows, columns = pool or (1, 1)
    if not (1 <= rows <= OUTER_FINE_SHAPE[0] and 1 <= columns <= OUTER_FINE_SHAPE[1]):
        raise ValueError(f"outer_pool is {pool}; it must lie between (1, 1) and {OUTER_FINE_SHAPE}")
    height, width = OUTER_FINE_SHAPE[0] // rows, OUTER_FINE_SHAPE[1] // columns
    roles = np.stack([outer_fine_index_map(layout).ravel(), pixel_areas().ravel()], axis=1)
    tubes, tube_of_pixel = np.unique(roles, axis=0, return_inverse=True)
    one_hot = np.eye(len(tubes))[tube_of_pixel.ravel()].reshape(*OUTER_FINE_SHAPE, len(tubes))
    inside = one_hot[: height * rows, : width * columns]  # pixels beyond the last full cell are dropped
    cells = inside.reshape(height, rows, width, columns, -1).mean(axis=(1, 3)).reshape(height * width, -1)
    return cells.astype(np.float32), tubes[:, 0].astype(np.int64), tubes[:, 1].astype(np.float32)


class OuterGrid(nn.Module):
    """Image of the outer face.

    Args:
        pool: Rows and columns of pixels averaged into a cell; None keeps 45 x 72.
        layout: Which map of the coarse grid.
        area_scaling: `raw` divides counts by the area inside the normalisation, `legacy` outside.
        rescale_npho: Multiplies the counts behind normalised values by a factor, such as
            `Normalization.rescale_npho`; needed for `raw`.
        sentinel_npho: npho of a sensor without measurement. A sentinel of 0 cannot be told from no light and
            counts as a measurement.
        sentinel_time: Time of a sensor without measurement, and of a cell without a valid time.
    """

    cells: Tensor
    ids: Tensor
    per_pixel: Tensor

    def __init__(
        self,
        pool: tuple[int, int] | None = (3, 3),
        *,
        layout: Layout = "corrected",
        area_scaling: AreaScaling = "raw",
        rescale_npho: RescaleNpho | None = None,
        sentinel_npho: float = -1.0,
        sentinel_time: float = -1.0,
    ) -> None:
        super().__init__()
        if area_scaling not in get_args(AreaScaling):
            raise ValueError(
                f"area_scaling is {area_scaling!r}; use one of {', '.join(get_args(AreaScaling))}"
            )
        if area_scaling == "raw" and rescale_npho is None:
            raise ValueError("area_scaling 'raw' needs rescale_npho, for example Normalization.rescale_npho")
        self.rescale_npho = rescale_npho if area_scaling == "raw" else None
        self.sentinel_npho, self.sentinel_time = sentinel_npho, sentinel_time
        rows, columns = pool or (1, 1)
        matrix, ids, areas = outer_matrix(pool, layout)
        self.shape = (OUTER_FINE_SHAPE[0] // rows, OUTER_FINE_SHAPE[1] // columns)
        self.register_buffer("cells", torch.from_numpy(matrix.T.copy()), persistent=False)
        self.register_buffer("ids", torch.from_numpy(ids), persistent=False)
        self.register_buffer("per_pixel", torch.from_numpy(1 / areas), persistent=False)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Draw the image.

        Args:
            x: Normalised npho and time, sentinels where masked, shape (B, S, 2).
            visible: 1 where a sensor exists, 0 where it is masked, shape (B, S, 1).

        Returns:
            npho per pixel area and time, shape (B, H, W, 2), and 1 for the cells that see at least one
            unmasked tube, shape (B, H, W, 1), or None.
        """
        npho, time = x.index_select(1, self.ids).unbind(-1)
        timed = (time != self.sentinel_time).to(x.dtype)
        total_time, num_timed = self._sum(time * timed), self._sum(timed)
        if self.rescale_npho is None:
            image_npho = self._sum(npho * self.per_pixel)
        else:
            counted = (
                (npho != self.sentinel_npho).to(x.dtype) if self.sentinel_npho else torch.ones_like(npho)
            )
            # Zero stands in for the sentinel, which may lie outside the domain of the normalisation.
            density = self.rescale_npho(npho * counted, self.per_pixel) * counted
            image_npho = _mean(self._sum(density), self._sum(counted), self.sentinel_npho)
        image = torch.stack([image_npho, _mean(total_time, num_timed, self.sentinel_time)], dim=-1)
        if visible is None:
            return torch.unflatten(image, 1, self.shape), None
        seen = self._sum(visible[..., 0].index_select(1, self.ids)) > 0
        seen = torch.unflatten(seen.to(x.dtype)[..., None], 1, self.shape)
        return torch.unflatten(image, 1, self.shape), seen

    def at_sensors(self, image: Tensor) -> Tensor:
        """Read an image of the kind that `forward` draws at the tubes, in the order of `ids`.

        Args:
            image: npho per pixel area and time of the cells, shape (B, H W, 2).

        Returns:
            Mean over the cells of each tube, npho of the whole tube again, shape (B, K, 2).
        """
        share = self.cells / self.cells.sum(1, keepdim=True).clamp_min(1e-9)  # (K, H W)
        npho, time = (share @ image).unbind(-1)
        if self.rescale_npho is None:
            return torch.stack([npho / self.per_pixel, time], dim=-1)
        return torch.stack([self.rescale_npho(npho, 1 / self.per_pixel), time], dim=-1)

    def _sum(self, values: Tensor) -> Tensor:
        """Weighted sum over the tubes of each cell, (B, K) to (B, H W)."""
        return values @ self.cells


def _mean(total: Tensor, weight: Tensor, sentinel: float) -> Tensor:
    """Weighted mean, and the sentinel where the weight is zero."""
    # The smallest weight of one tube is 1 / (pixels in a cell), far above the bound.
    return torch.where(weight > 0, total / weight.clamp_min(1e-6), sentinel)
