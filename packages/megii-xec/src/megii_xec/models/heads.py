r"""Heads: from all tokens of an event to a few numbers.

    flatten → Linear 256 → LayerNorm → GELU → dropout 0.2 → Linear 256 → GELU → Linear

Dimensions: B events, T tokens, K outputs.
"""

from torch import Tensor, nn

# Outputs of the tasks the experiment trains.
HEAD_SIZES: dict[str, int] = {
    "angle": 2,  # theta, phi
    "energy": 1,
    "timing": 1,
    "uvwFI": 3,
    "angleVec": 3,  # emission direction as a vector
    "n_gamma": 5,  # logits of 0 to 4 photons
}


class TokenHead(nn.Module):
    """Multilayer perceptron on the flattened tokens.

    Args:
        in_features: Number of tokens times their length.
        out_features: Outputs K.
        hidden_dim: Width of both hidden layers.
        dropout: Dropout after the first hidden layer.
    """

    def __init__(
        self, in_features: int, out_features: int, *, hidden_dim: int = 256, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, out_features),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Evaluate the head.

        Args:
            tokens: Tokens of the encoder, shape (B, T, dim), or features, shape (B, in_features).

        Returns:
            Outputs, shape (B, K).
        """
        out: Tensor = self.layers(tokens.flatten(1))
        return out

    def start_from_zero(self) -> None:
        """Make the outputs of the untrained head 0, for a head that corrects an estimate."""
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
