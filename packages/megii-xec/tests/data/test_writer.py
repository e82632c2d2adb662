import json
import resource

import numpy as np
import pytest
import uproot

from hep_shared.errors import UserError
from hep_shared.files import verify_manifest
from megii_xec.data import schema
from megii_xec.data.writer import TreeWriter, write_tree

SMALL = (schema.RUN, schema.CH_NPHO_MAX, schema.UVW_TRUTH, schema.NPHO, schema.ENERGY_TRUTH)


def random_columns(branches, num, seed=0):
    rng = np.random.default_rng(seed)
    return {b.name: (rng.standard_normal((num, *b.shape)) * 100).astype(b.dtype) for b in branches}


@pytest.mark.parametrize("branches", [schema.BRANCHES, schema.REAL_DATA], ids=["simulated", "real"])
def test_reads_back_what_was_written(tmp_path, branches):
    path = tmp_path / "photons.root"
    columns = random_columns(branches, 7)
    write_tree(path, columns, branches)
    with uproot.open(path) as file:
        tree = file[schema.TREE]
        assert tree.classname == "TTree"
        assert tree.keys() == [b.name for b in branches]
        for branch in branches:
            found = tree[branch.name].array(library="np")
            assert found.shape == (7, *branch.shape)
            assert found.dtype.newbyteorder("=") == np.dtype(branch.dtype)
            np.testing.assert_array_equal(found, columns[branch.name])


def test_baskets_and_compression(tmp_path):
    path = tmp_path / "photons.root"
    columns = random_columns(SMALL, 25)
    with TreeWriter(path, SMALL, basket_events=10) as writer:
        for first in (0, 4, 5, 17):  # chunks that do not fit the baskets
            last = {0: 4, 4: 5, 5: 17, 17: 25}[first]
            writer.extend({name: column[first:last] for name, column in columns.items()})
    with uproot.open(path) as file:
        assert file.file.compression == uproot.LZ4(1)
        tree = file[schema.TREE]
        for name, column in columns.items():
            assert [tree[name].basket(i).num_entries for i in range(tree[name].num_baskets)] == [10, 10, 5]
            np.testing.assert_array_equal(tree[name].array(library="np"), column)


def test_buffer_does_not_alias_the_callers_arrays(tmp_path):
    path = tmp_path / "photons.root"
    column = np.zeros(2, dtype=np.float32)
    with TreeWriter(path) as writer:
        for value in (1, 2):
            column[:] = value
            writer.extend({"pred_u": column})
    with uproot.open(path) as file:
        assert file[schema.TREE]["pred_u"].array(library="np").tolist() == [1, 1, 2, 2]


def test_predictions_take_their_types_from_the_first_chunk(tmp_path):
    path = tmp_path / "predictions.root"
    columns = {"run_id": np.arange(3), "pred_uvw": np.ones((3, 3), dtype=np.float32), "chi2": np.ones(3)}
    write_tree(path, columns, tree="predictions")
    with uproot.open(path) as file:
        tree = file["predictions"]
        assert {k: v.interpretation.numpy_dtype.newbyteorder("=") for k, v in tree.items()} == {
            "run_id": np.dtype("i8"), "pred_uvw": np.dtype(("f4", (3,))), "chi2": np.dtype("f8"),
        }  # fmt: skip


def test_manifest_describes_the_file(tmp_path):
    path = tmp_path / "photons.root"
    write_tree(path, random_columns(SMALL, 5), SMALL, manifest={"seed": 3})
    manifest = verify_manifest(path)
    assert manifest is not None
    assert (manifest["num_events"], manifest["tree"], manifest["seed"]) == (5, "tree", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("run"), r"differ in \['run'\]"),
        (lambda c: c.update(extra=np.zeros(4)), r"differ in \['extra'\]"),
        (lambda c: c.update(uvwTruth=np.zeros((4, 2))), r"'uvwTruth' has shape \(4, 2\), expected \(4, 3\)"),
        (lambda c: c.update(energyTruth=np.zeros(3)), r"'energyTruth' has shape \(3,\), expected \(4,\)"),
    ],
)
def test_wrong_columns_leave_no_file(tmp_path, change, message):
    columns = random_columns(SMALL, 4)
    change(columns)
    with pytest.raises(ValueError, match=message):
        write_tree(tmp_path / "photons.root", columns, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_former_file(tmp_path):
    path = tmp_path / "photons.root"
    write_tree(path, random_columns(SMALL, 3), SMALL)
    before = path.read_bytes()

    def stop_half_way():
        with TreeWriter(path, SMALL) as writer:
            writer.extend(random_columns(SMALL, 600))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        stop_half_way()
    assert path.read_bytes() == before
    assert verify_manifest(path) is not None
    assert len(list(tmp_path.iterdir())) == 2


def test_overwriting_renews_the_manifest(tmp_path):
    path = tmp_path / "photons.root"
    for num in (3, 4):
        write_tree(path, random_columns(SMALL, num), SMALL)
    assert json.loads((tmp_path / "photons.root.manifest.json").read_text())["num_events"] == 4
    assert verify_manifest(path) is not None


def test_nothing_to_write(tmp_path):
    with pytest.raises(UserError, match="would hold no events"), TreeWriter(tmp_path / "predictions.root"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # a write beyond fails like a full disk
    try:
        with pytest.raises(UserError, match=r"photons\.root cannot be written \(File too large\)"):
            write_tree(tmp_path / "photons.root", random_columns(SMALL, 100), SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
