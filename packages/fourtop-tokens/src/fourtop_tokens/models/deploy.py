"""From events as they lie on disk to probabilities: what is exported and what predicts.

    ids, features, missing → scaling or binning → network → softmax

Everything that was fitted travels inside the module, so a model file cannot be fed with inputs prepared for
another one.

B events, K classes.
"""

from torch import Tensor, nn


class EventProbabilities(nn.Module):
    """A classifier of events in the public format.

    Args:
        network: Maps the inputs to logits.
    """

    input_names = ("ids", "features", "missing")

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ids: Tensor, features: Tensor, missing: Tensor) -> Tensor:
        """Classify events.

        Args:
            ids: Object codes, 0 for empty places, (B, 18) int64.
            features: E, pT, eta, phi, (B, 18, 4) in GeV and rad.
            missing: Missing momentum and its azimuth, (B, 2) in GeV and rad.

        Returns:
            Probabilities, the first for tttt, (B, K).
        """
        probabilities: Tensor = self.network(ids, features, missing).float().softmax(1)
        return probabilities


class TokenProbabilities(nn.Module):
    """A classifier of binned events.

    Args:
        network: Maps tokens to logits.
    """

    input_names = ("tokens",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Classify events.

        Args:
            tokens: (B, 20) int64.

        Returns:
            Probabilities, the first for tttt, (B, K).
        """
        probabilities: Tensor = self.network(tokens).float().softmax(1)
        return probabilities
