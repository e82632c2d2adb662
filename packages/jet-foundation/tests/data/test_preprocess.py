from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hep_shared.errors import InputFileError, UserError
from jet_foundation.data.features import particle_features
from jet_foundation.data.jetclass import write_jetclass
from jet_foundation.data.normalization import Moments, Normalization
from jet_foundation.data.preprocess import find_source, preprocess
from jet_foundation.data.shards import SPLITS, map_npz, open_shard, read_info
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import Jets, concatenate


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, toy_jets: Jets) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_jetclass(folder / "a.root", toy_jets.take(np.arange(0, len(toy_jets), 2)))
    write_jetclass(folder / "b.root", toy_jets.take(np.arange(1, len(toy_jets), 2)))
    return folder


def read_split(folder: Path, split: str) -> Jets:
    return concatenate([open_shard(folder / name) for name in read_info(folder).shards[split]])


def keys(jets: Jets) -> set[bytes]:
    return {jets.p4[start].tobytes() for start in jets.offsets[:-1]}


def test_splits_are_balanced_disjoint_and_complete(files: Path, tmp_path: Path, toy_jets: Jets) -> None:
    info = preprocess([files], tmp_path / "set", fractions=(0.6, 0.2, 0.2), shard_jets=50)
    assert info.num_jets == {"train": 120, "val": 40, "test": 40}
    assert info.feature_set == "full"
    assert len(info.shards["train"]) == 3
    parts = {split: read_split(tmp_path / "set", split) for split in SPLITS}
    for split, jets in parts.items():
        np.testing.assert_array_equal(np.bincount(jets.labels), np.full(10, info.num_jets[split] // 10))
    found = [keys(jets) for jets in parts.values()]
    assert set.union(*found) == keys(toy_jets)
    assert sum(map(len, found)) == len(toy_jets)
    assert len(np.unique(parts["train"].labels[:20])) > 3, "classes must be mixed"


def test_scalars_come_from_the_four_vectors(files: Path, tmp_path: Path) -> None:
    preprocess([files], tmp_path / "set")
    jets = read_split(tmp_path / "set", "train")
    np.testing.assert_allclose(jets.scalars["mass"], fv.mass(jets.jet_p4()), rtol=1e-4)


def test_the_normalisation_sees_training_jets_only(files: Path, tmp_path: Path) -> None:
    info = preprocess([files], tmp_path / "set", fractions=(0.5, 0.25, 0.25))
    moments = Moments(17)
    moments.add(particle_features(read_split(tmp_path / "set", "train"), "full"))
    expected = Normalization.fitted("full", moments)
    np.testing.assert_allclose(info.normalization.shift, expected.shift, rtol=1e-5)
    np.testing.assert_allclose(info.normalization.factor, expected.factor, rtol=1e-5)


def test_the_seed_decides_and_nothing_else(files: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        preprocess([files], tmp_path / name, seed=seed, jets_per_class=10)
    first, second, third = (read_split(tmp_path / name, "train").p4 for name in "abc")
    np.testing.assert_array_equal(first, second)
    assert first.shape != third.shape or not np.array_equal(first, third)


def test_long_jets_lose_their_softest_particles(files: Path, tmp_path: Path) -> None:
    preprocess([files], tmp_path / "set", max_particles=12)
    assert read_split(tmp_path / "set", "train").num_particles.max() == 12


def test_real_samples_become_data_sets(samples: Path, tmp_path: Path) -> None:
    info = preprocess([samples / "jetclass_300.npz"], tmp_path / "jetclass")
    assert (info.feature_set, info.num_jets["train"]) == ("kin", 170)
    top = preprocess([samples / "toplandscape_1000.npz"], tmp_path / "top", classes=("QCD", "top"))
    assert top.num_jets == {"train": 800, "val": 100, "test": 100}
    assert 40 < top.mean_num_particles < 60


def test_mistakes_are_explained(files: Path, tmp_path: Path, samples: Path) -> None:
    with pytest.raises(UserError, match="Class QCD has 20 jets in these files but 21 are needed"):
        preprocess([files], tmp_path / "set", jets_per_class=21)
    with pytest.raises(UserError, match="several kinds"):
        find_source([files / "a.root", samples / "jetclass_300.npz"])
    with pytest.raises(UserError, match=r"Feature set 'full' is not in these files; use 'kin'"):
        preprocess([samples / "jetclass_300.npz"], tmp_path / "set", feature_set="full")
    with pytest.raises(UserError, match="give three that sum to 1"):
        preprocess([files], tmp_path / "set", fractions=(0.5, 0.1, 0.1))
    with pytest.raises(InputFileError, match=r"none\.root: does not exist"):
        preprocess([tmp_path / "none.root"], tmp_path / "set")
    preprocess([files], tmp_path / "set")
    with pytest.raises(UserError, match="already holds a data set"):
        preprocess([files], tmp_path / "set")


def test_half_an_identity_is_not_silently_left_out(make_file: Callable[..., Path], tmp_path: Path) -> None:
    path = make_file(part_isPhoton=None)
    with pytest.raises(InputFileError, match="'part_isPhoton': is missing"):
        preprocess([path], tmp_path / "set")
    with pytest.raises(UserError, match="Class H4q has 0 jets"):  # read, though too few for a data set
        preprocess([path], tmp_path / "kin", feature_set="kin")


def test_a_damaged_shard_is_refused(files: Path, tmp_path: Path) -> None:
    info = preprocess([files], tmp_path / "set")
    path = tmp_path / "set" / info.shards["train"][0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="differs from the sha256"):
        open_shard(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputFileError, match=r"train_00000\.npz"):
        open_shard(path, verify=False)


def test_mapped_arrays_equal_loaded_ones(files: Path, tmp_path: Path) -> None:
    info = preprocess([files], tmp_path / "set")
    path = tmp_path / "set" / info.shards["val"][0]
    mapped = map_npz(path)
    with np.load(path, allow_pickle=False) as loaded:
        assert set(mapped) == set(loaded.files)
        for name, values in mapped.items():
            np.testing.assert_array_equal(values, loaded[name])
    np.savez_compressed(tmp_path / "small.npz", p4=np.zeros(3))
    with pytest.raises(InputFileError, match="is compressed"):
        map_npz(tmp_path / "small.npz")
