"""Jet classifier: an encoder, class attention (H. Qu, C. Li, S. Qian, arXiv:2202.03772) and one linear layer.

Dimensions: B jets, N particles, F features, C channels.
"""

from torch import Tensor, nn

from jet_foundation.models.attention import ClassAttention
from jet_foundation.models.encoder import JetEncoder


class JetClassifier(nn.Module):
    """Scores of the classes.

    Args:
        encoder: `ParTEncoder` or `LorentzParTEncoder`.
        num_classes: Number of classes.
        num_heads: Heads of the class attention.
        num_layers: Layers of the class attention.
    """

    def __init__(self, encoder: JetEncoder, num_classes: int, *, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_attention = ClassAttention(encoder.dim, num_heads, num_layers=num_layers)
        self.head = nn.Linear(encoder.dim, num_classes)

    def forward(self, p4: Tensor, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Classify jets.

        Args:
            p4: Four-vectors (E, px, py, pz), (B, N, 4) GeV.
            features: Normalised features, (B, N, F).
            valid_mask: True where a particle is real, (B, N).

        Returns:
            Logits, (B, num_classes).
        """
        tokens = self.encoder.tokens(p4, features, valid_mask)
        logits: Tensor = self.head(self.class_attention(tokens, valid_mask))
        return logits
