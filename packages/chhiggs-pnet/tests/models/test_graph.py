"""Neighbours: the nearest, and the lower slot where distances are equal."""

import torch

from chhiggs_pnet.models.graph import directions, nearest_neighbors, packing


def test_equal_distances_are_ordered_by_slot():
    valid = torch.tensor([[True, True, True, True, False]])
    neighbors = nearest_neighbors(torch.ones(1, 5, 2), packing(valid), 3)
    assert neighbors.rows.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert neighbors.mask is None


def test_nearest_are_found_as_by_hand():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 4, generator=generator)
    valid = torch.ones(3, 6, dtype=torch.bool)
    found = nearest_neighbors(x, packing(valid), 2).rows.view(3, 6, 2)
    for event in range(3):
        distances = torch.cdist(x[event], x[event])
        distances.fill_diagonal_(torch.inf)
        assert torch.equal(found[event], distances.argsort(dim=1)[:, :2] + 6 * event)


def test_rows_are_counted_without_the_empty_slots():
    valid = torch.tensor([[False, True, True, True], [True, False, True, True]])
    x = torch.tensor([[[0.0], [0], [1], [3]], [[0], [0], [5], [1]]])
    neighbors = nearest_neighbors(x, packing(valid), 2)
    assert neighbors.rows.tolist() == [[1, 2], [0, 2], [1, 0], [5, 4], [5, 3], [3, 4]]
    assert neighbors.mask is None


def test_events_with_few_nodes_have_few_neighbors():
    valid = torch.tensor([[True, False, False], [True, True, True]])
    neighbors = nearest_neighbors(torch.ones(2, 3, 3), packing(valid), 4)
    assert neighbors.mask.tolist() == [[False] * 3, *[[True, True, False]] * 3]
    assert [rows[:2] for rows in neighbors.rows[1:].tolist()] == [[2, 3], [1, 3], [1, 2]]


def test_one_tie_does_not_change_the_others():
    points = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-2.0, 0.0]]])
    neighbors = nearest_neighbors(points, packing(torch.ones(1, 4, dtype=torch.bool)), 2)
    assert neighbors.rows.tolist() == [[1, 2], [0, 2], [0, 1], [0, 2]]


def test_rows_and_slots_are_inverse():
    valid = torch.tensor([[True, False, True], [False, True, True]])
    graph = packing(valid)
    x = torch.arange(8.0).view(4, 2)
    assert torch.equal(graph.pack(graph.dense(x)), x)
    assert graph.event.tolist() == [0, 0, 1, 1]
    assert torch.equal(graph.mean(x), torch.tensor([[1.0, 2.0], [5.0, 6.0]]))


def test_directions_wrap_around():
    phi, eta = torch.tensor([[3.1, -3.1, 2.9]]), torch.tensor([[0.0, 0.0, 0.0]])
    pt = torch.tensor([[50.0, 20.0, 30.0]])
    found = directions(pt * phi.cos(), pt * phi.sin(), pt * eta.sinh())
    torch.testing.assert_close(found, torch.stack([eta, phi], dim=-1))
    graph = packing(torch.ones(1, 3, dtype=torch.bool))
    assert nearest_neighbors(found, graph, 1, period=2 * torch.pi).rows.tolist() == [[1], [0], [0]]
    assert nearest_neighbors(found, graph, 1).rows.tolist() == [[2], [2], [0]]


def test_missing_momentum_has_no_eta():
    zero = torch.zeros(1, 1)
    assert directions(zero + 3, zero, zero).tolist() == [[[0.0, 0.0]]]
    assert directions(zero, zero, zero).isfinite().all()
