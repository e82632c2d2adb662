"""What a training loop needs of torch.distributed under torchrun; everything is a no-op for one process.

torchrun tells each process its place by RANK, WORLD_SIZE and LOCAL_RANK. When a rank dies, torchrun ends the
others and exits non-zero; ranks that wait for one on another machine give up after the timeout.

Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for a torchrun that restarts workers itself (`--max-restarts`): they
would otherwise meet keys of their predecessors in the agent's store (pytorch issue 135712).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process's place among all that train together."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def _reduce(self, values: list[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=op)
        result: list[float] = tensor.tolist()
        return result

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank, so that all stop at the same step."""
        return self._reduce([float(flag)], dist.ReduceOp.MAX)[0] > 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Add values over the ranks; every rank passes the same keys."""
        keys = sorted(values)
        return dict(zip(keys, self._reduce([values[key] for key in keys], dist.ReduceOp.SUM), strict=True))

    def mean(self, values: Mapping[str, float], weight: float = 1.0) -> dict[str, float]:
        """Average values over the ranks.

        Args:
            values: Means over this rank's share; every rank passes the same keys.
            weight: Size of the share, such as its number of events; with 0 the values do not count, not even
                NaN.

        Returns:
            Weighted means over all ranks, NaN when no rank has any weight.
        """
        keys = sorted(values)
        weighted = [values[key] * weight if weight else 0.0 for key in keys]
        *sums, total = self._reduce([*weighted, weight], dist.ReduceOp.SUM)
        return {key: value / total if total else float("nan") for key, value in zip(keys, sums, strict=True)}

    def gather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Put the rows of all ranks one after another, on every rank.

        Args:
            rows: Array (n, ...); n may differ between the ranks, the other axes may not.

        Returns:
            Array (sum of n, ...), rank by rank.
        """
        if self.size == 1:
            return rows
        parts: list[NDArray[Any]] = [rows] * self.size
        dist.all_gather_object(parts, rows)
        return np.concatenate(parts)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module, find_unused: bool = False) -> nn.Module:
        """Return the model with its gradients averaged over the ranks.

        Args:
            model: Model on this rank's device; all ranks start from the parameters of rank 0.
            find_unused: Whether some parameters get no gradient in some steps.

        Returns:
            The DistributedDataParallel wrapper, or the model itself for one process.
        """
        if self.size == 1:
            return model
        device_ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, find_unused_parameters=find_unused)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of rank 0.

        Running statistics follow the events of their own rank: without this, each rank would validate another
        network than the one that rank 0 saves.

        Args:
            model: The module to validate, the same on all ranks.
        """
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    def close(self) -> None:
        """Leave the group after a successful run; after an error just exit, and torchrun ends the others."""
        if self.size > 1:
            # Threads of gloo outlive the group where a wrapped model holds it, and let go of the last tensors
            # under the lock of the interpreter: they are given the time to, before the interpreter may end.
            dist.barrier()
            dist.destroy_process_group()


def init_world(device: torch.device) -> World:
    """Join the process group that torchrun describes in the environment.

    Args:
        device: Device asked for; with CUDA each rank takes the device of its LOCAL_RANK.

    Returns:
        This process's place; size 1 without torchrun.
    """
    rank, size, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    if size == 1:
        return World(0, 1, 0, device)
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    return World(rank, size, local_rank, device)
