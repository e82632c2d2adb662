"""From raw sensors to physical quantities in one module: what is exported and what predicts.

    npho, time -> normalisation -> network -> unscaled targets;   timing + earliest sensor time = photon time

The normalisation travels inside the module, so a model file cannot be fed with inputs prepared for another
one.

Dimensions: B events, S sensors (4760), K components of a target.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from megii_xec.data.normalization import Normalization
from megii_xec.data.targets import NS_PER_S, TargetScaling
from megii_xec.models.readout import SIGMA, decode, has_sigma


class PhotonReconstruction(nn.Module):
    """Network with its input and output conventions.

    Args:
        network: Maps normalised sensors (B, S, 2) to the outputs of its heads {name: (B, outputs)}.
        normalization: What the network was trained with.
        scaling: Offsets and scales of the targets.
        targets: Names of the targets, in the order of the outputs.
        losses: Loss of each target, which decides what its head means; smooth_l1 if omitted.
    """

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization,
        scaling: TargetScaling,
        targets: tuple[str, ...],
        losses: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.normalization = normalization
        self.scaling = scaling
        self.targets = targets
        self.losses = {name: (losses or {}).get(name, "smooth_l1") for name in targets}
        self.outputs = (*targets, *(SIGMA + name for name in targets if has_sigma(self.losses[name])))

    def forward(self, npho: Tensor, time: Tensor, time_min_s: Tensor) -> tuple[Tensor, ...]:
        """Reconstruct events.

        Args:
            npho: Branch `normalization.npho_input`, photons or 1; 1e10 where missing. Shape (B, S).
            time: Branch `normalization.time_input`, seconds; 1e10 where missing. Shape (B, S).
            time_min_s: Branch `time_min_used`, seconds. Shape (B,).

        Returns:
            One tensor for each of `self.outputs`: angle (theta, phi) in degrees, energy in GeV, timing as the
            photon time `timeTruth` in nanoseconds, uvwFI (u, v, w) in centimetres, angleVec as unit vector,
            n_gamma as the most probable number; then the standard deviations. Shapes (B, K).
        """
        outputs = self.network(self.normalization.apply_torch(npho, time))
        values, sigmas = [], []
        for name in self.targets:
            value, sigma = decode(self.scaling, name, self.losses[name], outputs[name])
            values.append(value + time_min_s[:, None] * NS_PER_S if name == "timing" else value)
            if sigma is not None:
                sigmas.append(sigma)
        return (*values, *sigmas)
