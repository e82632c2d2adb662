import numpy as np
import pytest
from scipy.integrate import dblquad, quad

from fourtop_tokens.physics import hard_process
from fourtop_tokens.physics.hard_process import BEAM_ENERGY, PROCESSES, HardProcess, pilot
from fourtop_tokens.physics.kinematics import mass

HARD = [process for processes in PROCESSES.values() for process in processes]
S = BEAM_ENERGY**2


@pytest.mark.parametrize("process", HARD, ids=lambda p: f"{p.initial_state} {' '.join(p.legs)}")
def test_heavy_particles_are_on_shell_and_balance(process):
    momenta = process.sample(np.random.default_rng(2), 500)
    assert momenta.shape == (4, len(process.legs), 500)
    np.testing.assert_allclose(
        mass(momenta), np.broadcast_to(process.masses[:, None], (len(process.legs), 500)), atol=1e-3
    )
    np.testing.assert_allclose(momenta[1:3].sum(axis=1), 0, atol=1e-9)
    total = momenta.sum(axis=1)
    assert (total[0] + np.abs(total[3]) < BEAM_ENERGY).all()


def two_body_volume(shat, m_1, m_2):
    """Φ_2 = λ^(1/2) / (8π ŝ), without the powers of 2π that the measure leaves out."""
    kallen = (shat - (m_1 + m_2) ** 2) * (shat - (m_1 - m_2) ** 2)
    return np.sqrt(np.maximum(kallen, 0)) / shat


def falling(tau):
    """A smooth stand-in for a parton luminosity, so that the integrals are dominated by small ŝ."""
    return (1 - np.minimum(tau, 1)) ** 20 / (tau + 0.002) ** 2


# ∫dx1 dx2 F(x1 x2) ∏ d³p/2E δ⁴ = 2/s ∫ F ∏(d²pT dy / 2) δ²(ΣpT), for any F; both sides are computed here.
def test_the_measure_integrates_to_two_body_phase_space():
    process = HardProcess("gg", ("t", "tbar"), 1.0)
    momenta, _, measure = process.trial(np.random.default_rng(0), 200_000)
    values = 2 / S * falling(mass(momenta.sum(axis=1)) ** 2 / S) * measure / 2**2
    m = process.masses[0]
    # ∏ d³p/2E δ⁴ over two bodies is π λ^(1/2) / (2 ŝ); ∫dx1 dx2 F(x1 x2) = ∫dτ F(τ) ln(1/τ).
    exact = quad(
        lambda tau: falling(tau) * np.log(1 / tau) * np.pi / 2 * two_body_volume(tau * S, m, m),
        4 * m**2 / S, 1, points=[0.002, 0.01, 0.1], limit=200,
    )[0]  # fmt: skip
    assert values.mean() == pytest.approx(exact, abs=4 * values.std() / np.sqrt(values.size))
    assert values.std() / np.sqrt(values.size) < 0.02 * exact


def test_the_measure_integrates_to_three_body_phase_space():
    process = HardProcess("gg", ("t", "tbar", "Z"), 1.0)
    momenta, _, measure = process.trial(np.random.default_rng(0), 300_000)
    values = 2 / S * falling(mass(momenta.sum(axis=1)) ** 2 / S) * measure / 2**3
    m_1, m_2, m_3 = process.masses

    def integrand(pair, tau):
        """Φ_3 = ∫dM² Φ_2(ŝ; M, m3) Φ_2(M²; m1, m2), with M between its limits for pair in (0, 1)."""
        low, high = m_1 + m_2, np.sqrt(tau * S) - m_3
        pair_mass = low + pair * (high - low)
        volume = two_body_volume(tau * S, pair_mass, m_3) * two_body_volume(pair_mass**2, m_1, m_2)
        return falling(tau) * np.log(1 / tau) * (np.pi / 2) ** 2 * volume * 2 * pair_mass * (high - low)

    exact = sum(
        dblquad(integrand, low, high, 0, 1, epsrel=1e-4)[0]
        for low, high in [((m_1 + m_2 + m_3) ** 2 / S, 0.02), (0.02, 0.1), (0.1, 1)]
    )
    error = values.std() / np.sqrt(values.size)
    assert values.mean() == pytest.approx(exact, abs=4 * error)
    assert error < 0.02 * exact


@pytest.mark.parametrize("process", HARD, ids=lambda p: f"{p.initial_state} {' '.join(p.legs)}")
def test_unweighting_loses_less_than_one_percent(process):
    ceiling, efficiency, clipped = pilot(process)
    assert ceiling > 0
    assert 0.02 < efficiency < 1
    assert 0 <= clipped < 0.01


def test_unweighted_events_follow_the_weights():
    process = PROCESSES["ttZ"][0]
    weighted, weight, _ = process.trial(np.random.default_rng(0), 100_000)
    unweighted = process.sample(np.random.default_rng(1), 8000)
    system_mass = mass(weighted.sum(axis=1))
    expected = (weight * system_mass).sum() / weight.sum()
    sampled = mass(unweighted.sum(axis=1))
    assert sampled.mean() == pytest.approx(expected, rel=0.02)


def test_tops_of_both_signs_follow_the_same_spectrum():
    """The first leg balances the others, which must leave no trace."""
    momenta = PROCESSES["tttt"][0].sample(np.random.default_rng(1), 8000)
    pt = np.hypot(momenta[1], momenta[2])
    error = pt.std() / np.sqrt(8000)
    np.testing.assert_allclose(pt.mean(axis=1), pt.mean(), atol=4 * error)


def test_shares_add_up():
    for processes in PROCESSES.values():
        assert sum(process.share for process in processes) == pytest.approx(1)
        assert len({len(process.legs) for process in processes}) == 1


def test_no_event_is_an_empty_array():
    assert HARD[0].sample(np.random.default_rng(0), 0).shape == (4, 4, 0)
    assert hard_process.MASSES["t"] == hard_process.MASSES["tbar"]
