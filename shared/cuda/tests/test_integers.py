"""The operators that give integers, event_tokens and nearest_code: values, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hep_shared.ops import nearest as codes_op
from hep_shared.ops import tokens as tokens_op
from hep_shared.ops.nearest import nearest_code
from hep_shared.ops.tokens import event_tokens

ISAS = ("scalar", "avx2", "avx512")
PT, ETA, ENERGY = [20.0, 31.5, 47.25, 90.0], [-1.5, -0.25, 0.5, 1.75], [40.0, 55.5, 80.0, 300.0]
PHI, MET = [-1.875, -0.625, 0.625, 1.875], [10.0, 25.0, 60.0, 100.0]
BINS = {
    "energy_edges": None, "pt_edges": PT, "eta_edges": ETA, "phi_edges": PHI, "met_edges": MET, "num_bins": 5
}  # fmt: skip
SPECIAL = (torch.nan, torch.inf, -torch.inf, -0.0, 0.0, 3.4e38, 1e-45)


def make_events(num: int, dtype: torch.dtype, device: str, objects: int = 18) -> tuple[Tensor, ...]:
    """Features, missing momentum and ids; with enough events every edge and every odd number occurs."""
    random = torch.Generator().manual_seed(num)
    scale = torch.tensor([100.0, 60.0, 1.5, 1.8])
    features = torch.randn(num, objects, 4, generator=random) * scale
    missing = torch.randn(num, 2, generator=random) * torch.tensor([60.0, 1.8])
    for column, edges in enumerate((ENERGY, PT, ETA, PHI)):
        exact = torch.tensor([*edges, *(-e for e in edges), *SPECIAL])
        view = features[..., column].reshape(-1)[: len(exact)]
        features[..., column] = features[..., column].reshape(-1).index_copy(
            0, torch.arange(len(view)), exact[: len(view)]
        ).view(num, objects)  # fmt: skip
    for column, edges in enumerate((MET, PHI)):
        exact = torch.tensor([*edges, *SPECIAL])[:num]
        missing[: len(exact), column] = exact
    ids = torch.randint(0, 8, (num, objects), generator=random).to(torch.int8)
    return features.to(device, dtype), missing.to(device, dtype), ids.to(device)


def digitized(features: Tensor, missing: Tensor, ids: Tensor, bins: dict[str, Any]) -> np.ndarray:
    """The formula with `numpy.digitize`, which counts every edge for NaN: none, for us."""

    def count(values: Tensor, edges: list[float]) -> np.ndarray:
        array = values.cpu().numpy()
        edges = np.array(edges, array.dtype)
        return np.where(np.isnan(array), 0, np.digitize(array, edges)) if len(edges) else 0 * np.isnan(array)

    b, number = bins["num_bins"], ids.cpu().numpy().astype(np.int64)
    fold = torch.abs if bins.get("fold_phi") else torch.clone
    token = number - 1
    for column, name in enumerate(("energy", "pt", "eta", "phi")):
        values = fold(features[..., 3]) if name == "phi" else features[..., column]
        if bins[f"{name}_edges"] is not None:
            token = token * b + count(values, bins[f"{name}_edges"])
    first = 1 + 7 * b ** (3 if bins["energy_edges"] is None else 4)
    met = first + count(missing[:, 0], bins["met_edges"])
    met_phi = first + b + count(fold(missing[:, 1]), bins["phi_edges"])
    return np.concatenate([np.where(number == 0, 0, token + 1), met[:, None], met_phi[:, None]], axis=1)


VARIANTS = {
    "plain": {},
    "energy": {"energy_edges": ENERGY},
    "folded": {"fold_phi": True, "phi_edges": [0.625, 1.25, 1.875, 2.5]},
    "fewer edges": {"pt_edges": PT[1:], "met_edges": [], "energy_edges": ENERGY[1:]},
    "two bins": {name: [1.0] for name in ("pt_edges", "eta_edges", "phi_edges", "met_edges")}
    | {"num_bins": 2, "energy_edges": []},
    "sixteen bins": {"num_bins": 16, "pt_edges": [float(i) for i in range(15)], "energy_edges": ENERGY},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num", [0, 1, 2, 3, 7, 57, 58, 300])
def test_tokens_are_the_formula(num: int, variant: str, dtype: torch.dtype, device: str) -> None:
    bins, events = BINS | VARIANTS[variant], make_events(num, dtype, device)
    found = event_tokens(*events, **bins)
    assert (found.dtype, found.shape, found.device.type) == (torch.int64, (num, 20), device)
    np.testing.assert_array_equal(found.cpu().numpy(), digitized(*events, bins))
    flat = [bins[f"{name}_edges"] or [] for name in ("energy", "pt", "eta", "phi", "met")]
    more = (bins["num_bins"], bins["energy_edges"] is not None, bins.get("fold_phi", False))
    assert torch.equal(tokens_op.reference(*events, *flat, *more), found)


@pytest.mark.parametrize("objects", [0, 1, 5, 17, 1024])
def test_tokens_of_any_number_of_objects(objects: int, dtype: torch.dtype, device: str) -> None:
    events = make_events(9, dtype, device, objects)
    found = event_tokens(*events, **BINS)
    np.testing.assert_array_equal(found.cpu().numpy(), digitized(*events, BINS))


def vectors_and_codes(num: int, dtype: torch.dtype, device: str, k: int = 37, d: int = 5) -> list[Tensor]:
    random = torch.Generator().manual_seed(k)
    return [torch.randn(n, d, generator=random).to(device, dtype) for n in (num, k)]


def assert_nearest(found: Tensor, vectors: Tensor, codes: Tensor) -> None:
    """By distance, not by index: rounding may decide between two codes that are equally near."""
    distance = (vectors.double()[:, None] - codes.double()).square().sum(2)
    assert (found.dtype, found.shape) == (torch.int64, vectors.shape[:1])
    chosen = distance.gather(1, found[:, None])[:, 0]
    tolerance = 1e-5 if vectors.dtype == torch.float32 else 1e-13
    torch.testing.assert_close(chosen, distance.amin(1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num", [0, 1, 7, 15, 16, 17, 31, 32, 33, 300])
def test_nearest_code_is_the_nearest(num: int, dtype: torch.dtype, device: str) -> None:
    for k, d in ((1, 1), (7, 3), (8, 4), (37, 5), (512, 32)):
        vectors, codes = vectors_and_codes(num, dtype, device, k, d)
        assert_nearest(nearest_code(vectors, codes), vectors, codes)


def test_ties_go_to_the_lowest_index(dtype: torch.dtype, device: str) -> None:
    """Small integers are exact in any order of sums."""
    random = torch.Generator().manual_seed(1)
    codes = torch.randint(-2, 3, (61, 3), generator=random).to(device, dtype)
    vectors = torch.randint(-3, 4, (200, 3), generator=random).to(device, dtype)
    distance = (vectors[:, None] - codes).square().sum(2)
    ties = (distance == distance.amin(1, keepdim=True)).sum(1)
    assert (ties > 1).sum() > 50
    lowest = (distance == distance.amin(1, keepdim=True)).int().argmax(1)
    assert torch.equal(nearest_code(vectors, codes), lowest)
    assert torch.equal(codes_op.reference(vectors, codes, codes.square().sum(1) / 2), lowest)


def test_no_number_is_the_nearest(dtype: torch.dtype, device: str) -> None:
    """As torch.argmin has it, in the operator and in the reference."""
    vectors, codes = vectors_and_codes(40, dtype, device)
    vectors[3, 1] = torch.nan
    vectors[5] = torch.inf
    expected = codes_op.reference(vectors, codes, codes.square().sum(1) / 2)
    assert expected[3] == 0
    assert torch.equal(nearest_code(vectors, codes), expected)
    codes[[11, 20], 2] = torch.nan
    assert (nearest_code(vectors[6:], codes) == 11).all()
    assert (codes_op.reference(vectors[6:], codes, codes.square().sum(1) / 2) == 11).all()


def test_vectors_without_dimensions(device: str) -> None:
    found = nearest_code(torch.zeros(3, 0, device=device), torch.zeros(2, 0, device=device))
    assert found.tolist() == [0, 0, 0]


def test_blocks_of_the_reference_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, codes = vectors_and_codes(700, torch.float32, "cpu", 16, 8)
    half_norms = codes.square().sum(1) / 2
    expected = codes_op.reference(vectors, codes, half_norms)
    monkeypatch.setattr(codes_op, "BLOCK_BYTES", 16 * 4 * 13)
    assert torch.equal(codes_op.reference(vectors, codes, half_norms), expected)


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    events = make_events(33, dtype, device)
    turned = [a.transpose(0, 1).contiguous().transpose(0, 1) for a in events]
    assert not any(a.is_contiguous() for a in turned)
    assert torch.equal(event_tokens(*turned, **BINS), event_tokens(*events, **BINS))
    vectors, codes = vectors_and_codes(33, dtype, device)
    assert torch.equal(
        nearest_code(vectors.T.contiguous().T, codes.T.contiguous().T), nearest_code(vectors, codes)
    )


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    events = make_events(1501, torch.float32, "cpu")
    vectors, codes = vectors_and_codes(1501, torch.float32, "cpu")
    results = by_threads(lambda: (event_tokens(*events, **BINS), nearest_code(vectors, codes)))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("isa", ISAS)
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    sizes = [(num, dtype) for num in (1, 5, 130) for dtype in (torch.float32, torch.float64)]
    inputs = [(make_events(n, t, "cpu"), vectors_and_codes(n, t, "cpu")) for n, t in sizes]
    torch.save(inputs, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops._backend import backend
        from hep_shared.ops.nearest import nearest_code
        from hep_shared.ops.tokens import event_tokens
        os.chdir({str(tmp_path)!r})
        results = [
            [event_tokens(*events, **{BINS | VARIANTS["energy"]!r}), nearest_code(*pair)]
            for events, pair in torch.load("in.pt")
        ]
        torch.save(results, "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    for (events, pair), (tokens, nearest) in zip(
        inputs, torch.load(tmp_path / "out.pt", weights_only=True), strict=True
    ):
        np.testing.assert_array_equal(tokens.numpy(), digitized(*events, BINS | VARIANTS["energy"]))
        assert_nearest(nearest, *pair)


FLAT = [[], PT, ETA, PHI, MET, 5, False, False]


def test_opcheck() -> None:
    vectors, codes = vectors_and_codes(9, torch.float32, "cpu")
    torch.library.opcheck(codes_op.operator, (vectors, codes, codes.square().sum(1) / 2))
    torch.library.opcheck(tokens_op.operator, (*make_events(9, torch.float32, "cpu"), *FLAT))


def test_results_have_no_derivative() -> None:
    vectors, codes = (t.requires_grad_() for t in vectors_and_codes(9, torch.float64, "cpu"))
    found = nearest_code(vectors, codes)
    assert not found.requires_grad
    (vectors * codes[found]).sum().backward()
    assert torch.equal(vectors.grad, codes.detach()[found])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp
def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operators can be batched by themselves."""
    vectors, codes = vectors_and_codes(24, torch.float64, "cpu")
    expected = nearest_code(vectors, codes).view(4, 6)
    batches, half_norms = vectors.view(4, 6, -1), codes.square().sum(1) / 2
    assert torch.equal(torch.func.vmap(nearest_code, (0, None))(batches, codes), expected)
    found = torch.func.vmap(codes_op.operator, (0, None, None))(batches, codes, half_norms)
    assert torch.equal(found, expected)
    many = codes.expand(4, -1, -1).clone()
    norms = half_norms.expand(4, -1).clone()
    assert torch.equal(torch.func.vmap(codes_op.operator)(batches, many, norms), expected)
    features, missing, ids = (a.unflatten(0, (4, 6)) for a in make_events(24, torch.float64, "cpu"))
    expected = event_tokens(*make_events(24, torch.float64, "cpu"), **BINS).view(4, 6, 20)
    assert torch.equal(torch.func.vmap(lambda *a: event_tokens(*a, **BINS))(features, missing, ids), expected)
    by_operator = torch.func.vmap(lambda *a: tokens_op.operator(*a, *FLAT))
    assert torch.equal(by_operator(features, missing, ids), expected)
    _, tangent = torch.func.jvp(lambda v: codes[nearest_code(v, codes)] * v, (vectors,), (vectors,))
    torch.testing.assert_close(tangent, codes[nearest_code(vectors, codes)] * vectors)


class Tokens(nn.Module):
    """Both operators in one network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", vectors_and_codes(1, torch.float32, "cpu", d=4)[1])

    def forward(self, features: Tensor, missing: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        found = event_tokens(features, missing, ids.to(torch.int8), **BINS)
        return found, nearest_code(features.flatten(0, 1), self.codes).view(ids.shape)


def finite_events(num: int) -> tuple[Tensor, ...]:
    features, missing, ids = make_events(num, torch.float32, "cpu")
    return features.nan_to_num(1.0, 9.0, -9.0), missing.nan_to_num(1.0, 9.0, -9.0), ids.long()


def test_compiles_into_one_graph() -> None:
    model, events = Tokens(), finite_events(13)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert all(torch.equal(f, e) for f, e in zip(compiled(*events), model(*events), strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path, names = Tokens().eval(), tmp_path / "model.onnx", ["features", "missing", "ids"]
    exported = torch.export.export(model, finite_events(5))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
    torch.onnx.export(
        model, finite_events(5), path, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (1, 6):
        events = finite_events(num)
        found = session.run(None, {name: a.numpy() for name, a in zip(names, events, strict=True)})
        for f, e in zip(found, model(*events), strict=True):
            np.testing.assert_array_equal(f, e.numpy())


def test_autocast_keeps_float32() -> None:
    vectors, codes = vectors_and_codes(20, torch.float32, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest_code(vectors.bfloat16(), codes)
    assert torch.equal(found, nearest_code(vectors.bfloat16().float(), codes))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", torch.zeros(4, 18), r"features must have the shape \(N, P, 4\) .* not \(4, 18\)"),
        ("features", torch.zeros(4, 18, 3), r"not \(4, 18, 3\)"),
        ("features", torch.zeros(4, 1025, 4), "P up to 1024"),
        ("features", torch.zeros(4, 18, 4).half(), "must be float32 or float64, not torch.float16"),
        ("missing", torch.zeros(3, 2), r"missing must have the shape \(4, 2\), not \(3, 2\)"),
        ("missing", torch.zeros(4, 2).double(), "missing must be torch.float32 on cpu, not torch.float64"),
        ("ids", torch.zeros(4, 17, dtype=torch.int8), r"ids must have the shape \(4, 18\), not \(4, 17\)"),
        ("ids", torch.zeros(4, 18, dtype=torch.int64), "ids must be torch.int8 on cpu, not torch.int64"),
        ("ids", torch.zeros(4, 18, dtype=torch.int8, device="meta"), "not torch.int8 on meta"),
        ("num_bins", 1, "num_bins must be from 2 to 16, not 1"),
        ("num_bins", 17, "num_bins must be from 2 to 16, not 17"),
        ("pt_edges", [1.0] * 5, "pt_edges must be at most 4 finite numbers for 5 bins"),
        ("met_edges", [1.0, float("nan")], "met_edges must be at most 4 finite numbers"),
    ],
)  # fmt: skip
def test_event_tokens_refuses(name: str, value: Any, message: str) -> None:
    good = {
        "features": torch.zeros(4, 18, 4),
        "missing": torch.zeros(4, 2),
        "ids": torch.zeros(4, 18, dtype=torch.int8),
        **BINS,
    }
    with pytest.raises(ValueError, match=f"event_tokens: .*{message}"):
        event_tokens(**good | {name: value})


@pytest.mark.parametrize(
    ("vectors", "codes", "message"),
    [
        (torch.zeros(4), torch.zeros(2, 3), r"vectors must have the shape \(N, D\), not \(4,\)"),
        (torch.zeros(4, 3).half(), torch.zeros(2, 3), "must be float32 or float64, not torch.float16"),
        (torch.zeros(4, 3), torch.zeros(2, 4), r"codes must have the shape \(K, 3\) .* not \(2, 4\)"),
        (torch.zeros(4, 3), torch.zeros(0, 3), r"one code or more, not \(0, 3\)"),
        (torch.zeros(4, 3), torch.zeros(2, 3).double(), "codes is torch.float64 on cpu, but vectors is"),
        (torch.zeros(4, 3), torch.zeros(2, 3, device="meta"), "codes is torch.float32 on meta"),
    ],
)  # fmt: skip
def test_nearest_code_refuses(vectors: Tensor, codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"nearest_code: .*{message}"):
        nearest_code(vectors, codes)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(4, 18)),
        (0, torch.zeros(4, 18, 3)),
        (0, torch.zeros(4, 1025, 4)),
        (0, torch.zeros(4, 18, 4, dtype=torch.float64)),
        (1, torch.zeros(3, 2)),
        (1, torch.zeros(4, 3)),
        (2, torch.zeros(4, 18)),
        (2, torch.zeros(4, 17, dtype=torch.int8)),
        (4, [1.0] * 5),
        (8, 17),
        (8, 1),
    ],
)
def test_compiled_tokens_refuse(position: int, value: Any) -> None:
    args: list[Any] = [torch.zeros(4, 18, 4), torch.zeros(4, 2), torch.zeros(4, 18, dtype=torch.int8), *FLAT]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::event_tokens: "):
        tokens_op.operator(*args)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(4)),
        (0, torch.zeros(4, 2)),
        (0, torch.zeros(4, 3, dtype=torch.float16)),
        (1, torch.zeros(0, 3)),
        (1, torch.zeros(2, 3, dtype=torch.float64)),
        (2, torch.zeros(3)),
        (2, torch.zeros(2, 1)),
    ],
)
def test_compiled_nearest_refuses(position: int, value: Any) -> None:
    args: list[Any] = [torch.zeros(4, 3), torch.zeros(2, 3), torch.zeros(2)]
    args[position] = value
    with pytest.raises(RuntimeError, match="hep::nearest_code: "):
        codes_op.operator(*args)
