"""From raw sensors to physical quantities in one module: what is exported and what predicts.

    npho, time -> normalisation -> network -> unscaled targets;   timing + earliest sensor time = photon time

The normalisation travels inside the module, so a model file cannot be fed with inputs prepared for another
one.

Dimensions: B events, S sensors (4760), K components of a target.
"""

from torch import Tensor, nn

from megii_xec.data.normalization import Normalization
from megii_xec.data.targets import NS_PER_S, TargetScaling


class PhotonReconstruction(nn.Module):
    """Network with its input and output conventions.

    Args:
        network: Maps normalised sensors (B, S, 2) to scaled targets {name: (B, K)}.
        normalization: What the network was trained with.
        scaling: Offsets and scales of the targets.
        targets: Names of the targets, in the order of the outputs.
    """

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization,
        scaling: TargetScaling,
        targets: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.network = network
        self.normalization = normalization
        self.scaling = scaling
        self.targets = targets

    def forward(self, npho: Tensor, time: Tensor, time_min_s: Tensor) -> tuple[Tensor, ...]:
        """Reconstruct events.

        Args:
            npho: Branch `normalization.npho_input`, photons or 1; 1e10 where missing. Shape (B, S).
            time: Branch `normalization.time_input`, seconds; 1e10 where missing. Shape (B, S).
            time_min_s: Branch `time_min_used`, seconds. Shape (B,).

        Returns:
            One tensor a target: angle (theta, phi) in degrees, energy in GeV, timing as the photon time
            `timeTruth` in nanoseconds, uvwFI (u, v, w) in centimetres. Shapes (B, K).
        """
        outputs = self.network(self.normalization.apply_torch(npho, time))
        values = []
        for name in self.targets:
            value = self.scaling.unscale(name, outputs[name].float())
            values.append(value + time_min_s[:, None] * NS_PER_S if name == "timing" else value)
        return tuple(values)
