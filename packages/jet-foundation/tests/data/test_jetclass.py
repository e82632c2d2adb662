from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot

from hep_shared.errors import InputFileError
from jet_foundation.data import schema
from jet_foundation.data.jetclass import iter_jetclass, write_jetclass
from jet_foundation.physics.jet_table import Jets, concatenate

MakeFile = Callable[..., Path]


def set_first(jet: int, value: float) -> Callable[[Any], Any]:
    def change(column: Any) -> Any:
        lists = ak.to_list(column)
        lists[jet][0] = value
        return ak.values_astype(ak.Array(lists), np.float32)

    return change


def test_written_jets_are_read_back(tmp_path: Path, toy_jets: Jets) -> None:
    path = tmp_path / "jets.root"
    write_jetclass(path, toy_jets, manifest={"class": "mixed"})
    again = concatenate(list(iter_jetclass(path, chunk_jets=37)))
    for name in ("offsets", "p4", "labels", "pid", "displacement"):
        np.testing.assert_array_equal(getattr(again, name), getattr(toy_jets, name))
    np.testing.assert_allclose(again.scalars["pt"], toy_jets.scalars["pt"])
    assert np.isnan(again.scalars["sdmass"]).all()


def test_the_file_has_the_branches_of_jetclass(tmp_path: Path, toy_jets: Jets) -> None:
    path = tmp_path / "jets.root"
    write_jetclass(path, toy_jets.take(np.arange(5)))
    with uproot.open(path) as file:
        tree = file[schema.TREE]
        assert set(tree.keys()) == {branch.name for branch in schema.BRANCHES} | {"npart"}
        assert file.file.compression == uproot.LZ4(4)
        deta, eta = tree["part_deta"].array(), tree["jet_eta"].array()
        jet = toy_jets.take(np.array([0]))
        first = jet.p4[0]
        expected = np.sign(eta[0]) * (np.arcsinh(first[3] / np.hypot(first[1], first[2])) - eta[0])
        assert deta[0][0] == pytest.approx(expected, abs=1e-5)
        labels = np.stack([tree[branch.name].array(library="np") for branch in schema.LABELS])
        assert (labels.sum(axis=0) == 1).all()


@pytest.mark.parametrize("feature_set", schema.FEATURE_SETS)
def test_only_what_a_feature_set_needs_is_required(
    make_file: MakeFile, feature_set: schema.FeatureSet
) -> None:
    path = make_file(part_d0val=None)
    if feature_set == "full":
        with pytest.raises(InputFileError, match=r"branch 'part_d0val': is missing"):
            list(iter_jetclass(path, feature_set))
    else:
        (jets,) = iter_jetclass(path, feature_set)
        assert jets.displacement is None
        assert (jets.pid is None) == (feature_set == "kin")


def test_labels_of_mixed_types_are_cast(make_file: MakeFile) -> None:
    path = make_file(
        label_QCD=lambda c: c.astype(bool),
        label_Hbb=lambda c: c.astype(np.int32),
        label_Tbl=lambda c: c.astype("f8"),
    )
    (jets,) = iter_jetclass(path)
    (same,) = iter_jetclass(make_file(name="plain.root"))
    np.testing.assert_array_equal(jets.labels, same.labels)


def test_labels_are_taken_by_name(make_file: MakeFile) -> None:
    path = make_file(label_Tbl="label_Tbqq_", label_Tbqq="label_Tbl")
    with pytest.raises(InputFileError, match=r"'label_Tbqq': is missing; rename 'label_Tbqq_'"):
        list(iter_jetclass(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part_energy": "part_e"}, r"branch 'part_energy': is missing; rename 'part_e'"),
        ({"part_px": "part_Px"}, r"branch 'part_px': is missing; rename 'part_Px'"),
        ({"part_px": None}, r"branch 'part_px': is missing; give a file that holds it"),
        ({"label_QCD": lambda c: c * 0.5}, r"branch 'label_QCD', entry 0: the label is 0\.5, not 0 or 1"),
        ({"label_QCD": lambda c: c * 0}, r"branch 'label_QCD', entry 0: the jet has 0 labels"),
        ({"part_px": set_first(3, np.nan)}, r"branch 'part_px', entry 3: particle 0: the value is nan"),
        (
            {"part_energy": set_first(5, -2.0)},
            r"branch 'part_energy', entry 5: particle 0: the energy is -2 GeV",
        ),
        ({"part_pz": set_first(5, 1e5)}, r"entry 5: particle 0: \|p\| = 10000\d GeV exceeds E"),
        (
            {"part_px": lambda c: c[:, 1:]},
            r"branch 'part_px', entry 0: holds \d+ particles where part_energy holds",
        ),
        ({"part_d0val": set_first(2, np.inf)}, r"branch 'impact parameters', entry 2: particle 0"),
        (
            {"jet_pt": lambda c: ak.from_numpy(np.stack([c, c], 1))},
            r"branch 'jet_pt': holds several numbers per jet",
        ),
    ],
)
def test_impossible_content_is_named(make_file: MakeFile, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputFileError, match=message) as caught:
        list(iter_jetclass(make_file(**changes)))
    assert str(caught.value).endswith(".")


def test_a_jet_without_particles_is_named(make_file: MakeFile) -> None:
    def emptied(column: Any) -> Any:
        lists = ak.to_list(column)
        lists[4] = []
        return ak.values_astype(ak.Array(lists), np.float32)

    particle = [branch.name for branch in schema.BRANCHES if branch.level == "particle"]
    path = make_file(**dict.fromkeys(particle, emptied))
    with pytest.raises(InputFileError, match=r"entry 4: the jet holds no particle"):
        list(iter_jetclass(path))


def test_a_foreign_tree_and_an_empty_one(make_file: MakeFile) -> None:
    with pytest.raises(InputFileError, match=r"holds no tree 'tree' but Events"):
        list(iter_jetclass(make_file(tree="Events")))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.9999])
def test_a_truncated_file(make_file: MakeFile, share: float) -> None:
    path = make_file()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputFileError, match=r"jets\.root: cannot be read: it holds \d+ bytes of"):
        list(iter_jetclass(path))


def test_a_changed_file_is_caught_by_its_manifest(tmp_path: Path, toy_jets: Jets) -> None:
    path = tmp_path / "jets.root"
    write_jetclass(path, toy_jets)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="differs from the sha256"):
        list(iter_jetclass(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        list(iter_jetclass(tmp_path / "none.root"))
