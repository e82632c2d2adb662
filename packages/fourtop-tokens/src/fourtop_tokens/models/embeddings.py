r"""From events to tokens: direct, binned and vector-quantised.

    identity   W (x ⊕ E_id)                 scaled features and a learnt vector for the id
    raw        W x                          the features alone
    binned     E[token] + Σ_q E_q[bin_q]    a row for each joint bin of id, pT, η, φ, and for each single one
    vq         E[k(x, id)]                  one row for each code of a frozen VQ-VAE

Without the single bins (`joint`, the reference's rows) each of 875 rows is learnt from its own objects alone,
and what training teaches about a high pT at one η and φ is not known at the others.

The missing momentum follows as two tokens, W₁ (ln(1 + MET) - μ)/σ and W₂ (cos φ, sin φ). `legacy` is the
reference's: both numbers unscaled through one shared layer.

B events, P objects (18), T tokens, C channels, F features (3 or 4).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourtop_tokens.data import schema
from fourtop_tokens.data.scaling import FLOOR_GEV, EventStatistics
from fourtop_tokens.data.tokenizer import Binning, Vocabulary
from fourtop_tokens.models.vqvae import ObjectTokenizer
from hep_shared.ops.tokens import event_tokens

_LEGACY_DIM = 12  # of the reference's shared layer


class Embedded(NamedTuple):
    """Tokens of events."""

    tokens: Tensor
    """(B, T, C)."""
    valid_mask: Tensor
    """True where there is a token, (B, T)."""


class FeatureScaler(nn.Module):
    """Bring the features of objects to order one.

    Args:
        statistics: Constants of the train split.
        with_energy: Keep E, the first feature.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, statistics: EventStatistics, *, with_energy: bool) -> None:
        super().__init__()
        self.scheme, self.first = statistics.scheme, 0 if with_energy else 1
        self.register_buffer("mean", torch.tensor(statistics.mean), persistent=False)
        self.register_buffer("std", torch.tensor(statistics.std), persistent=False)

    @property
    def num_features(self) -> int:
        """Number of features F."""
        return len(schema.FEATURES) - self.first

    def forward(self, features: Tensor, valid_mask: Tensor) -> Tensor:
        """Scale.

        Args:
            features: E, pT, eta, phi, (B, P, 4) in GeV and rad.
            valid_mask: True where there is an object, (B, P).

        Returns:
            (B, P, F), 0 in empty places.
        """
        if self.scheme == "log":
            logs = features[..., :2].clamp(min=FLOOR_GEV).log()
            features = torch.cat([logs, features[..., 2:]], dim=-1)
        scaled = (features - self.mean) / self.std
        return torch.where(valid_mask[..., None], scaled, 0.0)[..., self.first :]


class MissingScaler(nn.Module):
    """Bring the missing momentum to order one.

    Args:
        statistics: Constants of the train split.
    """

    def __init__(self, statistics: EventStatistics) -> None:
        super().__init__()
        self.mean, self.std = statistics.met_mean, statistics.met_std

    def forward(self, missing: Tensor) -> Tensor:
        """Scale.

        Args:
            missing: Missing momentum and its azimuth, (B, 2) in GeV and rad.

        Returns:
            Scaled logarithm, cosine and sine, (B, 3).
        """
        size = (missing[:, 0].log1p() - self.mean) / self.std
        return torch.stack([size, missing[:, 1].cos(), missing[:, 1].sin()], dim=1)


class MissingTokens(nn.Module):
    """Two tokens for the missing momentum.

    Args:
        statistics: Constants of the train split; their scheme decides the form.
        dim: Channels C.
    """

    def __init__(self, statistics: EventStatistics, dim: int) -> None:
        super().__init__()
        self.legacy = statistics.scheme == "legacy"
        if self.legacy:
            self.shared = nn.Linear(1, _LEGACY_DIM)
            self.project = nn.Linear(_LEGACY_DIM, dim)
        else:
            self.scaler = MissingScaler(statistics)
            self.size = nn.Linear(1, dim)
            self.azimuth = nn.Linear(2, dim)

    def forward(self, missing: Tensor) -> Tensor:
        """Embed.

        Args:
            missing: Missing momentum and its azimuth, (B, 2) in GeV and rad.

        Returns:
            (B, 2, C).
        """
        if self.legacy:
            tokens: Tensor = self.project(self.shared(missing[..., None]))
            return tokens
        scaled = self.scaler(missing)
        return torch.stack([self.size(scaled[:, :1]), self.azimuth(scaled[:, 1:])], dim=1)


def _join(objects: Tensor, valid_mask: Tensor, missing: Tensor | None) -> Embedded:
    if missing is None:
        return Embedded(objects, valid_mask)
    present = torch.ones_like(valid_mask[:, : missing.shape[1]])
    return Embedded(torch.cat([objects, missing], 1), torch.cat([valid_mask, present], 1))


class DirectEmbedding(nn.Module):
    """Tokens `identity` and `raw`.

    Args:
        dim: Channels C.
        statistics: Constants of the train split.
        with_energy: Use E.
        with_missing: Append the missing momentum.
        id_dim: Length of the vector of the id; 0 leaves the id out.
    """

    def __init__(
        self, dim: int, statistics: EventStatistics, *, with_energy: bool, with_missing: bool, id_dim: int
    ) -> None:
        super().__init__()
        self.scaler = FeatureScaler(statistics, with_energy=with_energy)
        self.ids = nn.Embedding(schema.NUM_IDS + 1, id_dim, padding_idx=schema.PAD) if id_dim else None
        self.project = nn.Linear(self.scaler.num_features + id_dim, dim)
        self.missing = MissingTokens(statistics, dim) if with_missing else None

    def forward(self, ids: Tensor, features: Tensor, missing: Tensor) -> Embedded:
        """Embed events; arguments as in `EventBatch.inputs`."""
        valid = ids != schema.PAD
        x = self.scaler(features, valid)
        if self.ids is not None:
            x = torch.cat([x, self.ids(ids)], dim=-1)
        return _join(self.project(x), valid, self.missing(missing) if self.missing is not None else None)


def bin_membership(vocabulary: Vocabulary) -> Tensor:
    """Which bins of single quantities the joint bin of a token lies in.

    Args:
        vocabulary: The numbering of the tokens, V of them.

    Returns:
        1 in the columns of its id and of its bin of each quantity, (V, 7 + b for each quantity); 0 for
        padding and for the missing momentum, whose bins are single.
    """
    sizes = [schema.NUM_IDS] + [vocabulary.num_bins] * (len(vocabulary.object_fields) - 1)
    bins = np.unravel_index(np.arange(vocabulary.num_object_tokens), sizes)
    columns = [np.eye(size, dtype=np.float32)[index] for size, index in zip(sizes, bins, strict=True)]
    membership = np.zeros((vocabulary.size, sum(sizes)), np.float32)
    membership[1 : 1 + vocabulary.num_object_tokens] = np.concatenate(columns, axis=1)
    return torch.from_numpy(membership)


class TokenEmbedding(nn.Module):
    """Tokens from a binned file.

    Args:
        dim: Channels C.
        vocabulary: The numbering of the tokens.
        with_missing: Use the last two tokens, the missing momentum.
        shared: Add to the row of a token the rows of its single bins, which all tokens with them share.
    """

    membership: Tensor

    def __init__(self, dim: int, vocabulary: Vocabulary, *, with_missing: bool, shared: bool = False) -> None:
        super().__init__()
        self.num_used = schema.NUM_TOKENS if with_missing else schema.NUM_OBJECTS
        self.rows = nn.Embedding(vocabulary.size, dim, padding_idx=schema.PAD)
        self.bins: nn.Parameter | None = None
        if shared:
            self.register_buffer("membership", bin_membership(vocabulary), persistent=False)
            # An object begins as the sum of its bins, of unit variance as rows are.
            num_fields = len(vocabulary.object_fields)
            self.bins = nn.Parameter(torch.randn(self.membership.shape[1], dim) / num_fields**0.5)
            with torch.no_grad():
                self.rows.weight[: 1 + vocabulary.num_object_tokens] = 0

    def forward(self, tokens: Tensor) -> Embedded:
        """Embed tokens.

        Args:
            tokens: (B, 20) int64.

        Returns:
            Tokens and mask.
        """
        used = tokens[:, : self.num_used]
        rows = self.rows.weight
        if self.bins is not None:
            rows = rows + self.membership @ self.bins
        return Embedded(F.embedding(used, rows, schema.PAD), used != schema.PAD)


class BinnedEmbedding(TokenEmbedding):
    """Events that are binned on the way.

    Args:
        dim: Channels C.
        binning: The fitted binning.
        with_missing: Append the missing momentum.
        shared: As in `TokenEmbedding`.
    """

    def __init__(self, dim: int, binning: Binning, *, with_missing: bool, shared: bool = False) -> None:
        super().__init__(dim, binning.vocabulary, with_missing=with_missing, shared=shared)
        self.binning = binning

    def forward(self, ids: Tensor, features: Tensor, missing: Tensor) -> Embedded:  # type: ignore[override]
        """Embed events; arguments as in `EventBatch.inputs`."""
        return super().forward(self.tokenize(ids, features, missing))

    def tokenize(self, ids: Tensor, features: Tensor, missing: Tensor) -> Tensor:
        """Bin events as `Binning.transform` does.

        Args:
            ids: (B, 18).
            features: (B, 18, 4) in GeV and rad.
            missing: (B, 2) in GeV and rad.

        Returns:
            (B, 20) int64.
        """
        return event_tokens(features, missing, ids.to(torch.int8), **self.binning.operator_arguments)


class VqEmbedding(nn.Module):
    """Codes of a frozen VQ-VAE with trainable rows.

    Args:
        dim: Channels C.
        statistics: Constants of the train split, for the missing momentum.
        vq_statistics: Constants that the VQ-VAE was trained with.
        with_energy: Whether the VQ-VAE saw E.
        with_missing: Append the missing momentum.
        hidden_dim: Of the encoder.
        latent_dim: Of the codes.
        num_codes: Number of codes.
    """

    def __init__(
        self,
        dim: int,
        statistics: EventStatistics,
        vq_statistics: EventStatistics,
        *,
        with_energy: bool,
        with_missing: bool,
        hidden_dim: int,
        latent_dim: int,
        num_codes: int,
    ) -> None:
        super().__init__()
        self.scaler = FeatureScaler(vq_statistics, with_energy=with_energy)
        self.tokenizer = ObjectTokenizer(
            num_features=self.scaler.num_features, hidden_dim=hidden_dim, latent_dim=latent_dim,
            num_codes=num_codes,
        )  # fmt: skip
        self.rows = nn.Embedding(num_codes, dim)
        self.missing = MissingTokens(statistics, dim) if with_missing else None

    @torch.no_grad()
    def start(self) -> None:
        """Begin the rows at the codes, turned into the model's space and of unit variance."""
        codes = self.tokenizer.codes - self.tokenizer.codes.mean(0)
        latent_dim, dim = codes.shape[1], self.rows.weight.shape[1]
        turn = torch.linalg.qr(torch.randn(max(dim, latent_dim), min(dim, latent_dim))).Q
        rows = codes @ (turn.T if dim >= latent_dim else turn)
        self.rows.weight.copy_(rows / rows.std().clamp(min=1e-6))

    def forward(self, ids: Tensor, features: Tensor, missing: Tensor) -> Embedded:
        """Embed events; arguments as in `EventBatch.inputs`."""
        valid = ids != schema.PAD
        codes = self.tokenizer(self.scaler(features, valid), ids)
        return _join(self.rows(codes), valid, self.missing(missing) if self.missing is not None else None)
