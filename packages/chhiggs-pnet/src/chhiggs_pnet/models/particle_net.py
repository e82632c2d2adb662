r"""ParametricParticleNet: one graph network for every mass hypothesis (mHc, mA).

    x⁰ = inputs(nodes);   xˡ = condition_l(EdgeConv_l(xˡ⁻¹), m),  l = 1, 2, 3
    logits = MLP([mean(x¹), mean(x²), mean(x³), m, channel, era])

Neighbours are the nearest in (η, φ) for the first block and the nearest in xˡ⁻¹ for the others.

References:
    H. Qu, L. Gouskos, arXiv:1902.08570 (ParticleNet); P. Baldi et al., Eur. Phys. J. C 76, 235 (2016),
    arXiv:1601.07913 (parametrised networks).

Dimensions: B events, P slots, V rows (real nodes), F features, C channels.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from chhiggs_pnet.data.schema import ERAS, EXT14
from chhiggs_pnet.models.conditioning import NUM_MASS_INPUTS, Film, MassAwareAttention, MassInputs
from chhiggs_pnet.models.edge_conv import EdgeConv
from chhiggs_pnet.models.frame import Frame
from chhiggs_pnet.models.graph import directions, nearest_neighbors, packing
from chhiggs_pnet.models.inputs import InputNorm, NodeInputs
from chhiggs_pnet.models.pair_masses import NUM_EVENT_INPUTS, NUM_NODE_INPUTS, PairMasses
from chhiggs_pnet.physics.processes import CHANNELS

Conditioning = Literal["attention", "film", "both", "none"]
_PX, _PY, _PZ = (EXT14.index(name) for name in ("px", "py", "pz"))


class EventInputs(nn.Module):
    """Inputs that belong to the event: hypothesis, pair masses, channel, era.

    Args:
        use_masses: Whether the hypothesis is one of them.
        use_channel: Whether the channel is, one-hot.
        use_era: Whether the data-taking era is, one-hot.
        use_pairs: Whether the muon pair masses relative to the hypothesis are.
    """

    def __init__(
        self, *, use_masses: bool, use_channel: bool, use_era: bool, use_pairs: bool = False
    ) -> None:
        super().__init__()
        self.use_masses, self.use_channel, self.use_era = use_masses, use_channel, use_era
        self.width = NUM_MASS_INPUTS * use_masses + len(CHANNELS) * use_channel + len(ERAS) * use_era
        self.width += NUM_EVENT_INPUTS * use_pairs

    def forward(
        self, masses: Tensor, channel: Tensor, era: Tensor, pairs: Tensor | None = None
    ) -> list[Tensor]:
        """Collect.

        Args:
            masses: Standardised hypotheses, (B, M).
            channel: Index into `CHANNELS`, (B,) int64.
            era: Index into `ERAS`, (B,) int64.
            pairs: What `PairMasses` gives for the event, (B, 6), if it is an input.

        Returns:
            Blocks of columns, (B, ·) each.
        """
        blocks = [masses] if self.use_masses else []
        if pairs is not None:
            blocks.append(pairs)
        for used, index, size in ((self.use_channel, channel, len(CHANNELS)), (self.use_era, era, len(ERAS))):
            if used:
                numbers = torch.arange(size, device=index.device)
                blocks.append((index.unsqueeze(1) == numbers).to(masses.dtype))
        return blocks


class ParametricParticleNet(nn.Module):
    """Classify events under a mass hypothesis.

    Args:
        num_features: Features F of a node, the first ones of `EXT14`.
        num_classes: Number of logits.
        mass_mean: Means of (mHc, mA) over the training points, GeV.
        mass_std: Their standard deviations, GeV.
        hidden_dims: Channels of the three blocks.
        num_neighbors: Neighbours of a node.
        num_heads: Attention heads.
        conditioning: Where the hypothesis acts on nodes.
        head_masses: Whether the classifier sees the hypothesis too.
        use_channel: Whether the classifier sees the channel.
        use_era: Whether the classifier sees the era.
        pair_masses: Whether nodes and classifier see the muon pair masses relative to mA and mZ.
        input_norm: Normalisation of the features.
        frame: `event` rotates and mirrors every event into its own frame.
        head_dim: Hidden width of the classifier.
        dropout: Dropout inside edge convolutions.
        head_dropout: Dropout of the classifier.
        edge_dropout: Probability of leaving out an edge in training.
    """

    def __init__(
        self,
        *,
        num_features: int,
        num_classes: int,
        mass_mean: Sequence[float],
        mass_std: Sequence[float],
        hidden_dims: Sequence[int] = (128, 256, 512),
        num_neighbors: int = 4,
        num_heads: int = 8,
        conditioning: Conditioning = "attention",
        head_masses: bool = True,
        use_channel: bool = False,
        use_era: bool = False,
        pair_masses: bool = False,
        input_norm: InputNorm = "standard",
        frame: Frame = "event",
        head_dim: int = 256,
        dropout: float = 0.0,
        head_dropout: float = 0.1,
        edge_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_neighbors = num_neighbors
        self.inputs = NodeInputs(num_features, input_norm, frame)
        self.masses = MassInputs(mass_mean, mass_std)
        self.event_inputs = EventInputs(
            use_masses=head_masses, use_channel=use_channel, use_era=use_era, use_pairs=pair_masses
        )
        self.pair_masses = PairMasses() if pair_masses else None
        widths = [num_features + NUM_NODE_INPUTS * pair_masses, *hidden_dims]
        self.convolutions = nn.ModuleList(
            EdgeConv(a, b, dropout=dropout, edge_dropout=edge_dropout) for a, b in pairwise(widths)
        )
        attends, modulates = conditioning in ("attention", "both"), conditioning in ("film", "both")
        self.films = nn.ModuleList(Film(dim) for dim in hidden_dims if modulates)
        self.attentions = nn.ModuleList(MassAwareAttention(dim, num_heads) for dim in hidden_dims if attends)
        self.classifier = nn.Sequential(
            nn.Linear(sum(hidden_dims) + self.event_inputs.width, head_dim),
            nn.ReLU(),
            nn.Dropout(head_dropout),
            nn.Linear(head_dim, num_classes),
        )

    def forward(
        self, nodes: Tensor, valid_mask: Tensor, masses: Tensor, channel: Tensor, era: Tensor
    ) -> Tensor:
        """Classify.

        Args:
            nodes: Raw features in GeV and rad, (B, P, F).
            valid_mask: Real slots, (B, P) bool.
            masses: Hypotheses (mHc, mA) in GeV, (B, 2).
            channel: Index into `CHANNELS`, (B,) int64.
            era: Index into `ERAS`, (B,) int64.

        Returns:
            Logits in the order of `CLASSES`, (B, num_classes).
        """
        graph = packing(valid_mask)
        hypothesis = self.masses(masses)
        x = self.inputs(nodes, graph)
        pairs = None
        if self.pair_masses is not None:
            pairs, of_nodes = self.pair_masses(nodes, valid_mask, masses)
            x = torch.cat([x, graph.pack(of_nodes)], dim=1)
        pooled = []
        for block, convolution in enumerate(self.convolutions):
            with torch.no_grad():
                if block == 0:
                    points = directions(nodes[..., _PX], nodes[..., _PY], nodes[..., _PZ])
                    neighbors = nearest_neighbors(points, graph, self.num_neighbors, period=2 * torch.pi)
                else:
                    neighbors = nearest_neighbors(graph.dense(x), graph, self.num_neighbors)
            x = convolution(x, neighbors)
            if self.films:
                x = self.films[block](x, graph, hypothesis)
            if self.attentions:
                x = self.attentions[block](x, graph, hypothesis)
            pooled.append(graph.mean(x))
        logits: Tensor = self.classifier(
            torch.cat([*pooled, *self.event_inputs(hypothesis, channel, era, pairs)], dim=1)
        )
        return logits
