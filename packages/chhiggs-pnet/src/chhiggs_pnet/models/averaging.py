r"""From several trained networks to one: the mean of their weights, after matching hidden units if wanted.

    mean       θ = (1/K) Σ_k θ_k
    rebasin    θ = (1/K) Σ_k π_k(θ_k),    π_k = argmax ⟨θ_0, π(θ_k)⟩ over permutations of hidden units

Networks that were trained independently are equal up to permutations of their hidden units only, so their
plain mean lies on a loss barrier, B = L(mean) − mean_k L(θ_k). An edge convolution has one permutation for
each of its layers; that of the last is tied to the linear shortcut and to whatever reads the block. Each
permutation in turn solves a linear assignment problem with the others fixed, until none changes.

References:
    S. Ainsworth, J. Hayase, S. Srinivasa, arXiv:2209.04836 (Git Re-Basin, weight matching).
    M. Wortsman et al., arXiv:2203.05482 (model soups).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chhiggs_pnet.models.particle_net import ParametricParticleNet

State = dict[str, Tensor]
MAX_SWEEPS = 50
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


class Segment(NamedTuple):
    """Part of an axis of a tensor that a permutation acts on."""

    name: str
    axis: int
    start: int = 0


class Group(NamedTuple):
    """Everything one permutation of `size` hidden units acts on."""

    size: int
    segments: list[Segment]


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> State:
    """Average states of the same architecture.

    Args:
        states: At least one state; counters and other integers are taken from the first.

    Returns:
        The mean.
    """
    first = states[0]
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in first.items()
    }


def permutation_groups(network: ParametricParticleNet) -> list[Group]:
    """List the permutations that leave a network's function unchanged.

    Args:
        network: The network.

    Returns:
        Three permutations a block and one in the classifier.
    """
    groups: list[Group] = []
    dims = [int(block.shortcut.out_features) for block in network.convolutions]  # type: ignore[union-attr,arg-type]
    offset = 0
    for block, dim in enumerate(dims):
        at = f"convolutions.{block}"
        for layer in range(3):
            segments = [Segment(f"{at}.linears.{layer}.{kind}", 0) for kind in ("weight", "bias")]
            segments += [Segment(f"{at}.norms.{layer}.{kind}", 0) for kind in _NORM_TENSORS]
            if layer < 2:
                segments.append(Segment(f"{at}.linears.{layer + 1}.weight", 1))
            else:
                segments += [Segment(f"{at}.shortcut.{kind}", 0) for kind in ("weight", "bias")]
                segments += _readers(network, block, dim, offset, is_last=block + 1 == len(dims))
            groups.append(Group(dim, segments))
        offset += dim
    head = int(network.classifier[0].out_features)  # type: ignore[arg-type]
    hidden = [Segment("classifier.0.weight", 0), Segment("classifier.0.bias", 0)]
    groups.append(Group(head, [*hidden, Segment("classifier.3.weight", 1)]))
    return groups


def _readers(
    network: ParametricParticleNet, block: int, dim: int, offset: int, *, is_last: bool
) -> list[Segment]:
    """Whatever reads or modifies the output channels of a block."""
    segments = [Segment("classifier.0.weight", 1, offset)]
    if not is_last:
        following = f"convolutions.{block + 1}"
        segments += [Segment(f"{following}.linears.0.weight", 1, start) for start in (0, dim)]
        segments.append(Segment(f"{following}.shortcut.weight", 1))
    if network.films:
        last = f"films.{block}.mass_encoder.4"
        segments += [Segment(f"{last}.{kind}", 0, s) for kind in ("weight", "bias") for s in (0, dim)]
    if network.attentions:
        at = f"attentions.{block}"
        segments += [Segment(f"{at}.norm.{kind}", 0) for kind in ("weight", "bias")]
        segments.append(Segment(f"{at}.qkv.weight", 1))
        segments += [Segment(f"{at}.out_proj.{kind}", 0) for kind in ("weight", "bias")]
    return segments


def permute(state: Mapping[str, Tensor], group: Group, order: Tensor) -> State:
    """Reorder hidden units.

    Args:
        state: State of a network.
        group: What the permutation acts on.
        order: New order, (size,) int64.

    Returns:
        The state of a network with the same function.
    """
    out = dict(state)
    for name, axis, start in group.segments:
        index = torch.arange(out[name].shape[axis])
        index[start : start + group.size] = start + order
        out[name] = out[name].index_select(axis, index)
    return out


def match(reference: Mapping[str, Tensor], state: Mapping[str, Tensor], groups: Sequence[Group]) -> State:
    """Permute the hidden units of a network to resemble another.

    Args:
        reference: State to resemble.
        state: State to permute.
        groups: Permutations of the architecture.

    Returns:
        The permuted state.
    """
    from scipy.optimize import linear_sum_assignment  # half a second to import, for one kind of training

    out = dict(state)
    for _ in range(MAX_SWEEPS):
        changed = False
        for group in groups:
            gain = torch.zeros(group.size, group.size, dtype=torch.float64)
            for name, axis, start in group.segments:
                if "running" in name:  # statistics follow the weights, in units of their own
                    continue
                rows = [
                    tensor[name].movedim(axis, 0)[start : start + group.size].reshape(group.size, -1).double()
                    for tensor in (reference, out)
                ]
                gain += rows[0] @ rows[1].T
            order = torch.as_tensor(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            identity = torch.arange(group.size)
            if gain[identity, order].sum() > gain.diagonal().sum() + 1e-9:
                out, changed = permute(out, group, order), True
        if not changed:
            break
    return out


def rebasin(states: Sequence[Mapping[str, Tensor]], network: ParametricParticleNet) -> State:
    """Average states after matching all of them to the first.

    Args:
        states: States of networks like `network`.
        network: Gives the architecture.

    Returns:
        The mean.
    """
    groups = permutation_groups(network)
    return mean_state([states[0], *(match(states[0], state, groups) for state in states[1:])])


@torch.no_grad()
def reset_norms(module: nn.Module) -> None:
    """Forget the statistics of every batch normalisation; the next batches are averaged with equal weight.

    Args:
        module: The module.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.reset_running_stats()
            part.momentum = None


def restore_norm_momentum(module: nn.Module, momentum: float = 0.1) -> None:
    """Go back to running statistics that forget.

    Args:
        module: The module.
        momentum: Weight of the latest batch.
    """
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.momentum = momentum
