"""Edge convolution in pieces: its values, its gradients and its statistics are those of plain layers."""

import copy

import pytest
import torch
from torch.nn import functional as F

from chhiggs_pnet.models import edge_mlp
from chhiggs_pnet.models.edge_conv import EdgeConv
from chhiggs_pnet.models.graph import Neighbors

ROWS, K, IN, OUT = 60, 3, 5, 8


def plain(conv, x, neighbors):
    """The formula at the head of `edge_conv`, edge by edge."""
    index, mask = neighbors
    out = []
    target, slot = torch.ones_like(index).bool().nonzero().T if mask is None else mask.nonzero().T
    hidden = torch.cat([x[target], x[index[target, slot]] - x[target]], dim=1)
    for linear, norm in zip(conv.linears, conv.norms, strict=True):
        hidden = norm(F.leaky_relu(linear(hidden)))
    for row in range(len(x)):
        mine = hidden[target == row]
        out.append(mine.mean(dim=0) if len(mine) else torch.zeros_like(hidden[0]))
    return torch.stack(out) + conv.shortcut(x)


def example(ragged):
    generator = torch.Generator().manual_seed(0)
    conv = EdgeConv(IN, OUT).double()
    with torch.no_grad():
        for norm in conv.norms:
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                tensor.copy_(torch.randn(OUT, generator=generator))
            norm.running_var.copy_(0.5 + torch.rand(OUT, generator=generator))
    x = torch.randn(ROWS, IN, generator=generator, dtype=torch.float64)
    index = torch.randint(0, ROWS, (ROWS, K), generator=generator)
    mask = torch.rand(ROWS, K, generator=generator) < 0.6 if ragged else None
    return conv, x, Neighbors(index, mask)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(edge_mlp, "PIECE_FLOATS", 70)


@pytest.mark.parametrize("ragged", [False, True])
def test_training_step_equals_plain_layers(ragged):
    conv, x, neighbors = example(ragged)
    peer, peer_x = copy.deepcopy(conv), x.clone().requires_grad_()
    x.requires_grad_()
    factor = torch.randn(ROWS, OUT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = conv(x, neighbors), plain(peer, peer_x, neighbors)
    torch.testing.assert_close(found, expected)
    (found * factor).sum().backward()
    (expected * factor).sum().backward()
    torch.testing.assert_close(x.grad, peer_x.grad)
    for (name, ours), theirs in zip(conv.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=lambda text, name=name: f"{name}: {text}")
    for name, ours in conv.named_buffers():
        torch.testing.assert_close(ours, peer.get_buffer(name))


@pytest.mark.parametrize("ragged", [False, True])
def test_inference_equals_plain_layers(ragged):
    conv, x, neighbors = example(ragged)
    conv.eval()
    expected = plain(conv, x, neighbors)
    with torch.no_grad():
        torch.testing.assert_close(conv(x, neighbors), expected)
    torch.testing.assert_close(conv(x, neighbors), expected)  # with a gradient: the layers as they are


@pytest.mark.parametrize("training", [False, True])
def test_no_edges_at_all(training):
    conv, x, neighbors = example(ragged=True)
    conv.train(training)
    none = Neighbors(neighbors.rows, torch.zeros_like(neighbors.mask))
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(conv(x, none), conv.shortcut(x))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("floats", [1, 70, 1 << 17])
def test_pieces_cover_every_row_and_edge_once(ragged, floats, monkeypatch):
    monkeypatch.setattr(edge_mlp, "PIECE_FLOATS", floats)
    index, mask = example(ragged)[2]
    count = torch.full((ROWS,), K) if mask is None else mask.sum(dim=1)
    edges = edge_mlp.Edges(index.reshape(-1)[: int(count.sum())], None, F.pad(count.cumsum(0), (1, 0)))
    assert torch.equal(edges.degree, count)
    pieces = edges.pieces(OUT)
    with_edges = [row for row in range(ROWS) if count[row]]
    assert [row for rows, _ in pieces for row in range(ROWS)[rows] if count[row]] == with_edges
    total = int(count.sum())
    assert [edge for _, part in pieces for edge in range(total)[part]] == list(range(total))
    for rows, part in pieces:
        assert int(count[rows].sum()) == part.stop - part.start


def test_the_mean_of_a_shifted_channel_keeps_its_digits():
    values = 1000.0 + torch.randn(4096, 3, generator=torch.Generator().manual_seed(2))
    moments = edge_mlp._Moments()
    for piece in values.split(100):
        moments.add(piece)
    mean, variance = moments.finish(torch.float32)
    exact = values.double()
    torch.testing.assert_close(mean.double(), exact.mean(dim=0), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact.var(dim=0, unbiased=False), rtol=1e-4, atol=0)
