"""The regressor: one encoder, one head for each requested quantity.

Dimensions: B events, S sensors (4760), K targets of a head.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from megii_xec.models.conventional import CONVENTIONAL_SIZES, NUM_FEATURES, ConventionalEstimate
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
        start: What the heads correct; without it they predict from nothing.
        places: How many of the blocks of K outputs the estimate is added to, 1 for heads not named.

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
        start: ConventionalEstimate | None = None,
        places: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        factors = dict(outputs_per_target or {})
        if not heads:
            raise ValueError("a regressor needs at least one head")
        if unknown := factors.keys() - heads.keys():
            raise ValueError(f"outputs_per_target names {sorted(unknown)}, but the heads are {sorted(heads)}")
        self.encoder = encoder
        self.start = start
        self.places = dict(places or {})
        num_features = (encoder.num_tokens + (start is not None)) * encoder.dim
        self.heads = nn.ModuleDict(
            {
                name: TokenHead(
                    num_features,
                    size * factors.get(name, 1),
                    hidden_dim=hidden_dim,
                    dropout=dropout,
                )
                for name, size in heads.items()
            }
        )
        if start is not None:
            self.embed = nn.Sequential(
                nn.Linear(NUM_FEATURES, encoder.dim),
                nn.GELU(),
                nn.Linear(encoder.dim, encoder.dim),
                nn.LayerNorm(encoder.dim),
            )
            for name in CONVENTIONAL_SIZES.keys() & heads.keys():
                self.heads[name].start_from_zero()  # type: ignore[operator]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            x: Normalised npho and time of every sensor, shape (B, 4760, 2).
            mask: True where a sensor is hidden from the network, shape (B, 4760).

        Returns:
            Outputs of each head, shape (B, K), or (B, outputs_per_target K).
        """
        tokens = self.encoder(x, mask).flatten(1)
        if self.start is None:
            return {name: head(tokens) for name, head in self.heads.items()}
        # Nothing before the estimate is trained, and its slopes at dead sensors are not finite.
        estimate, features = self.start(x.detach() if x.requires_grad else x, mask)
        tokens = torch.cat([tokens, self.embed(features)], dim=1)
        outputs = {name: head(tokens) for name, head in self.heads.items()}
        return {
            name: _corrected(estimate.get(name), output, self.places.get(name, 1))
            for name, output in outputs.items()
        }


def _corrected(estimate: Tensor | None, output: Tensor, num_places: int) -> Tensor:
    """Add the estimate (B, K) to the first blocks of K outputs; what follows is a spread, not a place."""
    if estimate is None:
        return output
    places = torch.cat([estimate] * num_places, dim=1)
    num = places.shape[1]
    return torch.cat([places + output[:, :num], output[:, num:].to(estimate.dtype)], dim=1)
