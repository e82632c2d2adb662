import json
import time

import pytest

from hep_shared.bench import BenchRow, environment, kernel_rows, print_rows, time_pairs
from hep_shared.ops import _backend

ROWS = [
    BenchRow("encoder forward", 1.5, 3.0, "ms", 2.0, 1.5, 1e-7),
    BenchRow("stream", 18e3, None, "events/s", None, None, None),
]


def test_json_rows(capsys) -> None:
    print_rows(ROWS, as_json=True)
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    keys = ["what", "ours", "peer", "unit", "ratio", "goal", "max_abs_diff"]
    assert [list(line) for line in lines] == [keys, keys]
    assert list(lines[0].values()) == ["encoder forward", 1.5, 3.0, "ms", 2.0, 1.5, 1e-7]
    assert lines[1]["peer"] is None
    assert captured.err == ""


def test_table_rows(capsys) -> None:
    print_rows(ROWS, as_json=False)
    out = capsys.readouterr().out
    assert "encoder forward" in out
    assert "1.8e+04" in out


def test_pairs_alternate() -> None:
    calls: list[str] = []
    time_pairs(lambda: calls.append("o"), lambda: calls.append("p"), pairs=3, warmup=1)
    assert "".join(calls) == "oppooppo"


def test_ratio_is_the_median_of_pairs(monkeypatch) -> None:
    clock = [0]
    peer_times = iter([100, 2, 4, 6, 1000])  # the warm-up, then three pairs with one outlier after them

    def advance(ns: int) -> None:
        clock[0] += ns

    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock[0])
    result = time_pairs(lambda: advance(2), lambda: advance(next(peer_times)), pairs=3, warmup=1)
    assert result == pytest.approx((2e-9, 4e-9, 2.0))


def test_kernel_rows_time_the_references_in_turn(monkeypatch) -> None:
    served: list[bool] = []
    monkeypatch.setattr(_backend, "backend", lambda: "native (avx2)")
    (row,) = kernel_rows("step", lambda: served.append(_backend.must_use_reference()), 8, "events/s")
    assert served.count(True) == served.count(False) > 0
    assert not _backend.must_use_reference()
    assert row.what == "step, compiled operators; peer: their references"
    monkeypatch.setattr(_backend, "backend", lambda: "reference")
    assert kernel_rows("step", lambda: None, 8, "events/s") == []


def test_environment_is_json_ready() -> None:
    record = environment()
    assert record["cores"] >= 1
    assert all(record[key] for key in ("date", "cpu", "platform", "python", "torch", "git_revision"))
    json.dumps(record)
