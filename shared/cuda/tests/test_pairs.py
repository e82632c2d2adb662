"""Features of pairs: values, derivatives, transforms, export, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hep_shared.ops import pairs
from hep_shared.ops.pairs import Particles, pair_features

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own jvp

FLOOR, DELTA_FLOOR = 1e-8, 1e-3
# A logarithm of up to 30 and what enters it, each to some roundings.
ATOL = {torch.float32: 5e-6, torch.float64: 1e-12}
SIZES = (0, 1, 7, 8, 9, 16, 17, 300)


def make_particles(
    num: int, dtype: torch.dtype = torch.float64, device: str = "cpu", *, rapidity: bool = True
) -> Particles:
    """Massive and massless particles in all directions."""
    random = torch.Generator().manual_seed(5)
    pt = 0.3 + 50 * torch.rand(num, dtype=torch.float64, generator=random)
    y, phi, mass = (torch.randn(num, dtype=torch.float64, generator=random) for _ in range(3))
    phi, mass2 = 3 * phi, mass.clamp(min=0).square()
    if rapidity:
        mt = torch.sqrt(mass2 + pt * pt)
        scales = (pt, mt, pt, mt, mass2)
    else:
        momentum = pt * y.cosh()
        scales = (pt, torch.sqrt(mass2 + momentum * momentum), momentum, pt, mass2)
    directions = (y.sinh(), y.cosh(), phi.sin(), phi.cos())
    return Particles(*(s.to(device, dtype) for s in scales), *(d.to(device) for d in directions))


def make_pairs(num: int, particles: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(num)
    first, second = (torch.randint(0, particles, (num,), generator=random).to(device) for _ in range(2))
    return first, second


def four_vectors(particles: Particles, *, rapidity: bool) -> Tensor:
    """E, px, py, pz, (M, 4), from pT, m^2 and directions."""
    pt, _, _, _, mass2, sinh, cosh, sin, cos = (values.double().cpu() for values in particles)
    if rapidity:
        mt = torch.sqrt(mass2 + pt * pt)
        return torch.stack([mt * cosh, pt * cos, pt * sin, mt * sinh], dim=1)
    energy = torch.sqrt(mass2 + (pt * cosh) ** 2)
    return torch.stack([energy, pt * cos, pt * sin, pt * sinh], dim=1)


def rows_of(particles: Particles) -> tuple[Tensor, Tensor]:
    return torch.stack(particles[:5], dim=1), torch.stack(particles[5:], dim=1)


@pytest.mark.parametrize("rapidity", [True, False])
def test_is_the_formula(rapidity: bool, dtype: torch.dtype, device: str) -> None:
    """Against sums of four-vectors and angles in float64."""
    particles = make_particles(60, dtype, device, rapidity=rapidity)
    first, second = torch.tril_indices(60, 60, offset=-1, device=device)
    found = pair_features(particles, first, second, floor=FLOOR)
    assert (found.shape, found.dtype, found.device.type) == ((60 * 59 // 2, 4), dtype, device)
    p4 = four_vectors(particles, rapidity=rapidity)
    total = p4[first.cpu()] + p4[second.cpu()]
    mass2 = total[:, 0].square() - total[:, 1:].square().sum(1)
    y, phi = particles.sinh_y.cpu().asinh(), torch.atan2(particles.sin_phi, particles.cos_phi).cpu()
    dy, dphi = (values[first.cpu()] - values[second.cpu()] for values in (y, phi))
    dphi = torch.remainder(dphi + torch.pi, 2 * torch.pi) - torch.pi
    delta = torch.hypot(dy, dphi)
    pt = particles.pt.double().cpu()
    smaller = torch.minimum(pt[first.cpu()], pt[second.cpu()])
    share = smaller / (pt[first.cpu()] + pt[second.cpu()])
    expected = torch.stack([smaller * delta, share, delta, mass2], dim=1).clamp(min=FLOOR).log()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9  # the four-vectors cancel, and m^2 is rounded
    torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("delta_floor", [0.0, DELTA_FLOOR])
def test_compiled_agrees_with_reference(delta_floor: float, dtype: torch.dtype, device: str) -> None:
    for num in SIZES:
        particles = make_particles(40, dtype, device, rapidity=num % 2 == 0)
        arguments = (*make_pairs(num, 40, device), *rows_of(particles), FLOOR, delta_floor)
        found, expected = pairs.operator(*arguments), pairs.reference(*arguments)
        assert (found.shape, found.dtype) == ((num, 4), dtype)
        torch.testing.assert_close(found, expected, rtol=0, atol=ATOL[dtype])
        taken = Particles(*(values for values in particles))
        public = pair_features(taken, *arguments[:2], floor=FLOOR, delta_floor=delta_floor)
        assert torch.equal(public, found)


def test_limits(dtype: torch.dtype, device: str) -> None:
    """A particle with itself, opposite ones, one at rest, and numbers that are none."""
    zero, one = (torch.full((6,), v, dtype=torch.float64, device=device) for v in (0.0, 1.0))
    pt, sinh, sin, cos = one.clone(), zero.clone(), zero.clone(), one.clone()
    cos[1] = -1.0  # behind
    pt[2], cos[2] = 0.0, 0.0  # no direction
    sinh[3] = 1e18  # along the beam
    pt[4], sinh[5] = torch.nan, torch.nan
    cosh = torch.sqrt(1 + sinh * sinh)
    mass2 = zero.to(dtype)
    pt = pt.to(dtype)
    particles = Particles(pt, pt, pt, pt, mass2, sinh, cosh, sin, cos)
    first = torch.zeros(6, dtype=torch.long, device=device)
    found = pair_features(particles, first, torch.arange(6, device=device), floor=FLOOR).double().cpu()
    log = torch.tensor([FLOOR, 0.5, torch.pi, 4.0, 2e18, 1.0], dtype=torch.float64).log()
    lowest, half, pi, four = log[:4]
    assert_close = torch.testing.assert_close
    assert_close(found[0], torch.stack([lowest, half, lowest, lowest]), rtol=1e-6, atol=0)
    assert_close(found[1], torch.stack([pi, half, pi, four]), rtol=1e-6, atol=1e-6)
    assert_close(found[2, [0, 1, 3]], lowest.expand(3), rtol=1e-6, atol=0)
    assert_close(found[3, 2], log[4].log(), rtol=1e-6, atol=0)
    assert found[4, [0, 1, 3]].isnan().all()
    assert found[5, [0, 2, 3]].isnan().all()


@pytest.mark.usefixtures("native")
def test_indices_beyond_the_particles_read_nothing(dtype: torch.dtype, device: str) -> None:
    first = torch.tensor([0, 40, -1, 3, 2**40, 5], device=device)
    rows = rows_of(make_particles(40, dtype, device))
    found = pairs.operator(first, first.flip(0), *rows, FLOOR, 0.0)
    assert found.isnan().all(dim=1).tolist() == [False, True, True, True, True, False]


def test_strides_do_not_matter(dtype: torch.dtype, device: str) -> None:
    first, second = torch.stack(make_pairs(33, 40, device), dim=1).unbind(1)
    scales, directions = (
        rows.T.contiguous().T for rows in rows_of(make_particles(40, dtype, device, rapidity=False))
    )
    assert not any(t.is_contiguous() for t in (first, second, scales, directions))
    found = pairs.operator(first, second, scales, directions, FLOOR, 0.0)
    copies = (t.contiguous() for t in (first, second, scales, directions))
    assert torch.equal(found, pairs.operator(*copies, FLOOR, 0.0))


def test_number_of_threads_does_not_matter(by_threads: Callable[..., list[Any]]) -> None:
    arguments = (*make_pairs(3001, 40), *rows_of(make_particles(40, torch.float32)), FLOOR, 0.0)
    results = by_threads(lambda: pairs.operator(*arguments))
    assert torch.equal(*results)


@pytest.mark.usefixtures("native")
def test_each_instruction_set(isa: str, tmp_path: Path, run_python: Callable[..., Any]) -> None:
    inputs = [
        (*make_pairs(num, 40), *rows_of(make_particles(40, dtype, rapidity=rapidity)), FLOOR, 0.0)
        for num in (1, 5, 130)
        for dtype in ATOL
        for rapidity in (True, False)
    ]
    torch.save(inputs, tmp_path / "in.pt")
    code = f"""if True:
        import json, os, torch
        from hep_shared.ops._backend import backend
        from hep_shared.ops import pairs
        os.chdir({str(tmp_path)!r})
        torch.save([pairs.operator(*arguments) for arguments in torch.load("in.pt")], "out.pt")
        print(json.dumps(backend()))"""
    assert run_python(code, HEP_SHARED_ISA=isa).startswith(f"native ({isa}")
    results = torch.load(tmp_path / "out.pt", weights_only=True)
    for arguments, found in zip(inputs, results, strict=True):
        expected = pairs.reference(*arguments)
        torch.testing.assert_close(found, expected, rtol=0, atol=ATOL[found.dtype])


def run(*rows: Tensor) -> Tensor:
    """Pairs of three particles as a function of their quantities."""
    first, second = torch.tril_indices(3, 3)
    return pair_features(Particles(*rows), first, second, floor=FLOOR, delta_floor=DELTA_FLOOR)


def massive_particles() -> Particles:
    """At m = 0 a particle with itself is at the lower limit, where there is no derivative."""
    particles = make_particles(3)
    return particles._replace(mass2=particles.mass2 + 0.5)


def test_derivatives() -> None:
    rows = tuple(t.requires_grad_() for t in massive_particles())
    assert torch.autograd.gradcheck(run, rows, atol=1e-4, rtol=1e-4)
    assert torch.autograd.gradgradcheck(run, rows, fast_mode=True, atol=1e-3, rtol=1e-3)
    found = torch.autograd.grad(run(*rows).sum(), rows)
    assert all(grad.isfinite().all() for grad in found), "a particle with itself has a derivative"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # inside of opcheck
def test_opcheck() -> None:
    scales, directions = (t.detach().requires_grad_() for t in rows_of(make_particles(6)))
    torch.library.opcheck(pairs.operator, (*make_pairs(5, 6), scales, directions, FLOOR, DELTA_FLOOR))


def test_forward_mode_is_not_zero() -> None:
    rows = tuple(massive_particles())
    tangents = tuple(torch.ones_like(t) for t in rows)
    ahead, behind = (run(*(t + step for t in rows)) for step in (1e-5, -1e-5))
    expected = (ahead - behind) / 2e-5
    _, found = torch.func.jvp(run, rows, tangents)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(t, s) for t, s in zip(rows, tangents, strict=True)]
        torch.testing.assert_close(forward_ad.unpack_dual(run(*duals)).tangent, found)


def test_function_transforms() -> None:
    """Inside transforms the reference serves, and the operator can be batched by itself."""
    particles = make_particles(12)
    batches = tuple(values.view(4, 3) for values in particles)
    expected = torch.stack([run(*(values[b] for values in batches)) for b in range(4)])
    torch.testing.assert_close(torch.func.vmap(run)(*batches), expected, rtol=0, atol=1e-12)
    first, second = (index.view(4, 6) for index in make_pairs(24, 12))
    rows = rows_of(particles)
    found = torch.func.vmap(lambda a, b: pairs.operator(a, b, *rows, FLOOR, 0.0))(first, second)
    torch.testing.assert_close(found[2], pairs.operator(first[2], second[2], *rows, FLOOR, 0.0))


def test_compiles_into_one_graph() -> None:
    rows = tuple(t.requires_grad_() for t in make_particles(3))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(f(*rows).square().sum(), rows) for f in (compiled, run))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e)


def test_autocast_keeps_float32() -> None:
    rows = make_particles(3, torch.float32)
    half = [t.bfloat16() if t.dtype == torch.float32 else t for t in rows]
    with torch.autocast("cpu", torch.bfloat16):
        found = run(*half)
    assert torch.equal(found, run(*(t.float() if t.dtype == torch.bfloat16 else t for t in half)))


class Triangle(nn.Module):
    """Pairs of all events as a list."""

    def forward(self, pt: Tensor, y: Tensor, phi: Tensor) -> Tensor:
        sinh, angle = y.double(), phi.double()
        directions = (sinh, torch.sqrt(1 + sinh.square()), torch.sin(angle), torch.cos(angle))
        flat = Particles(pt, pt, pt, pt, 0 * pt, *directions)
        first = torch.arange(pt.shape[0] - 1)
        return pair_features(flat, first, first + 1, floor=FLOOR)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, path, names = Triangle().eval(), tmp_path / "model.onnx", ["pt", "y", "phi"]

    def inputs(num: int) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(num)
        return tuple(torch.rand(num, generator=random) + 0.5 for _ in names)

    exported = torch.export.export(model, inputs(5))
    assert not [node for node in exported.graph.nodes if str(node.target).startswith("hep.")]
    shapes = {name: {0: torch.export.Dim.DYNAMIC} for name in names}
    torch.onnx.export(
        model, inputs(5), path, input_names=names, dynamic_shapes=shapes, dynamo=True, verbose=False
    )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for num in (2, 6):
        arguments = inputs(num)
        (found,) = session.run(None, {n: a.numpy() for n, a in zip(names, arguments, strict=True)})
        torch.testing.assert_close(torch.from_numpy(found), model(*arguments), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pt", torch.zeros(4, 1), r"the particles must have the shape \(M,\), not \(4, 1\)"),
        ("pt", torch.zeros(4).half(), "pt must be float32 or float64, not torch.float16"),
        ("energy", torch.zeros(3), r"energy must be \(4,\) torch.float32 on cpu, not \(3,\) torch.float32"),
        ("mass2", torch.zeros(4).double(), r"mass2 must be .* not \(4,\) torch.float64 on cpu"),
        ("sin_phi", torch.zeros(4), r"sin_phi must be \(4,\) torch.float64 on cpu, not \(4,\) torch.float32"),
        ("cos_phi", torch.zeros(4, device="meta").double(), "cos_phi must be .* torch.float64 on meta"),
        ("first", torch.zeros(2, 1, dtype=torch.long), r"first must be a list of int64 on cpu .* \(2, 1\)"),
        ("second", torch.zeros(3, dtype=torch.long), r"second must be .* as long as first, not \(3,\)"),
        ("second", torch.zeros(2, dtype=torch.int32), r"not \(2,\) torch.int32 on cpu"),
        ("floor", 0.0, "floor must be at least 1e-30 and delta_floor at least 0, not 0.0 and 0.0"),
        ("delta_floor", -1.0, "not 1e-08 and -1.0"),
    ],
)
def test_refuses(name: str, value: Any, message: str) -> None:
    particles = make_particles(4, torch.float32)
    call = {
        "first": torch.zeros(2, dtype=torch.long),
        "second": torch.zeros(2, dtype=torch.long),
        "floor": FLOOR,
        "delta_floor": 0.0,
    }
    if name in Particles._fields:
        particles = particles._replace(**{name: value})
    else:
        call[name] = value
    with pytest.raises(ValueError, match=f"pair_features: .*{message}"):
        pair_features(particles, **call)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, torch.zeros(3, dtype=torch.long)),
        (0, torch.zeros(2, dtype=torch.int32)),
        (0, torch.zeros(2, 1, dtype=torch.long)),
        (1, torch.zeros(2)),
        (2, torch.zeros(4, 4)),
        (2, torch.zeros(0, 5)),
        (2, torch.zeros(4, 5, dtype=torch.float16)),
        (3, torch.zeros(4, 4)),
        (3, torch.zeros(4, 5, dtype=torch.float64)),
        (3, torch.zeros(3, 4, dtype=torch.float64)),
        (4, 0.0),
        (5, -1.0),
    ],
)
def test_compiled_operator_refuses(position: int, value: Any) -> None:
    index = torch.zeros(2, dtype=torch.long)
    args: list[Any] = [index, index, *rows_of(make_particles(4, torch.float32)), FLOOR, 0.0]
    args[position] = value
    if position == 2 and len(value) == 0:
        args[3] = torch.zeros(0, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="hep::pair_features: "):
        pairs.operator(*args)
