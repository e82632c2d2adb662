r"""The kick net: a small network that corrects the closed-form extrapolation through By(z).

    end = baseline + K (dz cx, dz cy, cu, cv),    c = mean + std * net(features),

see `physics.kick_baseline`. Since every correction is multiplied by the kick K, which is proportional to q/p,
straight tracks are exact whatever the weights. Where the field has the mirror symmetries of an ideal dipole
the track is reflected to q > 0, y > 0 first and back afterwards, so the network learns a quarter of the
domain and obeys the symmetry exactly; a measured map has none, and then nothing is reflected.

Dimension legend: B tracks, F features (10 between fixed planes, 12 with dz and z0).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lhcb_extrap.models.mlp import Activation, dense
from lhcb_extrap.physics.field_properties import FieldIntegral
from lhcb_extrap.physics.kick_baseline import (
    KickBaseline,
    apply_correction,
    canonicalize,
    kick_baseline,
    kick_features,
    plane_baseline,
)
from lhcb_extrap.physics.plane_fields import PlaneFields


@dataclass(frozen=True)
class KickContext:
    """What turns corrections into ends.

    Attributes:
        baseline: Baseline of the reflected tracks.
        dz: Length of the path along z, (B,), mm.
        signs: What undoes the reflection, (B, 4).
    """

    baseline: KickBaseline[Tensor]
    dz: Tensor
    signs: Tensor


class KickNet(nn.Module):
    """Physics baseline and learned correction.

    Args:
        hidden: Widths of the hidden layers.
        feature_mean: Means of the twelve features.
        feature_std: Standard deviations of them.
        correction_mean: Means of the four corrections.
        correction_std: Standard deviations of them.
        field: The field between the two fixed planes of all tracks, or the integral of By along the beam for
            tracks between any planes.
        flip_x: Whether the field allows (x, tx, q) -> -(x, tx, q).
        flip_y: Whether the field allows (y, ty) -> -(y, ty).
        use_planes: Whether dz and z0 enter the network.
        activation: Activation of the hidden layers.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        feature_mean: Sequence[float],
        feature_std: Sequence[float],
        correction_mean: Sequence[float],
        correction_std: Sequence[float],
        field: FieldIntegral | PlaneFields,
        *,
        flip_x: bool,
        flip_y: bool,
        use_planes: bool = False,
        activation: Activation = "isru",
    ) -> None:
        super().__init__()
        self.num_features = 12 if use_planes else 10
        self.flip_x, self.flip_y, self.activation = flip_x, flip_y, activation
        self.layers = dense((self.num_features, *hidden, 4), activation)
        self.field = field  # no buffer: double precision, and `normalization.json` has it
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.correction_mean: Tensor
        self.correction_std: Tensor
        self.register_buffer("feature_mean", torch.tensor(feature_mean[: self.num_features]))
        self.register_buffer("feature_std", torch.tensor(feature_std[: self.num_features]))
        self.register_buffer("correction_mean", torch.tensor(correction_mean))
        self.register_buffer("correction_std", torch.tensor(correction_std))

    def encode(self, tracks: Tensor) -> tuple[Tensor, KickContext]:
        """The closed-form part: what the layers look at, and what they correct.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            Normalised features (B, F), and the context of `decode`.
        """
        state, qop, signs = canonicalize(tracks[:, :4], tracks[:, 4], flip_x=self.flip_x, flip_y=self.flip_y)
        if isinstance(self.field, PlaneFields):
            baseline = plane_baseline(state, qop, tracks[:, 5], self.field)
        else:
            baseline = kick_baseline(state, qop, tracks[:, 6], tracks[:, 5], self.field)
        features = kick_features(state, tracks[:, 5], tracks[:, 6], baseline)[:, : self.num_features]
        return (features - self.feature_mean) / self.feature_std, KickContext(baseline, tracks[:, 5], signs)

    def decode(self, outputs: Tensor, context: KickContext) -> Tensor:
        """Ends from what the layers say.

        Args:
            outputs: Normalised corrections, (B, 4).
            context: Of `encode`.

        Returns:
            x, y, tx, ty at z0 + dz, (B, 4), mm, 1.
        """
        correction = self.correction_mean + self.correction_std * outputs
        end: Tensor = apply_correction(context.baseline, correction, context.dz) * context.signs
        return end

    def forward(self, tracks: Tensor) -> Tensor:
        """Extrapolate.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            x, y, tx, ty at z0 + dz, (B, 4), mm, 1.
        """
        features, context = self.encode(tracks)
        return self.decode(self.layers(features), context)
