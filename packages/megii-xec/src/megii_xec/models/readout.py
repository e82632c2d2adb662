r"""From what a head gives to physical numbers and their uncertainty.

    mean          y = scale · o + offset
    beta_nll      o = (mean, ln σ²):      y as above,  σ_y = scale · exp(½ ln σ²)
    quantile      o = (q16, q50, q84):    y from q50,  σ_y = scale · (q84 − q16) / 2
    angleVec      y = o / |o|
    n_gamma       o = logits of 0 to 4 photons:  y = the most probable number

Dimensions: B events, K components of a target.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from megii_xec.data.targets import TARGETS, TargetScaling

OUTPUTS_PER_TARGET = {"beta_nll": 2, "quantile": 3}  # mean and ln variance; three quantiles; 1 for all others
NUM_CLASSES = 5  # 0 to 4 photons
SIGMA = "sigma_"  # prefix of the outputs that are uncertainties


def head_size(target: str, loss: str) -> int:
    """Return the number of outputs of a head."""
    if target == "n_gamma":
        return NUM_CLASSES
    return TARGETS[target].size * OUTPUTS_PER_TARGET.get(loss, 1)


def num_places(loss: str) -> int:
    """Return how many blocks of a head's outputs are positions and not spreads: all three of quantiles."""
    return OUTPUTS_PER_TARGET["quantile"] if loss == "quantile" else 1


def has_sigma(loss: str) -> bool:
    """Whether a network trained with this loss tells its uncertainty."""
    return loss in OUTPUTS_PER_TARGET


def decode(scaling: TargetScaling, target: str, loss: str, output: Tensor) -> tuple[Tensor, Tensor | None]:
    """Turn the outputs of a head into physical numbers.

    Args:
        scaling: Offsets and scales of the targets.
        target: Name of the target.
        loss: Loss it was trained with.
        output: Outputs of the head, shape (B, `head_size`).

    Returns:
        The quantity, shape (B, K), in the unit of the target, and its standard deviation or None.
    """
    output = output.float()
    if target == "n_gamma":
        return output.argmax(-1, keepdim=True).float(), None
    size, sigma = TARGETS[target].size, None
    zero = scaling.unscale(target, torch.zeros_like(output[..., :size]))
    if loss == "beta_nll":
        output, log_variance = output.chunk(2, dim=-1)
        sigma = scaling.unscale(target, (log_variance.clamp(-15, 15) / 2).exp()) - zero
    elif loss == "quantile":
        low, output, high = output.chunk(3, dim=-1)
        sigma = (scaling.unscale(target, (high - low).abs() / 2)) - zero
    value = scaling.unscale(target, output)
    return (F.normalize(value, dim=-1) if target == "angleVec" else value), sigma
