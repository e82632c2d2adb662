import os
from pathlib import Path

import numpy as np
import pytest

from hep_shared.errors import UserError
from jet_foundation import simulate as sim
from jet_foundation.data.jetclass import iter_jetclass
from jet_foundation.physics.processes import CLASSES


def make(out: Path, **options: object) -> list[Path]:
    arguments = {"engine": "toy", "num_jets": 60, "seed": 3, "jets_per_file": 4} | options
    return sim.simulate(out, **arguments)  # type: ignore[arg-type]


def test_every_class_gets_its_files(tmp_path: Path) -> None:
    paths = make(tmp_path)
    assert len(paths) == 20
    assert {path.name for path in paths} >= {"TTBarLep_001.root", "ZJetsToNuNu_000.root"}
    counts = np.zeros(10, int)
    for path in paths:
        for jets in iter_jetclass(path):
            assert len(set(jets.labels.tolist())) == 1
            counts += np.bincount(jets.labels, minlength=10)
    np.testing.assert_array_equal(counts, np.full(10, 6))
    (higgs,) = iter_jetclass(tmp_path / "HToBB_000.root")
    assert CLASSES[higgs.labels[0]] == "Hbb"


def test_a_second_call_makes_only_what_is_missing_or_damaged(tmp_path: Path) -> None:
    paths = make(tmp_path)
    before = [path.read_bytes() for path in paths]
    paths[3].unlink()
    paths[5].write_bytes(before[5][:-7])
    os.utime(paths[0], (1, 1))
    make(tmp_path)
    assert paths[0].stat().st_mtime == 1
    for path in (paths[3], paths[5]):
        index = paths.index(path)
        (again,), (first,) = iter_jetclass(path), _jets(before[index], tmp_path / "copy.root")
        np.testing.assert_array_equal(again.p4, first.p4)


def _jets(content: bytes, path: Path) -> list[object]:
    path.write_bytes(content)
    return list(iter_jetclass(path))


def test_another_sample_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path, num_jets=10)
    with pytest.raises(UserError, match="holds a sample with seed = 3, not 4"):
        make(tmp_path, num_jets=10, seed=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "herwig"}, "--engine is 'herwig'; choose toy or pythia"),
        ({"num_jets": 0}, "--num-jets is 0 but must be at least 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"jets_per_file": 0}, "jets per file is 0"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(tmp_path, **options)


def test_pythia_must_be_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs pythia8mc and fastjet, not installed"):
        make(tmp_path, engine="pythia")
