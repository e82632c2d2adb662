r"""The kick net: a small network that corrects the closed-form extrapolation through By(z).

    end = baseline + K (dz cx, dz cy, cu, cv),    c = mean + std * net(features),

see `physics.kick_baseline`. Since every correction is multiplied by the kick K, which is proportional to q/p,
straight tracks are exact whatever the weights. Where the field has the mirror symmetries of an ideal dipole
the track is reflected to q > 0, y > 0 first and back afterwards, so the network learns a quarter of the
domain and obeys the symmetry exactly; a measured map has none, and then nothing is reflected.

Dimension legend: B tracks, F features (10 between fixed planes, 12 with dz and z0).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lhcb_extrap.models.mlp import dense
from lhcb_extrap.physics.field_properties import FieldIntegral
from lhcb_extrap.physics.kick_baseline import (
    KickBaseline,
    apply_correction,
    canonicalize,
    kick_baseline,
    kick_features,
)


class KickNet(nn.Module):
    """Physics baseline and learned correction.

    Args:
        hidden: Widths of the hidden layers.
        feature_mean: Means of the twelve features.
        feature_std: Standard deviations of them.
        correction_mean: Means of the four corrections.
        correction_std: Standard deviations of them.
        integral: Integral of By along the beam.
        flip_x: Whether the field allows (x, tx, q) -> -(x, tx, q).
        flip_y: Whether the field allows (y, ty) -> -(y, ty).
        use_planes: Whether dz and z0 enter the network.
    """

    def __init__(
        self,
        hidden: Sequence[int],
        feature_mean: Sequence[float],
        feature_std: Sequence[float],
        correction_mean: Sequence[float],
        correction_std: Sequence[float],
        integral: FieldIntegral,
        *,
        flip_x: bool,
        flip_y: bool,
        use_planes: bool = False,
    ) -> None:
        super().__init__()
        self.num_features = 12 if use_planes else 10
        self.flip_x, self.flip_y = flip_x, flip_y
        self.layers = dense((self.num_features, *hidden, 4), "tanh")
        self._z_min_mm, self._step_mm = integral.z_min_mm, integral.step_mm
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.correction_mean: Tensor
        self.correction_std: Tensor
        self.integral: Tensor
        self.by: Tensor
        self.register_buffer("feature_mean", torch.tensor(feature_mean[: self.num_features]))
        self.register_buffer("feature_std", torch.tensor(feature_std[: self.num_features]))
        self.register_buffer("correction_mean", torch.tensor(correction_mean))
        self.register_buffer("correction_std", torch.tensor(correction_std))
        # In double precision: differences of the integral enter.
        self.register_buffer("integral", torch.tensor(integral.integral))
        self.register_buffer("by", torch.tensor(integral.by))

    def baseline(self, tracks: Tensor) -> tuple[KickBaseline[Tensor], Tensor, Tensor]:
        """The closed-form part.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            Baseline of the reflected tracks, their states (B, 4), and the signs (B, 4) that undo it.
        """
        state, qop, signs = canonicalize(tracks[:, :4], tracks[:, 4], flip_x=self.flip_x, flip_y=self.flip_y)
        table = FieldIntegral(self._z_min_mm, self._step_mm, self.integral, self.by)  # type: ignore[arg-type]
        return kick_baseline(state, qop, tracks[:, 6], tracks[:, 5], table), state, signs

    def forward(self, tracks: Tensor) -> Tensor:
        """Extrapolate.

        Args:
            tracks: x, y, tx, ty, q/p, dz, z0, (B, 7), mm, 1, 1/MeV.

        Returns:
            x, y, tx, ty at z0 + dz, (B, 4), mm, 1.
        """
        baseline, state, signs = self.baseline(tracks)
        features = kick_features(state, tracks[:, 5], tracks[:, 6], baseline)[:, : self.num_features]
        outputs = self.layers((features - self.feature_mean) / self.feature_std)
        correction = self.correction_mean + self.correction_std * outputs
        end: Tensor = apply_correction(baseline, correction, tracks[:, 5]) * signs
        return end
