"""Mixed precision, gradient clipping and the guards around one optimizer step.

The gradients g are clipped to

    g min(1, c / |g|),    |g| the 2-norm over all parameters.

A NaN or Inf anywhere makes |g| non-finite, and clipping would spread it to every weight; hence |g| is looked
at before the optimizer moves.

References:
    Micikevicius et al., arXiv:1710.03740 (loss scaling for fp16; bf16 has the range of fp32 and needs none).
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hep_shared.errors import ConfigError, TrainingError, UserError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class StepInfo(NamedTuple):
    """What became of one optimizer step."""

    grad_norm: float
    """2-norm of the unscaled gradients before clipping."""
    skipped: bool
    """True when the norm was not finite and no weight was touched: leave schedule and EMA alone as well."""


class Amp:
    """Autocast, backward and a guarded optimizer step.

    Args:
        device: Device of the model.
        precision: Arithmetic of the forward pass; weights and gradients stay fp32.
        max_grad_norm: Clipping threshold c, or None for no clipping.
        max_bad_steps: This many skipped steps in a row end the training.
    """

    def __init__(
        self, device: torch.device, precision: Precision, max_grad_norm: float | None, max_bad_steps: int = 5
    ) -> None:
        if precision not in _DTYPES:
            raise ConfigError(f"precision is '{precision}'; choose one of {', '.join(_DTYPES)}.")
        self._device, self._precision = device, precision
        self._max_grad_norm, self._max_bad_steps = max_grad_norm, max_bad_steps
        # torch starts at 2^16, whose first overflows would count as bad steps; the scale grows by itself.
        self._scaler = torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=precision == "fp16")
        self._bad_steps = 0
        self.num_skipped = 0

    def autocast(self) -> torch.autocast:
        """Return the context for the forward pass and the loss."""
        return torch.autocast(
            self._device.type, dtype=_DTYPES[self._precision], enabled=self._precision != "fp32"
        )

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a (scaled, for fp16) loss."""
        torch.autograd.backward(self._scaler.scale(loss))

    def step(self, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> StepInfo:
        """Clip the gradients and step the optimizer, or skip when they are not finite.

        Under DistributedDataParallel all ranks hold the same reduced gradients and thus decide alike.

        Args:
            optimizer: Optimizer to step; the caller zeroes its gradients.
            parameters: Parameters whose gradients count in the norm.

        Returns:
            The norm and whether the step was skipped.

        Raises:
            TrainingError: After `max_bad_steps` skipped steps in a row.
        """
        trained = [parameter for parameter in parameters if parameter.grad is not None]
        if self._scaler.is_enabled():
            self._scaler.unscale_(optimizer)
        norm = get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        if self._max_grad_norm is not None:
            clip_grads_with_norm_(trained, self._max_grad_norm, norm)
        grad_norm = norm.item()  # the only wait for the device
        skipped = not math.isfinite(grad_norm)
        if not skipped:
            optimizer.step()  # not scaler.step, which would wait for the device a second time
        if self._scaler.is_enabled():
            self._scaler.update()
        self._bad_steps = self._bad_steps + 1 if skipped else 0
        self.num_skipped += skipped
        if self._bad_steps >= self._max_bad_steps:
            wider = "" if self._precision == "fp32" else " or set the precision to fp32"
            raise TrainingError(
                f"The gradient norm was {grad_norm} in {self._bad_steps} optimizer steps in a row; "
                f"lower the learning rate{wider} and resume from the last checkpoint."
            )
        return StepInfo(grad_norm, skipped)

    def state_dict(self) -> dict[str, Any]:
        """Return the loss scale and the counters of skipped steps."""
        return {
            "scaler": self._scaler.state_dict(),
            "bad_steps": self._bad_steps,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])
        self._bad_steps, self.num_skipped = state["bad_steps"], state["num_skipped"]


def resolve_device(name: str) -> torch.device:
    """Turn `--device` into a device that exists.

    Args:
        name: `auto` (CUDA if there is one, else the CPU), `cpu`, `cuda` or `cuda:N`.

    Returns:
        The device.

    Raises:
        UserError: If the name is none of these, or asks for a CUDA device that is absent.
    """
    kind, _, index = name.partition(":")
    if name not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise UserError(f"--device is '{name}'; choose auto, cpu, cuda or cuda:N with N a device number.")
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if num_devices else "cpu")
    if kind == "cuda" and int(index or 0) >= num_devices:
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU-only build"
        raise UserError(
            f"--device {name} was asked for, but PyTorch {torch.__version__} ({build}) sees "
            f"{num_devices} CUDA devices here; check CUDA_VISIBLE_DEVICES or use --device cpu."
        )
    return torch.device(name)


def check_loss(loss: Tensor, *, epoch: int, step: int, batch_id: str, checkpoint: str | None) -> float:
    """Stop a training whose loss is no longer a number.

    Args:
        loss: Scalar loss.
        epoch: Epoch of the batch.
        step: Optimizer step of the batch.
        batch_id: What identifies the batch, such as `run01.root entries 4096..5119`.
        checkpoint: Checkpoint to resume from, or None before the first one.

    Returns:
        The loss as a float, so that logging it does not wait for the device again.

    Raises:
        TrainingError: If the loss is NaN or infinite.
    """
    value = loss.item()
    if math.isfinite(value):
        return value
    remedy = f"resume from {checkpoint}" if checkpoint else "start again"
    raise TrainingError(
        f"The loss is {value} in epoch {epoch}, step {step}, batch {batch_id}; check these inputs, "
        f"lower the learning rate and {remedy}."
    )


@contextmanager
def explain_oom(remedy: str = "lower train.batch_size and raise train.accumulation_steps") -> Iterator[None]:
    """Turn running out of memory into a sentence that names what to change.

    Args:
        remedy: The option to change and how.

    Yields:
        Nothing.

    Raises:
        TrainingError: If PyTorch could not allocate device or host memory.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise TrainingError(f"The device has no memory left ({reason}); {remedy}.") from error
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # PyTorch has no type of its own for this one
            raise
        raise TrainingError(f"The computer has no memory left; {remedy}.") from error
