import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from hep_shared.errors import InputFileError
from jet_foundation.data.foreign import (
    TOP_SLOTS,
    iter_top_landscape,
    read_padded_sample,
    read_quark_gluon,
)
from jet_foundation.physics import fourvectors as fv
from jet_foundation.physics.jet_table import concatenate

NAMES = [f"{component}_{slot}" for slot in range(TOP_SLOTS) for component in ("E", "PX", "PY", "PZ")]


def momenta(num_jets: int, num_particles: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (num_jets, num_particles)
    pt = -np.sort(-rng.exponential(10, shape) - 0.5, axis=1)
    p4 = fv.from_pt_eta_phi_mass(pt, rng.normal(0, 0.3, shape), rng.normal(0, 0.3, shape))
    slots = np.zeros((num_jets, TOP_SLOTS, 4), np.float32)
    slots[:, :num_particles] = p4
    return slots


def write_pandas_table(path: Path, slots: np.ndarray, labels: np.ndarray) -> Path:
    """The layout of pandas' `to_hdf(format='table')`, whose column names are pickled attributes."""
    rows = np.zeros(
        len(slots),
        [("index", "i8"), ("values_block_0", "f4", (4 * TOP_SLOTS + 4,)), ("values_block_1", "i8", (2,))],
    )
    rows["values_block_0"][:, : 4 * TOP_SLOTS] = slots.reshape(len(slots), -1)
    rows["values_block_1"][:, 1] = labels
    with h5py.File(path, "w") as file:
        table = file.create_dataset("table/table", data=rows)
        table.attrs["values_block_0_kind"] = np.void(
            pickle.dumps([*NAMES, "truthE", "truthPX", "truthPY", "truthPZ"], 0)
        )
        table.attrs["values_block_1_kind"] = np.void(pickle.dumps(["ttv", "is_signal_new"], 0))
    return path


@pytest.mark.parametrize("layout", ["pandas", "columns", "compound"])
def test_top_landscape_layouts(tmp_path: Path, layout: str) -> None:
    slots, labels = momenta(9, 15), np.arange(9) % 2
    path = tmp_path / "top.h5"
    if layout == "pandas":
        write_pandas_table(path, slots, labels)
    else:
        flat = slots.reshape(9, -1)
        with h5py.File(path, "w") as file:
            if layout == "columns":
                for n, name in enumerate(NAMES):
                    file[f"table/{name}"] = flat[:, n]
                file["table/is_signal_new"] = labels
            else:
                rows = np.zeros(9, [*((name, "f4") for name in NAMES), ("is_signal_new", "i8")])
                for n, name in enumerate(NAMES):
                    rows[name] = flat[:, n]
                rows["is_signal_new"] = labels
                file["table"] = rows
    jets = concatenate(list(iter_top_landscape(path, chunk_jets=4)))
    np.testing.assert_array_equal(jets.labels, labels)
    np.testing.assert_array_equal(jets.p4, slots[:, :15].reshape(-1, 4))


def test_top_landscape_defects(tmp_path: Path) -> None:
    slots = momenta(5, 10)
    slots[3, 2, 1] = np.nan
    path = write_pandas_table(tmp_path / "nan.h5", slots, np.zeros(5))
    with pytest.raises(InputFileError, match=r"branch 'PX_i', entry 3: particle \d+: the value is nan"):
        list(iter_top_landscape(path))
    slots[3] = 0
    path = write_pandas_table(tmp_path / "empty.h5", slots, np.zeros(5))
    with pytest.raises(InputFileError, match="entry 3: the jet holds no particle"):
        list(iter_top_landscape(path))
    path = write_pandas_table(tmp_path / "label.h5", momenta(5, 10), np.full(5, 7))
    with pytest.raises(
        InputFileError, match="branch 'is_signal_new', entry 0: the label is 7, expected 0 to 1"
    ):
        list(iter_top_landscape(path))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(InputFileError, match=r"label\.h5"):
        list(iter_top_landscape(path))


def quark_gluon(path: Path, x: np.ndarray, y: np.ndarray) -> Path:
    np.savez(path, X=x, y=y)
    return path


def test_quark_gluon_jets_get_masses_and_identity(tmp_path: Path) -> None:
    x = np.zeros((2, 5, 4))
    x[0, :3] = [[5.0, 0.1, 3.0, 211], [50.0, -0.2, 3.1, 22], [20.0, 0.0, 3.2, -11]]
    x[1, :1] = [[70.0, 1.5, 0.5, 2112]]
    jets = read_quark_gluon(quark_gluon(tmp_path / "qg.npz", x, np.array([1.0, 0.0])))
    assert jets.offsets.tolist() == [0, 3, 4]
    np.testing.assert_allclose(fv.pt(jets.p4), [50, 20, 5, 70], rtol=1e-6)
    np.testing.assert_allclose(fv.rapidity(jets.p4), [-0.2, 0.0, 0.1, 1.5], atol=1e-6)
    np.testing.assert_allclose(fv.mass(jets.p4)[[2, 3]], [0.13957, 0.939565], rtol=2e-2)
    assert jets.pid is not None
    assert jets.pid.tolist() == [
        [0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
    ]


def test_quark_gluon_defects(tmp_path: Path) -> None:
    x = np.zeros((1, 2, 4))
    x[0, 0] = [5.0, 0.1, 3.0, 777]
    with pytest.raises(InputFileError, match="branch 'X', entry 0: particle 0 has the PDG code 777"):
        read_quark_gluon(quark_gluon(tmp_path / "code.npz", x, np.zeros(1)))
    with pytest.raises(InputFileError, match=r"branch 'X': has shape \(1, 2, 3\), expected \(any, any, 4\)"):
        read_quark_gluon(quark_gluon(tmp_path / "shape.npz", x[..., :3], np.zeros(1)))
    np.savez(tmp_path / "name.npz", x=x, y=np.zeros(1))
    with pytest.raises(InputFileError, match="branch 'X': is missing"):
        read_quark_gluon(tmp_path / "name.npz")
    np.savez(tmp_path / "pickled.npz", X=np.array([{}], object), y=np.zeros(1))
    with pytest.raises(InputFileError, match=r"pickled\.npz"):
        read_quark_gluon(tmp_path / "pickled.npz")


@pytest.mark.parametrize(
    ("name", "num_jets", "classes"),
    [("jetclass_300", 300, 10), ("toplandscape_1000", 1000, 2), ("quarkgluon_1000", 1000, 2)],
)
def test_real_samples_are_read(samples: Path, name: str, num_jets: int, classes: int) -> None:
    jets = read_padded_sample(samples / f"{name}.npz", classes)
    assert len(jets) == num_jets
    assert set(jets.labels.tolist()) == set(range(classes))
    assert (fv.pt(jets.jet_p4()) > 499).all()


def test_a_sample_with_too_many_classes(samples: Path) -> None:
    with pytest.raises(InputFileError, match=r"branch 'labels', entry \d+: the label is \d, expected 0 to 1"):
        read_padded_sample(samples / "jetclass_300.npz", 2)
