"""Resolutions, tags and jets."""

import numpy as np
import pytest

from chhiggs_pnet.physics import detector
from chhiggs_pnet.physics.jets import cluster
from chhiggs_pnet.physics.kinematics import eta, four_momentum, mass, phi
from chhiggs_pnet.physics.particles import Kind, Particles


def muons(num: int, true_pt: float, activity: float = 0.0) -> Particles:
    momenta = four_momentum(np.full((1, num), true_pt), np.full((1, num), 0.5), np.full((1, num), 1.0))
    kinds = np.full((1, num), Kind.MUON, np.int8)
    return Particles(momenta, kinds, np.ones_like(kinds), np.full((1, num), activity), 1)


def test_muon_resolution_and_efficiency() -> None:
    rng = np.random.default_rng(0)
    measured, loose, tight = detector.measure_leptons(muons(50_000, 45.0), rng, are_partons=False)
    assert np.std(measured[1] / np.mean(measured[1])) == pytest.approx(np.hypot(0.012, 0.0045), rel=0.03)
    assert loose.mean() == pytest.approx(0.96, abs=0.01)
    assert 0.9 < tight.sum() / loose.sum() < 1.0


def test_fragments_of_jets_spoil_the_isolation() -> None:
    rng, prompt = np.random.default_rng(0), muons(50_000, 45.0)
    for index, limit in ((1, detector.LOOSE_ISOLATION), (2, detector.TIGHT_ISOLATION)):
        alone = detector.measure_leptons(prompt, rng, are_partons=False)[index].mean()
        among_jets = detector.measure_leptons(prompt, rng)[index].mean()
        share = detector.FRAGMENT_SHARE * (limit / detector.FRAGMENT_MIN) ** (-1 / detector.FRAGMENT_POWER)
        assert 1 - among_jets / alone == pytest.approx(share, rel=0.25)  # pile-up adds to the same sum
    assert 0.02 < share < 0.1


def test_jets_lose_what_is_outside_the_cone() -> None:
    kinds = np.repeat(
        np.array([[Kind.LIGHT], [Kind.BOTTOM], [Kind.TAU_JET], [Kind.NONE]], np.int8), 20_000, 1
    )
    jets = np.ones((4, *kinds.shape)) * np.array([50.0, 1.0, 2.0, 6.0])[:, None, None]
    kept = detector.lose_from_jets(jets, kinds, np.random.default_rng(0))
    for row, kind in enumerate((Kind.LIGHT, Kind.BOTTOM)):
        assert 1 - kept[0, row].mean() / 50 == pytest.approx(detector.JET_LOSS[kind], rel=0.05)
    np.testing.assert_array_equal(kept[:, 2:], jets[:, 2:])
    np.testing.assert_array_equal(kept[1:3], jets[1:3])
    np.testing.assert_allclose(kept[3] / kept[0], jets[3] / jets[0])
    assert kept[0].min() >= 50 * (1 - detector.JET_LOSS_MAX) * (1 - 1e-12)


def test_activity_makes_leptons_loose() -> None:
    rng = np.random.default_rng(0)
    prompt = muons(1000, 45.0, activity=0.3)
    _, loose, tight = detector.measure_leptons(prompt, rng, are_partons=False)
    assert loose.mean() > 0.9
    assert not tight.any()
    assert not detector.measure_leptons(muons(1000, 45.0, activity=0.7), rng)[1].any()


def test_tags_given_one_follow_bayes() -> None:
    chance = np.array([0.7, 0.3, 0.0, 0.05])
    tagged, weight = detector.tag_at_least_one(
        np.repeat(chance[:, None], 100_000, 1), np.random.default_rng(0)
    )
    at_least_one = 1 - np.prod(1 - chance)
    np.testing.assert_allclose(weight, at_least_one)
    assert tagged.any(axis=0).all()
    np.testing.assert_allclose(tagged.mean(axis=1), chance / at_least_one, atol=0.006)


def test_no_jet_no_tag() -> None:
    tagged, weight = detector.tag_at_least_one(np.zeros((3, 10)), np.random.default_rng(0))
    assert not tagged.any()
    assert (weight == 0).all()


def test_discriminant_agrees_with_the_decision() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.integers(Kind.TAU_JET, Kind.BOTTOM + 1, (4, 1000)).astype(np.int8)
    tagged = rng.random(kinds.shape) < 0.5
    score = detector.tag_discriminant(kinds, tagged, rng).astype(np.float32)
    np.testing.assert_array_equal(score > np.float32(detector.BTAG_WORKING_POINT), tagged)
    assert score.min() >= 0
    assert score.max() <= 1


def test_tag_probability_is_ordered_by_flavour() -> None:
    kinds = np.array([Kind.NONE, Kind.LIGHT, Kind.CHARM, Kind.BOTTOM], np.int8)
    probability = detector.tag_probability(kinds, np.full(4, 60.0), np.zeros(4))
    assert probability[0] == 0
    assert 0.005 < probability[1] < 0.02
    assert 0.1 < probability[2] < 0.2
    assert 0.7 < probability[3] < 0.85


def test_partons_merge_within_the_radius_and_keep_the_flavour() -> None:
    def at(eta_value: float, phi_value: float) -> np.ndarray:
        return four_momentum(np.array([30.0]), np.array([eta_value]), np.array([phi_value]))

    momenta = np.stack([at(0.0, 0.0), at(0.2, 0.1), at(1.0, 0.0), at(0.0, 0.05)], axis=1)
    kinds = np.array([[Kind.LIGHT], [Kind.BOTTOM], [Kind.LIGHT], [Kind.MUON]], np.int8)
    jets, flavours = cluster(momenta, kinds)
    assert flavours[:, 0].tolist() == [Kind.BOTTOM, Kind.NONE, Kind.LIGHT, Kind.NONE]
    np.testing.assert_allclose(jets[:, 0], momenta[:, 0] + momenta[:, 1])
    np.testing.assert_allclose(jets.sum(axis=1), momenta[:, :3].sum(axis=1))


def test_clustering_is_repeated_until_nothing_merges() -> None:
    rng = np.random.default_rng(0)
    momenta = four_momentum(
        np.full((6, 300), 30.0), rng.normal(0, 0.5, (6, 300)), rng.uniform(-1, 1, (6, 300))
    )
    jets, flavours = cluster(momenta, np.full((6, 300), Kind.LIGHT, np.int8))
    np.testing.assert_allclose(jets.sum(axis=1), momenta.sum(axis=1))
    for event in range(300):
        slots = np.flatnonzero(flavours[:, event])
        etas, phis = eta(jets[:, slots, event]), phi(jets[:, slots, event])
        distance = np.hypot(etas[:, None] - etas, (phis[:, None] - phis + np.pi) % (2 * np.pi) - np.pi)
        assert (distance[np.triu_indices(len(slots), 1)] >= 0.4).all()


def test_jets_are_smeared_and_get_a_mass() -> None:
    momenta = four_momentum(np.full((2, 20_000), 50.0), np.zeros((2, 20_000)), np.full((2, 20_000), 3.14))
    kinds = np.zeros((2, 20_000), np.int8)
    kinds[0] = Kind.LIGHT
    measured = detector.measure_jets(momenta, kinds, np.random.default_rng(0))
    assert np.std(measured[0, 0]) / 50 == pytest.approx(np.hypot(0.8 / np.sqrt(50), 0.05), rel=0.03)
    assert (measured[3, 0] > 0).all()
    assert (np.abs(measured[2, 0]) <= np.pi).all()
    assert (measured[:, 1] == 0).all()


def test_missing_momentum_is_what_neutrinos_carry() -> None:
    num = 20_000
    momenta = np.zeros((4, 3, num))
    for slot, azimuth in enumerate((0.0, 2.0, -1.5)):
        momenta[:, slot] = four_momentum(np.full(num, 60.0), np.zeros(num), np.full(num, azimuth))
    kinds = np.array([[Kind.MUON], [Kind.NEUTRINO], [Kind.LIGHT]], np.int8).repeat(num, 1)
    particles = Particles(momenta, kinds, np.zeros_like(kinds), np.zeros((1, num)), 1)
    jets, flavours = cluster(momenta, kinds)
    exact = np.stack([np.where(flavours, 60.0, 0.0), eta(jets), phi(jets), mass(jets)])
    missing = detector.missing_momentum(particles, momenta[:, :1], exact, np.random.default_rng(0))
    np.testing.assert_allclose(missing.mean(axis=1), momenta[1:3, 1, 0], atol=0.5)
    assert missing[0].std() == pytest.approx(detector.SOFT_TERM, rel=0.03)
