"""Final states: balance, mass shells, composition."""

import numpy as np
import pytest

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics import processes, production
from chhiggs_pnet.physics.kinematics import mass, pt
from chhiggs_pnet.physics.mass_points import MassPoint
from chhiggs_pnet.physics.particles import Kind, Particles
from chhiggs_pnet.physics.processes import CHANNELS, PROCESSES, Channel, Process, generate, signal

NUM = 2000


def is_balanced(particles: Particles) -> bool:
    total = particles.momenta.sum(axis=1)
    scale = np.abs(particles.momenta[0]).sum(axis=0)
    return bool((np.hypot(total[1], total[2]) < 1e-9 * scale).all())


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("channel", CHANNELS)
def test_every_process_balances_and_can_pass(process: Process, channel: Channel) -> None:
    point = MassPoint(130, 90) if process == "signal" else None
    batches = generate(process, channel, np.random.default_rng(0), NUM, point)
    assert sum(batch.num_trials for batch in batches) == NUM
    for batch in batches:
        p = batch.particles
        assert is_balanced(p)
        leptons = p.kinds[: p.num_lepton_slots]
        assert not np.isin(p.kinds[p.num_lepton_slots :], (Kind.MUON, Kind.ELECTRON)).any()
        assert ((leptons == Kind.MUON).sum(axis=0) >= (2 if channel == "Run1E2Mu" else 3)).all()
        if channel == "Run1E2Mu":
            assert ((leptons == Kind.ELECTRON).sum(axis=0) >= 1).all()
        assert (p.momenta[0] >= -1e-9).all()
        charged = np.isin(p.kinds, (Kind.MUON, Kind.ELECTRON))
        assert (np.abs(p.charges[charged]) == 1).all()
        assert (p.charges[~charged] == 0).all()


@pytest.mark.parametrize(
    "point", [MassPoint(130, 90), MassPoint(165, 97), MassPoint(100, 95), MassPoint(160, 70)]
)
def test_signal_masses_are_on_shell(point: MassPoint) -> None:
    p = signal("Run1E2Mu", point, np.random.default_rng(0), NUM).particles.momenta
    # Slots: mu, mu, f of W*, f of W; b, b, f' of W*, f' of W.
    pseudoscalar, virtual_w, w = p[:, 0] + p[:, 1], p[:, 2] + p[:, 6], p[:, 3] + p[:, 7]
    np.testing.assert_allclose(mass(pseudoscalar), point.mA, rtol=1e-6)
    np.testing.assert_allclose(mass(pseudoscalar + virtual_w), point.mHc, rtol=1e-6)
    np.testing.assert_allclose(mass(pseudoscalar + virtual_w + p[:, 4]), c.TOP_MASS, rtol=1e-6)
    np.testing.assert_allclose(mass(w), c.W_MASS, rtol=1e-5)
    np.testing.assert_allclose(mass(w + p[:, 5]), c.TOP_MASS, rtol=1e-6)
    np.testing.assert_allclose(mass(p[:, 4]), c.BOTTOM_MASS, rtol=1e-3)
    assert (mass(virtual_w) < point.mHc - point.mA).all()


def test_signal_charges_add_up() -> None:
    particles = signal("Run3Mu", MassPoint(130, 90), np.random.default_rng(0), NUM).particles
    assert (particles.charges[0] + particles.charges[1] == 0).all()
    both = (particles.charges[2] != 0) & (particles.charges[3] != 0)
    assert both.any()
    assert (particles.charges[2, both] == -particles.charges[3, both]).all()


def test_heavy_fermions_are_missing_at_small_mass_difference() -> None:
    shares = []
    for point in (MassPoint(100, 98.5), MassPoint(130, 90)):
        batch = signal("Run1E2Mu", point, np.random.default_rng(0), 20_000)
        shares.append((batch.particles.kinds[2] == Kind.TAU_JET).mean())
    assert shares[0] == 0.0  # the W* is lighter than a tau
    assert shares[1] > 0.02


def test_closed_decays_of_the_virtual_w_leave_the_rate_to_the_others() -> None:
    shares = [processes.open_share(MassPoint(*masses)) for masses in ((160, 70), (100, 95), (100, 98.8))]
    assert shares[0] > 0.98
    assert 0.5 < shares[1] < 0.8
    light = 1 - (c.W_TO_TAU + c.W_TO_HADRONS / 2) / sum(
        (c.W_TO_ELECTRON, c.W_TO_MUON, c.W_TO_TAU, c.W_TO_HADRONS)
    )
    assert shares[2] == pytest.approx(light)  # neither tau nor charm
    # What passes is the share of what is drawn, so the rate of one kind of event is the product of both.
    rng = np.random.default_rng(0)
    rates = []
    for point in (MassPoint(160, 70), MassPoint(100, 98.8)):
        batch = signal("Run3Mu", point, rng, 20_000)
        muons = batch.particles.kinds[2] == Kind.MUON
        rates.append(batch.cross_section_fb * muons.sum() / batch.num_trials)
    assert rates[1] / rates[0] > 1.3


def test_top_quarks_have_a_plausible_momentum() -> None:
    rng = np.random.default_rng(0)
    top, other = production.top_pair(rng, np.zeros((2, 20_000)))
    assert pt(top).mean() == pytest.approx(120.0, abs=20.0)  # about what is measured at 13 TeV
    np.testing.assert_allclose(mass(top), c.TOP_MASS, rtol=1e-5)
    np.testing.assert_allclose(mass(other), c.TOP_MASS, rtol=1e-5)


def test_three_body_phase_space_is_flat_in_the_dalitz_plane() -> None:
    masses = (c.TOP_MASS, c.TOP_MASS, c.Z_MASS)
    num = 40_000
    a, b, z = production.three_body(
        masses, np.random.default_rng(0), np.zeros((2, num)), np.full(num, c.Z_MASS)
    )
    for p, m in zip((a, b, z), masses, strict=True):
        np.testing.assert_allclose(mass(p), m, rtol=1e-4)
    # Flat phase space does not tell the two tops apart, although they are generated in different steps.
    total = a + b + z
    energies = [mass(a + z) / mass(total), mass(b + z) / mass(total)]
    for quantile in (0.1, 0.5, 0.9):
        assert np.quantile(energies[0], quantile) == pytest.approx(
            np.quantile(energies[1], quantile), rel=0.005
        )


def test_radiation_has_the_mean_and_the_condition() -> None:
    rng = np.random.default_rng(0)
    radiation, fraction = production.radiate(1.0, 0, rng, 20_000)
    number = (radiation.kinds != Kind.NONE).sum(axis=0)
    assert fraction == pytest.approx(1.0)
    assert number.mean() == pytest.approx(1.0, abs=0.03)
    some, fraction = production.radiate(1.0, 2, rng, 1000)
    assert ((some.kinds != Kind.NONE).sum(axis=0) >= 2).all()
    assert fraction == pytest.approx(1 - 2 * np.exp(-1.0))
    momenta = radiation.momenta[:, radiation.kinds != Kind.NONE]
    assert (pt(momenta) >= production.PT_MIN * 0.999).all()


def test_only_the_signal_has_a_mass_point() -> None:
    with pytest.raises(ValueError, match="the signal needs a mass point"):
        generate("signal", "Run3Mu", np.random.default_rng(0), 10)
    with pytest.raises(ValueError, match="only the signal"):
        generate("ttX", "Run3Mu", np.random.default_rng(0), 10, MassPoint(130, 90))
