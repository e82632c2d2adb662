"""Blocks, masking and pooling of the rectangular faces."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megii_xec.models.convnext import ConvNeXtV2Block, Downsample, FaceBackbone, pool_matrix


def masked_case(dim):
    torch.manual_seed(0)
    block = ConvNeXtV2Block(dim)
    torch.nn.init.normal_(block.branch.gamma)
    torch.nn.init.normal_(block.branch.beta)
    x = torch.randn(2, 12, 9, dim)
    visible = (torch.rand(2, 12, 9, 1) < 0.5).float()
    return block, x, visible


def test_masked_positions_are_exactly_zero():
    block, x, visible = masked_case(4)
    assert (block(x, visible) * (1 - visible)).abs().max() == 0


def test_values_at_masked_positions_change_nothing():
    block, x, visible = masked_case(4)
    noisy = x + 100 * (1 - visible) * torch.randn_like(x)
    torch.testing.assert_close(block(noisy, visible), block(x, visible), rtol=0, atol=0)


def test_a_full_mask_of_ones_is_no_mask():
    block, x, _ = masked_case(4)
    torch.testing.assert_close(block(x, torch.ones(2, 12, 9, 1)), block(x))


@pytest.mark.parametrize("grid", [(46, 21), (11, 2), (7, 11), (2, 2), (1, 1)])
def test_pool_matrices_equal_the_torch_operators(grid):
    x = torch.randn(1, 1, *grid)
    for kind, expected in (
        ("average", F.adaptive_avg_pool2d(x, 4)),
        ("bilinear", F.interpolate(x, size=(4, 4), mode="bilinear", align_corners=False)),
    ):
        ours = torch.from_numpy(pool_matrix(*grid, kind)) @ x.flatten()
        torch.testing.assert_close(ours, expected.flatten(), rtol=0, atol=1e-6)


def test_average_pooling_uses_every_cell_and_bilinear_64_of_966():
    assert (pool_matrix(46, 21, "average").sum(0) > 0).all()
    assert np.count_nonzero(pool_matrix(46, 21, "bilinear").sum(0)) == 64


def test_visibility_follows_the_stride_of_the_convolution():
    down = Downsample(3, 5, kernel=2, stride=2, padding=0, norm_first=True)
    visible = torch.zeros(1, 5, 4, 1)
    visible[0, 3, 0] = 1
    y, seen = down(torch.randn(1, 5, 4, 3), visible)
    assert y.shape == (1, 2, 2, 5)
    assert seen[0, ..., 0].tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_token_of_every_face_shape(stem_stride):
    grids = {"inner": (93, 44), "side": (24, 6), "center": (5, 6)}
    backbone = FaceBackbone(grids, dim=40, channels=4, stem_stride=stem_stride)
    for name, grid in grids.items():
        assert backbone(name, torch.randn(2, *grid, 2)).shape == (2, 40)


def test_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="face_pool is 'max'; use one of average, bilinear"):
        FaceBackbone({}, dim=64, channels=4, face_pool="max")


def test_too_small_a_grid_is_refused():
    with pytest.raises(ValueError, match="1 x 1 grid is too small"):
        FaceBackbone({"dot": (3, 3)}, dim=64, channels=4, depths=(1, 1, 1))
