"""Learning-rate schedule: linear warm-up, then a half cosine down to a floor.

With s the number of steps made, W the warm-up steps, S all steps and r the floor as a ratio,

    f(s) = (s + 1) / W                                        s < W
    f(s) = r + (1 - r) (1 + cos(pi (s - W) / (S - W))) / 2    W <= s < S
    f(s) = r                                                  s >= S

and each parameter group trains with its own base learning rate times f(s).

References:
    Loshchilov and Hutter, arXiv:1608.03983, eq. 5 (one cycle, no restart).
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from hep_shared.errors import ConfigError


def cosine_with_warmup(
    optimizer: Optimizer, *, num_warmup_steps: int, num_steps: int, min_ratio: float = 0.0
) -> LRScheduler:
    """Build the schedule; step it once after each optimizer step that was made.

    Args:
        optimizer: Optimizer whose groups carry their base learning rates.
        num_warmup_steps: Length W of the warm-up [optimizer steps]; 0 starts at the full rate.
        num_steps: Length S of the whole training [optimizer steps].
        min_ratio: Floor r as a fraction of the base learning rate, in [0, 1].

    Returns:
        The scheduler. Its state is one counter, because f(s) is a closed form: resuming is exact.

    Raises:
        ConfigError: If the warm-up is negative or leaves no step for the cosine, or the floor is outside [0,
            1].
    """
    if not 0 <= num_warmup_steps < num_steps:
        raise ConfigError(
            f"The learning-rate warm-up takes {num_warmup_steps} of {num_steps} optimizer steps; "
            "choose a warm-up of at least 0 and fewer than all steps."
        )
    if not 0.0 <= min_ratio <= 1.0:
        raise ConfigError(f"The learning-rate floor min_ratio is {min_ratio}; choose a fraction from 0 to 1.")

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return (step + 1) / num_warmup_steps
        progress = min(1.0, (step - num_warmup_steps) / (num_steps - num_warmup_steps))
        return min_ratio + (1.0 - min_ratio) * (1.0 + math.cos(math.pi * progress)) / 2.0

    # One lambda rather than LinearLR and CosineAnnealingLR in sequence: CosineAnnealingLR has one absolute
    # floor for all groups, which breaks their ratios, and it rises again when stepped past the end.
    return LambdaLR(optimizer, factor)
