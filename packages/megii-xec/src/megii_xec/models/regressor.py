"""The regressor: one encoder, one head for each requested quantity.

Dimensions: B events, S sensors (4760), K targets of a head.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from megii_xec.models.encoder import XecEncoder
from megii_xec.models.heads import TokenHead


class XecRegressor(nn.Module):
    """Encoder and heads.

    Args:
        encoder: Encoder of the event.
        heads: Name and number of targets K of each head, for example `{"angle": 2, "energy": 1}`; the usual
            sizes are in `megii_xec.models.heads.HEAD_SIZES`. Only these heads are built.
        outputs_per_target: Outputs for each target, for heads that need more than one: 2 for mean and
            log-variance, the number of quantiles for quantile regression. Outputs are blocks of K.
        hidden_dim: Hidden width of the heads.
        dropout: Dropout of the heads.

    Raises:
        ValueError: There is no head, or `outputs_per_target` names one that does not exist.
    """

    def __init__(
        self,
        encoder: XecEncoder,
        heads: Mapping[str, int],
        *,
        outputs_per_target: Mapping[str, int] | None = None,
        hidden_dim: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        factors = dict(outputs_per_target or {})
        if not heads:
            raise ValueError("a regressor needs at least one head")
        if unknown := factors.keys() - heads.keys():
            raise ValueError(f"outputs_per_target names {sorted(unknown)}, but the heads are {sorted(heads)}")
        self.encoder = encoder
        self.heads = nn.ModuleDict(
            {
                name: TokenHead(
                    encoder.num_tokens * encoder.dim,
                    size * factors.get(name, 1),
                    hidden_dim=hidden_dim,
                    dropout=dropout,
                )
                for name, size in heads.items()
            }
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            x: Normalised npho and time of every sensor, shape (B, 4760, 2).
            mask: True where a sensor is hidden from the network, shape (B, 4760).

        Returns:
            Outputs of each head, shape (B, K), or (B, outputs_per_target K).
        """
        tokens = self.encoder(x, mask)
        return {name: head(tokens) for name, head in self.heads.items()}
