import numpy as np
import pytest
from scipy.integrate import quad

from fourtop_tokens.physics import constants as c
from fourtop_tokens.physics.decay_modes import HIGGS_MODES, MODES, W_MODES, Z_MODES, Kind
from fourtop_tokens.physics.decays import decay_all, helicity_density, tau_decay, top_decay
from fourtop_tokens.physics.kinematics import boost, four_momentum, mass

N = 4000


def moving(parent_mass, n=N, seed=0):
    rng = np.random.default_rng(seed)
    return four_momentum(
        rng.exponential(150, n), rng.normal(0, 1, n), rng.uniform(-np.pi, np.pi, n), parent_mass
    )


def to_rest(p, frame):
    return boost(p, frame * np.array([1, -1, -1, -1])[:, None])


@pytest.mark.parametrize("lepton_mass", [0.0, c.TAU_MASS])
def test_top_decay_conserves_momentum_and_masses(lepton_mass):
    top = moving(c.TOP_MASS)
    b, fermion, partner = top_decay(top, np.full(N, lepton_mass), np.random.default_rng(1))
    np.testing.assert_allclose(b + fermion + partner, top, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(mass(fermion + partner), c.W_MASS, rtol=1e-6)
    np.testing.assert_allclose(mass(b), c.BOTTOM_MASS, atol=1e-3)
    np.testing.assert_allclose(mass(fermion), lepton_mass, atol=5e-2)
    np.testing.assert_allclose(mass(partner), 0, atol=5e-2)


def test_w_from_top_has_the_standard_model_helicities():
    top = moving(c.TOP_MASS, 40_000)
    b, fermion, partner = top_decay(top, np.zeros(40_000), np.random.default_rng(1))
    w = fermion + partner
    lepton, bottom = to_rest(fermion, w), to_rest(b, w)
    cosine = -(lepton[1:] * bottom[1:]).sum(axis=0) / lepton[0] / np.sqrt((bottom[1:] ** 2).sum(axis=0))
    longitudinal, left, right = np.array(c.W_HELICITY) / sum(c.W_HELICITY)
    assert cosine.mean() == pytest.approx((right - left) / 2, abs=0.01)
    # <cos²> is 1/5 for the longitudinal and 2/5 for the transverse part.
    assert (cosine**2).mean() == pytest.approx(longitudinal / 5 + 2 * (left + right) / 5, abs=0.006)
    assert quad(helicity_density, -1, 1)[0] == pytest.approx(1)


@pytest.mark.parametrize("leptonic", [True, False])
def test_tau_decay_conserves_momentum(leptonic):
    tau = moving(c.TAU_MASS)
    seen, unseen = tau_decay(tau, np.full(N, leptonic), np.random.default_rng(1))
    np.testing.assert_allclose(seen + unseen, tau, rtol=1e-10)
    massless = seen if leptonic else unseen
    np.testing.assert_allclose(mass(massless), 0, atol=5e-2)
    assert (mass(seen) < c.TAU_MASS + 1e-3).all()


def test_leptonic_tau_follows_the_michel_spectrum():
    tau = np.zeros((4, 20_000))
    tau[0] = c.TAU_MASS
    lepton, _ = tau_decay(tau, np.ones(20_000, bool), np.random.default_rng(1))
    # <x> = ∫x³(3 - 2x) / ∫x²(3 - 2x) = 0.35 / 0.5
    assert (2 * lepton[0] / c.TAU_MASS).mean() == pytest.approx(0.7, abs=0.006)


@pytest.mark.parametrize("leg", ["t", "tbar", "W+", "W-", "Z", "H"])
def test_slots_add_up_to_the_parent_in_every_mode(leg):
    parent_mass = {"t": c.TOP_MASS, "tbar": c.TOP_MASS, "Z": c.Z_MASS, "H": c.HIGGS_MASS}.get(leg, c.W_MASS)
    num = 5 * len(MODES[leg])
    modes = np.tile(np.arange(len(MODES[leg]), dtype=np.int16), 5)[:, None]
    parent = moving(parent_mass, num)
    particles = decay_all((leg,), parent[:, None], modes, np.random.default_rng(0))
    np.testing.assert_allclose(particles.momenta.sum(axis=1), parent, rtol=1e-9, atol=1e-8)
    filled = particles.momenta[0] > 0
    assert (filled == (particles.kinds != Kind.NONE)).all()
    sign = -1 if leg in ("tbar", "W-") else 1
    for event in range(len(MODES[leg])):
        start = 1 if leg in ("t", "tbar") else 0
        assert tuple(particles.charges[start:, event]) == tuple(sign * q for q in MODES[leg][event].charges)
        assert tuple(particles.kinds[start:, event]) == MODES[leg][event].kinds


def mode_of(table, kinds, taus=()):
    return next(i for i, mode in enumerate(table) if mode.kinds == kinds and mode.taus == taus)


def test_bosons_are_on_shell():
    pair = (Kind.ELECTRON, Kind.ELECTRON, Kind.NONE, Kind.NONE)
    z_modes = np.full((N, 1), mode_of(Z_MODES, pair), np.int16)
    z = decay_all(("Z",), moving(c.Z_MASS)[:, None], z_modes, np.random.default_rng(0))
    np.testing.assert_allclose(mass(z.momenta[:, 0] + z.momenta[:, 1]), c.Z_MASS, rtol=1e-6)


def test_higgs_to_ww_has_one_boson_on_shell_and_one_below():
    kinds = (Kind.ELECTRON, Kind.NEUTRINO, Kind.MUON, Kind.NEUTRINO)
    modes = np.full((N, 1), mode_of(HIGGS_MODES, kinds), np.int16)
    higgs = decay_all(("H",), moving(c.HIGGS_MASS)[:, None], modes, np.random.default_rng(0))
    pairs = np.sort([mass(higgs.momenta[:, i] + higgs.momenta[:, i + 1]) for i in (0, 2)], axis=0)
    np.testing.assert_allclose(pairs[1], c.W_MASS, rtol=1e-5)
    assert (pairs.sum(axis=0) < c.HIGGS_MASS + 1e-3).all()
    assert 25 < np.median(pairs[0]) < 40  # the spectrum of the virtual W peaks just below m_H - m_W


def test_tau_neutrinos_join_the_neutrino_of_the_w():
    kinds = (Kind.TAU_JET, Kind.NEUTRINO)
    modes = np.full((200, 1), mode_of(W_MODES, kinds, ((0, 1),)), np.int16)
    w = decay_all(("W+",), moving(c.W_MASS, 200)[:, None], modes, np.random.default_rng(0))
    assert (mass(w.momenta[:, 1]) > 1e-3).mean() > 0.9  # two neutrinos have mass, one has none
    assert (mass(w.momenta[:, 0]) < 1.3).all()
