import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hep_shared.errors import UserError
from jet_foundation.data.jetclass import iter_jetclass
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics import pythia
from jet_foundation.physics.jet_table import Jets, concatenate, from_padded
from jet_foundation.physics.processes import CLASSES, PROCESSES


def test_every_class_has_a_process() -> None:
    assert tuple(PROCESSES) == CLASSES


def test_without_pythia_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(pythia.importlib, "import_module", absent)
    with pytest.raises(UserError, match=r"install `jet-foundation\[pythia\]` or use --engine toy"):
        next(pythia.generate("Zqq", 1, np.random.default_rng(0)))


@pytest.fixture(scope="module")
def z_jets() -> Jets:
    pytest.importorskip("pythia8mc", reason="the extra `pythia` is not installed")
    pytest.importorskip("fastjet", reason="the extra `pythia` is not installed")
    return concatenate(list(pythia.generate("Zqq", 60, np.random.default_rng(1))))


def test_jets_are_selected_matched_and_groomed(z_jets: Jets) -> None:
    assert len(z_jets) == 60
    assert set(z_jets.labels.tolist()) == {CLASSES.index("Zqq")}
    assert set(z_jets.scalars["genpart_pid"].tolist()) == {23.0}
    assert ((z_jets.scalars["pt"] > 500) & (z_jets.scalars["pt"] < 1000)).all()
    assert np.median(z_jets.scalars["sdmass"]) == pytest.approx(89, abs=6)
    assert (z_jets.scalars["sdmass"] <= fv.mass(z_jets.jet_p4()) + 1e-2).all()
    assert (np.diff([z_jets.scalars[f"tau{n}"] for n in range(1, 5)], axis=0) <= 1e-6).all()


def test_multiplicities_are_those_of_real_jets(z_jets: Jets, samples: object) -> None:
    with np.load(f"{samples}/jetclass_300.npz") as file:
        p4 = np.moveaxis(file["vectors"], 1, 2)[..., [3, 0, 1, 2]]
        real = from_padded(p4, file["mask"], file["labels"])
    real = real.take(np.isin(real.labels, [CLASSES.index(name) for name in ("Zqq", "Wqq", "Hcc")]))
    assert z_jets.num_particles.mean() == pytest.approx(real.num_particles.mean(), rel=0.15)


def test_the_program_writes_every_class_and_nothing_but_its_result(tmp_path: Path) -> None:
    pytest.importorskip("pythia8mc", reason="the extra `pythia` is not installed")
    pytest.importorskip("fastjet", reason="the extra `pythia` is not installed")
    command = ["simulate", "--engine", "pythia", "--num-jets", "10", "--out", str(tmp_path), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "jet_foundation.cli", *command], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["num_files"] == 10
    labels = [next(iter_jetclass(path)).labels for path in sorted(tmp_path.glob("*.root"))]
    assert sorted(np.concatenate(labels)) == list(range(10))
