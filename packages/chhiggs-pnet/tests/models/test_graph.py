"""Neighbours: the nearest, and the lower slot where distances are equal."""

import torch

from chhiggs_pnet.models.graph import (
    direction_distances,
    feature_distances,
    nearest_neighbors,
    packing,
)


def test_equal_distances_are_ordered_by_slot():
    valid = torch.tensor([[True, True, True, True, False]])
    neighbors = nearest_neighbors(torch.ones(1, 5, 5), packing(valid), 3)
    assert neighbors.rows.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert neighbors.mask is None


def test_nearest_are_found_as_by_hand():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 4, generator=generator)
    valid = torch.ones(3, 6, dtype=torch.bool)
    found = nearest_neighbors(feature_distances(x), packing(valid), 2).rows.view(3, 6, 2)
    for event in range(3):
        distances = torch.cdist(x[event], x[event])
        distances.fill_diagonal_(torch.inf)
        expected = distances.argsort(dim=1)[:, :2] + 6 * event
        assert torch.equal(found[event].sort(dim=1).values, expected.sort(dim=1).values)


def test_events_with_few_nodes_have_few_neighbors():
    valid = torch.tensor([[True, False, False], [True, True, True]])
    neighbors = nearest_neighbors(torch.ones(2, 3, 3), packing(valid), 4)
    assert neighbors.mask.tolist() == [[False] * 3, *[[True, True, False]] * 3]
    assert [rows[:2] for rows in neighbors.rows[1:].tolist()] == [[2, 3], [1, 3], [1, 2]]


def test_one_tie_does_not_change_the_others():
    distances = torch.tensor([[[0.0, 1.0, 2.0, 2.0], [1.0, 0, 3, 4], [2.0, 3, 0, 5], [2.0, 4, 5, 0]]])
    neighbors = nearest_neighbors(distances, packing(torch.ones(1, 4, dtype=torch.bool)), 2)
    assert neighbors.rows.sort(dim=1).values.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_rows_and_slots_are_inverse():
    valid = torch.tensor([[True, False, True], [False, True, True]])
    graph = packing(valid)
    x = torch.arange(8.0).view(4, 2)
    assert torch.equal(graph.pack(graph.dense(x)), x)
    assert graph.event.tolist() == [0, 0, 1, 1]
    assert torch.equal(graph.mean(x), torch.tensor([[1.0, 2.0], [5.0, 6.0]]))


def test_directions_wrap_around():
    phi, eta = torch.tensor([[3.1, -3.1, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    pt = torch.tensor([[50.0, 20.0, 30.0]])
    found = direction_distances(pt * phi.cos(), pt * phi.sin(), pt * eta.sinh())
    wrapped = 2 * torch.pi - 6.2
    torch.testing.assert_close(found[0, 0, 1], torch.tensor(wrapped**2), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found[0, 0, 2], torch.tensor(3.1**2 + 1.0), rtol=1e-4, atol=1e-4)
