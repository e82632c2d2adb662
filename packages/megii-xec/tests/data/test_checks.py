import json
from collections.abc import Callable
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hep_shared.errors import ConfigError, InputFileError
from hep_shared.files import write_manifest
from megii_xec.data import checks
from megii_xec.data.normalization import Normalization
from megii_xec.data.schema import MISSING, NUM_SENSORS
from megii_xec.data.selection import Selection
from megii_xec.data.stream import PhotonStream
from megii_xec.data.summary import summarize_file

Make = Callable[..., Path]
SHAPE = (6, NUM_SENSORS)


def read_all(path: Path | str, **options: object) -> int:
    settings = {"batch_size": 3, "targets": ("energy", "timing"), **options}
    with PhotonStream(path, Normalization(), **settings) as stream:  # type: ignore[arg-type]
        return sum(len(batch) for batch in stream.batches())


def test_a_sound_file_passes(make_photons: Make) -> None:
    assert read_all(make_photons()) == 6


def test_missing_file_and_empty_pattern(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="does not exist"):
        read_all(tmp_path / "absent.root")
    with pytest.raises(InputFileError, match=r"absent-\*.root: matches no file"):
        read_all(str(tmp_path / "absent-*.root"))
    with pytest.raises(InputFileError, match="no file was given"):
        checks.expand_paths([])


def test_directory_is_refused_with_a_pattern_to_use(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"is a directory; give files, for example .*\*\.root"):
        read_all(tmp_path)


def test_a_file_named_twice_is_read_once(make_photons: Make) -> None:
    path = make_photons(name="a.root")
    other = make_photons(name="b.root")
    assert checks.expand_paths([path, path.parent / "*.root", path]) == [path, other]
    odd = make_photons(name="run[1].root")
    assert checks.expand_paths(odd) == [odd]


@pytest.mark.parametrize("content", [b"", b"root", b"not a ROOT file, just text " * 100])
def test_other_content_is_not_a_root_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.root"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match=r"fake\.root: cannot be read .*give a complete ROOT file"):
        read_all(path)


@pytest.mark.parametrize("missing", [1, 30, 20000])
def test_truncated_file(make_photons: Make, missing: int) -> None:
    path = make_photons()
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(InputFileError, match="cannot be read"):
        read_all(path)


def test_missing_tree_lists_the_trees_found(make_photons: Make) -> None:
    with pytest.raises(InputFileError, match="has no tree 'tree', the trees found are events"):
        read_all(make_photons(options={"tree": "events"}))


def test_rntuple_is_recognised(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "n.root") as file:
        file.mkrntuple("tree", {"npho": np.zeros(3, np.float32)})
    with pytest.raises(InputFileError, match="is an RNTuple, not a TTree"):
        read_all(tmp_path / "n.root")


def test_missing_branch_names_the_nearest(make_photons: Make) -> None:
    path = make_photons(relative_time=None, relativ_time=np.zeros(SHAPE, np.float32))
    with pytest.raises(
        InputFileError, match="'relative_time': is missing, the nearest names are relativ_time"
    ):
        read_all(path)


def test_real_data_has_no_truth_but_can_be_predicted(make_photons: Make) -> None:
    path = make_photons(energyTruth=None, timeTruth=None)
    with pytest.raises(InputFileError, match="give a simulated file, or ask for no truth"):
        read_all(path)
    assert read_all(path, targets=()) == 6


def test_wrong_number_of_sensors(make_photons: Make) -> None:
    with pytest.raises(
        InputFileError, match=r"branch 'npho': .* not float\[4760\]; write it as 'npho\[4760\]/F'"
    ):
        read_all(make_photons(npho=np.zeros((6, 100), np.float32)))


def test_integer_counts_are_refused(make_photons: Make) -> None:
    with pytest.raises(InputFileError, match=r"branch 'npho': has type .*int32.* not float\[4760\]"):
        read_all(make_photons(npho=np.zeros(SHAPE, np.int32)))


def test_jagged_sensors_are_refused(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "jagged.root") as file:
        file.mktree("tree", {"npho": "var * float32"})
        file["tree"].extend({"npho": ak.Array([[1.0, 2.0], [3.0]])})
    with pytest.raises(InputFileError, match="write it with a fixed length"):
        read_all(tmp_path / "jagged.root")


def test_empty_tree(make_photons: Make) -> None:
    with pytest.raises(InputFileError, match="'tree' is empty"):
        read_all(make_photons(num_events=0))


def test_event_of_nan_is_named(make_photons: Make) -> None:
    npho = np.ones((25, NUM_SENSORS), np.float32)
    npho[17] = np.nan
    with pytest.raises(InputFileError, match="branch 'npho', entry 17: all 4760 sensors are NaN"):
        read_all(make_photons(num_events=25, npho=npho))
    npho[17, 5] = 1.0
    assert read_all(make_photons(num_events=25, npho=npho)) == 25


def test_times_in_nanoseconds_are_refused(make_photons: Make) -> None:
    with pytest.raises(InputFileError, match=r"branch 'relative_time': the median is .* not seconds"):
        read_all(make_photons(relative_time=np.full(SHAPE, 40.0, np.float32)))


def test_energies_in_mev_are_refused(make_photons: Make) -> None:
    path = make_photons(energyTruth=np.full(6, 52.8, np.float32))
    with pytest.raises(InputFileError, match=r"branch 'energyTruth': the median is 52\.8"):
        read_all(path)
    with pytest.raises(InputFileError, match="write the values in GeV"):
        read_all(path, targets=(), selection=Selection())


@pytest.mark.parametrize("value", [np.nan, np.inf, MISSING])
def test_targets_must_be_finite_unless_the_event_is_left_out(make_photons: Make, value: float) -> None:
    energy = np.full(6, 0.05, np.float32)
    energy[4] = value
    path = make_photons(energyTruth=energy)
    with pytest.raises(InputFileError, match="branch 'energyTruth', entry 4: the target is not finite"):
        read_all(path)
    assert read_all(path, selection=Selection()) == 5
    with (
        PhotonStream(path, Normalization(), batch_size=3, targets=("energy",)) as stream,
        pytest.raises(InputFileError, match="entry 4"),
    ):
        stream.scan_targets()


def test_manifest_reveals_any_change(make_photons: Make) -> None:
    path = make_photons()
    write_manifest(path)
    assert read_all(path) == 6
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="differs from the sha256 in its manifest"):
        read_all(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("energi",)}, "target 'energi' is unknown; choose among angle, energy, timing, uvwFI"),
        ({"batch_size": 3, "world_size": 2}, "use a positive multiple of 2"),
        ({"split": "train"}, "needs a validation_fraction"),
        ({"batch_size": 7, "shuffle": True}, "6 selected events in photons.root .* fewer than the 7 needed"),
        ({"selection": Selection(energy_min_gev=0.5)}, "0 selected events"),
    ],
)
def test_contradictory_arguments(make_photons: Make, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_all(make_photons(), **options)


def test_summary_of_a_file(make_photons: Make) -> None:
    npho = np.full(SHAPE, 100.0, np.float32)
    npho[0] = MISSING
    path = make_photons(npho=npho, solid_angle=None, comment=np.zeros(6, np.float32))
    summary = json.loads(json.dumps(summarize_file(path)))
    assert (summary["entries"], summary["simulated"], summary["manifest"]) == (6, False, False)
    assert (summary["missing_branches"], summary["extra_branches"]) == (["solid_angle"], ["comment"])
    assert summary["events_without_npho"] == 1
    assert summary["fraction_without_npho"] == pytest.approx(1 / 6)
    assert summary["fraction_without_time"] == pytest.approx(0.02, abs=0.005)
    assert summary["max_npho"] == summary["median_npho"] == 100.0
    assert summary["ranges"]["event"] == {"min": 0.0, "max": 5.0, "unit": "1"}
