"""Events to class logits: embedding, positions, NormFormer, pooling, a linear head.

Tokens are [CLS | 18 objects | MET | MET phi]; an object has the same position with and without CLS.

B events, T tokens, C channels, H heads, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourtop_tokens.data import schema
from fourtop_tokens.models.normformer import NormFormer, Pooling, pool, sinusoidal_positions
from fourtop_tokens.models.pairwise import PairwiseBias


class EventClassifier(nn.Module):
    """The classifier.

    Args:
        embedding: Maps the inputs of an `EventBatch` to tokens and their mask.
        dim: Channels C.
        depth: Blocks.
        num_heads: Heads H.
        mlp_dim: Hidden width of the feed-forward networks.
        dropout: Dropout of the blocks.
        pooling: How tokens become one vector.
        positions: Whether tokens carry sinusoidal positions.
        pairwise: Bias from pairs of objects, or None.
        num_classes: K.
    """

    positions: Tensor

    def __init__(
        self,
        embedding: nn.Module,
        *,
        dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float,
        pooling: Pooling,
        positions: bool,
        pairwise: PairwiseBias | None,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.pairwise = pairwise
        self.pooling = pooling
        self.cls = nn.Parameter(torch.randn(dim) * 0.02) if pooling == "cls" else None
        table = sinusoidal_positions(1 + schema.NUM_TOKENS, dim)
        self.register_buffer("positions", table if positions else torch.zeros_like(table), persistent=False)
        self.backbone = NormFormer(
            dim=dim, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim, dropout=dropout
        )
        self.head = nn.Linear(dim, num_classes)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Classify events.

        Args:
            inputs: As in `EventBatch.inputs`.

        Returns:
            Logits, the first for tttt, (B, K).
        """
        tokens, valid = self.embedding(*inputs)
        tokens = tokens + self.positions[1 : 1 + tokens.shape[1]]
        front = 0
        if self.cls is not None:
            front = 1
            first = (self.cls + self.positions[0]).expand(len(tokens), 1, -1)
            tokens = torch.cat([first, tokens], dim=1)
            valid = torch.cat([torch.ones_like(valid[:, :1]), valid], dim=1)
        bias = None
        if self.pairwise is not None:
            ids, features = inputs[0], inputs[1]
            behind = tokens.shape[1] - front - ids.shape[1]
            bias = F.pad(self.pairwise(ids, features), (front, behind, front, behind))
        logits: Tensor = self.head(pool(self.backbone(tokens, valid, bias), valid, self.pooling))
        return logits


def num_trainable(module: nn.Module) -> int:
    """Number of parameters that are trained.

    Args:
        module: Any module.

    Returns:
        Their number.
    """
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def mlp_dim_for(num_parameters: int, build: Callable[[int], nn.Module]) -> int:
    """Hidden width that brings a model to a size; the size grows linearly with it.

    Args:
        num_parameters: Trainable parameters wanted.
        build: Makes the model of a hidden width.

    Returns:
        The width, at least 1.
    """
    with torch.device("meta"):
        small, large = num_trainable(build(1)), num_trainable(build(2))
    return max(1, 1 + round((num_parameters - small) / (large - small)))
