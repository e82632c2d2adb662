"""From `simulate` to the store, in both layouts."""

from pathlib import Path

import numpy as np
import pytest

from chhiggs_pnet.data.branch_map import load_branch_map
from chhiggs_pnet.data.reader import read_events
from chhiggs_pnet.data.schema import CLASSES, LAYOUTS
from chhiggs_pnet.data.store import Store
from chhiggs_pnet.physics.mass_points import MassPoint, MassTable
from chhiggs_pnet.physics.selection import Selection
from chhiggs_pnet.prepare import prepare
from chhiggs_pnet.simulate import simulate
from hep_shared.errors import InputFileError, UserError
from hep_shared.files import sha256_of, verify_manifest

POINTS = [MassPoint(130, 90), MassPoint(100, 95)]


def small(out: Path, **changes: object) -> list[Path]:
    settings: dict[str, object] = {"points": POINTS, "num_events": 90, "seed": 1, "events_per_file": 60}
    return simulate(out, **(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("samples")
    for layout in LAYOUTS:
        small(directory / layout, layout=layout, events_per_file=90)
    return {layout: directory / layout for layout in LAYOUTS}


def test_shards_do_not_depend_on_each_other(tmp_path: Path) -> None:
    alone = small(tmp_path / "1", points=POINTS[1:], processes=("signal",), channels=("Run3Mu",))
    assert [file.name for file in alone] == [f"Run3Mu_signal_MHc100_MA95_{i:04d}.root" for i in range(2)]
    more = small(tmp_path / "2", processes=("signal",), channels=("Run3Mu",), num_events=150)
    by_name = {file.name: file for file in more}
    first, same = (read_events(path, load_branch_map("flat")) for path in (alone[0], by_name[alone[0].name]))
    np.testing.assert_array_equal(first.pt, same.pt)
    np.testing.assert_array_equal(first.event, same.event)
    second = read_events(alone[1], load_branch_map("flat"))
    assert len(second) == 30
    assert second.event[0] == 60
    assert not np.array_equal(first.pt[:30], second.pt)


def test_a_second_call_makes_only_what_is_missing(tmp_path: Path) -> None:
    arguments = {"processes": ("ttX",), "channels": ("Run3Mu",)}
    files = small(tmp_path, **arguments)
    before = [file.stat().st_mtime_ns for file in files]
    content = verify_manifest(files[1])
    files[1].write_bytes(b"damaged")
    small(tmp_path, **arguments)
    assert files[0].stat().st_mtime_ns == before[0]
    again = verify_manifest(files[1])
    assert content is not None
    assert again is not None
    assert again["num_trials"] == content["num_trials"]
    with pytest.raises(UserError, match="was simulated with seed = 1, not 2"):
        small(tmp_path, seed=2, **arguments)


def test_event_numbers_are_unique(samples: dict[str, Path]) -> None:
    numbers = set()
    for path in samples["flat"].glob("*.root"):
        events = read_events(path, load_branch_map("flat"))
        numbers |= set(zip(events.run.tolist(), events.lumi.tolist(), events.event.tolist(), strict=True))
    assert len(numbers) == 2 * 5 * 90


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"num_events": 0}, "number of events is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"channels": ("Run2E",)}, "channel 'Run2E' is unknown; choose one of Run1E2Mu, Run3Mu"),
        ({"processes": ("ttY",)}, "process 'ttY' is unknown"),
        ({"era": "2030"}, "era '2030' is unknown"),
        ({"points": []}, "needs at least one mass point"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text):
        small(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_both_layouts_give_the_same_store(samples: dict[str, Path], tmp_path: Path) -> None:
    stores = []
    for layout in LAYOUTS:
        done = prepare(samples[layout], tmp_path / layout, branch_map=load_branch_map(layout))
        assert [part.num_selected for part in done] == [180] * 5
        assert all(part.num_read == 180 for part in done)
        stores.append(Store(tmp_path / layout))
    assert stores[0].names == stores[1].names
    for name in stores[0].names:
        for column, values in stores[0].part(name).columns.items():
            np.testing.assert_array_equal(values, stores[1].part(name).columns[column], err_msg=column)


def test_the_store_holds_rates_labels_and_masses(samples: dict[str, Path], tmp_path: Path) -> None:
    done = prepare(samples["flat"], tmp_path / "s", branch_map=load_branch_map("flat"))
    opened = Store(tmp_path / "s")
    assert opened.signal_points == sorted(POINTS)
    for part in map(opened.part, opened.names):
        assert set(part.columns["label"]) == {CLASSES.index(part.meta["process"])}
        assert set(part.columns["channel"]) == {0, 1}
        one_electron = part.columns["channel"] == 0
        assert (part.columns["m2"][one_electron] == -1).all()
        assert (part.columns["m2"][~one_electron] > 0).all()
        best = np.abs(np.stack([part.columns["m1"], part.columns["m2"]]) - 90).min(axis=0)
        assert (best < 30.01).all()
    rates = {part.name: part.rate_fb for part in done}
    assert 0.1 < rates["signal_MHc130_MA90"] < 5
    assert rates["signal_MHc100_MA95"] < rates["signal_MHc130_MA90"]
    assert rates["diboson"] < rates["ttX"]


def test_the_selection_is_applied_when_reading(samples: dict[str, Path], tmp_path: Path) -> None:
    tight = Selection(jet_pt_min_gev=40.0)
    done = prepare(samples["flat"], tmp_path / "s", branch_map=load_branch_map("flat"), selection=tight)
    part = Store(tmp_path / "s").part("ttX")
    assert 0 < len(part) < 180
    nodes = part.take(slice(None), "ext14")["nodes"]
    jets = nodes[..., 7] == 1
    assert nodes[..., 9][jets].min() > 40
    assert {p.name: p.num_selected for p in done}["ttX"] == len(part)


def test_an_empty_selection_leaves_nothing_behind(samples: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        InputFileError, match=r"no event of \w+ passes the selection Run1E2Mu \(90 entries read\)"
    ):
        prepare(
            samples["flat"],
            tmp_path / "s",
            branch_map=load_branch_map("flat"),
            selection=Selection(num_jets_min=14),
        )
    assert list(tmp_path.iterdir()) == []


def test_points_must_be_in_the_table(samples: dict[str, Path], tmp_path: Path) -> None:
    table = MassTable(train=["100,95", "120,90", "150,80"], validation=(), interpolation=(), extrapolation=())
    with pytest.raises(UserError, match="MHc130_MA90 is not in the mass table; choose one of MHc100_MA95"):
        prepare(samples["flat"], tmp_path / "s", branch_map=load_branch_map("flat"), table=table)


def test_foreign_directories_are_left_alone(samples: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"holds 'thesis.tex' and is no store"):
        prepare(samples["flat"], tmp_path, branch_map=load_branch_map("flat"))


def list_of(samples: Path, out: Path, extra: str = "") -> Path:
    """Write a list with the ttX sample of one channel."""
    files = [str(path) for path in sorted(samples.glob("Run3Mu_ttX_*.root"))]
    out.write_text(f'[[samples]]\nprocess = "ttX"\nchannel = "Run3Mu"\n{extra}files = {files}\n')
    return out


def test_preparing_twice_replaces_the_store_by_the_same_bytes(
    samples: dict[str, Path], tmp_path: Path
) -> None:
    listing, digests = list_of(samples["flat"], tmp_path / "mine.toml"), []
    for _ in range(2):
        prepare(listing, tmp_path / "s", branch_map=load_branch_map("flat"))
        digests.append({p.name: sha256_of(p) for p in (tmp_path / "s" / "ttX").iterdir()})
        (tmp_path / "s" / "store.json").write_text('{"version": 0}')  # another version is no obstacle
    assert digests[0] == digests[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml", "s"]


def test_cross_sections_of_the_list_win(samples: dict[str, Path], tmp_path: Path) -> None:
    extra = "cross_section_fb = 10.0\nsum_weights = 1000.0\n"
    listing = list_of(samples["flat"], tmp_path / "mine.toml", extra)
    (done,) = prepare(listing, tmp_path / "s", branch_map=load_branch_map("flat"))
    raw = read_events(samples["flat"] / "Run3Mu_ttX_0000.root", load_branch_map("flat")).weight.sum()
    assert done.rate_fb == pytest.approx(raw / 100.0)
