"""Compiled kernels for the operators of `hep_shared.ops`; import them through there.

The wheel holds up to two libraries: `libhepk_cpu.so` with code for every x86-64 level in one file, and
`libhepk_cuda.so`, which is only loaded into a torch that sees a CUDA device. Either may be absent: on a
machine without a compiler the wheel is pure Python and the reference operators serve.
"""

import ctypes
import os
from functools import lru_cache
from importlib import resources
from pathlib import Path

__version__ = "0.1.0"

LIBRARY_DIR = "HEP_SHARED_CUDA_LIB"  # a build folder, to try libraries that are not installed


def library(name: str) -> Path | None:
    """Find a library.

    Args:
        name: `cpu` or `cuda`.

    Returns:
        Its path, or None where it was not built.
    """
    folders = [Path(os.environ[LIBRARY_DIR])] if LIBRARY_DIR in os.environ else []
    # Not __file__: in an editable install the libraries lie in site-packages and the sources elsewhere.
    root = resources.files(__name__)
    folders += [Path(str(part)) / "lib" for part in getattr(root, "_paths", [root])]
    for folder in folders:
        path = folder / f"libhepk_{name}.so"
        if path.exists():
            return path
    return None


@lru_cache(maxsize=1)
def load() -> str:
    """Load the kernels into torch, once per process.

    Returns:
        What serves, such as `avx512` or `avx512, cuda`.

    Raises:
        ImportError: No library was built.
        OSError: A library does not fit this torch.
        ValueError: `HEP_SHARED_ISA` asks for an instruction set that this processor lacks.
    """
    import torch

    cpu, cuda = library("cpu"), library("cuda")
    if cpu is None:
        raise ImportError("hep-shared-cuda was installed without a native library")
    isa = ctypes.CDLL(str(cpu)).hepk_isa
    isa.restype = ctypes.c_char_p
    name: bytes | None = isa()
    if name is None:
        asked = os.environ["HEP_SHARED_ISA"]
        raise ValueError(f"HEP_SHARED_ISA is '{asked}', which is unknown or more than this processor has")
    # The CUDA library links libtorch_cuda, which a torch without CUDA does not have. It comes first: if it
    # does not fit, no operator has been replaced.
    use_cuda = cuda is not None and torch.version.cuda is not None and torch.cuda.is_available()
    if use_cuda:
        torch.ops.load_library(str(cuda))  # type: ignore[no-untyped-call]
    torch.ops.load_library(str(cpu))  # type: ignore[no-untyped-call]
    return name.decode() + (", cuda" if use_cuda else "")
