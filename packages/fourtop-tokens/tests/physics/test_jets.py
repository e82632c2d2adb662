import numpy as np
import pytest

from fourtop_tokens.physics.decay_modes import HADRONIC, Kind
from fourtop_tokens.physics.decays import Particles
from fourtop_tokens.physics.jets import cluster
from fourtop_tokens.physics.kinematics import delta_r2, eta, four_momentum, phi


def particles(etas, phis, kinds):
    shape = (len(etas), 1)
    momenta = four_momentum(np.full(shape, 50.0), np.reshape(etas, shape), np.reshape(phis, shape))
    return Particles(momenta, np.reshape(kinds, shape).astype(np.int8), np.zeros(shape, np.int8))


def test_near_partons_merge_over_the_edge_of_phi_and_keep_the_heavier_flavour():
    jets = cluster(particles([0.0, 0.1, 2.0], [3.1, -3.1, 0.0], [Kind.LIGHT, Kind.BOTTOM, Kind.CHARM]))
    assert list(jets.kinds[:, 0]) == [Kind.BOTTOM, Kind.NONE, Kind.CHARM]
    assert jets.momenta[0, 1, 0] == 0


def test_the_nearest_pair_merges_first():
    jets = cluster(particles([0.0, 0.35, 0.5], [0, 0, 0], [Kind.LIGHT, Kind.TAU_JET, Kind.LIGHT]))
    # 0.35 and 0.5 merge at about 0.425, which is then too far from 0
    assert list(jets.kinds[:, 0]) == [Kind.LIGHT, Kind.LIGHT, Kind.NONE]


def test_leptons_and_photons_take_no_part():
    near = particles([0.0, 0.1, 0.05], [0, 0, 0], [Kind.ELECTRON, Kind.LIGHT, Kind.PHOTON])
    assert (cluster(near).kinds == near.kinds).all()


def test_momentum_is_kept_and_no_near_pair_is_left():
    rng = np.random.default_rng(0)
    shape = (14, 300)
    momenta = four_momentum(
        rng.exponential(50, shape), rng.normal(0, 1, shape), rng.uniform(-np.pi, np.pi, shape)
    )
    before = Particles(momenta, rng.choice(HADRONIC, shape).astype(np.int8), np.zeros(shape, np.int8))
    jets = cluster(before)
    np.testing.assert_allclose(jets.momenta.sum(axis=1), momenta.sum(axis=1), rtol=1e-9, atol=1e-8)
    for event in range(300):
        there = jets.momenta[:, jets.kinds[:, event] != Kind.NONE, event]
        etas, phis = eta(there), phi(there)
        distance = delta_r2(etas[:, None], phis[:, None], etas, phis) + np.eye(len(etas))
        assert distance.min() >= 0.4**2
    assert (jets.kinds == Kind.NONE).any()
    assert before.momenta is momenta  # the input is left alone
    assert (before.kinds != Kind.NONE).all()


@pytest.mark.parametrize("num_events", [0, 1])
def test_small_batches(num_events):
    empty = Particles(
        np.zeros((4, 3, num_events)), np.zeros((3, num_events), np.int8), np.zeros((3, num_events), np.int8)
    )
    assert cluster(empty).kinds.shape == (3, num_events)
