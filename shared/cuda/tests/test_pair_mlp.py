"""Triton kernels of `pair_mlp`: run by the interpreter, compiled for two architectures, and on a GPU."""

import copy
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hep_shared.ops import pair_mlp as op

# In a process of its own, as the variable counts when Triton is imported. Half precision is float16 here: the
# interpreter is wrong for bfloat16. The rows are several tiles, the last one not full, for two programs.
INTERPRETED = """if True:
    import copy, json, torch
    from itertools import pairwise
    from torch import nn
    from hep_shared.ops import pair_mlp as op
    from hep_shared_cuda import pair_mlp as kernels

    kernels._PROGRAMS_PER_PROCESSOR = 2
    interpreted = op.Passes(kernels.moments, kernels.results, kernels.sums)

    def run(passes, dtype, half, linears, norms, rows, slope):
        lines, scales = copy.deepcopy((linears, norms))
        lines, scales = lines.to(dtype), scales if scales is None else scales.to(dtype)
        op._fits_kernels, op._kernels = lambda *a: passes is not None, lambda: passes
        with torch.autocast("cpu", torch.float16, enabled=half):
            result = op.pair_mlp(rows.to(dtype), lines, scales)
        result.backward(slope.to(result.dtype))
        parameters = [*lines.parameters(), *(() if scales is None else scales.parameters())]
        buffers = [] if scales is None else [*scales.buffers()]
        return [result.detach(), *(p.grad for p in parameters), *buffers]

    def largest_error(mode, half, widths, num):
        torch.manual_seed(1)
        linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        norms = None if mode == "none" else nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        for norm in norms or ():
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.train(mode == "train")
        rest = half, linears, norms, 5 + torch.randn(num, widths[0]), torch.randn(num, widths[-1])
        pairs = zip(
            run(interpreted, torch.float32, *rest),
            run(None, torch.float32 if half else torch.float64, *rest),
            strict=True,
        )
        return max(float((f.double() - e).abs().max() / (1 + e.double().abs().max())) for f, e in pairs)

    print(json.dumps([
        largest_error("train", False, [4, 18, 16, 3], 135),
        largest_error("train", True, [3, 16, 2], 70),
        largest_error("eval", False, [1, 5, 3], 65),
        largest_error("none", False, [4, 16, 17], 5),
    ]))"""


def test_interpreted_kernels_agree(run_python: Callable[..., Any]) -> None:
    """Against the plain passes, in float64 where the factors are not rounded."""
    pytest.importorskip("triton")
    trained, half, evaluated, alone = run_python(
        INTERPRETED, TRITON_INTERPRET="1", HEP_SHARED_KERNELS="reference"
    )
    assert max(trained, evaluated, alone) < 1e-5
    assert half < 2e-3


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", ["results", "moments", "sums"])
def test_kernels_compile(name: str, arch: int, tmp_path: Path) -> None:
    """For the widths of the pair bias, within the shared memory of such a GPU; on sm_90 without spilling."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hep_shared_cuda import pair_mlp as kernels

    linears = [nn.Linear(a, b) for a, b in pairwise((4, 64, 64, 64, 8))]
    norms = [nn.BatchNorm1d(width).eval() for width in (4, 64, 64, 64, 8)]
    network = op._standardise(torch.zeros(2, 4), linears, norms, torch.float32, op.REFERENCE)
    tiling = kernels._BACKWARD if name == "sums" else kernels._FORWARD
    constants = kernels._pack(network).options | tiling
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion")}
    constants |= {"NUM_RESULTS": 8, "NUM_LAYERS": 4, "DEPTH": 4, "LEVEL": 1}
    kernel = getattr(kernels, f"{name}_kernel")
    numbers = ("num_rows", "num_tiles")
    signature = {
        argument: "constexpr" if argument in constants else "i32" if argument in numbers else "*fp32"
        for argument in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind == "*fp32"
    }
    constants = {key: value for key, value in constants.items() if key in signature}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert f".target sm_{arch}" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 99 * 1024
    inspector = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if arch == 90 and inspector.exists():
        (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
        command = [inspector, "-res-usage", tmp_path / "kernel.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert re.findall(r"STACK:(\d+)", done.stdout + done.stderr) == ["0"]


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["train", "eval", "none"])
@pytest.mark.parametrize("num", [2, 63, 100_001])
def test_kernels_on_a_gpu(mode: str, num: int) -> None:
    """Against float64 autograd through the plain layers."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pytest.importorskip("triton")
    torch.manual_seed(0)
    widths = (4, 64, 64, 64, 8)
    linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths)).cuda()
    norms = None if mode == "none" else nn.ModuleList(nn.BatchNorm1d(width) for width in widths).cuda()
    for norm in norms or ():
        norm.train(mode == "train")
    exact = copy.deepcopy((linears, norms))
    for module in exact:
        if module is not None:
            module.double()
    rows, slope = 5 + torch.randn(num, 4, device="cuda"), torch.randn(num, 8, device="cuda")
    assert op.is_fused(rows, linears, norms)
    found, expected = op.pair_mlp(rows, linears, norms), op.plain_layers(rows.double(), *exact)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    found.backward(slope)
    expected.backward(slope.double())

    def tensors(linears: nn.Module, norms: nn.Module | None) -> list[Tensor | None]:
        modules = [linears] if norms is None else [linears, norms]
        gradients = [parameter.grad for module in modules for parameter in module.parameters()]
        return [*gradients, *(buffer for module in modules for buffer in module.buffers())]

    for one, other in zip(tensors(linears, norms), tensors(*exact), strict=True):
        assert one is not None
        assert other is not None
        scale = float(other.double().abs().max()) + num**0.5
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=1e-4 * scale)
