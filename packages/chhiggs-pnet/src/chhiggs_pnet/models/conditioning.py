r"""How a network is told the mass hypothesis: attention modulated by it, or an affine map (FiLM).

Attention among the nodes of an event, h heads, with the mass embedding μ(m) of a hypothesis m,

    q, k, v = (1 + μ_qkv(m)) ⊙ (W LayerNorm(x)),     y = x + O softmax(q kᵀ / √d) v,

the softmax over real nodes only; FiLM is y = x ⊙ (1 + γ(m)) + β(m). The last layer of every embedding starts
at zero, so an untrained network ignores the hypothesis instead of scrambling the nodes with it.

References:
    E. Perez et al., arXiv:1709.07871 (FiLM); A. Vaswani et al., arXiv:1706.03762 (attention);
    L. Anzalone et al., Mach. Learn.: Sci. Technol. 3, 035017 (2022): affine conditioning on all layers
    interpolates best.

Dimensions: B events, P slots, V rows (real nodes), C channels, M numbers that describe a hypothesis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chhiggs_pnet.models.graph import Packing
from chhiggs_pnet.physics.constants import Z_MASS
from hep_shared.ops.linear import Linear

NUM_MASS_INPUTS = 4
HIDDEN = (64, 128)  # widths of the mass embedding


class MassInputs(nn.Module):
    """Standardised masses: mHc, mA, mHc − mA and |mA − mZ|, which sets the difficulty.

    Args:
        mean: Means of (mHc, mA) in GeV.
        std: Standard deviations of (mHc, mA) in GeV.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32))

    def forward(self, masses: Tensor) -> Tensor:
        """Standardise.

        Args:
            masses: (mHc, mA) in GeV, (B, 2).

        Returns:
            (B, M), about 1 in size.
        """
        scaled = (masses - self.mean) / self.std
        gap = (masses[:, 0] - masses[:, 1] - (self.mean[0] - self.mean[1])) / self.std[0]
        off_shell = (masses[:, 1] - Z_MASS).abs() / self.std[1]
        return torch.cat([scaled, gap.unsqueeze(1), off_shell.unsqueeze(1)], dim=1)


def mass_encoder(out_dim: int) -> nn.Sequential:
    """Embedding of a hypothesis whose last layer starts at zero.

    Args:
        out_dim: Length of the embedding.

    Returns:
        Maps (B, M) to (B, out_dim).
    """
    last = nn.Linear(HIDDEN[1], out_dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.Linear(NUM_MASS_INPUTS, HIDDEN[0]), nn.ReLU(), nn.Linear(*HIDDEN), nn.ReLU(), last
    )


class MassAwareAttention(nn.Module):
    """Masked self-attention whose queries, keys and values the hypothesis modulates.

    Args:
        dim: Channels C of a node.
        num_heads: Heads; they divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int = 8) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = Linear(dim, 3 * dim)
        self.out_proj = Linear(dim, dim)
        self.mass_encoder = mass_encoder(3 * dim)

    def forward(self, x: Tensor, graph: Packing, masses: Tensor) -> Tensor:
        """Attend.

        Args:
            x: Nodes, (V, C).
            graph: The packing.
            masses: Standardised hypotheses, (B, M).

        Returns:
            (V, C).
        """
        modulation = 1.0 + self.mass_encoder(masses)
        qkv = graph.dense(self.qkv(self.norm(x))) * modulation.unsqueeze(1)
        num_events, num_slots, _ = qkv.shape
        query, key, value = qkv.view(num_events, num_slots, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        allowed = graph.valid_mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        rows = graph.pack(mixed.transpose(1, 2).reshape(num_events, num_slots, -1))
        out: Tensor = x + self.out_proj(rows)
        return out


class Film(nn.Module):
    """Scale and shift of every channel by the hypothesis.

    Args:
        dim: Channels C of a node.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mass_encoder = mass_encoder(2 * dim)

    def forward(self, x: Tensor, graph: Packing, masses: Tensor) -> Tensor:
        """Scale and shift.

        Args:
            x: Nodes, (V, C).
            graph: The packing.
            masses: Standardised hypotheses, (B, M).

        Returns:
            (V, C).
        """
        scale, shift = self.mass_encoder(masses).index_select(0, graph.event).chunk(2, dim=1)
        out: Tensor = x * (1.0 + scale) + shift
        return out
