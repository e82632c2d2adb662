"""AdamW with the parameter groups every training uses.

Weight decay acts on matrices and kernels only. Biases, normalisation gains and all else with fewer than two
axes, and position embeddings, are left free: pulling them to zero regularises nothing.

References:
    Loshchilov and Hutter, arXiv:1711.05101 (AdamW).
    He et al., arXiv:1812.01187, sec. 3.1 (no decay on biases and normalisation).
"""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import AdamW

from hep_shared.errors import ConfigError


def adamw(
    model: nn.Module, *, lr: float, weight_decay: float, groups: Mapping[str, float] | None = None
) -> AdamW:
    """Build AdamW over the trainable parameters of a model.

    Args:
        model: Model whose parameters with `requires_grad` are trained.
        lr: Base learning rate.
        weight_decay: Decoupled decay of parameters with two or more axes and no `pos_embed` in their name.
        groups: Learning-rate factor by parameter-name prefix, such as `{"encoder": 0.1}`. A prefix matches
            whole components of the dotted name, and the longest one that matches wins.

    Returns:
        The optimizer, one group per (factor, decay or not) in the order of first appearance.

    Raises:
        ConfigError: If a prefix matches no trainable parameter.
    """
    factors = dict(groups or {})
    unused = set(factors)
    by_setting: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matching = [prefix for prefix in factors if f"{name}.".startswith(f"{prefix.rstrip('.')}.")]
        unused.difference_update(matching)
        prefix = max(matching, key=len, default="")
        decays = parameter.ndim >= 2 and "pos_embed" not in name
        group = by_setting.setdefault(
            (prefix, decays),
            {
                "params": [],
                "lr": lr * factors.get(prefix, 1.0),
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    if unused:
        raise ConfigError(
            f"The learning-rate group '{min(unused)}' matches no trainable parameter; "
            f"the model's parts are {', '.join(name for name, _ in model.named_children())}."
        )
    return AdamW(list(by_setting.values()))
