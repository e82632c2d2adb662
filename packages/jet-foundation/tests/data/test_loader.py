from pathlib import Path

import numpy as np
import pytest
import torch

from hep_shared.errors import CheckpointError, InputFileError, UserError
from jet_foundation.data.features import particle_features
from jet_foundation.data.jetclass import write_jetclass
from jet_foundation.data.loader import JetDataset, JetLoader
from jet_foundation.data.preprocess import preprocess
from jet_foundation.physics.jet_table import Jets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy_jets: Jets) -> Path:
    root = tmp_path_factory.mktemp("loader")
    write_jetclass(root / "jets.root", toy_jets)
    preprocess([root / "jets.root"], root / "set", fractions=(0.8, 0.2, 0.0), shard_jets=60)
    return root / "set"


@pytest.fixture
def dataset(folder: Path) -> JetDataset:
    return JetDataset(folder, "train")


def numbers(loader: JetLoader) -> list[list[int]]:
    return [batch.jet_index.tolist() for batch in loader]


def test_a_batch_holds_the_jets_and_zeros(dataset: JetDataset) -> None:
    index = np.array([100, 3, 61, 60])
    batch = dataset.batch(index)
    jets = dataset.jets(index)
    assert batch.valid_mask.sum(1).tolist() == jets.num_particles.tolist()
    assert batch.p4.shape[1] % 4 == 0
    np.testing.assert_array_equal(batch.p4[batch.valid_mask].numpy(), jets.p4)
    expected = dataset.normalization.apply(particle_features(jets, "full"))
    np.testing.assert_array_equal(batch.features[batch.valid_mask].numpy(), expected)
    assert not batch.p4[~batch.valid_mask].any()
    assert not batch.features[~batch.valid_mask].any()
    for position, number in enumerate(index):
        alone = dataset.batch(np.array([number]), pad_to=batch.p4.shape[1])
        torch.testing.assert_close(alone.p4[0], batch.p4[position], rtol=0, atol=0)
        torch.testing.assert_close(alone.features[0], batch.features[position], rtol=1e-5, atol=1e-5)
        assert alone.labels[0] == batch.labels[position]


def test_an_epoch_holds_every_jet_once_and_epochs_differ(dataset: JetDataset) -> None:
    loader = JetLoader(dataset, 8, seed=5)
    first, second = numbers(loader), numbers(loader)
    assert sorted(n for batch in first for n in batch) == list(range(160))
    assert sorted(n for batch in second for n in batch) == list(range(160))
    assert first != second
    assert loader.epoch == 2


def test_batches_look_like_the_whole_sample(dataset: JetDataset) -> None:
    # Batches of similar jets would give each batch normalisation other statistics than inference has.
    lengths = dataset.num_particles
    means = [lengths[batch].mean() for batch in numbers(JetLoader(dataset, 16, seed=5))]
    assert np.std(means) < 1.6 * np.std(lengths) / 16**0.5


@pytest.mark.parametrize("stop", [0, 1, 7, 19, 20, 33])
def test_a_resumed_loader_continues_exactly(dataset: JetDataset, stop: int) -> None:
    whole = numbers(loader := JetLoader(dataset, 8, seed=5)) + numbers(loader)
    interrupted = JetLoader(dataset, 8, seed=5)
    batches = (batch for _ in range(2) for batch in interrupted)
    before = [next(batches).jet_index.tolist() for _ in range(stop)]
    resumed = JetLoader(dataset, 8, seed=0)
    resumed.load_state_dict(interrupted.state_dict())
    rest = numbers(resumed)
    while len(rest) < len(whole) - stop:
        rest += numbers(resumed)
    assert before + rest == whole


def test_processes_share_an_epoch_and_may_change_in_number(dataset: JetDataset) -> None:
    two = [JetLoader(dataset, 8, seed=5, rank=rank, world_size=2) for rank in range(2)]
    shares = [numbers(loader) for loader in two]
    assert sorted(n for share in shares for batch in share for n in batch) == list(range(160))
    one = numbers(JetLoader(dataset, 16, seed=5))
    for a, b, both in zip(*shares, one, strict=True):
        assert a + b == both
    alone = JetLoader(dataset, 16, seed=5)
    alone.load_state_dict(two[0].state_dict() | {"step": 4, "epoch": 0})
    assert numbers(alone) == one[4:]


def test_without_shuffling_jets_come_in_order(dataset: JetDataset) -> None:
    loader = JetLoader(dataset, 48, shuffle=False)
    assert len(loader) == 4
    assert [n for batch in numbers(loader) for n in batch] == list(range(160))


def test_smaller_feature_sets_and_fewer_jets(folder: Path) -> None:
    few = JetDataset(folder, "train", feature_set="kin", max_jets=30)
    assert len(few) == 30
    batch = few.batch(np.arange(4))
    assert batch.features.shape[-1] == 7
    full = JetDataset(folder, "train").batch(np.arange(4))
    torch.testing.assert_close(batch.features, full.features[..., :7])


def test_mistakes_are_explained(folder: Path, dataset: JetDataset, tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="holds no jets of split 'test'"):
        JetDataset(folder, "test")
    with pytest.raises(InputFileError, match=r"holds no dataset\.json"):
        JetDataset(tmp_path, "train")
    with pytest.raises(UserError, match="160 jets do not fill a batch of 200"):
        JetLoader(dataset, 200)
    state = JetLoader(dataset, 8).state_dict()
    with pytest.raises(CheckpointError, match="total batch size of 8, not 16"):
        JetLoader(dataset, 16).load_state_dict(state)
