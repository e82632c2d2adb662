r"""Networks without a graph, for comparison: DeepSets and a multilayer perceptron.

    DeepSets    ρ([mean_i φ([x_i, m]), m, channel, era]), the same φ for every node
    MLP         ρ([x_1, …, x_L, m, channel, era]) of the first L nodes in their stored order, zeros where none

References:
    M. Zaheer et al., arXiv:1703.06114 (DeepSets); P. Komiske et al., arXiv:1810.05165 (in particle physics).

Dimensions: B events, P slots, V rows (real nodes), F features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from chhiggs_pnet.data.schema import NUM_NODES
from chhiggs_pnet.models.conditioning import NUM_MASS_INPUTS, MassInputs
from chhiggs_pnet.models.frame import Frame
from chhiggs_pnet.models.graph import Packing, packing
from chhiggs_pnet.models.inputs import InputNorm, NodeInputs
from chhiggs_pnet.models.pair_masses import NUM_NODE_INPUTS, PairMasses
from chhiggs_pnet.models.particle_net import EventInputs


def _perceptron(in_dim: int, hidden_dim: int, num_layers: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for layer in range(num_layers):
        layers += [nn.Linear(in_dim if layer == 0 else hidden_dim, hidden_dim), nn.ReLU()]
        layers += [nn.Dropout(dropout)]
    return nn.Sequential(*layers)


class _Baseline(nn.Module):
    """What both networks share: inputs and the last layer."""

    def __init__(
        self,
        *,
        num_features: int,
        num_classes: int,
        mass_mean: Sequence[float],
        mass_std: Sequence[float],
        hidden_dim: int = 128,
        use_channel: bool = False,
        use_era: bool = False,
        pair_masses: bool = False,
        input_norm: InputNorm = "standard",
        frame: Frame = "event",
    ) -> None:
        super().__init__()
        self.inputs = NodeInputs(num_features, input_norm, frame)
        self.masses = MassInputs(mass_mean, mass_std)
        self.event_inputs = EventInputs(
            use_masses=True, use_channel=use_channel, use_era=use_era, use_pairs=pair_masses
        )
        self.pair_masses = PairMasses() if pair_masses else None
        self.node_dim = num_features + NUM_NODE_INPUTS * pair_masses
        self.last = nn.Linear(hidden_dim, num_classes)

    def node_inputs(
        self, nodes: Tensor, valid_mask: Tensor, masses: Tensor, graph: Packing
    ) -> tuple[Tensor, Tensor | None]:
        """Features of the nodes, (V, F), and what the pair masses say of the event, (B, 6)."""
        x = self.inputs(nodes, graph)
        if self.pair_masses is None:
            return x, None
        pairs, of_nodes = self.pair_masses(nodes, valid_mask, masses)
        return torch.cat([x, graph.pack(of_nodes)], dim=1), pairs


class DeepSets(_Baseline):
    """Permutation-invariant network without edges.

    Args:
        num_features: Features F of a node.
        num_classes: Number of logits.
        mass_mean: Means of (mHc, mA) over the training points, GeV.
        mass_std: Their standard deviations, GeV.
        hidden_dim: Width of every layer.
        num_layers: Layers of φ and of ρ.
        dropout: Dropout.
        use_channel: Whether ρ sees the channel.
        use_era: Whether ρ sees the era.
        pair_masses: Whether it sees the muon pair masses relative to mA and mZ.
        input_norm: Normalisation of the features.
        frame: `event` rotates and mirrors every event into its own frame.
    """

    def __init__(
        self,
        *,
        num_features: int,
        num_classes: int,
        mass_mean: Sequence[float],
        mass_std: Sequence[float],
        hidden_dim: int = 128,
        num_layers: int = 3,
        dropout: float = 0.1,
        use_channel: bool = False,
        use_era: bool = False,
        pair_masses: bool = False,
        input_norm: InputNorm = "standard",
        frame: Frame = "event",
    ) -> None:
        super().__init__(
            num_features=num_features, num_classes=num_classes, mass_mean=mass_mean, mass_std=mass_std,
            hidden_dim=hidden_dim, use_channel=use_channel, use_era=use_era, pair_masses=pair_masses,
            input_norm=input_norm, frame=frame,
        )  # fmt: skip
        self.phi = _perceptron(self.node_dim + NUM_MASS_INPUTS, hidden_dim, num_layers, dropout)
        self.rho = _perceptron(hidden_dim + self.event_inputs.width, hidden_dim, num_layers, dropout)

    def forward(
        self, nodes: Tensor, valid_mask: Tensor, masses: Tensor, channel: Tensor, era: Tensor
    ) -> Tensor:
        """Classify; arguments and result are those of `ParametricParticleNet.forward`."""
        graph = packing(valid_mask)
        hypothesis = self.masses(masses)
        own = hypothesis.index_select(0, graph.event)
        x, pairs = self.node_inputs(nodes, valid_mask, masses, graph)
        pooled = graph.mean(self.phi(torch.cat([x, own], dim=1)))
        blocks = [pooled, *self.event_inputs(hypothesis, channel, era, pairs)]
        logits: Tensor = self.last(self.rho(torch.cat(blocks, dim=1)))
        return logits


class Perceptron(_Baseline):
    """Multilayer perceptron on the nodes in their order.

    Args:
        num_features: Features F of a node.
        num_classes: Number of logits.
        mass_mean: Means of (mHc, mA) over the training points, GeV.
        mass_std: Their standard deviations, GeV.
        hidden_dim: Width of every layer.
        num_layers: Number of layers.
        num_nodes: Nodes L that the network sees, besides the last real one (the missing momentum).
        dropout: Dropout.
        use_channel: Whether it sees the channel.
        use_era: Whether it sees the era.
        pair_masses: Whether it sees the muon pair masses relative to mA and mZ.
        input_norm: Normalisation of the features.
        frame: `event` rotates and mirrors every event into its own frame.
    """

    def __init__(
        self,
        *,
        num_features: int,
        num_classes: int,
        mass_mean: Sequence[float],
        mass_std: Sequence[float],
        hidden_dim: int = 128,
        num_layers: int = 3,
        num_nodes: int = 9,
        dropout: float = 0.1,
        use_channel: bool = False,
        use_era: bool = False,
        pair_masses: bool = False,
        input_norm: InputNorm = "standard",
        frame: Frame = "event",
    ) -> None:
        super().__init__(
            num_features=num_features, num_classes=num_classes, mass_mean=mass_mean, mass_std=mass_std,
            hidden_dim=hidden_dim, use_channel=use_channel, use_era=use_era, pair_masses=pair_masses,
            input_norm=input_norm, frame=frame,
        )  # fmt: skip
        self.num_nodes = min(num_nodes, NUM_NODES - 1)
        width = (self.num_nodes + 1) * self.node_dim + self.event_inputs.width
        self.layers = _perceptron(width, hidden_dim, num_layers, dropout)

    def forward(
        self, nodes: Tensor, valid_mask: Tensor, masses: Tensor, channel: Tensor, era: Tensor
    ) -> Tensor:
        """Classify; arguments and result are those of `ParametricParticleNet.forward`."""
        graph = packing(valid_mask)
        hypothesis = self.masses(masses)
        rows, pairs = self.node_inputs(nodes, valid_mask, masses, graph)
        x = graph.dense(rows) * valid_mask.unsqueeze(-1)
        position = valid_mask.to(torch.int64).sum(dim=1, keepdim=True) - 1  # of the missing momentum
        slot = torch.arange(valid_mask.shape[1], device=nodes.device)
        is_last = (slot == position).unsqueeze(-1)
        last = (x * is_last).sum(dim=1)
        objects = (x * ~is_last)[:, : self.num_nodes]
        missing = self.num_nodes - objects.shape[1]
        objects = torch.nn.functional.pad(objects, (0, 0, 0, max(missing, 0)))
        blocks = [objects.flatten(1), last, *self.event_inputs(hypothesis, channel, era, pairs)]
        logits: Tensor = self.last(self.layers(torch.cat(blocks, dim=1)))
        return logits
