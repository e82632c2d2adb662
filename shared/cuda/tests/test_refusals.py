"""Wrong arguments and wrong installations are refused in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hep_shared_cuda
from hep_shared.errors import UserError
from hep_shared.ops import field
from hep_shared.ops import narrow_mlp as mlp
from hep_shared.ops import propagate as track
from hep_shared.ops import propagate_adaptive as adaptive
from hep_shared.ops._backend import backend, register

GOOD = {
    "state": torch.zeros(4, 5),
    "z": torch.zeros(4),
    "dz": torch.ones(4),
    "grid": torch.zeros(3, 3, 3, 3),
    "origin": (0.0, 0.0, 0.0),
    "spacing": (1.0, 1.0, 1.0),
    "num_steps": 2,
    "method": "rk4",
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", torch.zeros(4, 4), r"propagate: state must have the shape \(N, 5\), not \(4, 4\)"),
        ("state", torch.zeros(5), r"state must have the shape \(N, 5\), not \(5,\)"),
        ("state", torch.zeros(4, 5, dtype=torch.int64), "state must be float32 or float64, not torch.int64"),
        (
            "state",
            torch.zeros(4, 5, dtype=torch.bfloat16),
            "state must be float32 or float64, not torch.bfloat16",
        ),
        ("z", torch.zeros(3), r"z must be a number or have the shape \(4,\), not \(3,\)"),
        ("dz", torch.zeros(4, 1), r"dz must be a number or have the shape \(4,\), not \(4, 1\)"),
        (
            "z",
            torch.zeros(4, dtype=torch.float64),
            "z is torch.float64 on cpu, but the first argument is torch.float32",
        ),
        ("grid", torch.zeros(3, 3, 3, 4), r"grid must have the shape \(X, Y, Z, 3\) .* not \(3, 3, 3, 4\)"),
        ("grid", torch.zeros(3, 1, 3, 3), "two nodes or more on each axis"),
        ("grid", torch.zeros(3, 3, 3, 3, dtype=torch.float64), "grid is torch.float64"),
        ("grid", torch.zeros(3, 3, 3, 3, device="meta"), "grid is torch.float32 on meta"),
        ("origin", (0.0, float("nan"), 0.0), "origin must be three finite numbers"),
        ("origin", (0.0, 0.0), "origin must be three finite numbers"),
        ("spacing", (1.0, 0.0, 1.0), "spacing must be three positive numbers"),
        ("num_steps", 0, "num_steps must be from 1 to 1000000, not 0"),
        ("method", "euler", "method must be one of rk4, rkn4, not 'euler'"),
    ],
)
def test_propagate_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        track.propagate(**GOOD | {name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", torch.zeros(4, 4), r"propagate_adaptive: state must have the shape \(N, 5\)"),
        ("z", torch.zeros(3), r"propagate_adaptive: z must be a number or have the shape \(4,\)"),
        ("grid", torch.zeros(3, 1, 3, 3), "two nodes or more on each axis"),
        ("tolerance_mm", 0.0, "tolerance_mm must be a positive number, not 0.0"),
        ("slope_tolerance", float("nan"), "slope_tolerance must be a positive number, not nan"),
        ("min_step_mm", 2000.0, "min_step_mm is 2000.0, more than max_step_mm = 1000.0"),
        ("max_trials", 0, "max_trials must be from 1 to 1000000, not 0"),
    ],
)
def test_propagate_adaptive_refuses(name: str, value: Any, message: str) -> None:
    arguments = {key: GOOD[key] for key in ("state", "z", "dz", "grid", "origin", "spacing")}
    with pytest.raises(ValueError, match=message):
        adaptive.propagate_adaptive(**arguments | {name: value})


MLP = {"rows": torch.zeros(4, 3), "weights": torch.zeros(26), "sizes": [3, 4, 2], "activation": "tanh"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rows", torch.zeros(4, 2), r"narrow_mlp: rows must have the shape \(N, 3\), not \(4, 2\)"),
        ("rows", torch.zeros(4, 3, dtype=torch.int32), "rows must be float32 or float64"),
        ("weights", torch.zeros(25), r"weights must have the shape \(26,\), not \(25,\)"),
        ("weights", torch.zeros(26, dtype=torch.float64), "weights is torch.float64 on cpu, but rows"),
        ("sizes", [3], r"two to 9 numbers from 1 to 64, not \[3\]"),
        ("sizes", [3, 65, 2], r"two to 9 numbers from 1 to 64, not \[3, 65, 2\]"),
        ("activation", "gelu", "activation must be one of tanh, silu, relu, isru, not 'gelu'"),
    ],
)
def test_narrow_mlp_refuses(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp.narrow_mlp(**MLP | {name: value})


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(4, 2)),
        (0, torch.zeros(4, 3, dtype=torch.float16)),
        (1, torch.zeros(25)),
        (1, torch.zeros(26, 1)),
        (1, torch.zeros(26, dtype=torch.float64)),
        (2, [3]),
        (2, [3] * 10),
        (2, [3, 65, 2]),
        (2, [3, 0, 2]),
        (3, 4),
    ],
)
def test_compiled_narrow_mlp_refuses(position: int, value: Any) -> None:
    args: list[Any] = [MLP["rows"], MLP["weights"], MLP["sizes"], 0]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::narrow_mlp: "):
        mlp.operator(*args)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [(0, torch.zeros(4, 4)), (1, torch.zeros(3)), (5, [1.0] * 3), (5, [1.0, 1.0, 0.0, 1.0]), (6, 0)],
)
def test_compiled_propagate_adaptive_refuses(position: int, value: Any) -> None:
    args: list[Any] = [*(GOOD[key] for key in ("state", "z", "dz", "grid")), [0.0] * 3 + [1.0] * 3]
    args += [[1.0, 1.0, 1.0, 2.0], 10]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::propagate_adaptive: "):
        adaptive.operator(*args)


def test_field_lookup_refuses() -> None:
    with pytest.raises(ValueError, match=r"field_lookup: points must have the shape \(N, 3\), not \(3,\)"):
        field.field_lookup(torch.zeros(3), GOOD["grid"], GOOD["origin"], GOOD["spacing"])


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(4, 4)),
        (0, torch.zeros(20)),
        (0, torch.zeros(4, 5, dtype=torch.float16)),
        (1, torch.zeros(3)),
        (1, torch.zeros(4, dtype=torch.float64)),
        (2, torch.zeros(4, 1)),
        (3, torch.zeros(3, 3, 3)),
        (3, torch.zeros(3, 3, 3, 2)),
        (3, torch.zeros(1, 3, 3, 3)),
        (3, torch.zeros(3, 0, 3, 3)),
        (3, torch.zeros(3, 3, 3, 3, dtype=torch.float64)),
        (4, [0.0] * 5),
        (5, 0),
    ],
)
def test_compiled_operator_refuses(position: int, value: Any) -> None:
    """A direct call, past the checks of the public function, must not read memory that is not its own."""
    args: list[Any] = [GOOD["state"], GOOD["z"], GOOD["dz"], GOOD["grid"], [0.0] * 3 + [1.0] * 3, 2, False]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::propagate: "):
        track.operator(*args)


@pytest.mark.usefixtures("native")
def test_a_grid_beyond_31_bits_is_refused() -> None:
    too_long = torch.zeros(1).expand(2**31, 2, 2, 3)
    with pytest.raises(RuntimeError, match=r"hep::field_lookup: grid .* 2\^31 numbers"):
        field.operator(torch.zeros(1, 3), too_long, [0.0] * 3 + [1.0] * 3)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Choose a backend as a fresh process would."""

    monkeypatch.setattr(hep_shared_cuda, "load", hep_shared_cuda.load.__wrapped__)

    def run(choice: str) -> str:
        monkeypatch.setenv("HEP_SHARED_KERNELS", choice)
        return str(backend.__wrapped__())

    return run


def test_unknown_choice_is_refused(choose: Callable[[str], str]) -> None:
    with pytest.raises(
        UserError, match="HEP_SHARED_KERNELS is 'fast'; choose one of auto, native, reference"
    ):
        choose("fast")


@pytest.mark.usefixtures("native")
def test_native_can_be_chosen(choose: Callable[[str], str]) -> None:
    assert choose("native").startswith("native (")


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_without_a_usable_library(
    content: bytes | None,
    choose: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "libhepk_cpu.so"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(hep_shared_cuda, "library", lambda name: path if path.exists() else None)
    with caplog.at_level("INFO", logger="hep_shared.ops"):
        assert choose("auto") == "reference"
    assert len(caplog.records) == 1
    assert "the PyTorch reference serves" in caplog.text
    with pytest.raises(
        UserError, match=r"'native', but the compiled kernels cannot be used .* HEP_SHARED_KERNELS=auto"
    ):
        choose("native")


@pytest.mark.usefixtures("native")
def test_an_extension_without_the_operator_is_too_old(
    choose: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda name, key: False)
    monkeypatch.setenv("HEP_SHARED_KERNELS", "native")
    parts = {"fake": torch.empty_like, "backward": print}
    with pytest.raises(
        UserError, match="has no kernel for hep::nothing; install the version that belongs to"
    ):
        register("nothing", "(Tensor a) -> Tensor", torch.clone, num_rows=1, **parts)


def test_reference_alone(run_python: Callable[..., Any]) -> None:
    """Chosen, it works without ever touching the extension."""
    code = """if True:
        import json, sys, torch
        from hep_shared.ops.field import field_lookup
        found = field_lookup(torch.ones(1, 3), torch.ones(2, 2, 2, 3), (0, 0, 0), (2, 2, 2))
        print(json.dumps([found.tolist(), "hep_shared_cuda" in sys.modules]))"""
    assert run_python(code, HEP_SHARED_KERNELS="reference") == [[[1.0, 1.0, 1.0]], False]
