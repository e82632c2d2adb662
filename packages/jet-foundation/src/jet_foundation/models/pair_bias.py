r"""The pairwise attention bias: a small network on the features of each pair of particles.

    bias[h, i, j] = MLP(ln kT, ln z, ln Δ, ln m²)[h]        (arXiv:2202.03772, Section 4)

Only pairs i ≥ j of real, visible particles pass through the network, as one list of P rows, so the batch
normalisation sees no padding and no tensor of N × N × 64 exists. Padded keys get the lowest finite number,
which the softmax turns into an exact zero. A pair with a hidden particle has bias 0: nothing of a particle
that is to be predicted enters here.

On a GPU the network is `hep_shared.ops.pair_mlp`, which keeps none of the P × 64 numbers between its layers
for the backward. On a CPU, where computing them again takes three times as long, the plain layers keep them.

Dimensions: B jets, N particles, P pairs, H heads.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hep_shared.ops.linear import Linear, linear
from hep_shared.ops.pair_mlp import is_fused, pair_mlp, plain_layers
from jet_foundation.models.packing import Packing
from jet_foundation.physics.pair_features import (
    NUM_PAIR_FEATURES,
    PairIndex,
    kinematics,
    listed_pair_features,
    literal_pair_features,
    pair_features,
    valid_pairs,
)

Norm = Literal["batch", "none"]
PairKind = Literal["exact", "literal", "mass"]
_PIECE = 8192  # pairs treated at a time without gradients: 64 channels stay in the cache


class PairBias(nn.Module):
    """Bias of the attention from pairs of four-vectors.

    Args:
        num_heads: Heads H of the attention.
        dims: Hidden widths of the network.
        norm: `batch` normalises over the real pairs before each activation and at the input; `none` does not.
        kind: `exact` features; `literal` evaluates the published formulas as they stand, to compare
            programs; `mass` keeps ln m² alone, which every Lorentz transformation leaves unchanged.

    Raises:
        ValueError: An option has an unknown value.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        dims: Sequence[int] = (64, 64, 64),
        norm: Norm = "batch",
        kind: PairKind = "exact",
    ) -> None:
        super().__init__()
        for name, value, allowed in (("norm", norm, Norm), ("kind", kind, PairKind)):
            if value not in get_args(allowed):
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(get_args(allowed))}")
        self.kind = kind
        num_inputs = 1 if kind == "mass" else NUM_PAIR_FEATURES
        widths = (num_inputs, *dims, num_heads)
        self.linears = nn.ModuleList(Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths) if norm == "batch" else None

    def forward(
        self,
        p4: Tensor,
        valid_mask: Tensor,
        visible_mask: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Compute the additive attention mask of all layers.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV; the values of hidden particles are not used.
            valid_mask: True where a particle is real, (B, N).
            visible_mask: True where its four-vector may be used, (B, N); None means all real ones.
            packing: How the real particles are listed; None keeps the rectangle.

        Returns:
            Bias of query i and key j, (B, H, N, N); where the packing has groups of jets, its list of pairs,
            (H Σ n²).
        """
        visible = valid_mask if visible_mask is None else valid_mask & visible_mask
        num_jets, num_particles = valid_mask.shape
        if packing is not None and packing.groups is not None:
            pairs = valid_pairs(visible)
            values = self._network(self._features(p4, pairs))  # (P, H)
            num_heads, listed = values.shape[1], values.flatten()
            flat = values.new_zeros(num_heads * packing.num_pairs)
            for first, second in ((pairs.i, pairs.j), (pairs.j, pairs.i)):
                place = packing.pair_positions(pairs.jet, first, second, num_heads)
                flat = flat.index_copy(0, place.flatten(), listed)
            return flat
        if torch.compiler.is_compiling():
            bias = self._dense(p4, visible)
        else:
            pairs = valid_pairs(visible)
            values = self._network(self._features(p4, pairs)).t()  # (H, P)
            flat = values.new_zeros(values.shape[0], num_jets * num_particles**2)
            row = pairs.jet * num_particles
            flat = flat.index_copy(1, (row + pairs.i) * num_particles + pairs.j, values)
            flat = flat.index_copy(1, (row + pairs.j) * num_particles + pairs.i, values)
            bias = flat.view(-1, num_jets, num_particles, num_particles).transpose(0, 1)
        lowest = torch.finfo(bias.dtype).min / 2
        return bias.masked_fill(~valid_mask[:, None, None, :], lowest)

    def _features(self, p4: Tensor, pairs: PairIndex) -> Tensor:
        """Features of listed pairs, without gradients to the four-vectors."""
        with torch.no_grad():
            if self.kind == "literal":
                return literal_pair_features(p4[pairs.jet, pairs.i], p4[pairs.jet, pairs.j])
            row = pairs.jet * p4.shape[1]
            features = listed_pair_features(kinematics(p4), row + pairs.i, row + pairs.j)
            return features[:, 3:] if self.kind == "mass" else features

    def _dense(self, p4: Tensor, visible: Tensor) -> Tensor:
        """Bias of every pair of slots, for graphs whose shapes may not depend on the data."""
        # A padded slot stands for a particle of 1 GeV along x: finite features, whose bias is replaced below.
        p4 = torch.where(visible[..., None], p4, p4.new_tensor([1.0, 1.0, 0.0, 0.0]))
        if self.kind == "literal":
            features = literal_pair_features(p4[:, :, None], p4[:, None, :])
        else:
            single = kinematics(p4)
            a, b = (type(single)(*(v.unsqueeze(axis) for v in single)) for axis in (2, 1))
            features = pair_features(a, b)
            features = features[..., 3:] if self.kind == "mass" else features
        bias = torch.unflatten(self._network(features.flatten(0, 2)), 0, features.shape[:3])
        both = visible[:, :, None] & visible[:, None, :]
        return (bias * both[..., None]).permute(0, 3, 1, 2)

    def _network(self, features: Tensor) -> Tensor:
        """Map (P, features) to (P, H)."""
        if is_fused(features, self.linears, self.norms):
            return pair_mlp(features, self.linears, self.norms)
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return plain_layers(features, self.linears, self.norms)
        layers = self._folded()
        out = features.new_empty(len(features), layers[-1][0].shape[0])
        for start in range(0, len(features), _PIECE):
            x = features[start : start + _PIECE]
            for number, (weight, bias) in enumerate(layers):
                x = linear(x if number == 0 else F.gelu(x), weight, bias)
            out[start : start + _PIECE] = x
        return out

    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases with the normalisation of inference multiplied in."""
        layers = []
        for number, line in enumerate(self.linears):
            assert isinstance(line, nn.Linear)
            weight: Tensor = line.weight
            bias: Tensor = line.bias
            if self.norms is not None:
                if number == 0:
                    scale, shift = _affine(self.norms[0])
                    weight, bias = weight * scale, bias + weight @ shift
                scale, shift = _affine(self.norms[number + 1])
                weight, bias = weight * scale[:, None], bias * scale + shift
            layers.append((weight, bias))
        return layers


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Scale and shift that a batch normalisation applies at inference."""
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
