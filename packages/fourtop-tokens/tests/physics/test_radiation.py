import numpy as np
import pytest

from fourtop_tokens.physics import radiation
from fourtop_tokens.physics.decay_modes import Kind
from fourtop_tokens.physics.hard_process import PROCESSES
from fourtop_tokens.physics.kinematics import eta, mass, pt


@pytest.fixture(scope="module")
def event():
    rng = np.random.default_rng(0)
    heavy = PROCESSES["tttt"][0].sample(rng, 2000)
    number = rng.integers(0, 5, 2000).astype(np.int8)
    return heavy, number, radiation.radiate(heavy.sum(axis=1), number, rng)


def test_radiation_fills_the_slots_asked_for(event):
    _, number, radiated = event
    present = radiated.kinds != Kind.NONE
    np.testing.assert_array_equal(present.sum(axis=0), number)
    assert (radiated.momenta[:, ~present] == 0).all()
    transverse = pt(radiated.momenta)[present]
    assert transverse.min() >= radiation.PT_MIN * (1 - 1e-9)
    assert transverse.max() <= radiation.PT_MAX
    assert np.abs(eta(radiated.momenta)[present]).max() <= radiation.ETA_MAX + 1e-6
    assert 0 < (radiated.kinds == Kind.PHOTON).sum() < 0.05 * present.sum()


def test_recoil_balances_and_keeps_masses_and_rapidity(event):
    heavy, _, radiated = event
    moved = radiation.recoil(heavy, radiated.momenta)
    np.testing.assert_allclose(moved[1:3].sum(axis=1) + radiated.momenta[1:3].sum(axis=1), 0, atol=1e-7)
    np.testing.assert_allclose(mass(moved), mass(heavy), atol=1e-2)
    before, after = heavy.sum(axis=1), moved.sum(axis=1)
    np.testing.assert_allclose(mass(after), mass(before), rtol=1e-8)
    np.testing.assert_allclose(after[3] / after[0], before[3] / before[0], atol=1e-8)


def test_no_radiation_leaves_the_system_alone(event):
    heavy, _, radiated = event
    np.testing.assert_allclose(radiation.recoil(heavy, 0 * radiated.momenta), heavy, rtol=1e-7, atol=1e-7)
