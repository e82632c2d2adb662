from functools import partial

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lhcb_extrap.physics.cash_karp import StepControl, cash_karp
from lhcb_extrap.physics.equations import kappa_from_qop, slope_derivatives
from lhcb_extrap.physics.propagation import Acceptance, Status
from lhcb_extrap.physics.runge_kutta import rk4, rkn4
from lhcb_extrap.physics.sampling import TrackSampler

Z0, DZ = 3000.0, 4000.0
TIGHT = StepControl(tolerance_mm=1e-7, slope_tolerance=1e-11, min_step_mm=0.01)
METHODS = {
    "rk4": partial(rk4, step_mm=50.0),
    "rkn4": partial(rkn4, num_steps=80),
    "cash_karp": partial(cash_karp, control=TIGHT),
}


def errors(found, reference):
    """Distance in mm and slope difference of two sets of states."""
    difference = np.asarray(found, dtype=np.float64) - reference
    return np.hypot(difference[:, 0], difference[:, 1]), np.hypot(difference[:, 2], difference[:, 3])


def uniform(x, y, z):
    """One tesla along y."""
    return np.zeros_like(z), np.ones_like(z), np.zeros_like(z)


def circle(tx, qop, dz):
    """x and tx after dz in the uniform field, in closed form; the start is x = 0, ty = 0."""
    curvature = 0.299792458 * qop
    u0 = tx / np.hypot(1, tx)
    u1 = u0 - curvature * dz
    return (np.sqrt(1 - u1**2) - np.sqrt(1 - u0**2)) / curvature, u1 / np.sqrt(1 - u1**2)


@pytest.fixture(scope="module")
def oracle(coils, tracks):
    """The ends by DOP853 of scipy, an eighth-order method with another error control."""
    ends = []
    for state, qop in zip(tracks.start, tracks.qop, strict=True):

        def rhs(z, s, qop=qop):
            field = (b[0] for b in coils(s[:1], s[1:2], np.array([z])))
            return [s[2], s[3], *slope_derivatives(s[2], s[3], kappa_from_qop(qop), *field)]

        solution = solve_ivp(rhs, (Z0, Z0 + DZ), state, "DOP853", rtol=1e-12, atol=1e-10)
        ends.append(solution.y[:, -1])
    return np.array(ends)


@pytest.mark.parametrize(("method", "limit_mm"), [("rk4", 2e-4), ("rkn4", 2e-4), ("cash_karp", 1e-5)])
def test_methods_agree_with_the_oracle(coils, tracks, oracle, method, limit_mm):
    result = METHODS[method](coils, tracks.start, tracks.qop, Z0, DZ)
    assert result.ok.all()
    distance, slope = errors(result.state, oracle)
    assert distance.max() < limit_mm
    assert slope.max() < limit_mm * 1e-3


@pytest.mark.parametrize(
    ("method", "options"),
    [(rk4, ({"step_mm": 500}, {"step_mm": 250})), (rkn4, ({"num_steps": 8}, {"num_steps": 16}))],
)
def test_error_falls_with_the_fourth_power_of_the_step(method, options):
    start, qop = np.array([[0.0, 0.0, 0.1, 0.0]]), np.array([1 / 3000.0])
    exact = [*circle(start[0, 2], qop[0], DZ)]
    found = [method(uniform, start, qop, 0.0, DZ, **option).state[0, [0, 2]] for option in options]
    ratio = np.abs(found[0] - exact) / np.abs(found[1] - exact)
    assert (ratio > 13).all()
    assert (ratio < 20).all()


def test_adaptive_error_follows_the_tolerance(coils, tracks, oracle):
    mean, lookups = [], []
    for tolerance in (1e-1, 1e-3, 1e-5):
        control = StepControl(tolerance_mm=tolerance, slope_tolerance=1.0, min_step_mm=1.0)
        result = cash_karp(coils, tracks.start, tracks.qop, Z0, DZ, control=control)
        mean.append(errors(result.state, oracle)[0].mean())
        lookups.append(result.num_lookups.mean())
    assert mean[0] > 5 * mean[1] > 25 * mean[2]
    assert lookups[0] < lookups[1] < lookups[2]
    assert np.unique(result.num_lookups).size > 3  # every track has its own steps


def test_nystrom_spends_two_lookups_a_step_plus_one(field_map, tracks):
    for num_steps in (8, 13, 40):
        result = rkn4(field_map, tracks.start, tracks.qop, Z0, DZ, num_steps=num_steps)
        assert (result.num_lookups == 2 * num_steps + 1).all()
    assert (rk4(field_map, tracks.start, tracks.qop, Z0, DZ, step_mm=100.0).num_lookups == 160).all()


def test_steps_on_grid_planes_meet_the_error_of_the_map(field_map, tracks):
    """Nodes every 100 mm in a map of 100 mm are worse than fewer nodes off its planes."""
    reference = rk4(field_map, tracks.start, tracks.qop, Z0, DZ, step_mm=20.0).state

    def mean_error(num_steps):
        end = rkn4(field_map, tracks.start, tracks.qop, Z0, DZ, num_steps=num_steps).state
        return errors(end, reference)[0].mean()

    assert mean_error(20) > 3 * mean_error(13)


@pytest.mark.parametrize("method", METHODS)
def test_there_and_back(coils, tracks, method):
    there = METHODS[method](coils, tracks.start, tracks.qop, Z0, DZ)
    back = METHODS[method](coils, there.state, tracks.qop, Z0 + DZ, -DZ)
    distance, slope = errors(back.state, tracks.start)
    assert distance.max() < 1e-3
    assert slope.max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_neutral_particles_go_straight(coils, tracks, method):
    end = METHODS[method](coils, tracks.start, np.zeros(len(tracks.qop)), Z0, DZ).state
    np.testing.assert_allclose(end[:, :2], tracks.start[:, :2] + DZ * tracks.start[:, 2:], atol=1e-9)
    np.testing.assert_array_equal(end[:, 2:], tracks.start[:, 2:])


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_stays_close(field_map, tracks, method):
    wide = METHODS[method](field_map, tracks.start, tracks.qop, Z0, DZ)
    options = {"control": StepControl(tolerance_mm=1e-3)} if method == "cash_karp" else {}
    narrow = METHODS[method](field_map, tracks.start.astype(np.float32), tracks.qop, Z0, DZ, **options)
    assert narrow.state.dtype == np.float32
    assert errors(narrow.state, wide.state)[0].mean() < (0.05 if options else 5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_lost_tracks_are_marked_and_do_not_disturb_others(coils, tracks, method):
    start, qop = tracks.start[:6].copy(), tracks.qop[:6].copy()
    alone = METHODS[method](coils, start[5:], qop[5:], Z0, DZ)
    qop[0] = -1 / 500.0  # 0.5 GeV turns around in the magnet
    start[1, 0] = np.nan
    start[2, 0] = 4100.0
    qop[3] = np.inf
    start[4] = 3900.0, 0.0, 0.3, 0.0
    result = METHODS[method](coils, start, qop, Z0, DZ)
    lost = [Status.STEEP, Status.NOT_FINITE, Status.OUTSIDE, Status.NOT_FINITE, Status.OUTSIDE]
    assert list(result.status) == [*lost, Status.OK]
    assert np.isnan(result.state[:5]).all()
    np.testing.assert_array_equal(result.state[5:], alone.state)
    assert result.rejected_fraction == pytest.approx(5 / 6)
    assert result.count_by_status() == {"ok": 1, "outside": 2, "steep": 1, "not_finite": 2}


def test_half_a_gev_never_crosses(field_map):
    """The kick of 1.1 GeV turns a particle of 0.5 GeV around; the slowest survivor has 0.7 GeV or more."""
    sample = TrackSampler().draw(np.random.default_rng(0), 4000)
    result = rkn4(field_map, sample.start, sample.qop, Z0, DZ)
    assert 0.12 < result.rejected_fraction < 0.20
    assert 0.7 < sample.momentum_gev[result.ok].min() < 1.0


def test_tracks_may_differ_in_start_and_length(coils, tracks):
    num = len(tracks.qop)
    z0 = np.linspace(2000, 4000, num)
    dz = np.linspace(-900, 3000, num)
    together = rk4(coils, tracks.start, tracks.qop, z0, dz, step_mm=100.0)
    for i in (0, 17, num - 1):
        one = rk4(coils, tracks.start[i : i + 1], tracks.qop[i : i + 1], z0[i], dz[i], step_mm=100.0)
        np.testing.assert_array_equal(together.state[i], one.state[0])
        assert together.num_lookups[i] == 4 * np.ceil(abs(dz[i]) / 100.0)


def test_batches_longer_than_a_chunk_and_empty_ones(field_map, tracks):
    times = 100
    long = rkn4(field_map, np.tile(tracks.start, (times, 1)), np.tile(tracks.qop, times), Z0, DZ, num_steps=4)
    short = rkn4(field_map, tracks.start, tracks.qop, Z0, DZ, num_steps=4)
    np.testing.assert_array_equal(long.state, np.tile(short.state, (times, 1)))
    for method in METHODS.values():
        empty = method(field_map, np.zeros((0, 4)), np.zeros(0), Z0, DZ)
        assert empty.state.shape == (0, 4)
        assert empty.rejected_fraction == 0.0


def test_a_track_that_needs_too_many_steps_is_given_up(coils, tracks):
    result = cash_karp(coils, tracks.start, tracks.qop, Z0, DZ, control=StepControl(max_trials=3))
    assert (result.status == Status.TOO_MANY_STEPS).all()
    assert np.isnan(result.state).all()


def test_acceptance_is_checked_on_the_way():
    """A track may leave the acceptance and come back; it is lost all the same."""
    start, qop = np.array([[0.0, 0.0, 0.25, 0.0]]), np.array([1 / 3000.0])
    widest = circle(0.25, qop[0], 2500.0)[0]
    assert circle(0.25, qop[0], 4500.0)[0] < 0.7 * widest
    for half_x, status in ((1.05 * widest, Status.OK), (0.95 * widest, Status.OUTSIDE)):
        result = rk4(uniform, start, qop, 0.0, 4500.0, step_mm=50.0, acceptance=Acceptance(half_x_mm=half_x))
        assert result.status[0] == status


@pytest.mark.parametrize(
    ("state", "qop", "options", "message"),
    [
        (np.zeros((2, 5)), np.zeros(2), {}, r"shape \(N, 4\)"),
        (np.zeros((2, 4), int), np.zeros(2), {}, "float32 or float64"),
        (np.zeros((2, 4)), np.zeros(3), {}, r"q/p needs shape \(2,\)"),
        (np.zeros((2, 4)), np.zeros(2), {"step_mm": 0.0}, "positive step_mm"),
        (np.zeros((2, 4)), np.zeros(2), {"step_mm": -5.0}, "positive step_mm"),
    ],
)
def test_wrong_arguments_are_refused(coils, state, qop, options, message):
    with pytest.raises(ValueError, match=message):
        rk4(coils, state, qop, Z0, DZ, **options)
