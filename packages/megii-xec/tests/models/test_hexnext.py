"""The neighbour-table convolution against the scatter-add over edges."""

import pytest
import torch

from megii_xec.models.hexnext import HexDepthwiseConv, HexEncoder, HexNeXtBlock
from megii_xec.physics.geometry import NUM_HEX, hex_edges, hex_neighbors


@pytest.mark.parametrize("layout", ["corrected", "legacy"])
def test_equals_scatter_add_over_the_edges(reference, layout):
    torch.manual_seed(0)
    ours, theirs = HexDepthwiseConv(5, layout=layout).double(), reference.HexConv(5).double()
    torch.nn.init.normal_(ours.weight)
    torch.nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    edges = torch.from_numpy(hex_edges(layout).copy())
    x = torch.randn(3, NUM_HEX, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, NUM_HEX, 5, dtype=torch.float64)
    norm = torch.nn.LayerNorm(5).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    y, expected = ours(x, norm), norm(theirs(x, edges))
    torch.testing.assert_close(y, expected)
    ours_grad = torch.autograd.grad((y * weight).sum(), [x, ours.weight, ours.bias, *norm.parameters()])
    theirs_grad = torch.autograd.grad(
        (expected * weight).sum(), [x, theirs.weight, theirs.bias, *norm.parameters()]
    )
    for a, b in zip(ours_grad, theirs_grad, strict=True):
        torch.testing.assert_close(a, b)


def test_a_node_reaches_itself_and_its_neighbours_only():
    conv = HexDepthwiseConv(2)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0]))  # two channels that differ: the norm keeps what arrives
    for node in (0, 30, NUM_HEX - 1):
        x = torch.zeros(1, NUM_HEX, 2)
        x[0, node] = 1
        reached = set(conv(x, torch.nn.LayerNorm(2))[0, :, 0].nonzero().flatten().tolist())
        table = hex_neighbors("corrected")
        assert reached == {n for n in range(NUM_HEX) if node in table[n]}


def test_masked_nodes_are_zero_and_have_no_influence():
    torch.manual_seed(0)
    block = HexNeXtBlock(4)
    torch.nn.init.normal_(block.branch.gamma)
    x = torch.randn(2, NUM_HEX, 4)
    visible = (torch.rand(2, NUM_HEX, 1) < 0.5).float()
    y = block(x, visible)
    assert (y * (1 - visible)).abs().max() == 0
    torch.testing.assert_close(block(x + 9 * (1 - visible), visible), y, rtol=0, atol=0)


def test_an_entirely_masked_face_gives_finite_values():
    encoder = HexEncoder(8, hex_dim=4, depth=1)
    y = encoder(torch.randn(2, NUM_HEX, 2), torch.zeros(2, NUM_HEX, 1))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())
