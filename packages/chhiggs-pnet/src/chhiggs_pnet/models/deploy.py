"""From raw nodes and a hypothesis to class probabilities in one module: what is exported and what predicts.

Normalisation, neighbours and the temperature of the calibration are inside, so a model file cannot be fed
with inputs prepared for another one, and the graph that runs is the graph that was trained.

Dimensions: B events, P slots, F features.
"""

import torch
from torch import Tensor, nn


class EventClassifier(nn.Module):
    """Network with its output convention.

    Args:
        network: Maps nodes, mask, masses, channel and era to logits.
        temperature: Divides the logits.
    """

    def __init__(self, network: nn.Module, temperature: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

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
            Class probabilities, signal first, (B, classes).
        """
        logits = self.network(nodes, valid_mask, masses, channel, era).float()
        return torch.softmax(logits / self.temperature, dim=1)
