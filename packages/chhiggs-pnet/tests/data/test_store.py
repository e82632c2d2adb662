"""Features, folds, the store and its list of samples."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from chhiggs_pnet.data import features, store
from chhiggs_pnet.data.samples import read_samples
from chhiggs_pnet.data.schema import COLUMNS, EXT14, FEATURE_SETS, NUM_NODES
from chhiggs_pnet.data.store import Store, part_name, write_part, write_store
from chhiggs_pnet.physics.events import Events, Object
from chhiggs_pnet.physics.mass_points import MassPoint, MassTable
from hep_shared.errors import InputFileError, UserError


def columns(num: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out = {
        column.name: (rng.normal(size=(num, *column.shape)) * 5).astype(column.dtype) for column in COLUMNS
    }
    out["fold"] = (np.arange(num) % 5).astype(np.int8)
    return out


@pytest.fixture
def made(tmp_path: Path) -> Path:
    for seed, name in enumerate(("diboson", "nonprompt", "ttX")):
        with write_part(tmp_path, name, point=None) as part:
            part.extend(columns(60, seed))
            part.extend(columns(40, seed + 10))
    with write_part(tmp_path, part_name("signal", MassPoint(130, 90)), point=[130, 90]) as part:
        part.extend(columns(50))
    write_store(tmp_path, MassTable(), num_folds=5)
    return tmp_path


def test_nodes_are_four_momenta_with_flags(events: Events) -> None:
    nodes, valid_mask = features.node_features(events)
    assert nodes.shape == (300, NUM_NODES, len(EXT14))
    number = (events.kind != Object.NONE).sum(axis=1)
    np.testing.assert_array_equal(valid_mask.sum(axis=1), number + 1)
    assert (nodes[~valid_mask] == 0).all()
    f = {name: nodes[..., i].astype(np.float64) for i, name in enumerate(EXT14)}
    mass2 = f["energy"] ** 2 - f["px"] ** 2 - f["py"] ** 2 - f["pz"] ** 2
    np.testing.assert_allclose(mass2, f["mass"] ** 2, atol=1e-6 * f["energy"].max() ** 2)
    np.testing.assert_allclose(np.hypot(f["px"], f["py"]), f["pt"], rtol=1e-5)
    flags = f["is_muon"] + f["is_electron"] + f["is_jet"]
    last = np.arange(300), number
    assert (flags[valid_mask].sum(), flags[last].sum()) == (number.sum(), 0.0)  # only the MET has none
    np.testing.assert_allclose(f["pt"][last], events.met_pt)
    assert (f["pz"][last] == 0).all()
    assert (f["is_bjet"] <= f["is_jet"]).all()


def test_cms9_is_the_beginning_of_ext14() -> None:
    assert FEATURE_SETS["cms9"] == EXT14[:9]
    assert len(FEATURE_SETS["ext14"]) == 14


def test_folds_depend_on_the_numbers_alone_and_are_even() -> None:
    event = np.arange(50_000)
    fold = features.fold_of(np.ones_like(event), np.full_like(event, 7), event, 5)
    again = features.fold_of(np.ones(1), np.array([7]), event[-1:], 5)
    assert again[0] == fold[-1]
    counts = np.bincount(fold, minlength=5)
    assert np.abs(counts - 10_000).max() < 400
    other = features.fold_of(np.full_like(event, 2), np.full_like(event, 7), event, 5)
    assert np.mean(fold == other) == pytest.approx(0.2, abs=0.01)
    assert np.mean(fold[1:] == fold[:-1]) == pytest.approx(0.2, abs=0.01)


def test_store_returns_what_was_written(made: Path) -> None:
    opened = Store(made)
    assert opened.names == ["diboson", "nonprompt", "signal_MHc130_MA90", "ttX"]
    assert opened.signal_points == [MassPoint(130, 90)]
    part = opened.part("nonprompt")
    first, second = columns(60, 1), columns(40, 11)
    for name, column in part.columns.items():
        np.testing.assert_array_equal(column, np.concatenate([first[name], second[name]]))
    assert opened.signal(MassPoint(130, 90)).point == MassPoint(130, 90)
    opened.verify()


def test_take_copies_rows_and_features(made: Path) -> None:
    part = Store(made).part("ttX")
    index = np.array([5, 99, 5])
    taken = part.take(index)
    assert taken["nodes"].shape == (3, NUM_NODES, 9)
    np.testing.assert_array_equal(taken["nodes"], part.columns["nodes"][index, :, :9])
    few = part.take(slice(10, 20), "ext14", ("nodes", "label"))
    assert few.keys() == {"nodes", "label"}
    assert few["nodes"].shape == (10, NUM_NODES, 14)
    few["nodes"][:] = 0  # writable: a copy, not the file
    np.testing.assert_array_equal(
        part.in_folds([1, 3]), np.flatnonzero(np.isin(part.columns["fold"], [1, 3]))
    )


def test_open_parts_are_bounded_in_bytes(made: Path) -> None:
    size = Store(made).part("ttX").num_bytes
    opened = Store(made, max_open_bytes=2 * size)
    kept = opened.part("diboson")
    opened.part("nonprompt")
    opened.part("diboson")
    opened.part("ttX")
    assert opened.open_names == ["diboson", "ttX"]  # nonprompt was used longest ago
    opened.part("nonprompt")
    assert opened.open_names == ["ttX", "nonprompt"]
    assert kept.columns["label"].shape == (100,)  # still valid for who holds it
    assert Store(made, max_open_bytes=1).part("ttX").num_bytes > 1


def test_a_part_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> None:
        with write_part(tmp_path, "ttX") as part:
            part.extend(columns(10))
            raise RuntimeError("interrupted")

    with write_part(tmp_path, "ttX") as part:
        part.extend(columns(3))
    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted()
    write_store(tmp_path, MassTable(), num_folds=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.json", "ttX"]
    assert len(Store(tmp_path).part("ttX")) == 3  # the former one


def test_columns_must_match_the_schema(tmp_path: Path) -> None:
    bad = columns(5)
    with write_part(tmp_path, "ttX") as part:
        with pytest.raises(ValueError, match="differ from the schema in"):
            part.extend({name: value for name, value in bad.items() if name != "m1"})
        with pytest.raises(ValueError, match="column nodes is"):
            part.extend(bad | {"nodes": bad["nodes"][:, :3]})
        part.extend(bad)


def rewrite(file: Path, change: Callable[[dict[str, object]], object]) -> None:
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def test_another_version_is_refused(made: Path) -> None:
    rewrite(made / "ttX" / "part.json", lambda record: record.update(version=0))
    with pytest.raises(InputFileError, match="is of store version 0, not 1; make it again"):
        Store(made).part("ttX")
    rewrite(made / "store.json", lambda record: record.update(version=99))
    with pytest.raises(InputFileError, match="is of store version 99, not 1"):
        Store(made)


def test_damage_is_found(made: Path) -> None:
    file = made / "ttX" / "weight.bin"
    data = bytearray(file.read_bytes())
    data[11] ^= 4
    file.write_bytes(data)
    with pytest.raises(InputFileError, match=r"weight\.bin: differs from the sha256"):
        Store(made).verify()
    file.write_bytes(data[:-8])
    with pytest.raises(InputFileError, match="holds 792 bytes instead of 800"):
        Store(made).part("ttX")


def test_unknown_parts_list_the_known(made: Path) -> None:
    with pytest.raises(UserError, match="no part 'signal_MHc100_MA85'; choose one of diboson, nonprompt"):
        Store(made).signal(MassPoint(100, 85))
    with pytest.raises(InputFileError, match="does not exist"):
        Store(made / "nowhere")


def test_every_column_has_a_name_of_its_own() -> None:
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert store.PART_FILE not in {f"{column.name}.bin" for column in COLUMNS}


SAMPLE = '[[samples]]\nprocess = "signal"\npoint = "130,90"\nchannel = "Run3Mu"\nfiles = ["*.root"]\n'


def test_lists_of_samples_find_their_files(tmp_path: Path) -> None:
    for name in ("b.root", "a.root"):
        (tmp_path / name).touch()
    path = tmp_path / "samples.toml"
    path.write_text(SAMPLE)
    ((entry, found),) = read_samples(path)
    assert entry.point == MassPoint(130, 90)
    assert [file.name for file in found] == ["a.root", "b.root"]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("Run3Mu", "Run2E1Mu", "channel 'Run2E1Mu' is unknown; choose Run1E2Mu or Run3Mu"),
        ('point = "130,90"\n', "", "a signal needs a mass point"),
        ("130,90", "90,130", "has mA >= mHc"),
        ("*.root", "*.none", "no file matches"),
        ("channel", "era = '2029'\nchannel", "era '2029' is unknown"),
        ("channel", "cross_section_fb = 3\nchannel", "come together"),
        ("files", "fils", "samples.0.fils: is no key of a sample, the nearest is 'files'"),
        ("[[samples]]", "[[sampels]]", "samples"),
        ('"signal"', '"signal', "cannot be read"),
    ],
)
def test_mistakes_in_the_list_are_one_sentence(tmp_path: Path, old: str, new: str, text: str) -> None:
    path = tmp_path / "samples.toml"
    path.write_text(SAMPLE.replace(old, new))
    with pytest.raises(InputFileError, match=text):
        read_samples(path)
