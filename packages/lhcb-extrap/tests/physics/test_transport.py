import numpy as np
import pytest

from lhcb_extrap.physics import transport as transport_module
from lhcb_extrap.physics.propagation import Acceptance, Status
from lhcb_extrap.physics.runge_kutta import rk4
from lhcb_extrap.physics.transport import native_backend, transport


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
