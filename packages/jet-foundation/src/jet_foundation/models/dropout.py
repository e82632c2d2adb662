"""Dropout that costs little on a CPU.

A CPU draws 64 random bits about as fast as one Bernoulli number, and dropout needs one number per entry of
every attention matrix: a fifth of a training step. Here one draw serves four entries, 16 bits each, so the
probability is rounded to a multiple of 1/65536.

Dimensions: ... any.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 2**16
_PER_DRAW = 4  # 16-bit numbers in a draw of 64 bits


def dropout(x: Tensor, probability: float, *, training: bool) -> Tensor:
    """Zero entries at random and scale the others so that the mean stays.

    Args:
        x: Any tensor.
        probability: Probability of zeroing an entry.
        training: Without it, x is returned as it is.

    Returns:
        Tensor of the same shape.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, probability, training=True)
    kept, scale = draw_kept(x.numel(), probability)
    return x * (kept.view(x.shape) * scale).to(x.dtype)


def draw_kept(num: int, probability: float) -> tuple[Tensor, float]:
    """Draw which entries dropout keeps, on a CPU.

    Args:
        num: Number of entries.
        probability: Probability of zeroing an entry.

    Returns:
        True where an entry is kept, (num,), and the factor that keeps the mean.
    """
    dropped = round(probability * _LEVELS)
    draws = torch.empty(-(-num // _PER_DRAW), dtype=torch.int64)
    draws.random_(-(2**63), None)
    kept = draws.view(torch.int16)[:num] >= dropped - _LEVELS // 2
    return kept, _LEVELS / (_LEVELS - dropped)


class Dropout(nn.Module):
    """Module form of `dropout`.

    Args:
        probability: Probability of zeroing an entry.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Apply dropout in training.

        Args:
            x: Any tensor.

        Returns:
            Tensor of the same shape.
        """
        return dropout(x, self.probability, training=self.training)
