import numpy as np
import pytest
import torch

from megii_xec.data.reweighting import Curriculum, HistogramWeights


@pytest.mark.parametrize("bins", [(30,), (20, 20), (5, 5, 5)])
def test_every_occupied_bin_weighs_the_same(bins):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, len(bins))).astype(np.float32)
    weigh = HistogramWeights(values, bins, max_weight=1e9)
    weights = weigh(torch.from_numpy(values)).numpy()
    edges = [
        np.linspace(column.min(), column.max(), num + 1) for column, num in zip(values.T, bins, strict=True)
    ]
    weighted, _ = np.histogramdd(values.astype(np.float64), edges, weights=weights)
    occupied = weighted[weighted > 0]
    np.testing.assert_allclose(occupied, occupied[0], rtol=0.02)
    assert weights.mean() == pytest.approx(1.0, rel=1e-4)


def test_weights_are_limited_and_values_beyond_the_edges_have_one():
    values = np.concatenate([np.zeros((999, 1)), np.ones((1, 1))]).astype(np.float32)
    weigh = HistogramWeights(values, (2,), max_weight=10.0)
    assert weigh(torch.tensor([[1.0], [55.0]])).tolist() == [10.0, 10.0]
    assert weigh(torch.tensor([[-7.0]])).item() == pytest.approx(1000 / 999 / 2)


def test_bins_must_fit_the_components():
    with pytest.raises(ValueError, match="2 numbers of bins for values of shape"):
        HistogramWeights(np.zeros((3, 1), np.float32), (2, 2))


def test_the_curriculum_opens_step_by_step():
    curriculum = Curriculum(num_epochs=4, energy_start_gev=0.04, edge_start_cm=8.0)
    columns = {
        "energyTruth": torch.tensor([0.05, 0.05, 0.02, 0.001]),
        "uvwTruth": torch.tensor([[0.0, 0.0, 3.0], [23.0, 0.0, 3.0], [0.0, 0.0, 3.0], [23.8, 67.8, 0.0]]),
    }
    counts = [curriculum.weights(columns, epoch).tolist() for epoch in range(6)]
    assert counts[0] == [1, 0, 0, 0]
    assert counts[2] == [1, 0, 1, 0]
    assert counts[4] == counts[5] == [1, 1, 1, 1]
    totals = [sum(row) for row in counts]
    assert totals == sorted(totals)
