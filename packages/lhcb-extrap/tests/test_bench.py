from hep_shared.config import load_config
from lhcb_extrap import bench as bench_module
from lhcb_extrap.bench import BATCH_SIZES, bench
from lhcb_extrap.config import PRESETS, Config
from lhcb_extrap.physics.transport import native_backend


def test_rows_of_one_network(monkeypatch):
    monkeypatch.setattr(bench_module, "_NUM_TRACKS", 50)
    monkeypatch.setattr(bench_module, "_MAX_S", 0.0)
    config = load_config(Config, presets=PRESETS, preset="kick32", overrides=["simulation.step_mm=250"])
    rows = bench(config, preset="kick32", device="cpu")
    assert rows[0].what.startswith("simulate, rk4, 250 mm")
    speeds = [row for row in rows if row.what.startswith("kick32, ONNX Runtime")]
    assert len(speeds) == len(BATCH_SIZES)
    assert all(row.max_abs_diff <= 1e-3 and row.peer > 0 for row in speeds)
    layers = [row for row in rows if "layers alone" in row.what]
    assert len(layers) == (native_backend() == "native")
    assert all(row.goal == 3.0 and row.max_abs_diff < 1e-5 for row in layers)
    assert sum(row.unit == "ms" for row in rows) == 3 * len(BATCH_SIZES)
