from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from lhcb_extrap.physics import transport as transport_module
from lhcb_extrap.physics.cash_karp import StepControl, cash_karp
from lhcb_extrap.physics.equations import kappa_from_qop, slope_derivatives
from lhcb_extrap.physics.field_map import Grid, sample_field
from lhcb_extrap.physics.propagation import Acceptance, Status
from lhcb_extrap.physics.runge_kutta import rk4
from lhcb_extrap.physics.transport import native_backend, operator_grid, transport


def columns(tracks, num=slice(None)):
    size = len(tracks.qop[num])
    return tracks.start[num], tracks.qop[num], np.full(size, 3000.0), np.full(size, 4000.0)


def test_the_same_steps_as_rk4(field_map, tracks):
    ours = transport(field_map, *columns(tracks), num_steps=80, backend="numpy")
    theirs = rk4(field_map, *columns(tracks), step_mm=50.0)
    assert ours.ok.all()
    np.testing.assert_allclose(ours.state, theirs.state, rtol=0, atol=1e-9)
    assert (ours.num_lookups == 320).all()


def test_lost_tracks_are_nan_with_their_reason(field_map, tracks):
    state, qop, z0, dz = columns(tracks)
    qop = qop.copy()
    qop[0], qop[1] = 1 / 300.0, np.nan
    result = transport(
        field_map, state, qop, z0, dz, num_steps=80, backend="numpy", acceptance=Acceptance(4000, 4000, 2)
    )
    assert result.status[0] in (Status.STEEP, Status.OUTSIDE)
    assert result.status[1] == Status.NOT_FINITE
    assert np.isnan(result.state[:2]).all()
    assert result.ok[2:].all()


def test_a_number_of_steps_is_needed(field_map, tracks):
    with pytest.raises(ValueError, match="number of steps is 0"):
        transport(field_map, *columns(tracks), num_steps=0)


def test_reference_kernels_mean_numpy(monkeypatch):
    monkeypatch.setenv("HEP_SHARED_KERNELS", "reference")
    assert native_backend() == "numpy"


@pytest.mark.parametrize("method", ["rk4", "rkn4"])
def test_the_operator_gives_the_numbers_of_numpy(field_map, tracks, method):
    pytest.importorskip("hep_shared.ops.propagate")
    numpy = transport(field_map, *columns(tracks), num_steps=40, method=method, backend="numpy")
    native = transport(field_map, *columns(tracks), num_steps=40, method=method, backend="native")
    np.testing.assert_array_equal(native.status, numpy.status)
    np.testing.assert_allclose(native.state, numpy.state, rtol=0, atol=1e-9)


def test_the_planes_are_part_of_a_sample():
    assert transport_module.NUM_PLANES == 8


@pytest.fixture
def adaptive():
    if native_backend() == "numpy":
        pytest.skip("needs the compiled operators")
    from hep_shared.ops.propagate_adaptive import propagate_adaptive

    def move(field, tracks, z0, dz, **limits):
        rows = torch.from_numpy(np.column_stack([tracks.start, tracks.qop]))
        return propagate_adaptive(rows, z0, dz, *operator_grid(field), **limits).numpy()[:, :4]

    return move


def test_compiled_adaptive_steps_are_those_of_numpy(field_map, tracks, adaptive):
    for tolerance in (1e-1, 1e-2, 1e-3):
        control = StepControl(tolerance_mm=tolerance)
        expected = cash_karp(field_map, tracks.start, tracks.qop, 3000.0, 4000.0, control=control).state
        found = adaptive(field_map, tracks, 3000.0, 4000.0, **asdict(control))
        np.testing.assert_allclose(found[:, :2], expected[:, :2], rtol=0, atol=1e-7)
        np.testing.assert_allclose(found[:, 2:], expected[:, 2:], rtol=0, atol=1e-10)


def test_compiled_adaptive_steps_agree_with_dop853(tracks, adaptive):
    """In a field that is linear along each axis, which a map has exactly."""

    def linear(x, y, z):
        return 1e-5 * y, -0.5 - 1e-4 * (z - 5000.0), -1e-4 * y + 0.0 * x

    grid = Grid((-8000.0, -8000.0, 0.0), (1000.0, 1000.0, 1000.0), (17, 17, 11))
    ends = []
    for state, qop in zip(tracks.start, tracks.qop, strict=True):

        def rhs(z, s, qop=qop):
            slopes = slope_derivatives(s[2], s[3], kappa_from_qop(qop), *linear(s[0], s[1], z))
            return [s[2], s[3], *slopes]

        ends.append(solve_ivp(rhs, (3000.0, 7000.0), state, "DOP853", rtol=1e-12, atol=1e-10).y[:, -1])
    limits = {"tolerance_mm": 1e-7, "slope_tolerance": 1e-11, "min_step_mm": 0.01}
    found = adaptive(sample_field(linear, grid), tracks, 3000.0, 4000.0, **limits)
    difference = np.abs(found - np.array(ends)).max(axis=0)
    assert difference[:2].max() < 1e-5
    assert difference[2:].max() < 1e-8
