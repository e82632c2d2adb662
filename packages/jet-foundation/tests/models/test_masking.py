import pytest
import torch

from jet_foundation.models.masking import BLOCK_HALF_WIDTH, Masking, choose_hidden
from jet_foundation.physics import fourvectors as fv

STRATEGIES: tuple[Masking, ...] = ("random", "biased", "block")


@pytest.mark.parametrize("masking", STRATEGIES)
def test_hides_real_particles_and_leaves_one(jetful, masking) -> None:
    p4, _, mask = jetful
    mask = mask.clone()
    mask[0, 1:] = False  # a jet of one particle
    hidden = choose_hidden(p4, mask, masking=masking, ratio=0.9)
    assert not (hidden & ~mask).any()
    assert (mask & ~hidden).any(dim=1).all()
    assert not hidden[0].any()
    assert hidden[1:].any(dim=1).all()


def test_the_share_is_kept(jetful) -> None:
    p4, _, mask = jetful
    for masking in ("random", "biased"):
        hidden = choose_hidden(p4, mask, masking=masking, ratio=0.3)
        expected = (0.3 * mask.sum(dim=1)).round().clamp_min(1)
        assert torch.equal(hidden.sum(dim=1).float(), expected)


def test_biased_masking_prefers_hard_particles(jetful) -> None:
    p4, _, mask = jetful
    pt = fv.pt(p4)
    mean = {}
    for masking in ("random", "biased"):
        generator = torch.Generator().manual_seed(1)
        drawn = [choose_hidden(p4, mask, masking=masking, ratio=0.2, generator=generator) for _ in range(100)]
        mean[masking] = torch.stack([pt[hidden].mean() for hidden in drawn]).mean()
    assert mean["biased"] > 1.5 * mean["random"]


def test_biased_masking_of_one_particle_draws_by_pt() -> None:
    pt = torch.tensor([60.0, 30.0, 10.0])
    p4 = torch.stack([pt, pt, 0 * pt, 0 * pt], dim=-1).expand(20_000, 3, 4)
    mask = torch.ones(20_000, 3, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    hidden = choose_hidden(p4, mask, masking="biased", ratio=0.1, generator=generator)
    torch.testing.assert_close(hidden.float().mean(dim=0), pt / 100, rtol=0, atol=0.015)


def test_block_masking_hides_neighbours(jetful) -> None:
    p4, _, mask = jetful
    for _ in range(20):
        hidden = choose_hidden(p4, mask, masking="block", ratio=0.4)
        assert (hidden.sum(dim=1) <= (0.4 * mask.sum(dim=1)).round().clamp_min(1)).all()
        for jet in range(len(p4)):
            chosen = p4[jet][hidden[jet]]
            assert fv.eta(chosen).max() - fv.eta(chosen).min() <= 2 * BLOCK_HALF_WIDTH
            assert fv.wrap_phi(fv.phi(chosen) - fv.phi(chosen[:1])).abs().max() <= 2 * BLOCK_HALF_WIDTH


def test_unknown_strategy(jetful) -> None:
    with pytest.raises(ValueError, match="masking is 'soft'; use one of random, biased, block"):
        choose_hidden(jetful[0], jetful[2], masking="soft", ratio=0.3)
