"""Writer and reader: both layouts give the same columns, and every defect is one sentence."""

from collections.abc import Callable
from dataclasses import fields
from importlib import resources
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from chhiggs_pnet.data import reader
from chhiggs_pnet.data.branch_map import BranchMap, Condition, load_branch_map
from chhiggs_pnet.data.reader import EventReader, read_events
from chhiggs_pnet.data.schema import LAYOUTS
from chhiggs_pnet.data.writer import EventWriter
from chhiggs_pnet.physics.events import Events, Object
from hep_shared.errors import ConfigError, InputFileError
from hep_shared.files import verify_manifest
from hep_shared.testing import mutate_bytes

Columns = dict[str, ak.Array]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reading_returns_what_was_written(
    layout: str, files: dict[str, Path], maps: dict[str, BranchMap], events: Events
) -> None:
    read = read_events(files[layout], maps[layout])
    for field in fields(Events):
        expected = getattr(events, field.name)
        if field.name == "tight":
            expected = expected & (events.kind != Object.JET)
        np.testing.assert_array_equal(getattr(read, field.name), expected, err_msg=field.name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_do_not_matter(
    layout: str, files: dict[str, Path], maps: dict[str, BranchMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_events(files[layout], maps[layout])
    monkeypatch.setattr(reader, "STEP", 37)
    parts = read_events(files[layout], maps[layout])
    assert all(np.array_equal(getattr(whole, f.name), getattr(parts, f.name)) for f in fields(Events))


def test_files_have_a_manifest_and_appear_whole_or_not_at_all(tmp_path: Path, events: Events) -> None:
    path = tmp_path / "a.root"
    with EventWriter(path, "flat", manifest={"seed": 3}) as writer:
        writer.extend(events)
    manifest = verify_manifest(path)
    assert manifest is not None
    assert (manifest["num_events"], manifest["seed"], manifest["layout"]) == (300, 3, "flat")

    def interrupted() -> None:
        with EventWriter(tmp_path / "b.root", "flat") as broken:
            broken.extend(events)
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.root", "a.root.manifest.json"]


def flat_columns(path: Path) -> Columns:
    with uproot.open(path) as file:
        tree = file["Events"]
        names = [key for key in tree.keys() if not key.startswith("n")]  # noqa: SIM118
        return {name: tree[name].array() for name in names}


@pytest.fixture
def make(tmp_path: Path, files: dict[str, Path]) -> Callable[..., Path]:
    """Write the flat file again with branches replaced (array), or left out (None)."""
    columns = flat_columns(files["flat"])

    def write(tree: str = "Events", **changes: object) -> Path:
        content = {name: changes.get(name, column) for name, column in columns.items()}
        path = tmp_path / "changed.root"
        with uproot.recreate(path) as file:
            file.mktree(
                tree,
                {
                    name: column.type.content if isinstance(column, ak.Array) else column.dtype
                    for name, column in content.items()
                    if column is not None
                },
            ).extend({name: column for name, column in content.items() if column is not None})
        return path

    return write


def refusal(path: Path, branch_map: BranchMap) -> str:
    with pytest.raises(InputFileError) as error:
        read_events(path, branch_map)
    message = str(error.value)
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "; " in message
    return message


def test_a_missing_branch_names_the_nearest(make: Callable[..., Path], maps: dict[str, BranchMap]) -> None:
    message = refusal(make(MuonEtaColl=None), maps["flat"])
    assert "branch 'MuonEtaColl'" in message
    assert "the nearest is 'Muon" in message


def test_the_wrong_map_is_recognised(files: dict[str, Path], maps: dict[str, BranchMap]) -> None:
    assert "choose the map of this layout" in refusal(files["flat"], maps["nanoaod"])


def test_a_missing_tree_lists_what_is_there(make: Callable[..., Path], maps: dict[str, BranchMap]) -> None:
    assert "holds no tree 'Events' but Other" in refusal(make(tree="Other"), maps["flat"])


def test_jagged_lengths_must_agree(
    make: Callable[..., Path], maps: dict[str, BranchMap], files: dict[str, Path]
) -> None:
    column = flat_columns(files["flat"])["JetEtaColl"]
    counts = ak.to_numpy(ak.num(column)).copy()
    counts[17] -= 1
    shorter = ak.unflatten(ak.to_numpy(ak.flatten(column))[: counts.sum()], counts)
    message = refusal(make(JetEtaColl=shorter), maps["flat"])
    assert f"branch 'JetEtaColl', entry 17: holds {counts[17]} objects" in message
    assert f"'JetPtColl' holds {counts[17] + 1}" in message


@pytest.mark.parametrize(
    ("branch", "entry", "value", "text"),
    [
        ("genWeight", 5, np.nan, "branch 'genWeight', entry 5: nan is not finite"),
        ("METvPt", 9, -1.0, "branch 'METvPt', entry 9: -1 is negative"),
        ("METvPhi", 2, 90.0, "90 is not an azimuth in rad"),
    ],
)
def test_bad_numbers_of_an_event(
    make: Callable[..., Path], maps: dict[str, BranchMap], files: dict[str, Path],
    branch: str, entry: int, value: float, text: str,
) -> None:  # fmt: skip
    column = ak.to_numpy(flat_columns(files["flat"])[branch]).copy()
    column[entry] = value
    assert text in refusal(make(**{branch: column}), maps["flat"])


@pytest.mark.parametrize(
    ("branch", "value", "text"),
    [
        ("MuonPtColl", np.inf, "inf is not finite"),
        ("MuonPtColl", 45_000.0, "45000 is not a pt in GeV"),
        ("JetPhiColl", 180.0, "180 is not an azimuth in rad"),
        ("ElectronChargeColl", 0, "0 is not the charge of a lepton"),
    ],
)
def test_bad_numbers_of_an_object(
    make: Callable[..., Path], maps: dict[str, BranchMap], files: dict[str, Path],
    branch: str, value: float, text: str,
) -> None:  # fmt: skip
    column = flat_columns(files["flat"])[branch]
    counts = ak.to_numpy(ak.num(column))
    flat = ak.to_numpy(ak.flatten(column)).copy()
    flat[counts[:40].sum()] = value  # first object of entry 40
    message = refusal(make(**{branch: ak.unflatten(flat, counts)}), maps["flat"])
    assert f"branch '{branch}', entry 40: {text}" in message


def test_a_scalar_where_a_list_is_expected(make: Callable[..., Path], maps: dict[str, BranchMap]) -> None:
    assert "holds one number an event" in refusal(make(JetMassColl=np.ones(300, np.float32)), maps["flat"])


def test_missing_event_numbers_are_counted_for_the_flat_layout(
    make: Callable[..., Path], maps: dict[str, BranchMap]
) -> None:
    path = make(run=None, lumi=None, event=None)
    read = read_events(path, maps["flat"])
    assert read.event.tolist() == list(range(300))
    assert len(set(read.lumi)) == 1
    strict = maps["flat"].model_copy(update={"missing_ids": "error"})
    assert "branch 'run'" in refusal(path, strict)
    assert "branch 'lumi'" in refusal(make(lumi=None), maps["flat"])  # some but not all


def test_missing_and_empty_files(tmp_path: Path, maps: dict[str, BranchMap]) -> None:
    assert "does not exist" in refusal(tmp_path / "none.root", maps["flat"])
    path = tmp_path / "empty.root"
    with EventWriter(path, "flat"):
        pass
    assert "holds no events" in refusal(path, maps["flat"])


def test_damaged_files_never_escape_the_boundary(
    tmp_path: Path, files: dict[str, Path], maps: dict[str, BranchMap]
) -> None:
    rng, data = np.random.default_rng(0), files["flat"].read_bytes()
    refused = 0
    for index in range(25):
        path = tmp_path / f"{index}.root"
        path.write_bytes(mutate_bytes(data, rng))
        try:
            read_events(path, maps["flat"])
        except InputFileError:
            refused += 1
    assert refused > 10


def test_a_file_short_of_its_end_is_refused(
    tmp_path: Path, files: dict[str, Path], maps: dict[str, BranchMap]
) -> None:
    path = tmp_path / "short.root"
    path.write_bytes(files["flat"].read_bytes()[:-30])
    assert "cannot be read: it holds" in refusal(path, maps["flat"])


def test_objects_that_fail_a_requirement_are_dropped(
    files: dict[str, Path], maps: dict[str, BranchMap], events: Events
) -> None:
    strict = maps["nanoaod"].jets.model_copy(
        update={"require": (Condition(branch="Jet_pt", comparison=">", value=50.0),)}
    )
    read = read_events(files["nanoaod"], maps["nanoaod"].model_copy(update={"jets": strict}))
    expected = ((events.kind == Object.JET) & (events.pt > 50)).sum(axis=1)
    np.testing.assert_array_equal((read.kind == Object.JET).sum(axis=1), expected)


def test_a_map_of_ones_own(tmp_path: Path, files: dict[str, Path]) -> None:
    text = resources.files("chhiggs_pnet.data.branch_maps").joinpath("nanoaod.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(text.replace("Jet_btagDeepFlavB > 0.2783", "Jet_btagDeepFlavB > 0.9"))
    tight = read_events(files["nanoaod"], load_branch_map(own))
    medium = read_events(files["nanoaod"], load_branch_map("nanoaod"))
    assert 0 < tight.tagged.sum() < medium.tagged.sum()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("tree =", "teer =", "tree"),
        ("Jet_jetId >= 2", "Jet_jetId >> 2", "is not a condition; write 'BRANCH'"),
        ('pt = "Muon_pt"', "pt = ", "is not TOML"),
    ],
)
def test_a_bad_map_is_one_sentence(tmp_path: Path, old: str, new: str, text: str) -> None:
    original = resources.files("chhiggs_pnet.data.branch_maps").joinpath("nanoaod.toml").read_text()
    path = tmp_path / "own.toml"
    path.write_text(original.replace(old, new))
    with pytest.raises((ConfigError, InputFileError), match=text):
        load_branch_map(path)


def test_an_unknown_map_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="'nano' is unknown; choose flat or nanoaod"):
        load_branch_map("nano")


def test_the_reader_closes_its_file(files: dict[str, Path], maps: dict[str, BranchMap]) -> None:
    with EventReader(files["flat"], maps["flat"]) as open_file:
        assert open_file.num_entries == 300
        assert len(open_file.read(10, 25)) == 15
