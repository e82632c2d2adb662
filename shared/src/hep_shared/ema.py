"""Exponential moving average of a model's weights.

    w_ema <- d_n w_ema + (1 - d_n) w,    d_n = min(decay, (1 + n) / (10 + n))

with n the number of updates made before: the first one copies the model (d_0 = 0), and the average then
follows it closely and slows down to `decay`.

Parameters are averaged. Buffers (running statistics, lookup tables, integer counters) are copied from the
model: a running statistic is an average already, and a table has no meaningful mean.

References:
    Polyak and Juditsky, SIAM J. Control Optim. 30 (1992) 838: averaging of the iterates.
    tf.train.ExponentialMovingAverage, argument `num_updates`: the warm-up of the decay.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Ema:
    """The averaged copy of a model, updated once after each optimizer step.

    Args:
        model: The model in training, without its DistributedDataParallel wrapper.
        decay: Final decay d per update, in [0, 1].
        warmup: Whether the decay grows from 0.1 up to `decay`.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        self._model, self._decay, self._warmup = model, decay, warmup
        # use_buffers=False is torch's name for copying the buffers instead of averaging them.
        self._average = AveragedModel(model, multi_avg_fn=self._blend)
        self._average.requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """The averaged model; evaluate and export this one."""
        return self._average.module

    @property
    def num_updates(self) -> int:
        """Number of updates made so far."""
        return int(self._average.n_averaged)

    def _blend(
        self, averaged: Sequence[Tensor], current: Sequence[Tensor], num_averaged: Tensor | int
    ) -> None:
        n = int(num_averaged)
        decay = min(self._decay, (1 + n) / (10 + n)) if self._warmup else self._decay
        get_ema_multi_avg_fn(decay)(averaged, current, num_averaged)  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Blend the model's parameters into the average and copy its buffers."""
        self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights, the buffers and the update counter."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, bit by bit."""
        self._average.load_state_dict(state)
