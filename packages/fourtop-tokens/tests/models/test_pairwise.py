import math

import pytest
import torch

from fourtop_tokens.models import pairwise
from fourtop_tokens.models.pairwise import (
    ELECTROMAGNETIC,
    RESONANCES,
    STRONG,
    WEAK,
    PairwiseBias,
    decay_table,
    interaction_table,
    log_propagators,
    pair_features,
    running_couplings,
    triangle,
)
from fourtop_tokens.physics.constants import HIGGS_MASS, W_MASS, Z_MASS


def four_vectors(n=5, mass=20.0, seed=0):
    """E, pT, eta, phi of massive objects, and their Cartesian momenta in float64."""
    generator = torch.Generator().manual_seed(seed)
    pt, eta, phi = (
        torch.rand(3, 1, n, generator=generator).double() * torch.tensor([200.0, 4, 6]).view(3, 1, 1)
    ).unbind(0)
    pt, eta, phi = pt + 20, eta - 2, phi - 3
    p = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh()], -1)
    energy = (p.square().sum(-1) + mass**2).sqrt()
    return torch.stack([energy, pt, eta, phi], -1).float(), torch.cat([energy[..., None], p], -1)


def test_mass_is_that_of_the_summed_momenta():
    features, p = four_vectors()
    total = p[:, :, None] + p[:, None]
    mass2 = total[..., 0].square() - total[..., 1:].square().sum(-1)
    found = pair_features(features, with_energy=True)[..., 0]
    (first, second), _ = triangle(5, features.device)
    off = first != second
    assert torch.allclose(found[0, off].double(), mass2[0, first, second][off].log(), atol=1e-3)


def test_triangle_covers_the_square():
    pairs, square = triangle(4, torch.device("cpu"))
    assert pairs.T.tolist() == [[a, b] for a in range(4) for b in range(a + 1)]
    for a in range(4):
        for b in range(4):
            assert pairs[:, square[a, b]].tolist() == sorted((a, b), reverse=True)


def test_massless_without_energy():
    features, _ = four_vectors(mass=0.0)
    other = features.clone()
    other[..., 0] = 7.0
    found = pair_features(other, with_energy=False)
    (first, second), _ = triangle(5, features.device)
    off = first != second
    assert torch.equal(found, pair_features(features, with_energy=False))
    assert torch.allclose(found[0, off], pair_features(features, with_energy=True)[0, off], atol=2e-2)


def test_delta_r_kt_and_z():
    features = torch.tensor([[[50.0, 40.0, 0.0, 3.1], [100.0, 10.0, 0.3, -3.1]]])
    delta_r = math.hypot(0.3, 2 * math.pi - 6.2)
    expected = [math.log(delta_r), math.log(10 * delta_r), math.log(0.2)]
    assert torch.allclose(
        pair_features(features, with_energy=True)[0, 1, 1:], torch.tensor(expected), atol=1e-4
    )


@pytest.mark.parametrize("couplings", [False, True])
def test_bias_is_symmetric_and_invariant_under_rotation_and_reflection(couplings):
    torch.manual_seed(0)
    bias = PairwiseBias(4, 8, with_energy=True, couplings=couplings)
    features, _ = four_vectors()
    ids = torch.tensor([[1, 2, 3, 5, 7]])
    found = bias(ids, features)
    moved = features * torch.tensor([1.0, 1, -1, 1]) + torch.tensor([0, 0, 0, 1.0])
    assert found.shape == (1, 4, 5, 5)
    assert torch.allclose(found, found.transpose(2, 3), atol=1e-5)
    assert torch.allclose(found, bias(ids, moved), atol=1e-3)


def test_padding_gives_no_bias_and_finite_gradients():
    bias = PairwiseBias(2, 8, with_energy=True, couplings=True)
    features = torch.zeros(1, 4, 4)
    features[0, :2] = four_vectors(2)[0]
    ids = torch.tensor([[1, 3, 0, 0]])
    found = bias(ids, features)
    assert found[..., 2:, :].eq(0).all()
    assert found[..., 2:].eq(0).all()
    found.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in bias.parameters())


def test_interactions_are_those_of_the_standard_model():
    table = interaction_table()
    assert torch.equal(table, table.T)
    assert table[1, 2] == table[2, 2] == STRONG
    assert table[3, 4] == table[5, 6] == table[7, 1] == table[7, 3] == ELECTROMAGNETIC
    assert table[3, 3] == table[3, 5] == table[3, 6] == table[1, 3] == table[7, 7] == WEAK


def test_propagators_are_largest_on_the_mass_shell():
    mass = torch.tensor([20.0, W_MASS, Z_MASS, HIGGS_MASS, 500.0])
    every = torch.ones(5, 3, dtype=torch.bool)
    found = log_propagators(mass.square(), every)
    assert torch.allclose(found[[1, 2, 3], [0, 1, 2]], torch.zeros(3), atol=1e-6)
    assert (found <= 0).all()
    # One width off the shell a propagator is smaller by the square root of two.
    mass, width = RESONANCES[1]
    off = log_propagators(torch.tensor([(mass + width) ** 2, (mass - width) ** 2]), every[:2])[:, 1]
    assert off.tolist() == pytest.approx([-0.5 * math.log(2)] * 2, abs=1e-4)
    none = log_propagators(torch.tensor([Z_MASS**2]), ~every[:1])
    assert none.eq(pairwise._OFF_SHELL).all()


def test_bosons_decay_into_what_can_be_seen():
    table = decay_table()
    w, z, h = table.unbind(-1)
    assert torch.equal(table, table.transpose(0, 1))
    assert w.nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert z.nonzero().tolist() == [[3, 4], [4, 3], [5, 6], [6, 5]]
    assert h.nonzero().tolist() == [[2, 2], [7, 7]]


def test_a_bias_from_propagators_tells_a_z_from_other_leptons():
    """Within a few widths of the Z the bias of e+ e- changes, that of e+ mu- hardly."""
    torch.manual_seed(0)
    bias = PairwiseBias(4, 8, with_energy=True, couplings=True)

    def of_mass(mass, ids):
        pt = mass / 2  # back to back in phi at eta 0
        features = torch.tensor([[[pt, pt, 0.0, 0.0], [pt, pt, 0.0, 3.14159]]])
        return bias(torch.tensor([ids]), features)[0, :, 0, 1].detach()

    def change(ids):
        return (of_mass(Z_MASS, ids) - of_mass(Z_MASS + 10, ids)).abs().max().item()

    assert change([3, 4]) > 5 * change([3, 6])


def test_inputs_are_centred_on_pairs_of_real_events(sample):
    train = sample[1]["train"]
    pairs = pair_features(torch.from_numpy(train.features), with_energy=True)
    valid = torch.from_numpy(train.valid_mask)
    first, second = pairwise.triangle(18, valid.device)[0]
    both = valid[:, first] & valid[:, second] & (first != second)
    centre, width = torch.tensor(pairwise._TYPICAL).T
    scaled = (pairs[both] - centre) / width
    assert scaled.mean(0).abs().max() < 0.25
    assert (scaled.std(0) - 1).abs().max() < 0.25


def test_couplings_run_the_right_way():
    low, z, high = running_couplings(torch.tensor([2.0, Z_MASS, 1000.0])).unbind(0)
    assert torch.allclose(z, torch.tensor([0.1180, 1 / 127.93, 1 / 127.93 / 0.23129]), rtol=1e-5)
    assert low[0] > z[0] > high[0]
    assert low[1] < z[1] < high[1]
    # PDG (2024), figure 9.5: 0.0886 at 1 TeV with five flavours.
    assert high[0].item() == pytest.approx(0.0886, abs=0.0015)
