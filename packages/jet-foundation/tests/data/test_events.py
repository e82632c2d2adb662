from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hep_shared.errors import InputFileError, UserError
from hep_shared.files import manifest_path, write_manifest
from jet_foundation.data.events import KINDS, EventDataset, events_file
from jet_foundation.data.loader import JetDataset, Loader
from jet_foundation.physics import fourvectors as fv
from jet_foundation.simulate import simulate_events


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("events") / "set"
    simulate_events(out, num_events=140, seed=2)
    return out


def test_splits_hold_every_class(folder: Path) -> None:
    sizes = []
    for split in ("train", "val", "test"):
        dataset = EventDataset(folder, split)
        batch = dataset.batch(np.arange(len(dataset)))
        sizes.append(len(dataset))
        assert len(set(np.bincount(batch.labels.numpy(), minlength=7))) == 1
    assert sizes == [112, 14, 14]


def test_a_batch_holds_the_objects(folder: Path) -> None:
    dataset = EventDataset(folder, "train")
    batch = dataset.batch(np.arange(30))
    jets = batch.valid_mask.any(-1)
    width = jets.shape[1]
    assert torch.equal(batch.object_mask[:, :width], jets)
    assert batch.object_mask[:, -1].all()
    summed = (batch.p4.double() * batch.valid_mask[..., None]).sum(2)
    torch.testing.assert_close(summed.float(), batch.object_p4[:, :width], rtol=1e-4, atol=1e-2)
    kinds = batch.objects[..., : len(KINDS)].sum(-1)
    assert torch.equal(kinds > 0, batch.object_mask)
    met = batch.object_p4[:, -1]
    assert (met[:, 3] == 0).all()
    torch.testing.assert_close(fv.pt(met), met[:, 0])
    assert not batch.objects[~batch.object_mask].any()
    assert not batch.p4[~batch.valid_mask].any()


def test_an_event_is_the_same_in_any_company(folder: Path) -> None:
    dataset = EventDataset(folder, "train")
    together, alone = dataset.batch(np.array([4, 90, 17])), dataset.batch(np.array([17]))
    jets, particles = alone.p4.shape[1:3]
    torch.testing.assert_close(together.p4[2, :jets, :particles], alone.p4[0])
    assert torch.equal(together.objects[2][together.object_mask[2]], alone.objects[0][alone.object_mask[0]])


def test_parts_of_a_batch_are_its_events(folder: Path) -> None:
    batch = EventDataset(folder, "train").batch(np.arange(8))
    parts = batch.split(2)
    assert [part.event_index.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert torch.equal(torch.cat([part.objects for part in parts]), batch.objects)
    assert parts[1].name == "of 4 events from number 4"


def test_an_epoch_holds_every_event_once(folder: Path) -> None:
    loader = Loader(EventDataset(folder, "train"), 16, seed=3)
    seen = [n for batch in loader for n in batch.event_index.tolist()]
    assert sorted(seen) == list(range(112))
    with pytest.raises(UserError, match="14 events do not fill a batch of 64"):
        Loader(EventDataset(folder, "val"), 64)


def test_events_and_jets_are_not_confused(folder: Path, dataset: Path) -> None:
    with pytest.raises(
        InputFileError, match=r"holds events, not jets; give a data set of `jet-foundation prep"
    ):
        JetDataset(folder, "train")
    with pytest.raises(InputFileError, match=r"holds jets, not events; simulate events with"):
        EventDataset(dataset, "train")


def damaged(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """A copy of the data set whose arrays are changed or left out (None)."""
    copy = tmp_path / "set"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    path = events_file(copy, "train")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        if change is None:
            del arrays[name]
        else:
            arrays[name] = change(arrays[name])
    manifest_path(path).unlink()
    np.savez(path, **arrays)
    write_manifest(path)
    return copy


def with_value(row: int, column: int, value: float) -> Any:
    def change(array: np.ndarray) -> np.ndarray:
        array[row, column] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"met": None}, "branch 'met': is missing"),
        ({"met": lambda a: a[:-1]}, r"branch 'met': has shape \(111, 2\), expected \(112, 2\)"),
        ({"met": with_value(3, 1, np.nan)}, r"branch 'met', entry 3: a value is not finite \(\[.*nan\]\)"),
        ({"leptons": with_value(0, 0, -5.0)}, "branch 'leptons', entry .*the energy of a lepton is -5 GeV"),
        ({"jet_offsets": lambda a: a + 1}, "branch 'jet_offsets': does not match the"),
        ({"labels": lambda a: a + 7}, r"branch 'labels', entry 0: the label is \d+, expected 0 to 6"),
    ],
)
def test_impossible_events_are_named(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputFileError, match=message):
        EventDataset(damaged(folder, tmp_path, **changes), "train")


def test_a_cut_file_is_named(folder: Path, tmp_path: Path) -> None:
    copy = damaged(folder, tmp_path)
    path = events_file(copy, "train")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputFileError, match=r"events_train\.npz"):
        EventDataset(copy, "train")


def test_a_second_sample_is_not_written_over_the_first(folder: Path) -> None:
    with pytest.raises(UserError, match="already holds a data set"):
        simulate_events(folder, num_events=140, seed=2)
    with pytest.raises(UserError, match="--num-events is 20 but must be at least 70"):
        simulate_events(folder.parent / "few", num_events=20, seed=2)
