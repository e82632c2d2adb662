import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from hep_shared.seed import epoch_permutation, event_generator, seed_everything, seed_step, shard_seed


def test_epoch_permutation_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [epoch_permutation(seed, epoch, 1000) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for order in orders:
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    for i in range(4):
        for j in range(i):
            assert np.mean(orders[i] == orders[j]) < 0.01


def test_epoch_permutation_is_pinned():
    # Raw Philox bits: these numbers must be the same with every NumPy and on every platform.
    np.testing.assert_array_equal(epoch_permutation(7, 3, 8), [5, 6, 1, 2, 4, 0, 7, 3])


def test_epoch_permutation_is_uniform():
    firsts = np.array([epoch_permutation(0, epoch, 10)[0] for epoch in range(5000)])
    counts = np.bincount(firsts, minlength=10)
    chi2 = np.sum((counts - 500) ** 2 / 500)
    assert chi2 < 27.9  # 99.9 % quantile for 9 degrees of freedom


@pytest.mark.parametrize("n", [0, 1])
def test_epoch_permutation_of_hardly_anything(n):
    assert epoch_permutation(0, 0, n).tolist() == list(range(n))


def test_event_generator_does_not_depend_on_call_history():
    forward = [event_generator(5, 2, event).normal(size=3) for event in range(20)]
    backward = [event_generator(5, 2, event).normal(size=3) for event in reversed(range(20))][::-1]
    np.testing.assert_array_equal(forward, backward)


def test_event_generators_are_independent():
    draws = np.array(
        [
            event_generator(seed, epoch, event).random(4)
            for seed in (0, 1)
            for epoch in (0, 1)
            for event in range(2000)
        ]
    )
    assert len(np.unique(draws)) == draws.size
    correlation = np.corrcoef(draws.reshape(4, -1))  # rows: (seed, epoch)
    assert np.abs(correlation - np.eye(4)).max() < 4 / np.sqrt(8000)
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(8000)


def test_shard_seed_is_the_spawned_child():
    child = np.random.SeedSequence(11).spawn(4)[3]
    np.testing.assert_array_equal(shard_seed(11, 3).generate_state(4), child.generate_state(4))


def test_seed_everything_repeats_every_generator():
    torch = pytest.importorskip("torch")

    def draw():
        seed_everything(2**40 + 1)
        return random.random(), float(np.random.rand()), torch.rand(2).tolist()  # noqa: NPY002

    assert draw() == draw()


def test_importing_seed_does_not_import_torch():
    code = "import sys, hep_shared.seed; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_seed_step_depends_on_seed_step_and_rank_only() -> None:
    draws = {}
    for key in [(1, 5, 0), (2, 5, 0), (1, 6, 0), (1, 5, 1)]:
        seed_step(*key)
        draws[key] = torch.rand(4)
        torch.rand(7)  # what was drawn before must not matter
        seed_step(*key)
        assert torch.equal(torch.rand(4), draws[key])
    values = [tuple(draw.tolist()) for draw in draws.values()]
    assert len(set(values)) == len(values)
