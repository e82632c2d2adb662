"""Which implementation of an operator serves: the compiled one, or its PyTorch reference.

`HEP_SHARED_KERNELS` chooses, once per process:

- `auto` (default): compiled where the package `hep-shared-cuda` is installed with a library for this
  machine; one log line says what was found.
- `native`: compiled, and an error where it is absent or lacks the operator.
- `reference`: PyTorch only.

An operator is registered with torch.library: schema and reference here, so that it exists with or without the
extension; the extension adds kernels for the CPU and CUDA dispatch keys, which then win.

The public functions call the reference where a compiled operator would be wrong or unknown
(`must_use_reference`): while exporting (ONNX knows no operator of ours), inside torch.func transforms and in
forward-mode differentiation, where operators with a registered backward silently give zero tangents (seen on
torch 2.11 and 2.15).
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from hep_shared.errors import UserError

NAMESPACE = "hep"
CHOICES = ("auto", "native", "reference")
VARIABLE = "HEP_SHARED_KERNELS"
log = logging.getLogger(__name__)

_library = torch.library.Library(NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def choice() -> str:
    """What `HEP_SHARED_KERNELS` asks for.

    Returns:
        `auto`, `native` or `reference`.

    Raises:
        UserError: The variable has another value.
    """
    found = os.environ.get(VARIABLE, "auto")
    if found not in CHOICES:
        raise UserError(f"{VARIABLE} is '{found}'; choose one of {', '.join(CHOICES)}.")
    return found


@lru_cache(maxsize=1)
def backend() -> str:
    """Load the compiled kernels if they are wanted and there.

    Returns:
        `reference`, or what the extension calls itself, such as `native (avx512)`.

    Raises:
        UserError: `native` was asked for and is absent, or the variable has an unknown value.
    """
    wanted = choice()
    if wanted == "reference":
        return "reference"
    try:
        import hep_shared_cuda

        found: str = hep_shared_cuda.load()
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        if wanted == "native":
            raise UserError(
                f"{VARIABLE} is 'native', but the compiled kernels cannot be used ({reason}); install "
                f"hep-shared-cuda with a C++ compiler at hand, or set {VARIABLE}=auto."
            ) from error
        log.info("compiled kernels are not available (%s): the PyTorch reference serves", reason)
        return "reference"
    log.info("compiled kernels: %s", found)
    return f"native ({found})"


_plain = False  # inside `references`


@contextmanager
def references() -> Iterator[None]:
    """Let the PyTorch references serve inside the block, to measure or to test what the kernels change.

    The whole process takes part; calls of `torch.ops.hep` themselves do not.
    """
    global _plain
    former, _plain = _plain, True
    try:
        yield
    finally:
        _plain = former


def must_use_reference() -> bool:
    """Whether the operator call must be plain PyTorch: while exporting, in torch.func, in forward mode.

    The two checks of automatic differentiation are private names of torch; tests pin them on the oldest and
    the newest version supported. They must not be skipped while compiling: dynamo traces them, and a compiled
    jvp would be zero without them.
    """
    return (
        _plain
        or torch.compiler.is_exporting()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def register(
    name: str,
    schema: str,
    reference: Callable[..., Tensor],
    *,
    fake: Callable[..., Tensor],
    num_rows: int,
    backward: Callable[..., Any] | None,
) -> Callable[..., Tensor]:
    """Define an operator, and look for compiled kernels the first time.

    Args:
        name: Name in the namespace `hep`.
        schema: Arguments and results in the language of torch.library, without the name; tensors first.
        reference: Plain PyTorch with contiguous results; serves on every device without a kernel.
        fake: Gives results of the right shape, dtype and device without computing.
        num_rows: The first `num_rows` arguments and the result have one row per item, and rows do not know
            each other: a batch of calls is one call with more rows. All rows share the arguments after them.
        backward: Derivative `(ctx, grad)`, made of operators or differentiable PyTorch; `ctx.saved_tensors`
            are the tensors and `ctx.numbers` the other arguments. `recomputing` makes one. None for a result
            of integers, which has no derivative.

    Returns:
        The operator.

    Raises:
        UserError: Native kernels were asked for, and there is none for this operator.
    """
    qualified = f"{NAMESPACE}::{name}"
    _library.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _library.impl(name, reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(qualified, fake, lib=_library)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=_setup_context, lib=_library)
    if backend() != "reference" and not torch._C._dispatch_has_kernel_for_dispatch_key(qualified, "CPU"):
        problem = f"the installed hep-shared-cuda has no kernel for {qualified}"
        if choice() == "native":
            raise UserError(
                f"{VARIABLE} is 'native', but {problem}; install the version that belongs to hep-shared."
            )
        log.info("%s: the PyTorch reference serves", problem)
    operator: Callable[..., Tensor] = getattr(getattr(torch.ops, NAMESPACE), name).default
    torch.library.register_vmap(qualified, _batching_rule(operator, num_rows), lib=_library)
    return operator


def recomputing(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Make a backward that computes the result again and differentiates on the way.

    Args:
        function: Differentiable PyTorch with the arguments of the operator.

    Returns:
        A backward for `register`, itself differentiable.
    """

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # a second derivative is asked for
        with torch.enable_grad():
            # Aliases: if one argument was computed from another, the way between them is not ours to follow.
            tensors = [t.view_as(t) if t.requires_grad else t for t in ctx.saved_tensors]
            wanted = [t for t in tensors if t.requires_grad]
            result = function(*tensors, *ctx.numbers)
            found = iter(torch.autograd.grad(result, wanted, grad, create_graph=again, allow_unused=True))
        return *(next(found) if t.requires_grad else None for t in tensors), *(None for _ in ctx.numbers)

    return backward


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [argument for argument in inputs if isinstance(argument, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.numbers = inputs[len(tensors) :]


def like_first(first: Tensor, *others: Any) -> Tensor:
    """Shape of a result that is like the first argument, for `register`."""
    return torch.empty_like(first, memory_format=torch.contiguous_format)


def _batching_rule(operator: Callable[..., Tensor], num_rows: int) -> Callable[..., tuple[Tensor, int]]:
    def rule(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
        size: int = info.batch_size
        has_batch = [isinstance(dim, int) for dim in in_dims]  # a list of numbers comes with a list of None
        args = tuple(
            arg.movedim(dim, 0) if has else arg
            for arg, dim, has in zip(args, in_dims, has_batch, strict=True)
        )
        if any(has_batch[num_rows:]):  # nothing is shared: one call after the other
            calls = (
                [arg[b] if has else arg for arg, has in zip(args, has_batch, strict=True)]
                for b in range(size)
            )
            return torch.stack([operator(*call) for call in calls]), 0
        rows = [
            (arg if has else arg.expand(size, *arg.shape)).flatten(0, 1)
            for arg, has in zip(args[:num_rows], has_batch, strict=False)
        ]
        result = operator(*rows, *args[num_rows:])
        return result.view(size, rows[0].shape[0] // size, *result.shape[1:]), 0

    return rule


def under_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast half-precision tensors to float32 under autocast, as torch does where digits matter."""
    if not torch.is_autocast_enabled(tensors[0].device.type):
        return tensors
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


def without_autocast(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a reference compute in the dtype of its arguments: its matrix products would be in half precision.

    Args:
        function: Reference whose first argument is a tensor.

    Returns:
        The same function, during which autocast is off.
    """

    @wraps(function)
    def run(first: Tensor, *args: Any, **options: Any) -> Tensor:
        device = first.device.type
        if not torch.is_autocast_enabled(device):
            return function(first, *args, **options)
        with torch.autocast(device, enabled=False):
            return function(first, *args, **options)

    return run


def require(condition: bool, operator: str, message: str) -> None:
    """Refuse arguments with a sentence that names the operator."""
    if not condition:
        raise ValueError(f"{operator}: {message}")
