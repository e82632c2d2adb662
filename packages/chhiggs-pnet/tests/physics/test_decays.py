"""Decay chains: conservation, mass shells, helicity, channels."""

import numpy as np
import pytest
from scipy import integrate, stats

from chhiggs_pnet.physics import constants as c
from chhiggs_pnet.physics import decays as d
from chhiggs_pnet.physics.kinematics import boost, four_momentum, mass
from chhiggs_pnet.physics.particles import Kind


def parents(num: int, parent_mass: float) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(3)
    p = four_momentum(rng.exponential(80, num), rng.normal(0, 1, num), rng.uniform(-3, 3, num), parent_mass)
    return p, rng


def helicity_cosine(parent: np.ndarray, boson: np.ndarray, fermion: np.ndarray) -> np.ndarray:
    """cosθ* by explicit boosts to the boson's rest frame."""
    to_rest = boson * np.array([1, -1, -1, -1])[:, None]
    m = mass(boson)
    f, back = boost(fermion, to_rest, m), boost(parent, to_rest, m)  # the boson flies against the parent
    norm = np.linalg.norm(f[1:], axis=0) * np.linalg.norm(back[1:], axis=0)
    return np.asarray(-np.sum(f[1:] * back[1:], axis=0) / norm)


def test_two_body_decay_conserves_and_stays_on_shell() -> None:
    parent, rng = parents(1000, 100.0)
    first, second = d.two_body(parent, 100.0, 60.0, 20.0, rng)
    np.testing.assert_allclose(first + second, parent, atol=1e-9)
    np.testing.assert_allclose(mass(first), 60.0, rtol=1e-6)
    np.testing.assert_allclose(mass(second), 20.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("helicity", "masses"),
    [("top", (c.TOP_MASS, c.W_MASS, c.BOTTOM_MASS)), ("longitudinal", (130.0, 25.0, 90.0))],
)
def test_boson_chain_has_the_helicity_angle(helicity: d.Helicity, masses: tuple[float, ...]) -> None:
    parent, rng = parents(40_000, masses[0])
    other, fermion, partner = d.boson_chain(parent, masses[0], masses[1], masses[2], helicity, rng)
    np.testing.assert_allclose(other + fermion + partner, parent, atol=1e-8)
    np.testing.assert_allclose(mass(other), masses[2], rtol=1e-4)
    np.testing.assert_allclose(mass(fermion + partner), masses[1], rtol=1e-5)
    for massless in (fermion, partner):
        assert np.abs(massless[0] - np.linalg.norm(massless[1:], axis=0)).max() < 1e-8 * massless[0].max()

    cosine = helicity_cosine(parent, fermion + partner, fermion)
    if helicity == "longitudinal":  # 3/4 sin²θ*
        result = stats.kstest(cosine, lambda x: 0.5 + 0.75 * x - 0.25 * x**3)
    else:
        edges = np.linspace(-1, 1, 401)
        f0, fl, fr = c.W_HELICITY
        density = 0.75 * f0 * (1 - edges**2) + 0.375 * (fl * (1 - edges) ** 2 + fr * (1 + edges) ** 2)
        cdf = integrate.cumulative_simpson(density, x=edges, initial=0)
        result = stats.kstest(cosine, lambda x: np.interp(x, edges, cdf / cdf[-1]))
    assert result.pvalue > 1e-3


def test_densities_are_normalised() -> None:
    for helicity in ("top", "longitudinal", "isotropic"):
        integral = integrate.quad(lambda x, h=helicity: float(d.helicity_density(np.array(x), h)), -1, 1)[0]
        assert integral == pytest.approx(1.0)
    assert integrate.quad(lambda x: float(d.tau_lepton_density(np.array(x))), 0, 1)[0] == pytest.approx(1.0)


def test_taus_share_their_momentum() -> None:
    tau, rng = parents(20_000, 0.0)
    fermion, partner = tau.copy(), np.zeros_like(tau)
    leptonic = np.arange(20_000) < 10_000
    d.resolve_taus(fermion, partner, leptonic, ~leptonic, rng)
    np.testing.assert_allclose(fermion + partner, tau, atol=1e-9)
    assert (fermion[0] / tau[0])[leptonic].mean() == pytest.approx(0.35, abs=0.01)  # 7/20


def test_channels_reach_what_they_must() -> None:
    channels = d.Channels(2, num_electrons=1, num_muons=1, nonprompt=(0.4, 0.6))
    modes = channels.draw(np.random.default_rng(0), 5000)
    kinds = np.concatenate([d.W_KINDS[0, modes[:2]], modes[2:]])
    assert (np.sum(kinds == Kind.ELECTRON, axis=0) >= 1).all()
    assert (np.sum(kinds == Kind.MUON, axis=0) >= 1).all()


def test_channel_fraction_by_hand() -> None:
    electron = c.W_TO_ELECTRON + c.W_TO_TAU * c.TAU_TO_ELECTRON
    one = d.Channels(1, num_electrons=1, num_muons=0)
    two = d.Channels(2, num_electrons=1, num_muons=0)
    total = d.W_BRANCHING.sum()
    assert one.fraction == pytest.approx(electron)
    assert two.fraction == pytest.approx(total**2 - (total - electron) ** 2)
    assert total == pytest.approx(1.0, abs=0.002)
