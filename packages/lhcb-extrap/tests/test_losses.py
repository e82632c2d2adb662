import pytest
import torch

from lhcb_extrap.losses import (
    FieldTable,
    lorentz_rate,
    mse,
    pde_residual,
    pseudo_huber,
    weighted_difference,
)
from lhcb_extrap.physics.runge_kutta import rk4


def test_mse_counts_standard_deviations():
    end, truth = torch.tensor([[10.0, 0.0, 0.1, 0.0]]), torch.zeros(1, 4)
    std = torch.tensor([10.0, 1.0, 0.1, 1.0])
    assert mse(end, truth, std).item() == pytest.approx(0.5)


def test_pseudo_huber_is_half_the_square_then_linear():
    small, large = torch.tensor([[1e-3, 0, 0, 0]]), torch.tensor([[1e4, 0, 0, 0]])
    assert pseudo_huber(small, 1.0).item() == pytest.approx(0.5e-6, rel=1e-5)
    assert pseudo_huber(large, 1.0).item() == pytest.approx(1e4 - 1, rel=1e-4)
    difference = weighted_difference(torch.tensor([[1.0, 2.0, 1e-3, 0.0]]), torch.zeros(1, 4), 3000.0)
    assert difference.tolist() == [[1.0, 2.0, pytest.approx(3.0), 0.0]]


def test_a_true_track_obeys_the_equations(field_map, tracks):
    """The residual of Runge-Kutta's own path vanishes, that of a straight line does not."""
    field = FieldTable.of(field_map, torch.device("cpu"))
    ends = [
        rk4(field_map, tracks.start, tracks.qop, 3000.0, dz, step_mm=20.0).state for dz in (1990, 2000, 2010)
    ]
    before, middle, after = (torch.tensor(end, dtype=torch.float32) for end in ends)
    qop, z = torch.tensor(tracks.qop, dtype=torch.float32), torch.full((len(middle),), 5000.0)
    expected = lorentz_rate(middle, qop, z, field)
    std, length = torch.tensor([500.0, 400.0, 0.2, 0.1]), torch.full_like(z, 4000.0)
    rate = (after - before) / 20.0
    assert pde_residual(rate, expected, length, std).abs().max() < 1e-2
    straight = torch.cat([middle[:, 2:], torch.zeros_like(middle[:, 2:])], dim=1)
    assert pde_residual(straight, expected, length, std).abs().max() > 0.1
