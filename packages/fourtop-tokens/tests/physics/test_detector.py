import numpy as np
import pytest

from fourtop_tokens.physics import detector
from fourtop_tokens.physics.decay_modes import Kind
from fourtop_tokens.physics.kinematics import four_momentum, mass, pt

SHAPE = (1, 20_000)


def momenta(value=100.0):
    return four_momentum(np.full(SHAPE, value), np.full(SHAPE, 0.5), np.full(SHAPE, 1.0))


@pytest.mark.parametrize(("kind", "efficiency"), detector.TAG_EFFICIENCY.items())
def test_tag_rates(kind, efficiency):
    rate = detector.is_tagged(np.full(SHAPE, kind), np.random.default_rng(0)).mean()
    assert rate == pytest.approx(efficiency, abs=4 * np.sqrt(efficiency * (1 - efficiency) / SHAPE[1]))


@pytest.mark.parametrize("kind", [Kind.NONE, Kind.ELECTRON, Kind.MUON, Kind.PHOTON, Kind.NEUTRINO])
def test_only_jets_are_tagged(kind):
    assert not detector.is_tagged(np.full(SHAPE, kind), np.random.default_rng(0)).any()


@pytest.mark.parametrize(
    ("kind", "efficiency"),
    [(Kind.ELECTRON, 0.80), (Kind.MUON, 0.93), (Kind.PHOTON, 0.85), (Kind.LIGHT, 0), (Kind.NEUTRINO, 0)],
)
def test_identification_rates(kind, efficiency):
    rate = detector.is_identified(np.full(SHAPE, kind), np.random.default_rng(0)).mean()
    assert rate == pytest.approx(efficiency, abs=0.015)


@pytest.mark.parametrize(
    ("kind", "width"),
    [(Kind.ELECTRON, np.hypot(0.1 / np.sqrt(100 * np.cosh(0.5)), 0.01)), (Kind.MUON, np.hypot(0.015, 0.01))],
)
def test_lepton_resolution(kind, width):
    kinds = np.full(SHAPE, kind)
    ratio = pt(detector.measure_leptons_and_photons(momenta(), kinds, np.random.default_rng(0))) / 100
    assert ratio.mean() == pytest.approx(1, abs=1e-3)
    assert ratio.std() == pytest.approx(width, rel=0.03)


def test_jet_resolution_and_mass():
    jets = detector.measure_jets(momenta(), np.full(SHAPE, Kind.LIGHT), np.random.default_rng(0))
    ratio = pt(jets) / 100
    assert ratio.mean() == pytest.approx(1, abs=5e-3)
    assert ratio.std() == pytest.approx(np.hypot(0.08, 0.05), rel=0.03)
    assert np.median(mass(jets) / pt(jets)) == pytest.approx(detector.JET_MASS_MEDIAN, rel=0.03)


def test_what_is_no_jet_is_not_smeared_as_one():
    kinds = np.full(SHAPE, Kind.MUON)
    np.testing.assert_array_equal(
        detector.measure_jets(momenta(), kinds, np.random.default_rng(0)), momenta()
    )


def test_missing_momentum_is_that_of_the_neutrinos_and_the_mismeasured():
    true = np.concatenate([momenta(60.0), momenta(100.0)], axis=1)
    measured = true.copy()
    measured[:, 1] *= 0.8  # 20 GeV are lost along phi = 1, the direction of the neutrino's 60
    kinds = np.concatenate([np.full(SHAPE, Kind.NEUTRINO), np.full(SHAPE, Kind.LIGHT)])
    met, phi = detector.missing_momentum(kinds, true, measured, np.random.default_rng(0))
    assert (met * np.cos(phi)).mean() == pytest.approx(80 * np.cos(1), abs=0.3)
    assert (met * np.sin(phi)).std() == pytest.approx(detector.SOFT_TERM, rel=0.03)
